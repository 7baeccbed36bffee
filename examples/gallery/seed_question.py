"""Why tape.jacobian crashed, and what the Hessian costs now.

A notebook wants the Hessian of a PINN's loss: Δu = f on [-1, 1]², three hidden layers of tanh,
1,000 interior and 1,000 boundary points. One gradient a row is slow; ``tape.jacobian`` works for
layers of 10 units and ends the notebook, without an error, for layers of 50. Where does the memory
go?
"""

import json
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
from style import BLUE, GREEN, ORANGE, arguments, figure, save

from pipeline import compute_hessian, load_problem

GIB = 2**30

# %%
# The loss as a notebook writes it, with nested tapes.


def loss(poisson):
    """Mean square of the residual, and of the network on the boundary."""
    inside, boundary = (tf.constant(term.points, tf.float32) for term in poisson.terms)
    with tf.GradientTape(persistent=True) as second:
        second.watch(inside)
        with tf.GradientTape() as first:
            first.watch(inside)
            u = poisson.model(inside)
        slopes = tf.unstack(first.gradient(u, inside), axis=1)
    u_xx, u_yy = (second.gradient(s, inside)[:, i] for i, s in enumerate(slopes))
    waves = tf.sin(np.pi * (inside + 1) / 2)
    f = -(np.pi**2) / 2 * waves[:, 0] * waves[:, 1]
    on_boundary = poisson.model(boundary)
    return tf.reduce_mean((u_xx + u_yy - f) ** 2) + tf.reduce_mean(on_boundary**2)


def weights(poisson):
    """What the loss is differentiated by."""
    return [weight.value for weight in poisson.model.trainable_variables]


def flatten(gradients):
    """Gradients by the weights as one vector."""
    return tf.concat([tf.reshape(part, [-1]) for part in gradients], axis=0)


def gradient(poisson, variables):
    """``∂loss/∂variables`` as one vector; zero where the loss does not depend on them."""
    with tf.GradientTape() as tape:
        value = loss(poisson)
    zero = tf.UnconnectedGradients.ZERO
    return flatten(tape.gradient(value, variables, unconnected_gradients=zero))


# %%
# The ways: the notebook's, and ours. Each is given the number of rows to compute.


def inside_the_tape(poisson, num_rows):
    """The notebook's first version: one gradient a row, while the tape still records."""
    variables = weights(poisson)
    with tf.GradientTape(persistent=True) as outer:
        flat = gradient(poisson, variables)
        return np.stack([row(outer, entry, variables) for entry in flat[:num_rows]])


def after_the_tape(poisson, num_rows):
    """The same, but the tape records no more than the gradient."""
    variables = weights(poisson)
    with tf.GradientTape(persistent=True) as outer:
        flat = gradient(poisson, variables)
        entries = list(flat[:num_rows])
    return np.stack([row(outer, entry, variables) for entry in entries])


def row(tape, entry, variables):
    """The gradient of one entry of the gradient."""
    zero = tf.UnconnectedGradients.ZERO
    return flatten(tape.gradient(entry, variables, unconnected_gradients=zero))


def tape_jacobian(poisson, num_rows, pfor):
    """``tape.jacobian`` of the gradient: all rows at once, or in a loop inside the graph."""
    variables = weights(poisson)

    def rows():
        with tf.GradientTape() as outer:
            flat = gradient(poisson, variables)[:num_rows]
        parts = outer.jacobian(flat, variables, experimental_use_pfor=pfor)
        return tf.concat([tf.reshape(part, [num_rows, -1]) for part in parts], axis=1)

    return tf.function(rows, autograph=False)().numpy()


def block_rows(poisson, num_rows):
    """This software; always all rows."""
    with tempfile.TemporaryDirectory() as directory:
        return compute_hessian(poisson, f"{directory}/h.zarr").hessian.to_numpy()


WAYS = {
    "a gradient a row, inside the tape": inside_the_tape,
    "a gradient a row, after the tape": after_the_tape,
    "tape.jacobian, loop": lambda *given: tape_jacobian(*given, pfor=False),
    "tape.jacobian, vectorised": lambda *given: tape_jacobian(*given, pfor=True),
    "hessian-pipeline": block_rows,
}
INSIDE, AFTER, LOOP, VECTORISED, OURS = WAYS


# %%
# Each runs in a process of its own, whose memory is limited as that of a small machine is. What a
# way needs is its largest resident memory, less that before it began. Of a whole matrix, nine
# numbers VᵀH V tell whether it is the same as another.


def peak_bytes():
    """Largest resident memory of this process so far."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) * 1024


def measure_here(way, width, num_rows, limit):
    """In the child: compute, and print what it took."""
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    poisson = load_problem("poisson", width=width)
    before, begin = peak_bytes(), time.perf_counter()
    hessian = WAYS[way](poisson, num_rows)
    took = {"bytes": peak_bytes() - before, "seconds": time.perf_counter() - begin}
    if len(hessian) == hessian.shape[1]:
        probes = np.random.default_rng(0).standard_normal((len(hessian), 3))
        took["probed"] = (probes.T @ (hessian @ probes)).ravel().tolist()
    print(json.dumps(took))


def measure(way, width, num_rows, limit):
    """In the parent: start a child, and say how it ended."""
    command = [sys.executable, __file__, "--child", way, *map(str, (width, num_rows, limit))]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode == 0:
        return json.loads(ended.stdout.splitlines()[-1])
    if ended.returncode < 0:
        return {"died": signal.Signals(-ended.returncode).name}
    return {"died": ended.stderr.strip().splitlines()[-1][:60]}


# %%
# With some rows, with more, and with all. A gradient a row is not waited for: what all rows need
# is extrapolated, as it is for what died.


def extrapolate(some, more, what, sizes):
    """Linear in the number of rows."""
    fewer, many, num_params = sizes
    return more[what] + (more[what] - some[what]) / (many - fewer) * (num_params - many)


def measure_all(width, counts, limit):
    """What each way needs for all rows: ``{way: result}``."""
    num_params = load_problem("poisson", width=width).model.count_params()
    sizes = (*counts, num_params)
    print(f"width {width}, P = {num_params:,}; MiB above the process before")
    print(f"{'':35}{counts[0]:>4} rows {counts[1]:>4} rows   all rows   seconds")
    found = {}
    for way in WAYS:
        whole = {} if way in (INSIDE, AFTER) else measure(way, width, num_params, limit)
        columns = " " * 20
        if way != OURS:
            some, more = (measure(way, width, count, limit) for count in counts)
            columns = f"{some['bytes'] / 2**20:9.0f} {more['bytes'] / 2**20:9.0f} "
            whole = {w: extrapolate(some, more, w, sizes) for w in ("bytes", "seconds")} | whole
        found[way] = whole
        mark = "" if "probed" in whole else "  extrapolated"
        died = f"; died: {whole['died']}" if "died" in whole else ""
        took = f"{whole['bytes'] / 2**20:10.0f} {whole['seconds']:9.1f}"
        print(f"{way:35}{columns}{took}{mark}{died}")
    return found


def main():
    """Measure, draw, and check."""
    options = arguments(__doc__)
    widths, counts, limit = ([6], (8, 32), 4) if options.small else ([10, 50], (16, 48), 8)
    print(f"memory limit {limit} GiB")
    found = {width: measure_all(width, counts, limit * GIB) for width in widths}
    draw(found, limit, options.out / "seed_question.png")

    # %%
    # The matrices are the same; ours stays small, and vectorised ``tape.jacobian`` does not.
    for ways in found.values():
        probed = [one["probed"] for one in ways.values() if "probed" in one]
        assert len(probed) >= 2
        assert all(np.allclose(one, probed[-1], rtol=1e-4, atol=1e-3) for one in probed)
    last = found[widths[-1]]
    assert last[OURS]["bytes"] < 1.5 * GIB
    if not options.small:
        assert "died" in last[VECTORISED]
        assert last[VECTORISED]["bytes"] > 2 * limit * GIB


def draw(found, limit, path):
    """Memory of each way by width."""
    drawn, axes = figure(width=8)
    for offset, ((width, ways), colour) in enumerate(
        zip(found.items(), (BLUE, ORANGE), strict=False)
    ):
        sizes = [one["bytes"] / GIB for one in ways.values()]
        places = np.arange(len(ways)) + 0.4 * offset
        bars = axes.barh(places, sizes, 0.38, color=colour)
        axes.barh(0, 0, color=colour, label=f"layers of {width}")
        for bar, size, one in zip(bars, sizes, ways.values(), strict=True):
            text = f" {size:.2g}" if size < 10 else f" {size:.0f}"
            text += ", died at the limit" if "died" in one else ""
            bar.set(hatch="" if "probed" in one else "//", edgecolor="white")
            axes.text(size, bar.get_y() + 0.19, text, va="center", fontsize=8)
    axes.barh(0, 0, color="0.6", hatch="//", edgecolor="white", label="extrapolated")
    axes.axvline(limit, color=GREEN, ls="--", lw=1, label="memory limit")
    axes.set_yticks(np.arange(len(WAYS)) + 0.2 * (len(found) - 1), list(WAYS))
    axes.set(xscale="log", xlabel="memory for all rows, above that of the process before, GiB")
    axes.set_xlim(0.02, 4000)
    axes.invert_yaxis()
    axes.legend(loc="lower right", fontsize=8)
    save(drawn, path)


if __name__ == "__main__":
    if "--child" in sys.argv:
        way, *numbers = sys.argv[2:]
        measure_here(way, *map(int, numbers))
    else:
        main()

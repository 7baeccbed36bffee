"""What a GPU makes of the compiled path: right, how fast, beside JAX, and what the store adds.

One command on a machine with a GPU, TensorFlow and, for the comparison, ``jax[cuda]``:

    python benchmarks/gpu.py --seconds 480 --directory /scratch

It says whether the compiled path agrees with NumPy, and then a line a width: seconds of the block
rows, crossing to the host included; their share of the card's own matrix product; of a whole run
into a store, writing beside computing; and of JAX (``jax-kronecker`` of benchmarks/peers). What
does not fit into the time is extrapolated from some block rows, or left out and said so. Without a
GPU the compiled path runs on the processor, which tells that the script works, and no speed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

PEERS = Path(__file__).parent / "peers"
sys.path.insert(0, str(PEERS))

# The largest error, relative to the largest entry; both paths add up the same products.
TOLERANCES = {"float64": 1e-11, "float32": 2e-5}
# Of a width's time: block rows, the whole run, JAX.
SHARES = (0.3, 0.3, 0.4)
# Seconds that nothing is begun with.
LEAST = 5.0
GEMM_SIDE = {"GPU": 8192, "CPU": 1024}


@dataclass
class Budget:
    """The time there is, and what was left out for it.

    Attributes:
        ends: When it ends, by ``time.perf_counter``.
        left_out: What, and why.
    """

    ends: float
    left_out: list[str] = field(default_factory=list)

    @property
    def left(self) -> float:
        return max(0.0, self.ends - time.perf_counter())


@dataclass(frozen=True)
class Card:
    """Where the compiled path runs.

    Attributes:
        kind: ``"GPU"`` or ``"CPU"``.
        names: TensorFlow's names of the devices, one.
        title: What it is, in words.
        rates: FLOP a second of a large matrix product, by dtype.
        to_host: Bytes a second from its memory to the host's.
        memory: Bytes that it has.
    """

    kind: str
    names: tuple[str, ...]
    title: str
    rates: dict[str, float]
    to_host: float
    memory: int


def find_card() -> Card:
    """The first GPU, or this processor where there is none; its rates measured."""
    import tensorflow as tf

    from hessian_tasks.process import gpu_names

    names = tuple(gpu_names()[:1])
    kind = "GPU" if names else "CPU"
    names = names or ("/device:CPU:0",)
    title = "no GPU was found: the compiled path runs on the processor"
    if kind == "GPU":
        details = tf.config.experimental.get_device_details(
            tf.config.list_physical_devices(kind)[0]
        )
        title = str(details.get("device_name", names[0]))
    rates = {dtype: _gemm_rate(names[0], GEMM_SIDE[kind], dtype) for dtype in TOLERANCES}
    return Card(kind, names, title, rates, _host_rate(names[0], GEMM_SIDE[kind]), _memory(kind))


def _memory(kind: str) -> int:
    if kind == "CPU":
        return int(psutil.virtual_memory().available)
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(told.splitlines()[0]) * 2**20


def _gemm_rate(device: str, side: int, dtype: str) -> float:
    import tensorflow as tf

    with tf.device(device):
        matrix = tf.random.stateless_uniform((side, side), (1, 2), dtype=dtype)

        def multiply() -> None:
            float(tf.matmul(matrix, matrix)[0, 0])  # waits for it

        multiply()
        return 2 * side**3 / _fastest(multiply)


def _host_rate(device: str, side: int) -> float:
    import tensorflow as tf

    with tf.device(device):
        matrix = tf.random.stateless_uniform((side, side), (1, 2)) + 1.0
        return matrix.shape.num_elements() * 4 / _fastest(lambda: np.array(matrix.numpy()))


def _fastest(function: Callable[[], object], number: int = 5) -> float:
    def measured() -> float:
        begun = time.perf_counter()
        function()
        return time.perf_counter() - begun

    return min(measured() for _ in range(number))


def errors(width: int, card: Card) -> dict[str, float]:
    """How far the compiled path is from NumPy's, all rows, relative to the largest entry."""
    import ours

    from hessian_tasks.devices import DevicePool
    from hessian_tasks.layered.engine import LayeredEngine
    from hessian_tasks.spec import BlockRow

    found = {}
    for dtype in TOLERANCES:
        case = ours.make_case(width, dtype)
        problem = ours._problem(case, dtype)
        row = BlockRow(0, 0, case.num_params)
        expected = LayeredEngine(problem).block_row(row)
        compiled = LayeredEngine(problem, DevicePool(card.names)).block_row(row)
        found[dtype] = float(np.abs(compiled - expected).max() / np.abs(expected).max())
    return found


@dataclass(frozen=True)
class Timed:
    """Seconds of all block rows, from some of them.

    Attributes:
        seconds: Extrapolated by the number of entries.
        share: Of the entries that were computed.
        first: Seconds of the first call, which compiles.
    """

    seconds: float
    share: float
    first: float


def time_block_rows(case: Any, card: Card, seconds: float) -> Timed:
    """Compute block rows to the host and drop them, evenly spread ones first, until it is time."""
    import ours

    from hessian_tasks.devices import DevicePool
    from pipeline.run.plan import split_rows

    (way,) = ours.layered(case, [], DevicePool(card.names)).values()
    blocks = split_rows(case.num_params, way.tile)
    begun = time.perf_counter()
    way.engine.block_row(blocks[0])
    first = time.perf_counter() - begun
    entries = [block.num_rows * (case.num_params - block.start) for block in blocks]
    order = _spread_first(len(blocks))
    begun, done = time.perf_counter(), 0
    threads = max(2, ours.NUM_THREADS if card.kind == "CPU" else 2)
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(order), threads):
            chosen = order[start : start + threads]
            list(pool.map(lambda number: way.engine.block_row(blocks[number]).shape, chosen))
            done += sum(entries[number] for number in chosen)
            if time.perf_counter() - begun > seconds:
                break
    spent = time.perf_counter() - begun
    return Timed(spent * sum(entries) / done, done / sum(entries), first)


def _spread_first(number: int) -> list[int]:
    """All of ``range(number)``, those by the golden ratio first: any beginning is spread evenly."""
    return sorted(range(number), key=lambda n: (n * 0.6180339887498949) % 1)


def time_run(case: Any, card: Card, directory: Path, seconds: float) -> float | None:
    """Seconds of a run into a store once it has begun computing; None if it takes longer."""
    import ours

    from hessian_tasks.source import ProblemSource
    from pipeline.errors import StoppedError
    from pipeline.run import engines
    from pipeline.run.events import RunFinished, RunStarted
    from pipeline.run.execute import execute
    from pipeline.run.inputs import freeze_source
    from pipeline.run.options import RunOptions

    # What the choice of engines takes for the GPUs, where there is only a processor.
    engines.gpu_names = lambda: list(card.names)
    times: list[float] = []

    def listen(event: object) -> None:
        if isinstance(event, RunStarted | RunFinished):
            times.append(time.perf_counter())

    stop = threading.Event()
    timer = threading.Timer(seconds, stop.set)
    timer.start()
    frozen = freeze_source(ProblemSource("poisson", {"width": case.width, "dtype": case.dtype}))
    options = RunOptions(num_threads=max(2, ours.NUM_THREADS))
    try:
        with tempfile.TemporaryDirectory(dir=directory) as scratch:
            execute(f"{scratch}/h.zarr", frozen, options, [listen], stop)
    except StoppedError:
        return None
    finally:
        timer.cancel()
    return times[1] - times[0]


def time_jax(case: Any, card: Card, seconds: float) -> dict[str, float] | str:
    """What JAX takes in a process of its own: its first call, and the fastest of the others."""
    if case.num_params**2 * case.theta.itemsize > card.memory:
        return "it makes the matrix at once, which does not fit into the card's memory"
    if seconds < LEAST:
        return "there was no time left"
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    environment["JAX_PLATFORMS"] = "cuda" if card.kind == "GPU" else "cpu"
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "case.npz"
        case.save(path)
        command = [sys.executable, __file__, "--jax", str(path)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, env=environment, timeout=seconds
            )
        except subprocess.TimeoutExpired:
            return f"longer than {seconds:.0f} s, compiling included"
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["failed"])[-1][:90]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def answer_jax(path: Path) -> None:
    """The other side of :func:`time_jax`."""
    import with_jax_streams
    from case import load_case

    (way,) = with_jax_streams.kronecker(load_case(path), []).values()
    begun = time.perf_counter()
    way.measure(0)
    first = time.perf_counter() - begun
    print(json.dumps({"first": first, "seconds": min(way.measure(0).seconds for _ in range(2))}))


HEADS = ("width", "P", "matrix", "block rows", "of the GEMM", "to the host", "whole run", "JAX")


def measure_width(width: int, card: Card, budget: Budget, arguments: Any) -> list[str]:
    """A line of the table."""
    import ours

    from pipeline.store.places import free_bytes
    from pipeline.units import format_bytes, format_seconds

    remaining = [w for w in arguments.widths if w >= width]
    # Each width takes some four times as long to compute as the one before it.
    allowed = budget.left / (1 + sum(1 for w in remaining if w > width))
    case = ours.make_case(width, arguments.dtype)
    size = case.num_params**2 * case.theta.itemsize
    line = [str(width), f"{case.num_params:,}", format_bytes(size)]
    timed = time_block_rows(case, card, SHARES[0] * allowed)
    whole = "" if timed.share == 1 else f", from {timed.share:.0%}"
    rate = case.useful_flop / timed.seconds / card.rates[arguments.dtype]
    line += [format_seconds(timed.seconds) + whole, f"{rate:.0%}"]
    line.append(format_seconds(size / 2 / card.to_host))

    def left_out(what: str, why: str) -> None:
        budget.left_out.append(f"width {width}, {what}: {why}")
        line.append("-")

    if size * 1.05 > free_bytes(arguments.directory):
        left_out("whole run", "does not fit on the disk")
    elif timed.seconds > SHARES[1] * allowed:
        left_out("whole run", "takes longer than there is time for")
    elif (run := time_run(case, card, arguments.directory, SHARES[1] * allowed)) is None:
        left_out("whole run", "was stopped, as its time was over")
    else:
        line.append(f"{format_seconds(run)}, {run / timed.seconds:.2f} times")
    found = time_jax(case, card, min(SHARES[2] * allowed, budget.left))
    if isinstance(found, str):
        left_out("JAX", found)
    else:
        line.append(f"{format_seconds(found['seconds'])}, first {format_seconds(found['first'])}")
    return line


def report(arguments: Any) -> bool:
    """Measure and print everything; whether the compiled path is right."""
    import tensorflow as tf

    from pipeline.cli.render._table import columns

    budget = Budget(time.perf_counter() + arguments.seconds)
    card = find_card()
    print(card.title)
    for dtype, rate in card.rates.items():
        print(f"matrix product, {dtype}: {rate / 1e12:.3g} TFLOP/s")
    print(f"to the host: {card.to_host / 1e9:.3g} GB/s")
    right = True
    width = min(20, *arguments.widths)
    for dtype, error in errors(width, card).items():
        wrong = not error <= TOLERANCES[dtype]
        right &= not wrong
        print(
            f"compiled against NumPy, width {width}, {dtype}: error {error:.1e}, "
            f"allowed {TOLERANCES[dtype]:.0e}{': WRONG' if wrong else ''}",
            flush=True,
        )
    rows: list[Sequence[str]] = [HEADS]
    for number in arguments.widths:
        if budget.left < LEAST:
            budget.left_out.append(f"width {number}: there was no time left")
            continue
        try:
            rows.append(measure_width(number, card, budget, arguments))
        except (MemoryError, tf.errors.ResourceExhaustedError) as error:
            budget.left_out.append(f"width {number}: {str(error).splitlines()[0][:90]}")
            continue
        print("; ".join(rows[-1]), file=sys.stderr, flush=True)
    print(f"\nfloat entries: {arguments.dtype}\n{columns(rows, limit=200)}")
    for text in budget.left_out:
        print(f"left out: {text}")
    return right


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--widths", type=int, nargs="+", default=[50, 100, 200, 400])
    parser.add_argument("--dtype", choices=list(TOLERANCES), default="float32")
    parser.add_argument(
        "--seconds", type=float, default=480, help="after which widths are left out"
    )
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--jax", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.jax is not None:
        answer_jax(arguments.jax)
    elif not report(arguments):
        sys.exit(1)


if __name__ == "__main__":
    main()

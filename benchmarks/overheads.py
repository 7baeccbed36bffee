"""What other forms of a problem cost beside the plain one: seconds of the engine, and their ratio.

Every form is the Poisson problem of width 20 on 1,000 points inside and as many on the boundary,
Δu = f, u = 0, written in another way. All engines are built first; then rounds, in each of which
every form computes all rows while the others wait, every second round in reverse. Seconds are the
processor's, over all threads, which other work on the machine disturbs least. The ratio is that of
a form's seconds to the plain form's in the same round; its median is wanted at most at 1.3. Two
networks have about the P of one: their time counts in proportion to P², as entries take time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from hessian_tasks.process import configure_tensorflow

configure_tensorflow(1)

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from threadpoolctl import threadpool_limits  # noqa: E402

from hessian_tasks import DensityTerm, LossTerm, Problem, ResidualTerm  # noqa: E402
from hessian_tasks.networks.trainables import resolve  # noqa: E402
from hessian_tasks.problems.networks import mlp  # noqa: E402
from hessian_tasks.problems.poisson import problem as poisson  # noqa: E402
from hessian_tasks.spec import BlockRow  # noqa: E402
from pipeline.run.engines import choose_engine  # noqa: E402

# Of the two networks, so that together they have about as many parameters as the plain one.
TWO_WIDTHS = {20: 14, 10: 7, 6: 4}
WANTED = 1.3


def source(x: Any) -> Any:
    waves = tf.sin(np.pi * (x + 1) / 2)
    return -(np.pi**2) / 2 * waves[:, 0:1] * waves[:, 1:2]


@dataclass(frozen=True)
class Points:
    """Where the terms are: points inside and on the boundary, in the weights' dtype."""

    inside: Any
    boundary: Any


def plain(width: int, points: Points) -> Problem:
    terms = [
        ResidualTerm("pde", points.inside, lambda x, u: u.d("xx") + u.d("yy") - source(x)),
        ResidualTerm("dirichlet", points.boundary, lambda x, u: u.value),
    ]
    return Problem(mlp(2, width=width, depth=3), terms, "xy")


def notebook_loss(width: int, points: Points) -> Problem:
    """One function of the network, with tapes, that closes over its points."""
    inside, boundary = tf.constant(points.inside), tf.constant(points.boundary)

    def loss(model: Any) -> Any:
        with tf.GradientTape() as outer:
            outer.watch(inside)
            with tf.GradientTape() as inner:
                inner.watch(inside)
                u = model(inside)
            slopes = inner.gradient(u, inside)
        bends = outer.batch_jacobian(slopes, inside)
        laplacian = tf.linalg.trace(bends)[:, None]
        fit = tf.reduce_mean((laplacian - source(inside)) ** 2)
        return fit + tf.reduce_mean(model(boundary) ** 2)

    return Problem(mlp(2, width=width, depth=3), [LossTerm("loss", loss)], "xy")


def unknown_parameter(width: int, points: Points) -> Problem:
    given = plain(width, points)
    terms = [
        ResidualTerm("pde", points.inside, lambda x, u, k: k * (u.d("xx") + u.d("yy")) - source(x)),
        given.terms[1],
    ]
    return replace(given, terms=terms, parameters={"k": 0.9})


def two_networks(width: int, points: Points) -> Problem:
    """The source is a network, too, and is held to f where the plain form has its boundary."""
    terms = [
        ResidualTerm("pde", points.inside, lambda x, u, f: u.d("xx") + u.d("yy") - f.value),
        ResidualTerm("both", points.boundary, lambda x, u, f: u.value + f.value - source(x)),
    ]
    own = TWO_WIDTHS.get(width, round(0.7 * width))
    networks = {name: mlp(2, width=own, depth=3, seed=n) for n, name in enumerate("uf")}
    return Problem(networks, terms, "xy")


def density(width: int, points: Points) -> Problem:
    """The same squares as densities, of which no Gauss-Newton matrix need be one product."""
    terms = [
        DensityTerm("pde", points.inside, lambda x, u: (u.d("xx") + u.d("yy") - source(x)) ** 2),
        DensityTerm("dirichlet", points.boundary, lambda x, u: u.value**2),
    ]
    return Problem(mlp(2, width=width, depth=3), terms, "xy")


def point_weights(width: int, points: Points) -> Problem:
    weights = np.linspace(0.5, 1.5, len(points.inside))[:, None].astype(points.inside.dtype)
    given = plain(width, points)
    weighted = ResidualTerm(
        "pde",
        points.inside,
        lambda x, u, w: tf.sqrt(w) * (u.d("xx") + u.d("yy") - source(x)),
        data={"w": weights},
    )
    return replace(given, terms=[weighted, given.terms[1]])


def regularized(width: int, points: Points) -> Problem:
    layers = [
        keras.layers.Dense(width, "tanh", kernel_regularizer=keras.regularizers.L2(1e-3))
        for _ in range(3)
    ]
    model = keras.Sequential([keras.Input((2,)), *layers, keras.layers.Dense(1)])
    return replace(plain(width, points), model=model)


def functional(width: int, points: Points) -> Problem:
    inputs = keras.Input((2,))
    value = inputs
    for _ in range(3):
        value = keras.layers.Dense(width, "tanh")(value)
    model = keras.Model(inputs, keras.layers.Dense(1)(value))
    return replace(plain(width, points), model=model)


class Own(keras.Model):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = [keras.layers.Dense(width, "tanh") for _ in range(3)]
        self.last = keras.layers.Dense(1)

    def call(self, x: Any) -> Any:
        for layer in self.hidden:
            x = layer(x)
        return self.last(x)


def subclassed(width: int, points: Points) -> Problem:
    model = Own(width)
    model(tf.zeros((1, 2)))
    return replace(plain(width, points), model=model)


FORMS: dict[str, Callable[[int, Points], Problem]] = {
    "plain": plain,
    "loss of a notebook, tapes": notebook_loss,
    "unknown parameter": unknown_parameter,
    "two networks": two_networks,
    "densities": density,
    "weights of points": point_weights,
    "regularized": regularized,
    "functional model": functional,
    "subclassed model": subclassed,
}


@dataclass
class Measured:
    """A form's engine, and its seconds in every round."""

    name: str
    engine: Any
    chosen: str
    seconds: list[float]

    @property
    def num_params(self) -> int:
        return int(self.engine.layout.num_params)

    def measure(self) -> None:
        # Tangents that block rows keep for each other are computed every time.
        if hasattr(self.engine, "forget"):
            self.engine.forget()
        begun = time.process_time()
        with threadpool_limits(1, "blas"):
            self.engine.block_row(BlockRow(0, 0, self.num_params))
        self.seconds.append(time.process_time() - begun)


def build(name: str, width: int, points: Points) -> Measured:
    begun = time.process_time()
    engine, choice = choose_engine(resolve(FORMS[name](width, points)), "auto")
    chosen = " ".join(filter(None, [choice.name, choice.reason]))
    print(f"{name}: {chosen}, built in {time.process_time() - begun:.1f} s", file=sys.stderr)
    return Measured(name, engine, chosen, [])


def ratios(form: Measured, beside: Measured) -> list[float]:
    """Of one form to the plain one, round by round, in proportion to P²."""
    size = (beside.num_params / form.num_params) ** 2
    return [size * own / other for own, other in zip(form.seconds, beside.seconds, strict=True)]


def measure(width: int, num_points: int, rounds: int) -> list[Measured]:
    given = poisson(width=2, num_interior=num_points, num_boundary=num_points)
    points = Points(*(np.asarray(term.points, np.float32) for term in given.terms))
    found = [build(name, width, points) for name in FORMS]
    for number in range(-1, rounds):
        for form in found[:: 1 if number % 2 == 0 else -1]:
            form.measure()
            print(f"round {number}, {form.name}: {form.seconds[-1]:.3f} s", file=sys.stderr)
    for form in found:
        form.seconds.pop(0)  # compiles and fills caches
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=20)
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    found = measure(arguments.width, arguments.points, arguments.rounds)
    print("| form | P | engine | seconds | ratio | spread | |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for form in found:
        own = sorted(ratios(form, found[0]))
        ratio = statistics.median(own)
        verdict = "" if ratio <= WANTED else f"above {WANTED}"
        print(
            f"| {form.name} | {form.num_params:,} | {form.chosen} | "
            f"{statistics.median(form.seconds):.3f} s | {ratio:.2f} | "
            f"{own[len(own) // 4]:.2f} to {own[-1 - len(own) // 4]:.2f} | {verdict} |"
        )


if __name__ == "__main__":
    main()

"""Losses drawn at random: with jets, and as a notebook would write them.

A formula asks for derivatives of networks, of which it does not know how they are made: by the jets
of a residual or density, or by tapes and ``tf.gradients`` in a loss of the user's own. A network
takes the points, or several inputs, and the Hessian is now and then that of some variables alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.networks.models import parameter_layout
from hessian_tasks.networks.trainables import resolve
from hessian_tasks.problem import DensityTerm, LossTerm, Problem, ResidualTerm
from tests.helpers.networks import draw_network

__all__ = ["NOTATIONS", "ZERO", "draw_losses"]

Array = npt.NDArray[Any]
Tensor = Any
Rng = np.random.Generator
# A derivative ``[N, 1]`` of an output of a network, at the points or, if so, elsewhere.
Ask = Callable[[str, int, str, bool], Tensor]
Part = Callable[[Ask, Tensor, Mapping[str, Any], Tensor], Tensor]
# The derivative of ``[N, 1]`` by a function of the points, along an axis.
Differentiate = Callable[[Callable[[Tensor], Tensor], Tensor, int], Tensor]

SHIFT = 0.25
ZERO = tf.UnconnectedGradients.ZERO


def by_gradients(function: Callable[[Tensor], Tensor], x: Tensor, axis: int) -> Tensor:
    x = tf.identity(x)
    return tf.gradients(function(x), x, unconnected_gradients=ZERO)[0][:, axis : axis + 1]


def by_tapes(function: Callable[[Tensor], Tensor], x: Tensor, axis: int) -> Tensor:
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = function(x)
    return tape.gradient(y, x, unconnected_gradients=ZERO)[:, axis : axis + 1]


def by_columns(function: Callable[[Tensor], Tensor], x: Tensor, axis: int) -> Tensor:
    columns = tf.split(x, x.shape[1], axis=1)
    with tf.GradientTape() as tape:
        tape.watch(columns[axis])
        y = function(tf.concat(columns, axis=1))
    return tape.gradient(y, columns[axis], unconnected_gradients=ZERO)


def by_batch_jacobian(function: Callable[[Tensor], Tensor], x: Tensor, axis: int) -> Tensor:
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    jacobian = tape.batch_jacobian(y, x, unconnected_gradients=ZERO)
    return jacobian[:, 0, axis : axis + 1]


NOTATIONS: list[Differentiate] = [by_gradients, by_tapes, by_columns, by_batch_jacobian]

CALLS: list[Callable[[Any, Any], Tensor]] = [
    lambda model, x: model(x),
    lambda model, x: model(x, training=False),
]

# What networks are called with: of the points, and of data v that a branch takes.
PACKS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "points": lambda x, v: x,
    "columns": lambda x, v: tf.split(x, x.shape[1], axis=1),
    "branch first": lambda x, v: [v, x],
    "branch last": lambda x, v: [x, v],
    "named": lambda x, v: {"v": v, "points": x},
}

# Of components ``[N, C]``, a point at a time.
OUTER: list[Callable[[Tensor], Tensor]] = [
    lambda v: tf.math.log(tf.cosh(0.3 * v)),
    lambda v: tf.where(tf.abs(v) < 0.5, v**2 / 2, 0.5 * (tf.abs(v) - 0.25)),
    tf.nn.softplus,
    lambda v: tf.exp(-tf.square(v) / 4),
    lambda v: tf.reduce_prod(v, axis=1, keepdims=True),
    lambda v: tf.stop_gradient(tf.exp(-tf.square(v))) * tf.square(v),
    lambda v: v[:, :1] - tf.square(v) * tf.math.sigmoid(v[:, -1:]),
]


def draw_losses(rng: Rng) -> tuple[Problem, Problem]:
    """A problem whose term is declared with jets, and the same as a loss of the user's own."""
    return _Draw(rng).losses()


class _Draw:
    def __init__(self, rng: Rng) -> None:
        # Inputs and ``only`` are drawn beside it, so that formulas stay those of their seeds.
        self.rng, self.beside = rng, rng.spawn(1)[0]
        self.coordinates = "xy"[: rng.integers(1, 3)]
        order = int(rng.choice(4, p=[0.2, 0.35, 0.4, 0.05]))
        self.top = "".join(sorted(rng.choice(list(self.coordinates), order)))
        names = "uk" if self.chance(0.4) else "u"
        self.outputs = {name: int(rng.integers(1, 4)) for name in names}
        # Graphs to compile grow with either.
        depth = 3 if order + len(names) <= 2 else 1
        self.packs = {name: self.pack() if order < 3 else "points" for name in names}
        trunks = {
            name: draw_network(rng, len(self.coordinates), number, "float64", depth)
            for name, number in self.outputs.items()
        }
        self.models = {name: self.with_inputs(name, trunk) for name, trunk in trunks.items()}
        self.points = rng.uniform(-1.0, 1.0, (rng.integers(1, 9), len(self.coordinates)))
        # A residual of two components at two points is refused, as what [N] - [N, 1] makes.
        if len(self.points) == 2:
            self.points = np.concatenate([self.points, self.points[:1] / 2])
        self.data = {"y": rng.normal(size=(len(self.points), 1))}
        if not {"points", "columns"}.issuperset(self.packs.values()):
            self.data["v"] = self.beside.normal(size=(len(self.points), 2))
        # Numbers where they are not declared.
        self.constants = {"nu": np.float64(rng.normal()), "matrix": rng.normal(size=(2, 3))}
        self.parameters = {n: value for n, value in self.constants.items() if self.chance(0.5)}
        # The user's own, which terms find in a closure.
        self.mine = tf.Variable(rng.normal(), dtype=tf.float64)

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def pack(self) -> str:
        """What a network is to be called with: half of them with the points alone."""
        kinds = [name for name in PACKS if name != "columns" or len(self.coordinates) > 1]
        return str(self.beside.choice(kinds)) if self.beside.random() < 0.5 else "points"

    def with_inputs(self, name: str, trunk: Any) -> Any:
        """The network with its coordinates one by one, or times a branch that takes data."""
        if self.packs[name] == "points":
            return trunk
        if self.packs[name] == "columns":
            columns = [keras.Input((1,), dtype="float64") for _ in self.coordinates]
            return keras.Model(columns, trunk(keras.layers.Concatenate(dtype="float64")(columns)))
        branch = draw_network(self.beside, 2, self.outputs[name], "float64", 1)
        points = keras.Input((len(self.coordinates),), name="points", dtype="float64")
        v = keras.Input((2,), name="v", dtype="float64")
        return keras.Model(PACKS[self.packs[name]](points, v), trunk(points) * branch(v))

    def losses(self) -> tuple[Problem, Problem]:
        weight = float(self.rng.choice([1.0, 0.3, -0.7]))
        components = [
            [self.part() for _ in range(self.rng.integers(1, 4))]
            for _ in range(self.rng.integers(1, 3))
        ]
        squared = self.chance(0.4)
        outer = OUTER[self.rng.integers(len(OUTER))]

        def values(ask: Ask, x: Tensor, known: Mapping[str, Any], y: Tensor) -> Tensor:
            sums = [sum(part(ask, x, known, y) for part in parts) for parts in components]
            v = tf.concat(sums, axis=1)
            return v if squared else tf.reduce_sum(outer(v), axis=1, keepdims=True)

        def mean(*arguments: Any) -> Tensor:
            found = values(*arguments)
            return tf.reduce_mean(found**2 if squared else found)

        kind = ResidualTerm if squared else DensityTerm
        declared = kind("own", self.points, self.declare(values), weight, data=self.data)
        written = LossTerm("own", self.write(mean), weight, data=self.data)
        model = self.models if len(self.models) > 1 else self.models["u"]
        parameters = {**self.parameters, "mine": self.mine}
        problem = Problem(model, [declared], self.coordinates, parameters=parameters)
        problem = replace(problem, only=self.some(problem))
        return problem, replace(problem, terms=[written])

    def some(self, problem: Problem) -> list[str] | None:
        """One in four times some of the variables, for the Hessian of these alone."""
        if self.beside.random() < 0.75:
            return None
        paths = [variable.path for variable in parameter_layout(resolve(problem).model).variables]
        number = self.beside.integers(1, len(paths) + 1)
        return list(map(str, self.beside.choice(paths, number, replace=False)))

    def declare(self, values: Callable[..., Tensor]) -> Callable[..., Tensor]:
        nu, matrix = self.constants.values()

        def term(
            x: Tensor, u: Any, y: Tensor, k: Any = None, nu: Any = nu, matrix: Any = matrix
        ) -> Tensor:
            jets, known = {"u": u, "k": k}, {"nu": nu, "matrix": matrix}

            def ask(name: str, output: int, names: str, elsewhere: bool) -> Tensor:
                jet = jets[name].at(x + SHIFT) if elsewhere else jets[name]
                return jet[output].d(*names)

            return values(ask, x, known, y)

        return term

    def write(self, mean: Callable[..., Tensor]) -> Callable[..., Tensor]:
        notation = NOTATIONS[self.rng.integers(len(NOTATIONS))]
        call = CALLS[self.rng.integers(len(CALLS))]

        nu, matrix = self.constants.values()

        def loss(
            u: Any, y: Tensor, v: Any = None, k: Any = None, nu: Any = nu, matrix: Any = matrix
        ) -> Tensor:
            models, known = {"u": u, "k": k}, {"nu": nu, "matrix": matrix}
            x = tf.constant(self.points)

            def ask(name: str, output: int, names: str, elsewhere: bool) -> Tensor:
                def value(points: Tensor) -> Tensor:
                    given = PACKS[self.packs[name]](points, v)
                    return call(models[name], given)[:, output : output + 1]

                return self.differentiate(notation, value, x + SHIFT if elsewhere else x, names)

            return mean(ask, x, known, y)

        return loss

    def differentiate(
        self, notation: Differentiate, value: Callable[[Tensor], Tensor], x: Tensor, names: str
    ) -> Tensor:
        if not names:
            return value(x)
        axis = self.coordinates.index(names[-1])

        def inner(points: Tensor) -> Tensor:
            return self.differentiate(notation, value, points, names[:-1])

        return notation(inner, x, axis)

    def derivative(self, names: str) -> Callable[[Ask], Tensor]:
        """A derivative of any output of any network, one in eight times elsewhere."""
        name = str(self.rng.choice(list(self.outputs)))
        output, elsewhere = int(self.rng.integers(self.outputs[name])), self.chance(0.125)
        return lambda ask: ask(name, output, names, elsewhere)

    def part(self) -> Part:
        """A summand of a component."""
        lower = "".join(name for name in self.top if self.chance(0.5))
        top, low, value = (self.derivative(names) for names in (self.top, lower, ""))
        c, mine = float(self.rng.normal()), self.mine
        parts: list[Part] = [
            lambda ask, x, known, y: c * top(ask) - y,
            lambda ask, x, known, y: known["nu"] * top(ask) + value(ask),
            lambda ask, x, known, y: low(ask) * top(ask) - tf.sin(3 * x[:, :1]),
            lambda ask, x, known, y: mine * value(ask) ** 2 * tf.sin(c * x[:, -1:]),
            lambda ask, x, known, y: mine**2 * known["matrix"][0, 1] * top(ask) + c,
            lambda ask, x, known, y: tf.exp(known["matrix"][1, 2]) * tf.tanh(value(ask)) * y,
            lambda ask, x, known, y: tf.sin(known["nu"]) * value(ask) * low(ask),
            lambda ask, x, known, y: tf.stop_gradient(value(ask)) * top(ask) - x[:, :1],
        ]
        return parts[self.rng.integers(len(parts))]

"""Losses drawn at random: with jets and as a notebook would write them, and some that are hostile.

A formula asks for derivatives of networks, of which it does not know how they are made: by the jets
of a residual or density, or by tapes and ``tf.gradients`` in a loss of the user's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.problem import DensityTerm, LossTerm, Problem, ResidualTerm
from tests.networks import draw_network

__all__ = ["HOSTILE", "draw_hostile", "draw_losses"]

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

CALLS: list[Callable[[Any, Tensor], Tensor]] = [
    lambda model, x: model(x),
    lambda model, x: model(x, training=False),
]

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
        self.rng = rng
        self.coordinates = "xy"[: rng.integers(1, 3)]
        order = int(rng.choice(4, p=[0.2, 0.35, 0.4, 0.05]))
        self.top = "".join(sorted(rng.choice(list(self.coordinates), order)))
        names = "uk" if self.chance(0.4) else "u"
        self.outputs = {name: int(rng.integers(1, 4)) for name in names}
        # Graphs to compile grow with either.
        depth = 3 if order + len(names) <= 2 else 1
        self.models = {
            name: draw_network(rng, len(self.coordinates), number, "float64", depth)
            for name, number in self.outputs.items()
        }
        self.points = rng.uniform(-1.0, 1.0, (rng.integers(1, 9), len(self.coordinates)))
        # A residual of two components at two points is refused, as what [N] - [N, 1] makes.
        if len(self.points) == 2:
            self.points = np.concatenate([self.points, self.points[:1] / 2])
        self.data = rng.normal(size=(len(self.points), 1))
        # Numbers where they are not declared.
        self.constants = {"nu": np.float64(rng.normal()), "matrix": rng.normal(size=(2, 3))}
        self.parameters = {n: value for n, value in self.constants.items() if self.chance(0.5)}
        # The user's own, which terms find in a closure.
        self.mine = tf.Variable(rng.normal(), dtype=tf.float64)

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

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
        declared = kind("own", self.points, self.declare(values), weight, data={"y": self.data})
        written = LossTerm("own", self.write(mean), weight, data={"y": self.data})
        return self.problem(declared), self.problem(written)

    def problem(self, term: Any) -> Problem:
        model = self.models if len(self.models) > 1 else self.models["u"]
        parameters = {**self.parameters, "mine": self.mine}
        return Problem(model, [term], self.coordinates, parameters=parameters)

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

        def loss(u: Any, y: Tensor, k: Any = None, nu: Any = nu, matrix: Any = matrix) -> Tensor:
            models, known = {"u": u, "k": k}, {"nu": nu, "matrix": matrix}
            x = tf.constant(self.points)

            def ask(name: str, output: int, names: str, elsewhere: bool) -> Tensor:
                def value(points: Tensor) -> Tensor:
                    return call(models[name], points)[:, output : output + 1]

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


def draw_hostile(rng: Rng, kind: str) -> Problem:
    """A loss that is no function of jets point by point, or that does not look like one.

    Args:
        rng: What to draw from.
        kind: One of :data:`HOSTILE`.
    """
    width, num_points = int(rng.integers(1, 3)), int(rng.integers(3, 8))
    model = draw_network(rng, width, int(rng.integers(1, 3)), "float64", 1)
    points, other = rng.uniform(-1.0, 1.0, (2, num_points, width))
    nu, hidden = (tf.Variable(rng.uniform(0.5, 1.5), dtype=tf.float64) for _ in range(2))
    differentiate = NOTATIONS[rng.integers(len(NOTATIONS))] if rng.random() < 0.5 else None
    make = HOSTILE[kind]

    def loss(model: Any) -> Tensor:
        def values(x: Any) -> Tensor:
            def first(x: Tensor) -> Tensor:
                return model(x)[:, :1]

            x = tf.convert_to_tensor(x)
            return first(x) if differentiate is None else differentiate(first, x, 0) + first(x)

        special = make(values, points, {"nu": nu, "hidden": hidden, "model": model})
        return special + nu * tf.reduce_mean(tf.square(values(other)))

    return Problem(model, [LossTerm("own", loss)], "xy"[:width], parameters={"nu": nu})


Values = Callable[[Any], Tensor]
Given = Mapping[str, Any]
mean = tf.reduce_mean


def _filtered(values: Values, x: Array, given: Given) -> Tensor:
    loss = mean(tf.square(values(x)))
    variables = [weight.value for weight in given["model"].trainable_weights]
    slopes = [s for s in tf.gradients(loss, variables) if s is not None]
    return loss + sum((tf.reduce_sum(tf.square(s)) for s in slopes), tf.zeros_like(loss))


def _forwards(values: Values, x: Array, given: Given) -> Tensor:
    x = tf.constant(x)
    with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
        u = given["model"](x)
    return mean(tf.square(accumulator.jvp(u, unconnected_gradients=ZERO) + u))


def _chosen(values: Values, x: Array, given: Given) -> Tensor:
    worst = tf.argsort(tf.square(values(x))[:, 0])[: len(x) // 2]
    return mean(tf.square(values(tf.gather(tf.constant(x), worst))))


def _opaque(values: Values, x: Array, given: Given) -> Tensor:
    return mean(tf.py_function(lambda u: tf.sin(u) * u, [values(x)], tf.float64))


def _blind(values: Values, x: Array, given: Given) -> Tensor:
    """A function of NumPy's, which has no gradient: a constant to all."""
    weights = tf.numpy_function(np.square, [values(x)], tf.float64)
    return mean(tf.ensure_shape(weights, (len(x), 1)) * values(x))


def _looped(values: Values, x: Array, given: Given) -> Tensor:
    u = values(x)
    return mean(tf.while_loop(lambda i, s: i < 3, lambda i, s: (i + 1, s * u), (0, u))[1])


def _branched(values: Values, x: Array, given: Given) -> Tensor:
    u = values(x)
    return tf.cond(mean(u) > 0, lambda: mean(u**2), lambda: mean(tf.sin(u)))


HOSTILE: dict[str, Callable[[Values, Array, Given], Tensor]] = {
    "mean inside": lambda values, x, _: tf.square(mean(values(x))),
    "small coupling": lambda values, x, _: mean(values(x) ** 2) + 1e-4 * mean(values(x)) ** 2,
    "variance": lambda values, x, _: tf.math.reduce_variance(values(x)),
    "neighbours": lambda values, x, _: mean(tf.square(values(x)[1:] - values(x)[:-1])),
    "neighbours' points": lambda values, x, _: mean(tf.square(values(x[1:]) - values(x[:-1]))),
    "reversed": lambda values, x, _: mean(values(x) * values(x)[::-1]),
    "reversed alone": lambda values, x, given: mean(
        (values(x)[::-1] * given["nu"] - x[:, :1]) ** 2
    ),
    "products": lambda values, x, _: mean(tf.matmul(values(x), values(x), transpose_b=True) ** 2),
    "one point": lambda values, x, _: mean(tf.square(values(x) - values(x[:1]))),
    "largest": lambda values, x, _: tf.reduce_max(values(x) ** 2),
    "soft maximum": lambda values, x, _: tf.reduce_logsumexp(values(x)),
    "history": lambda values, x, _: mean(tf.exp(-tf.cumsum(values(x) ** 2)) * values(x) ** 2),
    "moved points": lambda values, x, _: mean(tf.square(values(x + 0.1 * tf.tanh(values(x))))),
    "held points": lambda values, x, _: mean(values(x + tf.stop_gradient(values(x))) ** 2),
    "learned points": lambda values, x, given: mean(tf.square(values(x + given["nu"]))),
    "held learned points": lambda values, x, given: mean(
        values(x + tf.stop_gradient(given["nu"])) ** 2
    ),
    "chosen points": _chosen,
    "undeclared": lambda values, x, given: given["hidden"] * mean(values(x) ** 2),
    "weights' gradients": _filtered,
    "forwards": _forwards,
    "one by one": lambda values, x, given: mean(
        tf.vectorized_map(lambda row: given["model"](row[None])[0, 0] ** 4, tf.constant(x))
    ),
    "mapped": lambda values, x, given: mean(
        tf.map_fn(lambda row: given["model"](row[None])[0, 0] ** 4, tf.constant(x))
    ),
    "opaque": _opaque,
    "without gradient": _blind,
    "loop": _looped,
    "branch": _branched,
    "weights": lambda values, x, given: tf.add_n(
        [tf.reduce_sum(tf.sin(w.value) ** 2) for w in given["model"].trainable_weights]
    ),
}

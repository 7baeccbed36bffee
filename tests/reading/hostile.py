"""Losses that are no functions of jets point by point, or that do not look like ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.problem import LossTerm, Problem
from tests.helpers.networks import draw_network
from tests.reading.losses import NOTATIONS, ZERO

__all__ = ["HOSTILE", "draw_hostile"]

Array = npt.NDArray[Any]
Tensor = Any
Rng = np.random.Generator


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

"""Networks and residuals drawn at random: what the layered engine is tried on.

All constants are rounded to float32, so that the same draw in either dtype is the same
function, and no bias is zero, where tanh'' = 0 would hide much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.networks.models import get_theta
from hessian_tasks.problem import Problem, ResidualTerm

__all__ = ["ACTIVATIONS", "draw_network", "draw_problem", "randomise"]

Array = npt.NDArray[Any]
Tensor = Any
Rng = np.random.Generator
layers = keras.layers

MAX_PARAMS = 120

ACTIVATIONS: dict[str, Any] = {
    "tanh": "tanh",
    "sin": tf.sin,
    "sine of Keras": keras.ops.sin,
    "sigmoid": "sigmoid",
    "swish": "swish",
    "gelu": "gelu",
    "softplus": "softplus",
    "relu": "relu",
    "elu": "elu",
    "a user's": lambda z: tf.tanh(z) * z + 0.1 * z**2,
}


class Slope(layers.Layer):
    """An adaptive activation, sin(a z), with one slope for all neurons or one for each."""

    def __init__(self, per_neuron: bool, dtype: str) -> None:
        super().__init__(dtype=dtype)
        self.per_neuron = per_neuron

    def build(self, shape: Sequence[Any]) -> None:
        self.slope = self.add_weight(shape=(shape[-1],) if self.per_neuron else (), name="slope")

    def call(self, z: Tensor) -> Tensor:
        return tf.sin(self.slope.value * z)


class Fourier(layers.Layer):
    """Fixed Fourier features, (sin xB, cos xB)."""

    def __init__(self, matrix: Array, dtype: str) -> None:
        super().__init__(dtype=dtype)
        self.matrix = matrix

    def call(self, x: Tensor) -> Tensor:
        phases = tf.matmul(x, tf.constant(self.matrix, x.dtype))
        return tf.concat([tf.sin(phases), tf.cos(phases)], axis=1)


class HardBoundary(layers.Layer):
    """g + D N, where D = Π x(1 - x) is zero on the boundary of the unit cube."""

    def __init__(self, lifted: bool, dtype: str) -> None:
        super().__init__(dtype=dtype)
        self.lifted = lifted

    def call(self, x: Tensor, y: Tensor) -> Tensor:
        for axis in range(x.shape[1]):
            column = x[:, axis : axis + 1]
            y = column * (1 - column) * y
        return tf.cos(x[:, 0:1]) + y if self.lifted else y


class Reduce(layers.Layer):
    """Sum over neurons, by hand."""

    def call(self, y: Tensor) -> Tensor:
        return tf.reduce_sum(y, axis=1, keepdims=True)


def randomise(model: Any, rng: Rng) -> Any:
    """Weights of order one, all of them: kernels, biases, slopes and moving statistics."""
    for weight in model.weights:
        if "variance" in weight.path:
            value = rng.uniform(0.5, 2.0, weight.shape)
        else:
            value = rng.normal(0.0, 0.7, weight.shape)
        weight.assign(np.asarray(value, np.float32))
    return model


def draw_network(rng: Rng, num_inputs: int, num_outputs: int, dtype: str, depth: int = 3) -> Any:
    """A functional model with at most ``MAX_PARAMS`` trainable parameters.

    Args:
        rng: What to draw from.
        num_inputs: Number of coordinates.
        num_outputs: Number of outputs.
        dtype: Dtype of all layers.
        depth: Most hidden layers of a chain; below 3 there are only chains.
    """
    while True:
        model = _Draw(rng, dtype, depth).model(num_inputs, num_outputs)
        if model.trainable_weights and len(get_theta(model)) <= MAX_PARAMS:
            return randomise(model, rng)


class _Draw:
    def __init__(self, rng: Rng, dtype: str, depth: int) -> None:
        self.rng, self.dtype, self.depth = rng, dtype, depth

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def model(self, num_inputs: int, num_outputs: int) -> Any:
        x = keras.Input((num_inputs,), dtype=self.dtype)
        bodies = [self.chain, self.chain, self.skips, self.skips, self.gated, self.product]
        body = bodies[self.rng.integers(len(bodies))] if self.depth > 2 else self.chain
        y = body(self.front(x))
        y = self.dense(num_outputs, activation=None)(y)
        if num_outputs == 1 and self.chance(0.1):
            y = Reduce(dtype=self.dtype)(self.hidden(y, int(self.rng.integers(1, 4))))
        if num_inputs <= 2 and self.chance(0.25):
            y = HardBoundary(self.chance(0.5), self.dtype)(x, y)
        return keras.Model(x, y)

    def front(self, x: Tensor) -> Tensor:
        if self.chance(0.25):
            scale, offset = float(np.float32(self.rng.uniform(0.5, 2.0))), 0.25
            x = layers.Rescaling(scale, offset, dtype=self.dtype)(x)
        if self.chance(0.25):
            matrix = self.rng.normal(0.0, 1.0, (x.shape[1], self.rng.integers(1, 3)))
            x = Fourier(matrix.astype(np.float32), self.dtype)(x)
        return x

    def dense(self, width: int, activation: Any) -> Any:
        return layers.Dense(
            width,
            activation=activation,
            use_bias=self.chance(0.8),
            trainable=self.chance(0.9),
            dtype=self.dtype,
        )

    def hidden(self, x: Tensor, width: int) -> Tensor:
        """One hidden layer; its activation is part of it or a layer behind it."""
        kinds = ["plain", "plain", "plain", "layer", "own weights", "normalised"]
        kind = kinds[self.rng.integers(len(kinds))]
        activation = ACTIVATIONS[str(self.rng.choice(list(ACTIVATIONS)))]
        y = self.dense(width, activation if kind == "plain" else None)(x)
        if kind == "normalised":
            y = layers.BatchNormalization(dtype=self.dtype)(y)
        if kind in ("layer", "normalised"):
            y = layers.Activation(activation, dtype=self.dtype)(y)
        if kind == "own weights":
            y = self.behind()(y)
        return y

    def behind(self) -> Any:
        """An activation layer with weights of its own, or a slope."""
        chosen = self.rng.integers(4)
        if chosen == 0:
            return layers.PReLU(dtype=self.dtype)
        if chosen == 1:
            return layers.LeakyReLU(negative_slope=0.25, dtype=self.dtype)
        return Slope(per_neuron=chosen == 2, dtype=self.dtype)

    def width(self) -> int:
        return int(self.rng.integers(1, 7))

    def chain(self, x: Tensor) -> Tensor:
        for _ in range(self.rng.integers(1, self.depth + 1)):
            x = self.hidden(x, self.width())
        return x

    def skips(self, x: Tensor) -> Tensor:
        width = self.width()
        x = self.hidden(x, width)
        for _ in range(self.rng.integers(1, 3)):
            kind = [layers.Add, layers.Multiply, layers.Concatenate][self.rng.integers(3)]
            same = int(x.shape[1]) if kind is not layers.Concatenate else width
            x = kind(dtype=self.dtype)([x, self.hidden(x, same)])
        return x

    def gated(self, x: Tensor) -> Tensor:
        """The modified multilayer perceptron of S. Wang, Y. Teng and P. Perdikaris (2021)."""
        width = int(self.rng.integers(1, 5))
        u, v, h = self.hidden(x, width), self.hidden(x, width), x
        for _ in range(self.rng.integers(1, 3)):
            z = self.hidden(h, width)
            h = (1 - z) * u + z * v
        return h

    def product(self, x: Tensor) -> Tensor:
        """Two branches multiplied, as in separable networks and DeepONets."""
        width = self.width()
        return self.hidden(x, width) * self.hidden(x, width)


Part = Callable[[Tensor, Any], Tensor]


def draw_problem(rng: Rng, dtype: str) -> Problem:
    """A network with one to three residual terms of order 0 to 4.

    The higher the order, the smaller the network: each order doubles the graphs to compile.
    """
    num_inputs, num_outputs = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    order = int(rng.choice(5, p=[0.2, 0.35, 0.38, 0.04, 0.03]))
    depth = {3: 2, 4: 1}.get(order, 3)
    model = draw_network(rng, num_inputs, num_outputs, dtype, depth)
    names = "xyz"[:num_inputs]
    terms = []
    for number in range(rng.choice([1, 2, 3], p=[0.75, 0.2, 0.05]) if order < 3 else 1):
        points = rng.uniform(-1.0, 1.0, (rng.integers(1, 41), num_inputs)).astype(np.float32)
        weight = float(rng.choice([1.0, 0.3, 10.0, -0.7]))
        residual = _draw_residual(rng, names, num_outputs, order)
        terms.append(ResidualTerm(f"term_{number}", points.astype(dtype), residual, weight))
        order = int(rng.integers(order + 1))
    return Problem(model, terms, names)


def _draw_residual(
    rng: Rng, names: str, num_outputs: int, order: int
) -> Callable[[Tensor, Any], Any]:
    top = "".join(sorted(rng.choice(list(names), order)))
    num_components = int(rng.integers(1, 3))
    components = [
        [_draw_part(rng, names, num_outputs, top) for _ in range(rng.integers(1, 4))]
        for _ in range(num_components)
    ]
    if num_components == 1 and rng.random() < 0.2:
        return lambda x, u: u.d(*top)  # all outputs are components
    return lambda x, u: [sum(part(x, u) for part in parts) for parts in components]


def _draw_part(rng: Rng, names: str, num_outputs: int, top: str) -> Part:
    """A summand of a residual with derivatives up to that named ``top``, ``[N, 1]``."""
    one, other = (int(output) for output in rng.integers(num_outputs, size=2))
    lower = "".join(name for name in top if rng.random() < 0.5)
    axis = int(rng.integers(len(names)))
    c = float(np.float32(rng.normal()))
    scales = [float(np.float32(rng.uniform(0.5, 2.0))) for _ in names]
    repeated = [name * len(top) for name in (names if len(top) <= 2 else names[:2])]

    def like_laplacian(x: Tensor, u: Any) -> Tensor:
        return sum(s * u[one].d(*n) for s, n in zip(scales, repeated, strict=False)) - c

    parts: list[Part] = [
        like_laplacian,
        lambda x, u: c * u[one].d(*top) - tf.sin(3 * x[:, axis : axis + 1]),
        lambda x, u: (c + tf.sin(2 * x[:, axis : axis + 1])) * u[one].d(*top) + u[other].value,
        lambda x, u: u[other].value * u[one].d(*top),
        lambda x, u: c * u[one].d(*top) ** 2,
        lambda x, u: u[one].d(*lower) * u[other].d(*top) + c,
        lambda x, u: u[one].d(*top) + tf.sin(u[other].value) * u[one].d(*lower),
        lambda x, u: u[one].d(*top) - u[other].value ** 3 + tf.exp(c * u[other].value),
    ]
    return parts[rng.integers(len(parts))]

"""Networks of every make, each in a small problem: a problem file, with the make as its option."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hessian_tasks.problem import LossTerm, Problem, ResidualTerm

__all__ = ["MAKES", "problem"]

layers = keras.layers
POINTS = np.random.default_rng(0).uniform(-1.0, 1.0, (6, 2))
F64: dict[str, Any] = {"dtype": "float64"}


def dense(width: int, activation: str | None = "tanh", **options: Any) -> Any:
    return layers.Dense(width, activation, bias_initializer="normal", **F64, **options)


def entry() -> Any:
    return keras.Input((2,), **F64)


def sequential(*first: Any) -> Any:
    return keras.Sequential([entry(), *first, dense(3), dense(1, None)])


def skip() -> Any:
    x = entry()
    h = dense(3)(x)
    return keras.Model(x, dense(1, None)(layers.Add(**F64)([h, dense(3)(h)])))


def gated() -> Any:
    """The modified multilayer perceptron of S. Wang, Y. Teng and P. Perdikaris (2021)."""
    x = entry()
    u, v, h = dense(2)(x), dense(2)(x), dense(2)(x)
    z = dense(2)(h)
    return keras.Model(x, dense(1, None)((1 - z) * u + z * v))


def concatenated() -> Any:
    x = entry()
    parts = [keras.Sequential([entry(), dense(2), dense(1, None)])(x) for _ in range(2)]
    return keras.Model(x, layers.Concatenate(**F64)(parts))


def shared() -> Any:
    x = entry()
    first, again = dense(2), dense(2)
    return keras.Model(x, dense(1, None)(again(again(first(x)))))


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__(**F64)
        self.hidden, self.out = dense(3), dense(1, None)

    def call(self, x: Any) -> Any:
        return self.out(self.hidden(x)) + x[:, :1]


def subclassed() -> Any:
    model = Subclassed()
    model(tf.constant(POINTS))
    return model


@keras.saving.register_keras_serializable("architectures")
class Slope(layers.Layer):
    def build(self, shape: Sequence[Any]) -> None:
        self.slope = self.add_weight(shape=(shape[-1],), initializer="ones", name="slope")

    def call(self, z: Any) -> Any:
        return tf.tanh(self.slope.value * z)


class Unregistered(Slope):
    pass


@keras.saving.register_keras_serializable("architectures")
class Captured(layers.Layer):
    """Registered, but its config forgets what it computes with."""

    def __init__(self, factor: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.factor = factor

    def get_config(self) -> dict[str, Any]:
        return super().get_config()

    def call(self, x: Any) -> Any:
        return self.factor * x


def adapted() -> Any:
    normalization = layers.Normalization(**F64)
    normalization.adapt(3 * POINTS + 1)
    return sequential(normalization)


def binned() -> Any:
    binning = layers.Discretization(num_bins=3, output_mode="one_hot", **F64)
    binning.adapt(POINTS[:, :1])
    x = entry()
    h = layers.Concatenate(**F64)([x, binning(x[:, :1])])
    return keras.Model(x, dense(1, None)(dense(2)(h)))


def batch_normalised() -> Any:
    model = sequential(layers.BatchNormalization(**F64))
    for weight in model.non_trainable_weights:
        weight.assign(weight + np.linspace(0.1, 0.5, 2))
    return model


def two_outputs() -> Any:
    x = entry()
    h = dense(2)(x)
    return keras.Model(x, [dense(1, None)(h), dense(2, None)(h)])


MAKES: dict[str, Callable[[], Any]] = {
    "sequential": sequential,
    "skip connection": skip,
    "modified MLP": gated,
    "two networks": concatenated,
    "shared layer": shared,
    "nested": lambda: keras.Sequential([entry(), sequential(), dense(1, None)]),
    "subclassed": subclassed,
    "registered layer": lambda: sequential(dense(2, None), Slope(**F64)),
    "unregistered layer": lambda: sequential(dense(2, None), Unregistered(**F64)),
    "forgetful config": lambda: sequential(Captured(2.0, **F64)),
    "Lambda": lambda: sequential(layers.Lambda(lambda x: 2 * x, **F64)),
    "Normalization": adapted,
    "given Normalization": lambda: sequential(
        layers.Normalization(mean=[0.5, 1.0], variance=[2.0, 3.0], **F64)
    ),
    "Discretization": binned,
    "BatchNormalization": batch_normalised,
    "SpectralNormalization": lambda: sequential(layers.SpectralNormalization(dense(2), **F64)),
    "Rescaling": lambda: sequential(layers.Rescaling(2.0, 0.5, **F64)),
    "Dropout": lambda: sequential(layers.Dropout(0.5, **F64), layers.GaussianNoise(1.0, **F64)),
    "frozen layer": lambda: sequential(dense(2, trainable=False)),
    "closure": sequential,
    "two outputs": two_outputs,
}


def problem(make: str = "sequential") -> Problem:
    """A problem with a network of one make; where it can, with second derivatives."""
    keras.utils.set_random_seed(1)
    model = MAKES[make]()

    def equation(x: Any, u: Any) -> Any:
        return u.d("xx") + u.d("y") * u.value - x[:, :1]

    def coefficient(x: Any, u: Any) -> Any:
        return u.d("y") - model.trainable_weights[1].value[0] ** 2 * u.d("xx")

    def both(network: Any) -> Any:
        return sum(tf.reduce_mean((y - 1) ** 2) for y in network(tf.constant(POINTS)))

    if make == "two outputs":
        return Problem(model, [LossTerm("both", both)], "xy")
    residual = coefficient if make == "closure" else equation
    return Problem(
        subclassed if make == "subclassed" else model, [ResidualTerm("pde", POINTS, residual)], "xy"
    )

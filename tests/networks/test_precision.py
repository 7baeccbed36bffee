"""Networks that compute in fewer digits than their weights have."""

from __future__ import annotations

from typing import Any

import keras
import pytest
import tensorflow as tf

from hessian_tasks.errors import ModelError
from hessian_tasks.networks.models import resolve_model
from hessian_tasks.networks.numerics import check_precision
from hessian_tasks.problem import Problem, ResidualTerm
from hessian_tasks.rebuild import freeze
from hessian_tasks.source import LIVE, ProblemSource
from tests.networks.architectures import F64, MAKES, POINTS, dense, sequential

layers = keras.layers


class Subclassed(keras.Model):
    def __init__(self, dtype: str | None = None) -> None:
        super().__init__(dtype=dtype, name="own")
        self.hidden, self.out = dense(3), dense(1, None)

    def call(self, x: Any) -> Any:
        return self.out(self.hidden(x))


def mixed_precision() -> Any:
    return keras.Sequential(
        [keras.Input((2,)), layers.Dense(3, dtype="mixed_float16", name="half"), layers.Dense(1)]
    )


def mixed_by_subclass() -> Any:
    model = Subclassed("mixed_float16")
    model(tf.constant(POINTS))
    return model


class Cast(layers.Layer):
    def call(self, x: Any) -> Any:
        return tf.cast(tf.cast(x, tf.float32), tf.float64)


def without_dtype() -> Any:
    model = Subclassed()
    model(tf.constant(POINTS))
    return model


IMPRECISE = {
    "mixed": (mixed_precision, "'half' computes in float16, but its weights are float32"),
    "mixed subclass": (mixed_by_subclass, "'own' computes in float16, but its weights are float32"),
    "subclass": (without_dtype, r"casts to float32 \(of that dtype: 'own'\).*super\(\).__init__"),
    "input": (
        lambda: keras.Sequential([keras.Input((2,)), dense(1)]),
        r"\(of that dtype: its input\)",
    ),
    "activation": (
        lambda: sequential(layers.Activation("tanh", name="plain")),
        "casts to float32 .*'plain'",
    ),
    "inside": (lambda: sequential(dense(3), Cast(**F64)), "casts to float32"),
}


@pytest.mark.parametrize("case", IMPRECISE)
def test_fewer_digits_than_the_weights_have_are_refused(case: str) -> None:
    make, message = IMPRECISE[case]
    term = ResidualTerm("fit", POINTS, lambda x, u: u.value)
    problem = Problem(make(), [term], "xy")
    with pytest.raises(ModelError, match=message):
        freeze(problem, ProblemSource(LIVE, live=problem))


def steep(factor: float, activation: str = "tanh") -> Any:
    model = sequential(layers.Rescaling(factor, **F64), dense(40, activation))
    for weight in model.trainable_weights:
        weight.assign(3 * weight)
    return model


FULL = {make: MAKES[make] for make in MAKES}
FULL |= {
    "flat": lambda: steep(1e-9),
    "saturated": lambda: steep(1e6),
    "dead": lambda: sequential(dense(3, "relu", kernel_initializer="zeros")),
    "relu": lambda: steep(100.0, "relu"),
    "far from zero": lambda: sequential(layers.Rescaling(1.0, 1e5, **F64)),
    "constant": lambda: sequential(layers.Rescaling(0.0, **F64)),
}


@pytest.mark.parametrize("make", FULL)
def test_full_precision_is_not_refused(make: str) -> None:
    check_precision(resolve_model(FULL[make]), 2)

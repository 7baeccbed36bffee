"""Derivatives that a network does not have, such as second ones of ``relu``."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from hessian_tasks import DensityTerm, LossTerm, Problem, ProblemWarning, ResidualTerm
from hessian_tasks.networks.models import get_theta
from hessian_tasks.networks.numerics import is_piecewise_linear
from hessian_tasks.networks.trainables import resolve
from hessian_tasks.reading import warn_of_flat_derivatives
from tests.helpers.runs import Cli

POINTS = np.linspace(-1.0, 1.0, 7)[:, None]


def network(activation: str, output: str = "glorot_uniform") -> Any:
    keras.utils.set_random_seed(1)
    layers = [
        keras.Input((1,), dtype="float64"),
        keras.layers.Dense(5, activation, bias_initializer="random_normal", dtype="float64"),
        keras.layers.Dense(1, kernel_initializer=output, dtype="float64"),
    ]
    return keras.Sequential(layers)


def own_derivatives(model: Any) -> Any:
    x = tf.constant(POINTS)
    slope = tf.gradients(model(x), x)[0]
    return tf.reduce_mean((tf.gradients(slope, x)[0] + 1.0) ** 2)


def pde(x: Any, u: Any) -> Any:
    return u.d("xx") + 1.0


PDE = ResidualTerm("pde", POINTS, pde)


def both(residual: Callable[..., Any]) -> Problem:
    networks = {"u": network("tanh"), "k": network("relu")}
    return Problem(networks, [ResidualTerm("pde", POINTS, residual)], "x")


FLAT = {
    "residual": (lambda: Problem(network("relu"), [PDE], "x"), "'pde' depends on u.xx,"),
    "density": (
        lambda: Problem(network("leaky_relu"), [DensityTerm("e", POINTS, pde)], "x"),
        "'e' depends on u.xx,",
    ),
    "own derivatives": (
        lambda: Problem(network("relu"), [LossTerm("own", own_derivatives)]),
        "'own' depends on u.x0x0,",
    ),
    "one of two networks": (
        lambda: both(lambda x, u, k: u.d("xx") + k.d("xx")),
        "'pde' depends on k.xx,",
    ),
}
CURVED: dict[str, Callable[[], Problem]] = {
    "tanh": lambda: Problem(network("tanh"), [PDE], "x"),
    "tanh that is zero": lambda: Problem(network("tanh", "zeros"), [PDE], "x"),
    "relu and no second derivative": lambda: Problem(
        network("relu"), [ResidualTerm("ode", POINTS, lambda x, u: u.d("x") - u.value)], "x"
    ),
    "that of the other network": lambda: both(lambda x, u, k: u.d("xx") + k.d("x")),
}


@pytest.mark.parametrize("case", FLAT)
def test_derivatives_that_vanish_everywhere_are_named(case: str) -> None:
    make, message = FLAT[case]
    problem = make()
    networks = problem.model if isinstance(problem.model, dict) else {"": problem.model}
    before = [get_theta(each) for each in networks.values()]
    with pytest.warns(ProblemWarning, match=re.escape(message)) as caught:
        warn_of_flat_derivatives(resolve(problem))
    assert len(caught) == 1
    for each, theta in zip(networks.values(), before, strict=True):
        np.testing.assert_array_equal(get_theta(each), theta)


@pytest.mark.parametrize("case", CURVED)
def test_derivatives_that_do_not_are_none_to_warn_of(case: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ProblemWarning)
        warn_of_flat_derivatives(resolve(CURVED[case]()))


def test_a_network_of_one_batch_size_alone_is_not_asked() -> None:
    layers = [
        keras.Input((1,), batch_size=len(POINTS), dtype="float64"),
        keras.layers.Reshape((1, 1), dtype="float64"),
        keras.layers.GRU(2, stateful=True, dtype="float64"),
        keras.layers.Dense(1, dtype="float64"),
    ]
    assert not is_piecewise_linear(keras.Sequential(layers), 1)


FILE = """
import keras
import numpy as np
from hessian_tasks import Problem, ResidualTerm

def problem():
    net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(4, "relu")])
    x = np.linspace(-1, 1, 5)[:, None]
    return Problem(net, [ResidualTerm("pde", x, lambda x, u: u.d("xx") + 1)], "x")
"""


def test_the_command_says_it_in_a_line_before_it_computes_or_trains(
    tmp_path: Path, hessian: Cli
) -> None:
    file = tmp_path / "problem.py"
    file.write_text(FILE)
    said = "hessian: Term 'pde' depends on u.xx, which is zero at all of its points"
    steps = ["--adam", 1, "--lbfgs", 0, "--out", tmp_path / "out.keras"]
    for command in (["loss", file], ["train", file, *steps]):
        code, _, errors = hessian(*command)
        assert (code, errors.count("\n")) == (0, 1)
        assert errors.startswith(said)

"""What rounding may move, measured against evaluations in twice the precision."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from hessian_tasks.frozen import Evaluated, FrozenInputs, Rounding
from hessian_tasks.loss import compile_losses_and_gradient, losses_and_gradient
from hessian_tasks.loss.rounding import measure_rounding
from hessian_tasks.networks.models import get_theta, set_theta
from hessian_tasks.networks.trainables import resolve
from hessian_tasks.rebuild import freeze, rebuild
from hessian_tasks.source import LIVE, ProblemSource
from pipeline import LossTerm, Problem, load_problem, train


@pytest.fixture(scope="module")
def trained() -> FrozenInputs:
    """A float32 PINN near a minimum, where its gradient is mostly cancelled."""
    problem = train(load_problem("poisson", width=10), adam_steps=300, lbfgs_steps=700).problem
    return freeze(problem, ProblemSource(LIVE, live=problem))


def test_another_arithmetic_finds_the_same_gradient(trained: FrozenInputs) -> None:
    double = resolve(load_problem("poisson", width=10, dtype="float64"))
    set_theta(double.model, trained.theta.astype(np.float64))
    other = Evaluated(*losses_and_gradient(double))
    assert other.disagreement(trained.evaluated) == ""
    # Without what was measured, it would count as another loss's.
    alone = replace(trained.evaluated, rounding=Rounding())
    assert "the gradient of the loss" in other.disagreement(alone)


def test_another_loss_is_still_another_one(trained: FrozenInputs) -> None:
    source = load_problem("poisson", width=10)
    terms = [t.with_arrays({k: v * 0.99 for k, v in t.arrays.items()}) for t in source.terms]
    problem = resolve(replace(source, terms=terms))
    set_theta(problem.model, trained.theta)
    found = Evaluated(*losses_and_gradient(problem)).disagreement(trained.evaluated)
    assert "was recorded" in found


def test_the_weights_are_left_as_they_were(trained: FrozenInputs) -> None:
    problem = rebuild(trained)
    measure_rounding(compile_losses_and_gradient(problem), trained.evaluated)
    assert np.array_equal(get_theta(problem.model), trained.theta)


def test_noise_is_not_rounding(tiny_problem: Any) -> None:
    def noisy(model: Any, x: Any) -> Any:
        return tf.reduce_mean(model(x) ** 2) * tf.random.uniform([], 1, 2, tf.float64)

    term = LossTerm("noisy", noisy, data={"x": np.ones((3, 2))})
    problem = resolve(Problem(tiny_problem().model, [term]))
    compiled = compile_losses_and_gradient(problem)
    assert measure_rounding(compiled, Evaluated(*compiled.evaluate())) == Rounding()


@given(st.floats(1e-9, 1e-3), st.booleans())
@settings(max_examples=30, deadline=None)
def test_what_was_measured_is_allowed_on_either_side(size: float, of_recorded: bool) -> None:
    losses, gradient = {"pde": 1e-6}, np.array([1e-6, 0.0], np.float32)
    other = {"pde": 1e-6 + size}, gradient + np.array([0.0, size], np.float32)
    rounding = Rounding(loss=1.01 * size, gradient=1.01 * size)
    first = Evaluated(losses, gradient, rounding if of_recorded else Rounding())
    second = Evaluated(*other, Rounding() if of_recorded else rounding)
    assert second.disagreement(first) == ""
    assert Evaluated(*other).disagreement(Evaluated(losses, gradient)) != ""

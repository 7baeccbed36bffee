"""Training: it lowers the loss, reports what it did, and stops at NaN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from hessian_tasks.errors import ProblemError
from hessian_tasks.loss import losses_and_gradient
from hessian_tasks.networks.models import get_theta
from hessian_tasks.problem import LossTerm, Problem, ResidualTerm
from hessian_tasks.problems import heat, regression
from pipeline.training import train


def line(model: Any = None) -> Problem:
    """Fit a line to three points of y = 2x + 1: convex, with minimum zero."""

    def residual(x: Any, u: Any) -> Any:
        return u.value - 2 * x - 1

    if model is None:
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    term = ResidualTerm("fit", points=[[-1.0], [0.5], [2.0]], residual=residual)
    return Problem(model, [term], "x", exact_solution=lambda x: 2 * x + 1)


def test_lbfgs_solves_least_squares_and_reports_it() -> None:
    steps: list[tuple[str, int]] = []
    problem = line()
    result = train(
        problem,
        adam_steps=3,
        lbfgs_steps=50,
        on_step=lambda phase, step, loss: steps.append((phase, step)),
    )
    assert result.loss < 1e-10
    assert result.error is not None
    assert result.error < 1e-5
    assert result.seconds > 0
    assert result.problem.model is problem.model
    assert get_theta(problem.model) == pytest.approx([2.0, 1.0], abs=1e-4)
    assert steps[:4] == [("adam", 1), ("adam", 2), ("adam", 3), ("lbfgs", 1)]
    assert [step for phase, step in steps[3:]] == list(range(1, len(steps) - 2))


def test_adam_takes_steps_of_the_learning_rate() -> None:
    problem = line()
    before = get_theta(problem.model)
    train(problem, adam_steps=1, lbfgs_steps=0, learning_rate=0.01)
    # The first step of Adam is the learning rate times the sign of the gradient.
    assert np.abs(get_theta(problem.model) - before) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pinn_loss_falls_and_terms_add_up(dtype: str) -> None:
    problem = heat.problem(width=10, depth=1, num_interior=100, num_boundary=30, dtype=dtype)
    start = sum(losses_and_gradient(problem)[0].values())
    result = train(problem, adam_steps=50, lbfgs_steps=200)
    # How far so many steps come depends on each one's rounding: to 0.02 and 0.004 here, in float32
    # and float64, with errors of 0.18 and 0.12.
    assert result.loss < 0.1 * start
    assert result.error is not None
    assert result.error < 0.5
    assert sum(result.losses.values()) == pytest.approx(result.loss)
    losses, _ = losses_and_gradient(result.problem)
    assert result.losses == pytest.approx(losses, rel=1e-5)


def test_same_seed_same_weights_even_from_a_factory() -> None:
    def factory() -> Any:
        return keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])

    def trained(seed: int) -> Any:
        result = train(line(factory), adam_steps=2, lbfgs_steps=0, seed=seed)
        return get_theta(result.problem.model)

    assert np.array_equal(trained(1), trained(1))
    assert not np.array_equal(trained(1), trained(2))


def test_no_error_without_residual_terms() -> None:
    result = train(regression.problem(width=3, depth=1), adam_steps=1, lbfgs_steps=0)
    assert result.error is None
    assert list(result.losses) == ["fit"]


def drifting_to_nan(model: Any) -> Any:
    """Falls with the bias, and is NaN once that has passed -0.25."""
    bias = model.trainable_weights[1].value[0]
    return bias + 0 * tf.sqrt(bias + 0.25)


def steep_to_infinity(model: Any) -> Any:
    return -tf.exp(1000 * model.trainable_weights[1].value[0])


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        (drifting_to_nan, {"adam_steps": 9, "learning_rate": 0.1}, "nan in step 4 of Adam"),
        (drifting_to_nan, {"adam_steps": 0, "lbfgs_steps": 9}, "nan in step 1 of L-BFGS"),
        (steep_to_infinity, {"adam_steps": 0, "lbfgs_steps": 9}, "inf in step 1 of L-BFGS"),
    ],
)
def test_raises_when_the_loss_is_no_number(
    loss: Callable[[Any], Any], options: dict[str, Any], message: str
) -> None:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    problem = Problem(model, [LossTerm("loss", loss)])
    with pytest.raises(ProblemError, match=message):
        train(problem, **options)


def test_trainings_one_after_the_other_warn_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """TensorFlow counts traces of one code, whatever it closes over, and warns at the fifth."""
    caplog.set_level("WARNING", "tensorflow")
    tf.get_logger().addHandler(caplog.handler)
    try:
        for _ in range(6):
            train(line(), adam_steps=1, lbfgs_steps=0)
    finally:
        tf.get_logger().removeHandler(caplog.handler)
    assert "retracing" not in caplog.text

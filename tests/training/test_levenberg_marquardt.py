"""Levenberg-Marquardt: single steps against dense matrices, and which losses it takes."""

from __future__ import annotations

import itertools
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from hessian_tasks import DensityTerm, LossTerm, Problem, ResidualTerm, load_problem, mlp
from hessian_tasks.autodiff.matrices import AutodiffJacobian
from hessian_tasks.errors import ProblemError
from hessian_tasks.gauss_newton import GaussNewtonEngine
from hessian_tasks.loss.regularization import with_regularization
from hessian_tasks.loss.terms import term_values
from hessian_tasks.networks.models import get_theta, set_theta
from hessian_tasks.networks.trainables import resolve
from hessian_tasks.problems import classification
from hessian_tasks.spec import BlockRow
from pipeline.errors import PlanError
from pipeline.run.engines import choose_engine
from pipeline.training import _levenberg_marquardt as module
from pipeline.training import train
from pipeline.training._levenberg_marquardt import Damping
from tests.helpers.oracles import dense_jacobian

Array = npt.NDArray[Any]
POINTS = np.random.default_rng(0).uniform(-1, 1, (9, 2))


def test_undamped_step_solves_linear_least_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((20, 3)), rng.standard_normal((20, 2))
    inputs = keras.Input((3,), dtype="float64")
    model = keras.Sequential([inputs, keras.layers.Dense(2, dtype="float64")])
    term = ResidualTerm("fit", x, lambda x, u, y: u.value - y, data={"y": y})
    problem = Problem(model, [term], "abc")
    monkeypatch.setattr(module, "FIRST", 1e-14)
    result = train(problem, adam_steps=0, levenberg_marquardt_steps=1)
    expected, *_ = np.linalg.lstsq(np.column_stack([x, np.ones(20)]), y, rcond=None)
    # μ is 1e-14 of the largest entry, and the condition number of G about 10.
    assert get_theta(model) == pytest.approx(expected.ravel(), abs=1e-11)
    residual = np.column_stack([x, np.ones(20)]) @ expected - y
    assert result.loss == pytest.approx(np.mean(residual**2), rel=1e-11)


@pytest.mark.parametrize(
    ("gains", "factor"),
    # 1 - (2 gain - 1)³ is 1 at a gain of 1/2, 2 at 0 and less than 1/3 from 0.94 on.
    [([0.5], 1.0), ([1e-9], 2.0), ([0.75], 0.875), ([1.0], 1 / 3), ([-1.0, -1.0, -1.0], 64.0)],
)
def test_damping_follows_the_gain(gains: list[float], factor: float) -> None:
    damping = Damping(3.0)
    for gain in gains:
        damping.adapt(gain)
    assert damping.value == pytest.approx(3.0 * factor, rel=1e-8)


def small(**options: Any) -> Problem:
    sizes = {"width": 6, "depth": 2, "num_interior": 20, "num_boundary": 12, "dtype": "float64"}
    return load_problem("poisson", **{**sizes, **options})


def model_of(problem: Problem) -> tuple[Array, Array]:
    """∇L and G of residual terms, from Jacobians by tapes."""
    size = len(get_theta(problem.model))
    gradient, matrix = np.zeros(size), np.zeros((size, size))
    for term in problem.terms:
        values, rows = dense_jacobian(problem, lambda term=term: term_values(problem, term))
        jacobian = rows.reshape(-1, size)
        factor = 2 * term.weight / len(jacobian)
        gradient += factor * jacobian.T @ values.ravel()
        matrix += factor * jacobian.T @ jacobian
    return gradient, matrix


def test_steps_of_a_pinn_are_those_of_dense_jacobians(monkeypatch: pytest.MonkeyPatch) -> None:
    step, tried, taken = module.damped_step, list[float](), list[tuple[Array, float]]()

    def note(matrix: Array, gradient: Array, damping: float) -> Array | None:
        tried.append(damping)
        return step(matrix, gradient, damping)

    def observe(given: Problem, phase: str, step: int) -> None:
        # The last damping that was tried is that of the step.
        taken.append((get_theta(given.model), tried[-1] if tried else 0.0))

    monkeypatch.setattr(module, "damped_step", note)
    problem = resolve(small())
    train(problem, adam_steps=0, levenberg_marquardt_steps=2, observe=observe)
    assert len(taken) == 3
    for (before, _), (after, damping) in itertools.pairwise(taken):
        set_theta(problem.model, before)
        gradient, matrix = model_of(problem)
        expected = -np.linalg.solve(matrix + damping * np.eye(len(before)), gradient)
        # μ is 1e-4 of the norm at least: rounding of both is made larger by 1e4.
        np.testing.assert_allclose(after - before, expected, rtol=1e-8, atol=1e-10)


def with_everything() -> Problem:
    """Residuals, a density, a loss and a regulariser; two networks and a parameter."""
    dense = keras.layers.Dense(1, dtype="float64", kernel_regularizer=keras.regularizers.L2(1e-3))
    second = keras.Sequential([keras.Input((2,), dtype="float64"), dense])
    fit = LossTerm(
        "fit", lambda model, x: tf.reduce_mean((model(x) - 1.0) ** 2), data={"x": POINTS}
    )
    terms = [
        ResidualTerm("pde", POINTS, lambda x, u, k, a: u.d("xx") + a * k.value - x[:, :1]),
        DensityTerm("energy", POINTS, lambda x, u, k: tf.sqrt(1 + k.d("x") ** 2)),
        fit,
    ]
    networks = {"u": mlp(2, 1, width=5, depth=1, dtype="float64"), "k": second}
    return Problem(networks, terms, "xy", parameters={"a": 0.5})


@pytest.mark.parametrize(
    "problem",
    [small, with_everything, lambda: classification.problem(4, 1, 14, 3, dtype="float64")],
)
def test_refreshed_engine_is_one_built_at_the_same_weights(problem: Any) -> None:
    given = with_regularization(resolve(problem()))
    engine, _ = choose_engine(given, "ggn")
    assert isinstance(engine, GaussNewtonEngine)
    assert engine.by_layers
    row = BlockRow(0, 0, engine.layout.num_params)
    before = engine.block_row(row)
    theta = get_theta(given.model)
    set_theta(given.model, theta + np.random.default_rng(2).normal(0.0, 0.3, theta.shape))
    assert np.array_equal(engine.block_row(row), before)
    engine.refresh()
    new, _ = choose_engine(given, "ggn")
    found, expected = engine.block_row(row), new.block_row(row)
    scale = np.abs(expected).max()
    assert np.abs(expected - before).max() > 1e-3 * scale
    # The same operations on the same numbers.
    assert np.abs(found - expected).max() <= 1e-13 * scale


def test_refreshed_engine_of_tapes_is_that_of_layers() -> None:
    problem = resolve(small(width=3))
    matrices = [AutodiffJacobian(problem, term) for term in problem.terms]
    plain = GaussNewtonEngine(problem, matrices, by_layers=False)
    row = BlockRow(0, 0, plain.layout.num_params)
    before = plain.block_row(row)
    set_theta(problem.model, get_theta(problem.model) + 0.1)
    plain.refresh()
    expected = choose_engine(problem, "ggn")[0].block_row(row)
    scale = np.abs(expected).max()
    assert np.abs(expected - before).max() > 1e-3 * scale
    # Both are rounded in float64; derivatives of order 2 make that a hundred times larger.
    assert np.abs(np.triu(plain.block_row(row) - expected)).max() <= 1e-12 * scale


def test_takes_losses_that_are_no_squares() -> None:
    before = sum(losses_at(with_everything()))
    result = train(with_everything(), adam_steps=0, levenberg_marquardt_steps=4)
    assert result.loss < 0.5 * before
    assert list(result.losses) == ["pde", "energy", "fit", "regularization"]


def losses_at(problem: Problem) -> list[float]:
    return list(train(problem, adam_steps=0, lbfgs_steps=0).losses.values())


def test_refuses_terms_without_gauss_newton_matrix() -> None:
    coupled = LossTerm("mean", lambda model: tf.reduce_mean(model(tf.constant(POINTS))) ** 2)
    fit = ResidualTerm("fit", POINTS, lambda x, u: u.value)
    problem = Problem(mlp(2, 1, width=3, depth=1, dtype="float64"), [fit, coupled], "xy")
    with pytest.raises(PlanError, match="every loss term, but term 'mean' couples its points"):
        train(problem, adam_steps=0, levenberg_marquardt_steps=1)


def test_leaves_the_domain_of_the_loss_by_no_step() -> None:
    """A step to where the loss is NaN is taken back, and a shorter one is tried."""
    term = LossTerm("log", lambda model, a: a[0] - tf.math.log(a[0]))
    network = mlp(1, width=1, depth=1, dtype="float64")
    problem = Problem(network, [term], parameters={"a": [6.0]}, only="a")
    result = train(problem, adam_steps=0, levenberg_marquardt_steps=30)
    # ∇L = 1 - 1/a, G = 1/a²: the first steps of Newton from 6 lead below 0. Minimum at 1.
    assert get_theta(result.problem.model) == pytest.approx([1.0], abs=1e-7)
    assert result.loss == pytest.approx(1.0, abs=1e-14)


def test_refuses_a_matrix_that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = GaussNewtonEngine.block_row
    monkeypatch.setattr(GaussNewtonEngine, "block_row", lambda *given: np.nan * rows(*given))
    with pytest.raises(ProblemError, match="Gauss-Newton matrix holds NaN"):
        train(small(width=2), adam_steps=0, levenberg_marquardt_steps=1)


def test_ends_where_no_damping_helps() -> None:
    steps = list[int]()
    problem = Problem(
        mlp(1, width=1, depth=1, dtype="float64"),
        [LossTerm("square", lambda model, a: tf.reduce_sum((a - 1.0) ** 2))],
        parameters={"a": [3.0, 1.0]},
        only="a",
    )
    result = train(
        problem,
        adam_steps=0,
        levenberg_marquardt_steps=1000,
        on_step=lambda phase, step, loss: steps.append(step),
    )
    assert 1 < len(steps) < 100
    assert get_theta(result.problem.model) == pytest.approx([1.0, 1.0], abs=1e-15)

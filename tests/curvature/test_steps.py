"""Steps from stored curvature: against direct solutions, closed forms, and the loss itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hessian_tasks.networks.models import get_theta
from hessian_tasks.parameters import ParameterLayout
from hessian_tasks.problem import Problem
from pipeline.analysis.operator import HessianOperator
from pipeline.analysis.steps import (
    Eigenbasis,
    effective_dimension,
    iterative_step,
    predicted_decrease,
)
from pipeline.api import compute_hessian, open_store
from pipeline.curvature.steps import try_steps
from pipeline.errors import StoreError
from pipeline.run.options import RunOptions
from tests.analysis.test_spectrum import EIGENVALUES, quadratic_problem
from tests.analysis.test_terms import linear_problem
from tests.helpers.runs import Cli

Array = npt.NDArray[Any]


def indefinite(size: int = 12) -> tuple[Array, Array]:
    rng = np.random.default_rng(3)
    matrix = rng.standard_normal((size, size))
    return matrix + matrix.T, rng.standard_normal(size)


def absolute(matrix: Array) -> Array:
    """|A|, by its square root: (A²)^½."""
    values, vectors = np.linalg.eigh(matrix @ matrix)
    return np.asarray((vectors * np.sqrt(values)) @ vectors.T)


@pytest.mark.parametrize("damping", [0.0, 0.3, 10.0])
def test_steps_solve_the_damped_systems(damping: float) -> None:
    matrix, gradient = indefinite()
    basis = Eigenbasis.of(matrix.copy())
    identity = np.eye(len(matrix))
    newton = np.linalg.solve(matrix + damping * identity, -gradient)
    free = np.linalg.solve(absolute(matrix) + damping * identity, -gradient)
    np.testing.assert_allclose(basis.step(gradient, damping), newton, rtol=1e-10)
    found = basis.step(gradient, damping, magnitudes=True)
    # The square root of A² halves the digits of its small eigenvalues.
    np.testing.assert_allclose(found, free, rtol=1e-8)
    assert found @ gradient < 0
    operator = HessianOperator(
        lambda v: matrix @ v, ParameterLayout.of([("a/b", (12,))]), relative_error=0.0
    )
    iterated = iterative_step(operator, gradient, damping, tolerance=1e-12)
    np.testing.assert_allclose(iterated, newton, rtol=1e-6)


def test_step_without_damping_is_the_shortest_one() -> None:
    matrix = np.diag([0.0, 1e-9, 2.0, -4.0])
    gradient = np.array([1.0, 1.0, 1.0, 1.0])
    step = Eigenbasis.of(matrix.copy(), noise_floor=1e-6).step(gradient, 0.0)
    expected = -np.linalg.pinv(matrix, rcond=1e-3) @ gradient
    np.testing.assert_allclose(step, expected, atol=1e-15)


def test_iteration_that_does_not_converge_is_an_error() -> None:
    wild = np.random.default_rng(0)
    operator = HessianOperator(
        lambda v: wild.standard_normal(v.shape),
        ParameterLayout.of([("a/b", (6,))]),
        relative_error=0.0,
    )
    with pytest.raises(StoreError, match="did not converge in 60 products; damp it more"):
        iterative_step(operator, np.ones(6), 0.0, tolerance=1e-14)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=9), st.floats(1e-6, 1e3))
def test_effective_dimension_is_a_trace(values: list[float], damping: float) -> None:
    size = len(values)
    basis = np.linalg.qr(np.random.default_rng(size).standard_normal((size, size)))[0]
    for negative, kept in [("magnitude", np.abs(values)), ("zero", np.maximum(values, 0))]:
        matrix = (basis * kept) @ basis.T
        expected = np.trace(matrix @ np.linalg.inv(matrix + damping * np.eye(size)))
        found = effective_dimension(np.array(values), damping, negative)  # type: ignore[arg-type]
        # The inverse loses the condition number, up to 1e9.
        assert found == pytest.approx(expected, abs=1e-6)


def test_effective_dimension_counts_between_zero_and_all() -> None:
    values = np.array([1.0, 1e-2, 1e-4, 0.0])
    assert effective_dimension(values, 1e-12) == pytest.approx(3, abs=1e-6)
    assert effective_dimension(values, 1e12) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="damping is 0"):
        effective_dimension(values, 0)


def test_quadratic_loss_falls_as_predicted(tmp_path: Path) -> None:
    problem = quadratic_problem()
    compute_hessian(problem, tmp_path / "h.zarr")
    for tried in try_steps(tmp_path / "h.zarr", problem=problem, dampings=[0.0, 0.1, 5.0]):
        # The loss is its own quadratic model.
        scale = max(abs(tried.predicted), abs(tried.loss))
        assert tried.loss - tried.loss_after == pytest.approx(tried.predicted, abs=1e-9 * scale)
        if tried.damping == 0:
            assert tried.effective_dimension == np.count_nonzero(EIGENVALUES)
        if tried.method == "saddle_free":
            assert tried.predicted > 0
        if tried.method == "newton" and tried.damping == 0:
            # The stationary point of ½ θᵀAθ.
            assert tried.loss_after == pytest.approx(0, abs=1e-9 * abs(tried.loss))


def test_gauss_newton_solves_least_squares_in_one_step(tmp_path: Path) -> None:
    problem, hessians = linear_problem()
    for name, engine in [("h", "auto"), ("g", "ggn")]:
        options = RunOptions(engine=engine)  # type: ignore[arg-type]
        compute_hessian(problem, tmp_path / f"{name}.zarr", options=options)
    tried = try_steps(tmp_path / "h.zarr", tmp_path / "g.zarr", dampings=[0.0], problem=problem)
    assert [step.method for step in tried] == ["newton", "saddle_free", "gauss_newton"]
    gradient = open_store(tmp_path / "h.zarr").gradient.to_numpy()
    best = np.linalg.solve(sum(hessians.values()), -gradient)
    for step in tried:
        assert step.length == pytest.approx(np.linalg.norm(best), rel=1e-9)
        # ½ gᵀH⁻¹g is what there is to gain.
        assert step.predicted == pytest.approx(-gradient @ best / 2, rel=1e-9)
        assert step.ratio == pytest.approx(1, rel=1e-9)


def test_prediction_is_right_to_third_order(
    tmp_path: Path, tiny_problem: Callable[..., Problem]
) -> None:
    problem = tiny_problem()
    compute_hessian(problem, tmp_path / "h.zarr")
    theta = get_theta(problem.model).copy()
    tried = try_steps(tmp_path / "h.zarr", problem=problem, dampings=[1e4, 1e5])
    newton = [step for step in tried if step.method == "newton"]
    defects = [abs(step.loss - step.loss_after - step.predicted) for step in newton]
    # Steps ten times as short leave a thousandth of the cubic term.
    assert defects[0] / defects[1] == pytest.approx(1000, rel=0.2)
    assert np.array_equal(theta, get_theta(problem.model))


def test_predicted_decrease_is_that_of_the_model() -> None:
    matrix, gradient = indefinite()
    step = np.random.default_rng(9).standard_normal(len(gradient))
    model = lambda p: gradient @ p + p @ matrix @ p / 2  # noqa: E731
    assert predicted_decrease(gradient, step, matrix @ step) == pytest.approx(-model(step))


def test_command_tries_steps(hessian: Cli, tmp_path: Path) -> None:
    store = tmp_path / "h.zarr"
    problem = ["regression", "-o", "width=3", "-o", "depth=1", "-o", "num_samples=9"]
    assert hessian("run", *problem, "--store", store)[0] == 0
    code, output, errors = hessian("steps", store)
    assert code == 0, errors
    assert "saddle-free" in output
    data = json.loads(hessian("steps", store, "--damping", 2.5, "--json")[1])
    assert [step["damping"] for step in data["steps"]] == [2.5, 2.5]

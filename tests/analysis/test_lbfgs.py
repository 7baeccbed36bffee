"""The pairs of L-BFGS, and the factor of the inverse Hessian that is made of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import LbfgsInvHessProduct

from hessian_tasks.networks.models import get_theta
from hessian_tasks.problems import heat
from pipeline.analysis.lbfgs import InverseHessianFactor, LbfgsHistory
from pipeline.errors import StoreError
from pipeline.training import _lbfgs as module
from pipeline.training import train

Array = npt.NDArray[Any]


def history_of(num_params: int, num_pairs: int, seed: int) -> LbfgsHistory:
    """Pairs of a quadratic function, y = A s, with A of condition number 1e4."""
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.standard_normal((num_params, num_params)))
    matrix = (basis * np.geomspace(1e-2, 1e2, num_params)) @ basis.T
    steps = rng.standard_normal((num_pairs, num_params))
    return LbfgsHistory(np.zeros(num_params), steps, steps @ matrix)


def recursion(history: LbfgsHistory) -> Array:
    """M by the BFGS formula itself, on dense matrices."""
    size = len(history.theta)
    inverse = history.scaling * np.eye(size)
    for s, y in zip(history.steps, history.gradient_changes, strict=True):
        rho = 1 / (s @ y)
        projector = np.eye(size) - rho * np.outer(s, y)
        inverse = projector @ inverse @ projector.T + rho * np.outer(s, s)
    return inverse


@given(st.integers(2, 30), st.integers(1, 12), st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_factor_gives_the_matrix_of_the_bfgs_formula(size: int, pairs: int, seed: int) -> None:
    history = history_of(size, pairs, seed)
    factor = InverseHessianFactor(history)
    left = factor.matmat(np.eye(size))
    expected = recursion(history)
    # Each of at most 12 updates may multiply rounding by the condition number, 1e4.
    assert np.abs(left @ left.T - expected).max() <= 1e-10 * np.abs(expected).max()
    scale = np.abs(left).max()
    np.testing.assert_allclose(factor.rmatmat(np.eye(size)), left.T, rtol=0, atol=1e-12 * scale)
    trace, squares = factor.moments()
    assert trace == pytest.approx(np.trace(expected), rel=1e-9)
    assert squares == pytest.approx(np.sum(expected**2), rel=1e-9)


def test_factor_gives_scipys_two_loop_recursion() -> None:
    history = history_of(20, 9, 0)
    # SciPy begins with I instead of γ I: with s/√γ and y √γ that is M/γ.
    root = np.sqrt(history.scaling)
    scipys = LbfgsInvHessProduct(history.steps / root, history.gradient_changes * root)
    vectors = np.random.default_rng(1).standard_normal((20, 3))
    factor = InverseHessianFactor(history)
    found = factor.matmat(factor.rmatmat(vectors))
    expected = history.scaling * (scipys @ vectors)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 * np.abs(expected).max())


def test_newest_pair_is_met_exactly() -> None:
    history = history_of(15, 6, 2)
    factor = InverseHessianFactor(history)
    image = factor.matmat(factor.rmatmat(history.gradient_changes[-1]))
    np.testing.assert_allclose(image, history.steps[-1], rtol=0, atol=1e-11)


def test_training_records_the_pairs_that_lbfgs_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    results: list[Any] = []
    minimize = scipy.optimize.minimize

    def spy(*arguments: Any, **options: Any) -> Any:
        results.append(minimize(*arguments, **options))
        return results[-1]

    monkeypatch.setattr(module.scipy.optimize, "minimize", spy)
    monkeypatch.setattr(module, "MEMORY", 8)
    problem = heat.problem(width=4, depth=1, num_interior=20, num_boundary=8, dtype="float64")
    trained = train(problem, adam_steps=2, lbfgs_steps=21)
    history, inverse = trained.history, results[0].hess_inv
    assert history is not None
    assert history.steps.shape == (8, len(history.theta))
    assert np.array_equal(history.theta, get_theta(trained.problem.model))
    # SciPy's ring buffer lacks the pair of the last iteration; the others are ours but the newest,
    # and its own oldest, in another order. It has stp·d where we have a difference of iterates.
    distance = np.abs(inverse.sk[:, None] - history.steps).max(axis=2)
    closest = distance.argmin(axis=0)[:-1]
    assert len(set(closest)) == 7
    assert distance.min(axis=0)[:-1].max() < 1e-14
    y = inverse.yk[closest]
    assert np.abs(y - history.gradient_changes[:-1]).max() < 1e-12
    assert distance.min(axis=0)[-1] > 1e-8


def test_no_steps_no_history() -> None:
    problem = heat.problem(width=3, depth=1, num_interior=5, num_boundary=4)
    assert train(problem, adam_steps=1, lbfgs_steps=0).history is None


def test_history_comes_back_from_its_file(tmp_path: Path) -> None:
    history = history_of(5, 3, 0)
    history.save(tmp_path / "pairs.npz")
    loaded = LbfgsHistory.load(tmp_path / "pairs.npz")
    for name in ("theta", "steps", "gradient_changes"):
        assert np.array_equal(getattr(loaded, name), getattr(history, name))


def save_other_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def save_ascent(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, theta=np.zeros(2), steps=np.eye(2), gradient_changes=-np.eye(2))


def save_other_shapes(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, theta=np.zeros(2), steps=np.eye(2), gradient_changes=np.eye(3))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "no history of L-BFGS.*--history FILE"),
        (lambda path: path.write_bytes(b""), "no history of L-BFGS"),
        (lambda path: path.write_text("weights"), "no history of L-BFGS"),
        (save_other_array, "no history of L-BFGS"),
        (save_ascent, "yᵀs ≤ 0"),
        (save_other_shapes, r"got \(2, 2\), \(3, 3\) and \(2,\)"),
    ],
    ids=["missing", "empty", "text", "array", "ascent", "shapes"],
)
def test_other_files_are_refused(
    write: Callable[[Path], Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "pairs.npz"
    write(path)
    with pytest.raises(StoreError, match=message) as caught:
        LbfgsHistory.load(path)
    assert str(path) in str(caught.value)


def test_command_saves_the_history(hessian: Any, tmp_path: Path) -> None:
    pairs, weights = tmp_path / "made" / "pairs.npz", tmp_path / "w.keras"
    problem = ["regression", "-o", "width=3", "-o", "depth=1", "-o", "num_samples=9"]
    steps = ["--adam", 2, "--lbfgs", 5, "--out", weights]
    code, output, errors = hessian("train", *problem, *steps, "--history", pairs)
    assert code == 0, errors
    assert f"saved {weights} and {pairs}" in output
    assert LbfgsHistory.load(pairs).steps.shape[0] == 5
    code, _, errors = hessian("train", *problem, "--lbfgs", 0, "--history", pairs)
    assert code == 2
    assert "which is to make no step" in errors

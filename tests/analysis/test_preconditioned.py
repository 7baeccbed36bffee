"""The Hessian as L-BFGS sees it, against the BFGS formula on dense matrices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from hessian_tasks.parameters import ParameterLayout
from pipeline.analysis.lbfgs import InverseHessianFactor, LbfgsHistory
from pipeline.analysis.operator import HessianOperator
from pipeline.analysis.preconditioned import precondition, preconditioned_spectrum
from pipeline.api import open_store
from pipeline.errors import StoreMismatchError
from tests.analysis.test_lbfgs import history_of, recursion

Array = npt.NDArray[Any]


def symmetric(size: int, seed: int = 4) -> Array:
    matrix = np.random.default_rng(seed).standard_normal((size, size))
    return matrix + matrix.T


def test_preconditioned_eigenvalues_are_those_of_the_product() -> None:
    history, matrix = history_of(20, 7, 1), symmetric(20)
    found = preconditioned_spectrum(matrix, history, relative_error=1e-12)
    inverse = recursion(history)
    # M H is similar to LᵀH L; its own eigenvalues are those of a matrix that is not symmetric.
    expected = np.sort(np.linalg.eigvals(inverse @ matrix).real)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found.eigenvalues, expected, rtol=0, atol=1e-10 * scale)
    assert found.trace == pytest.approx(np.sum(inverse * matrix), rel=1e-10)
    assert found.frobenius_norm == pytest.approx(np.linalg.norm(expected), rel=1e-10)


def test_enough_pairs_of_a_quadratic_give_the_identity() -> None:
    rng = np.random.default_rng(0)
    matrix = np.diag(np.geomspace(1, 1e3, 6))
    # Conjugate steps: each leaves those before alone, so that M = A⁻¹ after P of them.
    steps = np.linalg.inv(np.linalg.cholesky(matrix))[rng.permutation(6)]
    history = LbfgsHistory(np.zeros(6), steps, steps @ matrix)
    found = preconditioned_spectrum(matrix, history, relative_error=1e-15)
    np.testing.assert_allclose(found.eigenvalues, 1.0, rtol=1e-10)


def test_preconditioned_products_are_those_of_the_dense_matrix() -> None:
    history, matrix = history_of(20, 7, 1), symmetric(20)
    layout = ParameterLayout.of([("a/kernel", (20,))])
    operator = precondition(
        HessianOperator(lambda v: matrix @ v, layout, relative_error=0.0), history
    )
    values = np.linalg.eigvalsh(operator @ np.eye(20))
    expected = preconditioned_spectrum(matrix, history, relative_error=0.0).eigenvalues
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-11 * np.abs(expected).max())


def test_noise_is_carried_through_the_factor() -> None:
    history, matrix = history_of(40, 5, 3), symmetric(40)
    factor = InverseHessianFactor(history).matmat(np.eye(40))
    relative, squares = 1e-6, []
    for seed in range(300):
        noise = symmetric(40, seed)
        noise *= relative * np.linalg.norm(matrix) / np.linalg.norm(noise)
        squares.append(np.sum((factor.T @ noise @ factor) ** 2))
    found = preconditioned_spectrum(matrix, history, relative)
    # If one direction of M outweighs all, the mean of 300 squares has a spread of 8 %.
    assert found.noise_floor == pytest.approx(np.sqrt(np.mean(squares)), rel=0.12)


def test_history_of_another_network_is_refused() -> None:
    with pytest.raises(StoreMismatchError, match=r"has 5 parameters, the matrix 6"):
        preconditioned_spectrum(np.eye(6), history_of(5, 2, 0), 0.0)


def test_command_adds_spectra_as_lbfgs_sees_them(hessian: Any, tmp_path: Path) -> None:
    problem = ["heat", "-o", "width=4", "-o", "depth=1", "-o", "dtype=float64"]
    pairs, weights, store = (tmp_path / name for name in ("pairs.npz", "w.keras", "h.zarr"))
    options = ["--adam", 5, "--lbfgs", 30, "--out", weights, "--history", pairs]
    assert hessian("train", *problem, *options)[0] == 0
    assert hessian("run", *problem, "--weights", weights, "--per-term", "--store", store)[0] == 0
    command = ["terms", store, "--history", pairs, "--number", 2]
    assert "preconditioned by L-BFGS" in hessian(*command)[1]
    data = json.loads(hessian(*command, "--json")[1])
    matrix = open_store(store).hessian.to_numpy()
    history = LbfgsHistory.load(pairs)
    expected = np.linalg.eigvals(recursion(history) @ matrix).real
    found = data["preconditioned"][0]
    assert found["largest"][0] == pytest.approx(expected.max(), rel=1e-6)
    assert found["trace"] == pytest.approx(expected.sum(), rel=1e-6)
    LbfgsHistory(history.theta + 1e-3, history.steps, history.gradient_changes).save(pairs)
    code, _, errors = hessian(*command)
    assert code == 1
    assert "did not lead to the weights" in errors

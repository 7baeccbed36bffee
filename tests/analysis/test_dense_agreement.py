"""Every quantity at the size of the notebook that the project began from, against dense LAPACK.

The Poisson problem at width 50 in float64, P = 5,301: the other tests have some hundred parameters.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hessian_tasks.networks.models import get_theta
from pipeline.analysis.density import spectral_density
from pipeline.analysis.eigenpairs import extreme_eigenpairs
from pipeline.analysis.estimators import (
    estimate_diagonal,
    estimate_frobenius_norm,
    estimate_trace,
)
from pipeline.analysis.lbfgs import LbfgsHistory
from pipeline.analysis.operator import open_operator
from pipeline.analysis.parts import open_parts
from pipeline.analysis.preconditioned import preconditioned_spectra
from pipeline.analysis.spectrum import eigenvalues_between, spectrum
from pipeline.analysis.statistics import matrix_statistics
from pipeline.analysis.steps import Eigenbasis, effective_dimension
from pipeline.analysis.terms import analyse_terms
from pipeline.api import open_store
from pipeline.store.store import HessianStore
from tests.analysis.pairs import Array, Pair, compute_pair, expect_spectra

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    from hessian_tasks.problems.poisson import problem

    place = tmp_path_factory.mktemp("dense")
    return compute_pair(problem(width=50, dtype="float64"), place, (1000, 1500))


@pytest.fixture(scope="module")
def matrix(pair: Pair) -> Array:
    return pair.dense["H"]


@pytest.fixture(scope="module")
def eigenvalues(matrix: Array) -> Array:
    return np.linalg.eigvalsh(matrix)


def test_statistics(pair: Pair, matrix: Array) -> None:
    found = matrix_statistics(pair.hessian)
    # Sums of 5,301 products of float64.
    close = {"rtol": 1e-12, "atol": 1e-12 * np.abs(matrix).max()}
    np.testing.assert_array_equal(found.diagonal, matrix.diagonal())
    np.testing.assert_allclose(found.row_norms, np.linalg.norm(matrix, axis=1), **close)
    np.testing.assert_allclose(found.frobenius_norm, np.linalg.norm(matrix), rtol=1e-12)
    np.testing.assert_allclose(found.trace, np.trace(matrix), **close)
    radii = np.abs(matrix).sum(axis=1) - np.abs(matrix.diagonal())
    np.testing.assert_allclose(found.radii, radii, **close)
    assert found.max_abs == np.abs(matrix).max()


def test_all_eigenvalues(pair: Pair, eigenvalues: Array) -> None:
    found = spectrum(pair.hessian)
    np.testing.assert_allclose(found.eigenvalues, eigenvalues, rtol=0, atol=found.noise_floor)
    # Those that are as small as the floor may be on either side of it.
    floor = found.noise_floor
    assert found.inertia is not None
    positive, _, negative = found.inertia
    assert np.sum(eigenvalues > 2 * floor) <= positive <= np.sum(eigenvalues > 0)
    assert np.sum(eigenvalues < -2 * floor) <= negative <= np.sum(eigenvalues < 0)
    assert sum(found.inertia) == len(eigenvalues)
    np.testing.assert_allclose(found.trace, eigenvalues.sum(), rtol=1e-10)
    np.testing.assert_allclose(found.frobenius_norm, np.linalg.norm(eigenvalues), rtol=1e-12)
    magnitudes = np.abs(eigenvalues)[np.abs(eigenvalues) > floor]
    expected = magnitudes.sum() ** 2 / np.sum(magnitudes**2)
    np.testing.assert_allclose(found.effective_rank, expected, rtol=1e-10)


@pytest.mark.parametrize("memory", [None, 0])
def test_eigenvalues_in_an_interval(pair: Pair, eigenvalues: Array, memory: int | None) -> None:
    low, high = (eigenvalues[-21:-19].mean(), eigenvalues[-6:-4].mean())
    found = eigenvalues_between(pair.hessian, (low, high), memory=memory)
    np.testing.assert_allclose(
        found.eigenvalues, eigenvalues[-20:-5], rtol=0, atol=found.noise_floor
    )


def test_pairs_at_both_ends_and_density(pair: Pair, matrix: Array, eigenvalues: Array) -> None:
    operator = open_operator(HessianStore(pair.hessian))
    pairs = extreme_eigenpairs(operator, 10, tolerance=1e-9 * eigenvalues[-1], max_passes=400)
    assert pairs.converged.all()
    expected = np.concatenate([eigenvalues[:10], eigenvalues[-10:]])
    np.testing.assert_allclose(pairs.values, expected, rtol=0, atol=pairs.tolerance)
    residuals = np.linalg.norm(matrix @ pairs.vectors - pairs.vectors * pairs.values, axis=0)
    np.testing.assert_allclose(pairs.residuals, residuals, atol=1e-12 * eigenvalues[-1])
    density = spectral_density(operator, known=pairs)
    level = eigenvalues[-100:-98].mean()
    for low, high in [(-np.inf, -level), (-level, level), (level, np.inf)]:
        count = density.count(low, high)
        exact = np.sum((eigenvalues > low) & (eigenvalues <= high))
        # Intervals of 95 %, three of them with one seed.
        assert abs(count.value[0] - exact) <= 2 * count.error[0]


@pytest.mark.parametrize("method", ["hutchinson", "hutch++", "xtrace"])
def test_estimates(pair: Pair, matrix: Array, method: Any) -> None:
    operator = open_operator(HessianStore(pair.hessian))
    trace = estimate_trace(operator, method, num_products=90)
    # Four standard errors: one seed of a distribution near to a Gaussian.
    assert abs(trace.value - np.trace(matrix)) <= 4 * trace.standard_error
    norm = estimate_frobenius_norm(operator, method, num_products=90)
    assert abs(norm.value - np.linalg.norm(matrix)) <= 4 * norm.standard_error
    diagonal = estimate_diagonal(operator, num_products=60)
    errors = np.abs(diagonal.value - matrix.diagonal()) / np.maximum(
        diagonal.standard_error, 1e-300
    )
    assert np.mean(errors <= 2) >= 0.9


def test_terms_and_parts(pair: Pair) -> None:
    found = analyse_terms(pair.hessian, pair.ggn, num_dominant=4)
    expect_spectra(pair, found)
    dense = [pair.dense[part.label] for part in found.parts]
    brute = [[np.sum(first * second) for second in dense] for first in dense]
    np.testing.assert_allclose(found.products, brute, rtol=0, atol=1e-12 * brute[0][0])


def test_steps(pair: Pair, matrix: Array) -> None:
    gradient, damping = open_store(pair.hessian).gradient.to_numpy(), 1e-3
    for dense in (matrix, pair.dense["G"]):
        basis = Eigenbasis.of(dense.copy())
        found = basis.step(gradient, damping)
        expected = np.linalg.solve(dense + damping * np.eye(len(dense)), -gradient)
        # The condition number of the damped matrix is up to 1e7.
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7 * np.abs(expected).max())
    values = np.linalg.eigvalsh(pair.dense["G"])
    trace = np.trace(np.linalg.solve(dense + damping * np.eye(len(dense)), dense))
    assert effective_dimension(values, damping) == pytest.approx(trace, rel=1e-8)


def test_preconditioned(pair: Pair, matrix: Array) -> None:
    rng = np.random.default_rng(0)
    steps = rng.standard_normal((8, len(matrix)))
    # Changes of the gradient of a convex quadratic, so that the history is one of L-BFGS.
    curved = steps @ (pair.dense["G"] + np.eye(len(matrix)))
    history = LbfgsHistory(get_theta(pair.problem.model), steps, curved)
    part = next(part for part in open_parts(pair.hessian) if part.label == "H")
    (found,) = preconditioned_spectra([part], history)
    inverse = two_loops(history, np.eye(len(matrix)))
    factor = np.linalg.cholesky(inverse)
    expected = np.linalg.eigvalsh(factor.T @ matrix @ factor)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found.eigenvalues, expected, rtol=0, atol=1e-9 * scale)


def two_loops(history: LbfgsHistory, vectors: Array) -> Array:
    """M V by Nocedal and Wright's algorithm 7.4."""
    rates, result = [], vectors.copy()
    pairs = list(zip(history.steps, history.gradient_changes, strict=True))
    for step, change in reversed(pairs):
        rates.append((step @ result) / (step @ change))
        result -= np.outer(change, rates[-1])
    step, change = pairs[-1]
    result *= (step @ change) / (change @ change)
    for (step, change), rate in zip(pairs, reversed(rates), strict=True):
        result += np.outer(step, rate - (change @ result) / (step @ change))
    return result

"""XNysTrace and XDiag against their definition, and against exact traces and diagonals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hessian_tasks.parameters import ParameterLayout
from pipeline.analysis._diagonals import XDiag
from pipeline.analysis._nystrom import XNysTrace
from pipeline.analysis.estimators import (
    DiagonalMethod,
    Estimate,
    estimate_diagonal,
    estimate_frobenius_norm,
    estimate_trace,
)
from pipeline.analysis.layers import layer_means
from pipeline.analysis.operator import HessianOperator
from pipeline.errors import ConfigError
from tests.helpers.matrices import Array, matrix_of_spectrum

SIZE, NUM_SEEDS = 120, 100
SEMIDEFINITE = {
    "fast decay": np.geomspace(1e5, 1e-12, SIZE),
    "slow decay": 1 / np.arange(1.0, SIZE + 1),
    "step": np.repeat([100.0, 1.0], [20, SIZE - 20]),
    "flat": np.linspace(1.0, 2.0, SIZE),
}
INDEFINITE = np.concatenate([np.geomspace(1e3, 1e-6, SIZE - 40), -np.geomspace(1e2, 1e-6, 40)])


def operator_of(
    matrix: Array, semidefinite: bool, relative_error: float = 0.0, title: str = "Hessian"
) -> HessianOperator:
    """Products whose errors are random, of the given size."""
    rng = np.random.default_rng(5)
    size = relative_error * float(np.linalg.norm(matrix)) / len(matrix)
    noise = size * rng.standard_normal(matrix.shape)
    return HessianOperator(
        lambda vectors: (matrix + noise) @ vectors,
        ParameterLayout.of([("a/kernel", (len(matrix),))]),
        relative_error=relative_error,
        semidefinite=semidefinite,
        title=title,
    )


# ---- what is defined, computed one left-out vector after the other -------------------------------


def nystrom_samples(matrix: Array, vectors: Array) -> Array:
    """By pseudo-inverses of what the other vectors give; O(k² P²) for each."""
    size, number = vectors.shape
    samples = []
    for i in range(number):
        others = np.delete(vectors, i, axis=1)
        images = matrix @ others
        left = matrix - images @ np.linalg.solve(others.T @ images, images.T)
        outside = vectors[:, i] - others @ np.linalg.lstsq(others, vectors[:, i])[0]
        mean_form = (size - number + 1) * (outside @ left @ outside) / (outside @ outside)
        samples.append(np.trace(matrix - left) + mean_form)
    return np.array(samples)


def test_xnystrace_is_what_it_is_defined_to_be() -> None:
    matrix = matrix_of_spectrum(np.geomspace(1e3, 1e-3, 60))
    sampler = XNysTrace(matrix, np.random.default_rng(1))
    sampler.extend(13)
    found = sampler.extend(20)  # grown in batches of 10, 3 and 7
    vectors = sampler.basis @ sampler.factor
    drawn = [np.random.default_rng(1).standard_normal((60, 10))]
    np.testing.assert_allclose(vectors[:, :10], drawn[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.value, nystrom_samples(matrix, vectors).mean(), rtol=1e-10)
    without = [nystrom_samples(matrix, np.delete(vectors, i, 1)).mean() for i in range(20)]
    jackknife = np.sqrt(np.sum((np.array(without) - np.mean(without)) ** 2))
    np.testing.assert_allclose(found.standard_error, jackknife, rtol=1e-8)


def test_xdiag_is_what_it_is_defined_to_be() -> None:
    matrix = matrix_of_spectrum(np.concatenate([np.geomspace(1e3, 1e-3, 50), -np.arange(10.0)]))
    sampler = XDiag(matrix, np.random.default_rng(1))
    sampler.extend(26)
    found = sampler.extend(40)
    samples = []
    for i in range(20):
        basis, _ = np.linalg.qr(matrix @ np.delete(sampler.range.vectors, i, axis=1))
        left = matrix - basis @ (basis.T @ matrix)
        sign = sampler.range.vectors[:, i]
        samples.append(np.diag(matrix - left) + sign * (left @ sign))
    scale = np.abs(np.diag(matrix)).max()
    np.testing.assert_allclose(found.value, np.mean(samples, axis=0), rtol=0, atol=1e-10 * scale)
    spread = np.sqrt(2) * np.std(samples, axis=0, ddof=1) / np.sqrt(20)
    np.testing.assert_allclose(found.standard_error, spread, rtol=0, atol=1e-10 * scale)


# ---- what is exact, and how far estimates are from it --------------------------------------------


def spread_of(estimate: Callable[[int], Estimate], exact: Array) -> tuple[float, float, float]:
    """Root mean square of errors and of stated ones, and how many are within two of them."""
    found = [estimate(seed) for seed in range(NUM_SEEDS)]
    errors = np.array([each.value for each in found]) - exact
    stated = np.array([each.standard_error for each in found])
    # Of a normal distribution 4.5 standard deviations are exceeded once in 150,000, and a diagonal
    # has 120 entries.
    assert (np.abs(errors.mean(axis=0)) <= 4.5 * errors.std(axis=0) / np.sqrt(NUM_SEEDS)).all()
    within = float(np.mean(np.abs(errors) <= 2 * stated))
    return float(np.sqrt(np.mean(errors**2))), float(np.sqrt(np.mean(stated**2))), within


@pytest.mark.parametrize("name", SEMIDEFINITE)
def test_errors_of_xnystrace_are_bounds_of_their_size(name: str) -> None:
    matrix = matrix_of_spectrum(SEMIDEFINITE[name])
    error, stated, within = spread_of(
        lambda seed: estimate_trace(matrix, "xnystrace", num_products=60, seed=seed),
        np.trace(matrix),
    )
    # The jackknife counts what two vectors do together twice, what three do three times; and it is
    # of one vector less, each of which takes a factor of 1.4 off the fast decay.
    most = 12 if name == "fast decay" else 4
    assert error <= stated <= most * error
    assert within >= 0.95


@pytest.mark.parametrize("name", [*SEMIDEFINITE, "indefinite"])
def test_errors_of_xdiag_are_of_their_size(name: str) -> None:
    matrix = matrix_of_spectrum(SEMIDEFINITE.get(name, INDEFINITE))
    error, stated, within = spread_of(
        lambda seed: estimate_diagonal(matrix, "xdiag", num_products=60, seed=seed),
        np.diag(matrix),
    )
    # 100 seeds of 120 entries say 1 % about both; the factor √2 is for samples that share vectors.
    assert 0.9 * error <= stated <= 1.5 * error
    assert within >= 0.9


def test_both_beat_what_there_was_where_eigenvalues_decay() -> None:
    matrix = matrix_of_spectrum(SEMIDEFINITE["fast decay"])

    def error(estimate: Callable[..., Estimate], method: str, exact: Array) -> float:
        found = [estimate(matrix, method, num_products=60, seed=s).value for s in range(20)]
        return float(np.sqrt(np.mean((np.array(found) - exact) ** 2)))

    # 60 vectors in place of 30 leave eigenvalues of 1.4⁻³⁰ as much.
    traces = [error(estimate_trace, m, np.trace(matrix)) for m in ("xnystrace", "xtrace")]
    assert traces[0] < traces[1] / 100
    diagonals = [error(estimate_diagonal, m, np.diag(matrix)) for m in ("xdiag", "hutchinson")]
    assert diagonals[0] < diagonals[1] / 100


@pytest.mark.parametrize("rank", [0, 1, 3, 15, 29])
def test_below_the_rank_nothing_is_left_to_chance(rank: int) -> None:
    eigenvalues = np.zeros(SIZE)
    eigenvalues[:rank] = np.linspace(1.0, 2.0, rank)
    for matrix in (np.diag(eigenvalues), matrix_of_spectrum(eigenvalues)):
        trace = estimate_trace(matrix, "xnystrace", num_products=60)
        np.testing.assert_allclose(trace.value, eigenvalues.sum(), rtol=1e-10, atol=1e-12)
        assert trace.standard_error < 1e-9
        # Of an indefinite matrix as well.
        signed = matrix - 3 * np.outer(matrix[0], matrix[0])
        diagonal = estimate_diagonal(signed, "xdiag", num_products=60)
        np.testing.assert_allclose(diagonal.value, np.diag(signed), rtol=1e-9, atol=1e-12)
        assert diagonal.standard_error.max() < 1e-9


@pytest.mark.parametrize("size", [2, 7, 30])
def test_as_many_products_as_parameters_and_more(size: int) -> None:
    matrix = matrix_of_spectrum(np.geomspace(1e-3, 2.0, size))
    trace = estimate_trace(matrix, "xnystrace", num_products=100)
    assert (trace.num_products, trace.standard_error) == (size, 0.0)
    np.testing.assert_allclose(trace.value, np.trace(matrix), rtol=1e-12)
    diagonal = estimate_diagonal(-matrix, "xdiag", num_products=100)
    assert diagonal.num_products == 2 * size
    np.testing.assert_allclose(diagonal.value, -np.diag(matrix), atol=1e-12)


# ---- of which matrices ---------------------------------------------------------------------------


def test_an_indefinite_matrix_is_never_taken_for_a_semidefinite_one() -> None:
    with pytest.raises(ConfigError, match="nothing says that the Hessian is one"):
        estimate_trace(operator_of(np.eye(SIZE), semidefinite=False), "xnystrace")
    matrix = matrix_of_spectrum(INDEFINITE)
    with pytest.raises(ConfigError, match="negative eigenvalues"):
        estimate_trace(operator_of(matrix, semidefinite=True), "xnystrace", num_products=100)
    with pytest.raises(ConfigError, match=r"negative eigenvalues: qᵀA q is -"):
        estimate_trace(-np.eye(SIZE), "xnystrace")


@pytest.mark.parametrize("relative_error", [1e-7, 1e-3])
def test_products_with_errors(relative_error: float) -> None:
    """Noise makes eigenvalues near zero negative, and decides nothing but the last digits."""
    matrix = matrix_of_spectrum(SEMIDEFINITE["fast decay"])
    operator = operator_of(matrix, semidefinite=True, relative_error=relative_error)
    found = estimate_trace(operator, "xnystrace", num_products=100)
    # The trace of E is about ‖E‖_F / √P; A + E is shifted by twice ‖E‖_F, which 100 vectors see.
    error = relative_error * float(np.linalg.norm(matrix))
    assert abs(found.value - np.trace(matrix)) <= 4 * found.standard_error + 4 * error
    assert found.standard_error <= 20 * error


def test_the_norm_of_any_matrix_is_the_trace_of_a_semidefinite_one() -> None:
    matrix = matrix_of_spectrum(INDEFINITE)
    operator = operator_of(matrix, semidefinite=False, relative_error=1e-7)
    found = estimate_frobenius_norm(operator, "xnystrace", num_products=80)
    norm = float(np.linalg.norm(matrix))
    assert operator.num_products == found.num_products == 80
    assert abs(found.value - norm) <= 4 * found.standard_error + 1e-6 * norm
    assert found.standard_error < 1e-3 * norm


@pytest.mark.parametrize("method", ["xdiag", "hutchinson"])
def test_the_error_of_the_mean_of_a_layer_is_covered(method: DiagonalMethod) -> None:
    """Over seeds, the mean's own deviation is within the root mean square of what is said."""
    matrix = matrix_of_spectrum(INDEFINITE)
    layout = ParameterLayout.of([("a/kernel", (SIZE - 20,)), ("b/kernel", (15,)), ("b/bias", (5,))])
    misses, errors = [], []
    for seed in range(NUM_SEEDS):
        found = estimate_diagonal(matrix, method, num_products=40, seed=seed)
        said = layer_means(found.value, found.standard_error, layout)
        parts = np.split(np.diag(matrix), [SIZE - 20])
        misses.append(said.means - [part.mean() for part in parts])
        errors.append(said.standard_errors)
    deviation, bound = (np.sqrt(np.mean(np.square(x), axis=0)) for x in (misses, errors))
    # 100 seeds tell a standard deviation to 7 %.
    assert (deviation <= 1.2 * bound).all()
    assert (deviation > bound / 4).all()

"""Estimates from products: unbiased, inside their own error bars, and better where they claim."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.analysis.estimators import (
    DiagonalMethod,
    Estimate,
    TraceMethod,
    estimate_diagonal,
    estimate_frobenius_norm,
    estimate_trace,
)
from pipeline.errors import ConfigError

Array = npt.NDArray[Any]

SIZE = 120
NUM_SEEDS = 200
METHODS: list[TraceMethod] = ["hutchinson", "hutch++", "xtrace"]
DIAGONALS: list[DiagonalMethod] = ["hutchinson", "xdiag"]


class Counted:
    """A matrix that is only multiplied with, and counts how often."""

    def __init__(self, matrix: Array) -> None:
        self.matrix, self.shape, self.count = matrix, matrix.shape, 0

    def __matmul__(self, vectors: Array) -> Array:
        self.count += vectors.shape[1]
        return np.asarray(self.matrix @ vectors)


def rotated(eigenvalues: Array, seed: int = 0) -> Array:
    basis, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(eigenvalues),) * 2))
    return np.asarray(basis @ np.diag(eigenvalues) @ basis.T)


SPECTRA = {
    "flat": rotated(np.linspace(1.0, 2.0, SIZE)),
    "decaying": rotated(1.0 / np.arange(1, SIZE + 1) ** 2),
    "indefinite": rotated(np.concatenate([-1.0 / np.arange(1, 21), np.geomspace(1e-3, 10, 100)])),
    "clustered": rotated(np.concatenate([np.full(5, 100.0), np.full(SIZE - 5, 1.0)])),
}


def trace_by(method: TraceMethod) -> Callable[..., Estimate]:
    return lambda operator, **given: estimate_trace(operator, method, **given)


def diagonal_by(method: DiagonalMethod) -> Callable[..., Estimate]:
    return lambda operator, **given: estimate_diagonal(operator, method, **given)


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("method", METHODS)
def test_traces_are_unbiased_and_inside_their_error_bars(
    method: TraceMethod, spectrum: str
) -> None:
    matrix = SPECTRA[spectrum]
    found = [
        estimate_trace(Counted(matrix), method, num_products=60, seed=seed)
        for seed in range(NUM_SEEDS)
    ]
    bound = np.sqrt(2) if method == "xtrace" else 1.0
    values, errors = [f.value for f in found], [f.standard_error for f in found]
    assert_calibrated(values, errors, np.trace(matrix), bound=bound)


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("method", METHODS)
def test_norms_are_inside_their_error_bars(method: TraceMethod, spectrum: str) -> None:
    matrix = SPECTRA[spectrum]
    found = [
        estimate_frobenius_norm(Counted(matrix), method, num_products=120, seed=seed)
        for seed in range(NUM_SEEDS)
    ]
    values, errors = [f.value for f in found], [f.standard_error for f in found]
    # The root of an unbiased estimate is too small, by half of its relative variance.
    bias = float(np.mean(np.square(errors) / values))
    bound = np.sqrt(2) if method == "xtrace" else 1.0
    assert_calibrated(values, errors, float(np.linalg.norm(matrix)), bias=bias, bound=bound)


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("method", DIAGONALS)
def test_diagonals_are_unbiased_and_inside_their_error_bars(
    method: DiagonalMethod, spectrum: str
) -> None:
    matrix = SPECTRA[spectrum]
    found = [
        estimate_diagonal(Counted(matrix), method, num_products=40, seed=seed)
        for seed in range(NUM_SEEDS)
    ]
    bound = np.sqrt(2) if method == "xdiag" else 1.0
    for entry in range(0, SIZE, 30):
        values, errors = (
            [getattr(f, k)[entry] for f in found] for k in ("value", "standard_error")
        )
        assert_calibrated(values, errors, matrix[entry, entry], bound=bound)


def assert_calibrated(
    values: list[float], errors: list[float], exact: float, *, bias: float = 0.0, bound: float = 1.0
) -> None:
    """The mean is exact, the stated errors are the spread, and 95 % are within two of them.

    Stated errors that are bounds may be ``bound`` times as large.
    """
    deviations = np.array(values) - exact
    spread = float(np.std(deviations))
    # Of a normal distribution, four standard deviations are exceeded once in 16,000.
    assert abs(np.mean(deviations)) < 4 * spread / np.sqrt(NUM_SEEDS) + bias
    # Spreads of 200 samples are off by 5 %, stated errors from 20 samples or more by less.
    stated = float(np.sqrt(np.mean(np.square(errors))))
    assert 0.8 * spread < stated < 1.25 * bound * spread
    # 95 % of a normal distribution, 94 % of Student's with 19 degrees of freedom; of 200 that many
    # are counted up to 1.7 %.
    assert np.mean(np.abs(deviations) <= 2 * np.array(errors)) >= 0.89


def test_sketches_beat_hutchinson_where_eigenvalues_decay() -> None:
    """At 60 products: the part that is left to chance is that of all but the 20 or 30 largest."""
    rms = {
        method: np.sqrt(np.mean([
            (estimate_trace(Counted(SPECTRA["decaying"]), method, seed=s).value
             - np.trace(SPECTRA["decaying"])) ** 2
            for s in range(50)
        ]))
        for method in METHODS
    }  # fmt: skip
    assert rms["hutch++"] < rms["hutchinson"] / 20
    assert rms["xtrace"] < rms["hutch++"] / 1.2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rank", [0, 1, 3, 15])
def test_low_rank(method: TraceMethod, rank: int) -> None:
    eigenvalues = np.zeros(SIZE)
    eigenvalues[:rank] = np.linspace(1, 2, rank)
    for matrix in (np.diag(eigenvalues), rotated(eigenvalues)):
        found = estimate_trace(Counted(matrix), method, num_products=120)
        assert np.isfinite(found.value)
        if method != "hutchinson":  # The range holds all of the matrix: rounding is left.
            np.testing.assert_allclose(found.value, eigenvalues.sum(), rtol=1e-9, atol=1e-12)
            assert found.standard_error < 1e-9


@pytest.mark.parametrize("method", METHODS)
def test_as_many_products_as_parameters_and_more(method: TraceMethod) -> None:
    matrix = rotated(np.linspace(-1, 2, 7))
    found = estimate_trace(Counted(matrix), method, num_products=100)
    tolerance = 5 * found.standard_error if method == "hutchinson" else 1e-12
    np.testing.assert_allclose(found.value, np.trace(matrix), atol=tolerance)


@pytest.mark.parametrize(
    "estimate",
    [
        *(trace_by(m) for m in METHODS),
        estimate_frobenius_norm,
        *(diagonal_by(m) for m in DIAGONALS),
    ],
    ids=[*METHODS, "norm", *(f"diagonal by {m}" for m in DIAGONALS)],
)
def test_to_a_stated_error(estimate: Callable[..., Estimate]) -> None:
    operator = Counted(SPECTRA["indefinite"])
    rough = estimate(operator, num_products=60)
    assert operator.count == rough.num_products == 60
    size = float(np.sqrt(np.mean(np.square(rough.standard_error))))
    operator.count = 0
    fine = estimate(operator, num_products=5000, error=size / 4)
    assert operator.count == fine.num_products < 5000
    assert np.sqrt(np.mean(np.square(fine.standard_error))) <= size / 4
    few = estimate(operator, num_products=40, error=size / 1e6)
    assert few.num_products <= 40
    assert np.all(few.standard_error > size / 1e6)  # and says so


def test_going_on_is_the_same_as_having_begun_with_as_many() -> None:
    operator = Counted(SPECTRA["decaying"])
    whole = estimate_trace(operator, "xtrace", num_products=80)
    steps = estimate_trace(operator, "xtrace", num_products=80, error=1e-30)
    assert whole.num_products == steps.num_products
    np.testing.assert_allclose(steps.value, whole.value, rtol=1e-12)


def test_what_cannot_be_estimated_is_refused() -> None:
    operator = Counted(np.eye(3))
    with pytest.raises(ConfigError, match="at least 12"):
        estimate_trace(operator, num_products=3)
    with pytest.raises(ConfigError, match="expected a positive number"):
        estimate_diagonal(operator, error=0.0)
    with pytest.raises(ConfigError, match="no method 'guess'; the methods are hutchinson"):
        estimate_trace(operator, "guess")  # type: ignore[arg-type]

"""Stochastic Lanczos quadrature: are estimates within their error bars as often as promised?"""

import numpy as np
import pytest

from hessian_tasks.parameters import ParameterLayout
from pipeline.analysis.density import spectral_density
from pipeline.analysis.eigenpairs import extreme_eigenpairs
from pipeline.analysis.operator import HessianOperator
from tests.helpers import matrices

Array = matrices.Array

NUM_SEEDS = 200
# Of 200 intervals that hold with probability 0.95 fewer than these hold once in a thousand runs,
# by the binomial distribution: 0.95 - 3.1 sqrt(0.95 0.05 / 200).
LEAST_RATE = 0.90


def operator_of(eigenvalues: Array) -> HessianOperator:
    """A diagonal matrix: to random vectors on the sphere it is as any other of its spectrum."""
    layout = ParameterLayout.of([("a/kernel", (len(eigenvalues),))])
    return HessianOperator(lambda v: eigenvalues[:, None] * v, layout, relative_error=0.0)


def smoothed(eigenvalues: Array, grid: Array, smoothing: float) -> Array:
    distances = (grid - eigenvalues[:, None]) / smoothing
    return np.exp(-(distances**2) / 2).mean(axis=0) / (smoothing * np.sqrt(2 * np.pi))


SPECTRA = {
    "even": np.linspace(-1.0, 3.0, 600),
    "two humps": np.concatenate(
        [
            np.random.default_rng(0).normal(-1, 0.2, 400),
            np.random.default_rng(1).normal(2, 0.4, 300),
        ]
    ),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_error_bars_hold_at_the_promised_rate(name: str) -> None:
    values = SPECTRA[name]
    grid, smoothing = np.linspace(-1.2, 3.0, 9), 0.3
    exact = smoothed(values, grid, smoothing)
    trace = values.sum()
    curve_hits, trace_hits = np.zeros(len(grid)), 0
    for seed in range(NUM_SEEDS):
        density = spectral_density(operator_of(values), num_vectors=5, num_steps=40, seed=seed)
        curve = density.on_grid(grid, smoothing)
        curve_hits += np.abs(curve.value - exact) <= curve.error
        total = density.trace_of(lambda x: x)
        trace_hits += abs(total.value[0] - trace) <= total.error[0]
    assert trace_hits / NUM_SEEDS >= LEAST_RATE
    assert (curve_hits / NUM_SEEDS >= LEAST_RATE).all(), curve_hits / NUM_SEEDS


def test_error_bars_are_no_wider_than_needed() -> None:
    values = SPECTRA["even"]
    grid = np.linspace(-1.0, 3.0, 5)
    estimates = [
        spectral_density(operator_of(values), num_vectors=5, num_steps=40, seed=seed).on_grid(
            grid, 0.3
        )
        for seed in range(50)
    ]
    spread = np.std([e.value for e in estimates], axis=0)
    error = np.mean([e.error for e in estimates], axis=0)
    # 95 % of a Gaussian are within 1.96 standard deviations; 50 seeds know those to a tenth.
    assert (error < 1.96 * spread * 1.5).all()


def test_quadrature_is_exact_for_polynomials() -> None:
    values = np.linspace(-1.0, 2.0, 300)
    density = spectral_density(operator_of(values), num_vectors=1, num_steps=6)
    start = np.random.default_rng(0).standard_normal((300, 1))[:, 0]
    weights = start**2 / (start @ start)
    for degree in range(2 * 6):
        found = density.weights[0] @ density.nodes[0] ** degree
        np.testing.assert_allclose(found, weights @ values**degree, rtol=1e-12, atol=1e-12)


def test_known_outliers_count_exactly() -> None:
    values = np.concatenate([np.linspace(-1e-3, 1e-3, 500), np.geomspace(1.0, 100.0, 8)])
    operator = operator_of(values)
    known = extreme_eigenpairs(operator, 8, tolerance=1e-9, max_passes=400)
    assert known.converged.all()
    with_known, without = (spectral_density(operator, known=k) for k in (known, None))
    counts = [d.count(0.5, np.inf) for d in (with_known, without)]
    np.testing.assert_allclose([counts[0].low, counts[0].high], 8, atol=1e-9)
    assert counts[1].low < 8 < counts[1].high
    total = with_known.trace_of(lambda x: x)
    assert abs(total.value[0] - values.sum()) <= 1.5 * total.error[0]


@pytest.mark.parametrize("num_steps", [30, 120])
def test_what_no_node_resolves_widens_the_error_bars(num_steps: int) -> None:
    values = np.concatenate([-np.geomspace(1e-4, 1.0, 200), np.geomspace(1e-4, 1e2, 400)])
    grid = np.linspace(-12, 16, 15)
    exact = smoothed(np.arcsinh(values / 1e-3), grid, 1.0)
    density = spectral_density(operator_of(values), num_vectors=20, num_steps=num_steps)
    found = density.on_grid(grid, 1.0, scale=1e-3)
    # One seed: two intervals wide, as 15 points are looked at together.
    assert (np.abs(found.value - exact) <= 2 * found.error + 1e-9).all()


@pytest.mark.parametrize("num_steps", [10, 60])
def test_counts_hold_at_the_promised_rate(num_steps: int) -> None:
    values = np.concatenate([np.linspace(-1e-3, 1e-3, 500), np.geomspace(1e-2, 10.0, 300)])
    intervals = [(-np.inf, -5e-4), (-5e-4, 5e-4), (0.1, np.inf), (0.5, 3.0)]
    exact = [np.sum((values > low) & (values <= high)) for low, high in intervals]
    hits = np.zeros(len(intervals))
    for seed in range(NUM_SEEDS):
        density = spectral_density(
            operator_of(values), num_vectors=5, num_steps=num_steps, seed=seed
        )
        counts = [density.count(*interval) for interval in intervals]
        hits += [c.low <= e <= c.high for c, e in zip(counts, exact, strict=True)]
        assert all(0 <= c.low <= c.value <= c.high <= len(values) for c in counts)
    assert (hits / NUM_SEEDS >= LEAST_RATE).all(), hits / NUM_SEEDS


def test_more_steps_than_the_matrix_has_rows() -> None:
    values = np.array([1.0, 1.0, 2.0, 4.0])
    density = spectral_density(operator_of(values), num_vectors=50, num_steps=80)
    total = density.trace_of(lambda x: x)
    assert abs(total.value[0] - 8.0) <= total.error[0]
    np.testing.assert_allclose(density.weights.sum(axis=1), 1.0, rtol=1e-12)


def test_wrong_numbers_are_refused() -> None:
    operator = operator_of(np.ones(4))
    with pytest.raises(ValueError, match="too few"):
        spectral_density(operator, num_vectors=0)
    with pytest.raises(ValueError, match="expected above 0"):
        spectral_density(operator).on_grid(np.zeros(1), 0.0)


def test_counts_beside_a_cluster_are_bounds_and_well_known_away_from_it() -> None:
    # As of a network: nearly all eigenvalues close to zero, on either side of the floor.
    rng = np.random.default_rng(2)
    tail = 10 ** rng.uniform(-4, 1, 200) * rng.choice([-1.0, 1.0], 200)
    values = np.concatenate([rng.normal(0.0, 1e-6, 1800), tail])
    density = spectral_density(operator_of(values))
    described = density.to_json(1e-6)
    exact = {
        "below": np.sum(values <= -1e-6),
        "within": np.sum(np.abs(values) <= 1e-6),
        "above": np.sum(values > 1e-6),
    }
    for name, (low, high) in described["ranges"].items():
        assert 0 <= low <= exact[name] <= high <= len(values)
    # The cluster may be on either side; of what is away from it half counts for certain.
    assert described["ranges"]["above"][0] > 0.5 * np.sum(values > 0.1)
    resolved = described["resolved"]
    size = resolved["size"]
    assert 1e-6 < size < 1.0
    for name, number in (("above", np.sum(values > size)), ("below", np.sum(values <= -size))):
        low, high = resolved[name]
        assert low <= number <= high <= low + len(values) / 20

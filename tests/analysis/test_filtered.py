"""Eigenpairs inside the spectrum, of matrices whose eigenvalues are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from hessian_tasks.parameters import ParameterLayout
from pipeline.analysis._filtered import BandFilter, filtered_eigenpairs
from pipeline.analysis.operator import HessianOperator
from tests.helpers import matrices

Array = npt.NDArray[Any]


def normal(seed: int, size: int = 200) -> Array:
    return np.random.default_rng(seed).normal(size=size)


def operator_of(matrix: Array) -> HessianOperator:
    layout = ParameterLayout.of([("a/kernel", (len(matrix),))])
    norm = float(np.linalg.norm(matrix))
    return HessianOperator(lambda v: matrix @ v, layout, relative_error=1e-15, norm=norm)


BULK = np.append(1e-3 * normal(0), np.geomspace(1e-2, 100.0, 40))
CASES = {
    "evenly": (np.linspace(-1.0, 1.0, 200), (0.1, 0.15)),
    "everyone five times": (np.repeat(np.linspace(-1.0, 1.0, 40), 5), (0.1, 0.2)),
    "one at an edge counts, the other not": (np.linspace(0.0, 200.0, 201), (100.0, 110.0)),
    "none": (np.append(normal(1), [100.0, 50.0]), (60.0, 80.0)),
    "one beside a bulk": (np.append(1e-3 * normal(2), [100.0, 50.0, 20.0]), (1.0, 30.0)),
    "between the few": (BULK, (1.0, 3.0)),
    "a cluster": (np.append(normal(3), 0.3 + 1e-9 * np.arange(20)), (0.2, 0.4)),
    **{f"normal, {seed}": (normal(seed), (0.2 * seed - 1, 0.2 * seed - 0.8)) for seed in range(5)},
}


@pytest.mark.parametrize("case", CASES)
def test_finds_all_of_an_interval(case: str) -> None:
    values, (low, high) = CASES[case]
    matrix = matrices.reflected(values)
    operator = operator_of(matrix)
    largest = float(np.abs(values).max())
    # What the reflections round moves eigenvalues at the edges to either side.
    slack = 1e-12 * largest
    found = filtered_eigenpairs(operator, (low + slack, high + slack), extent(values))
    assert found is not None
    assert found.converged.all()
    expected = np.sort(values[(values > low) & (values <= high)])
    np.testing.assert_allclose(found.values, expected, rtol=0, atol=found.tolerance)
    np.testing.assert_allclose(
        matrix @ found.vectors, found.vectors * found.values, rtol=0, atol=2 * found.tolerance
    )
    unit = np.eye(len(expected))
    np.testing.assert_allclose(found.vectors.T @ found.vectors, unit, rtol=0, atol=1e-12)


def extent(values: Array) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def test_too_narrow_and_too_full_intervals_are_left() -> None:
    values = np.linspace(-1.0, 1.0, 3000)
    layout = ParameterLayout.of([("a/kernel", (len(values),))])
    operator = HessianOperator(lambda v: values[:, None] * v, layout, relative_error=1e-15)
    assert filtered_eigenpairs(operator, (0.0, 1e-3), (-1.0, 1.0)) is None
    assert operator.num_products == 0
    assert filtered_eigenpairs(operator, (-0.5, 0.5), (-1.0, 1.0)) is None


def test_filter_is_the_polynomial_of_the_matrix() -> None:
    values = normal(5, 300)
    matrix = matrices.reflected(values)
    low, high = extent(values)
    band = BandFilter.of((0.1, 0.4), (low, high))
    values, vectors = np.linalg.eigh(matrix)
    expected = (vectors * band(values)) @ vectors.T
    found = band.times(operator_of(matrix), np.eye(300))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)
    grid = band(np.linspace(low, high, 10_001))
    assert grid.min() > -1e-12
    assert grid.max() < 1 + 1e-12

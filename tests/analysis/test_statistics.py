"""What one pass over the tiles tells, against NumPy on the dense matrix."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.analysis.statistics import MatrixStatistics, matrix_statistics
from tests.helpers import matrices

Array = matrices.Array


def expect(found: MatrixStatistics, matrix: Array) -> None:
    """All sums are in float64, of values that are exact in it: 1e-13 is rounding of sums."""
    exact = matrix.astype(np.float64)
    close = {"rtol": 1e-13, "atol": 1e-13 * np.abs(exact).max()}
    np.testing.assert_array_equal(found.diagonal, exact.diagonal())
    np.testing.assert_allclose(found.row_norms, np.linalg.norm(exact, axis=1), **close)
    off_diagonal = np.abs(exact - np.diag(exact.diagonal())).sum(axis=1)
    np.testing.assert_allclose(found.radii, off_diagonal, rtol=1e-12, atol=close["atol"] * 10)
    np.testing.assert_allclose(found.trace, np.trace(exact), **close)
    np.testing.assert_allclose(found.frobenius_norm, np.linalg.norm(exact), rtol=1e-13)
    assert found.max_abs == np.abs(exact).max()
    defect = np.linalg.norm(exact - exact.T) / np.linalg.norm(exact)
    # Differences are taken in the array's own precision.
    np.testing.assert_allclose(found.symmetry_defect, defect, rtol=1e-6, atol=0)
    starts = [variable.offset for variable in found.layout.variables]
    edges = [*starts, len(exact)]
    for i in range(len(starts)):
        for j in range(len(starts)):
            block = exact[edges[i] : edges[i + 1], edges[j] : edges[j + 1]]
            norm = np.linalg.norm(block)
            np.testing.assert_allclose(found.variable_norms[i, j], norm, **close)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("tile", [7, 16, 50])
def test_against_the_dense_matrix(tmp_path: Path, dtype: type, tile: int) -> None:
    matrix = matrices.matrix_of_spectrum(np.linspace(-3, 7, 50)).astype(dtype)
    found = matrix_statistics(matrices.store_matrix(tmp_path / "h.zarr", matrix, tile))
    expect(found, matrix)
    assert found.symmetry_defect == 0.0


@settings(max_examples=10, deadline=None)
@given(size=st.integers(4, 40), tile=st.integers(5, 40), seed=st.integers(0, 2**20))
def test_asymmetric_and_sparse_matrices(
    tmp_path_factory: pytest.TempPathFactory, size: int, tile: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((size, size)) * (rng.random((size, size)) < 0.5)
    matrix[0, 0] = 1.0  # never all zero
    tile = min(tile, size)
    store = matrices.store_matrix(tmp_path_factory.mktemp("s") / "h.zarr", matrix, tile)
    # What is stored left of the diagonal tiles are transposes; one tile then differs.
    stored = np.asarray(store.hessian()[...])
    expect(matrix_statistics(store), stored)
    matrices.change_entry(store, (size - 1, 0), 5.0)
    stored[size - 1, 0] = 5.0
    expect(matrix_statistics(store), stored)


def test_bounds_hold_all_eigenvalues_and_dead_rows_are_found(tmp_path: Path) -> None:
    matrix = matrices.matrix_of_spectrum(np.linspace(-3, 7, 50))
    matrix[[7, 31]] = 0.0
    matrix[:, [7, 31]] = 0.0
    found = matrix_statistics(matrices.store_matrix(tmp_path / "h.zarr", matrix, 16))
    low, high = found.gershgorin_bounds
    values = np.linalg.eigvalsh(matrix)
    assert low <= values[0]
    assert values[-1] <= high
    assert found.zero_rows.tolist() == [7, 31]


def test_layers_share_norm_and_trace(tmp_path: Path) -> None:
    matrix = matrices.matrix_of_spectrum(np.linspace(-3, 7, 50))
    found = matrix_statistics(matrices.store_matrix(tmp_path / "h.zarr", matrix, 16))
    split = 26  # first layer: a kernel of 25 and a bias
    norms = found.layer_norms
    for rows, row in [(slice(split), "first"), (slice(split, None), "second")]:
        for cols, col in [(slice(split), "first"), (slice(split, None), "second")]:
            norm = norms.sel(row_layer=row, col_layer=col).item()
            np.testing.assert_allclose(norm, np.linalg.norm(matrix[rows, cols]), rtol=1e-13)
    np.testing.assert_allclose((norms**2).sum(), np.linalg.norm(matrix) ** 2, rtol=1e-13)
    expected = {
        "first": np.trace(matrix[:split, :split]),
        "second": np.trace(matrix[split:, split:]),
    }
    assert found.layer_traces.keys() == expected.keys()
    np.testing.assert_allclose(
        list(found.layer_traces.values()), list(expected.values()), rtol=1e-12
    )


def test_the_zero_matrix(tmp_path: Path) -> None:
    found = matrix_statistics(matrices.store_matrix(tmp_path / "h.zarr", np.zeros((20, 20)), 8))
    assert (found.symmetry_defect, found.frobenius_norm, len(found.zero_rows)) == (0.0, 0.0, 20)

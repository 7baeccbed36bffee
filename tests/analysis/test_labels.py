"""Selecting layer blocks of an opened store by name."""

import numpy as np
import pytest
import xarray as xr

from pipeline import open_hessian
from tests.helpers import matrices

SPLIT = 26  # first layer: a kernel of 25 and a bias; second: a kernel of 24


@pytest.fixture(scope="module")
def matrix() -> matrices.Array:
    return matrices.matrix_of_spectrum(np.linspace(-3.0, 7.0, 50))


@pytest.fixture(scope="module")
def opened(matrix: matrices.Array, tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    path = tmp_path_factory.mktemp("labels") / "h.zarr"
    matrices.store_matrix(path, matrix, 16, {"pde": 2 * matrix, "wall": -matrix})
    return open_hessian(path)


@pytest.mark.parametrize(
    ("labels", "rows", "cols"),
    [
        ({"row_layer": "first"}, slice(SPLIT), slice(None)),
        ({"row_layer": "first", "row_variable": "bias"}, slice(25, 26), slice(None)),
        ({"row_layer": "second", "col_layer": "first"}, slice(SPLIT, None), slice(SPLIT)),
        ({"row_variable": "kernel"}, np.r_[:25, SPLIT:50], slice(None)),
        (
            {"col_layer": "first", "col_variable": "kernel", "col_index": 3},
            slice(None),
            slice(3, 4),
        ),
        ({"row_layer": ["first", "second"]}, slice(None), slice(None)),
    ],
)
def test_names_select_parameters(
    opened: xr.Dataset, matrix: matrices.Array, labels: dict[str, str], rows: slice, cols: slice
) -> None:
    block = opened.hessian.sel(labels)
    np.testing.assert_array_equal(block.to_numpy(), matrix[rows, :][:, cols])
    assert block.chunks is not None  # nothing was read to select


def test_the_dataset_is_selected_whole(opened: xr.Dataset, matrix: matrices.Array) -> None:
    part = opened.sel(row_layer="second", row_variable="kernel")
    np.testing.assert_array_equal(part.hessian_pde.to_numpy(), 2 * matrix[SPLIT:])
    assert part.theta.shape == (24,)
    # A selection is selected again.
    again = part.sel(row_index=[2, 5]).hessian
    np.testing.assert_array_equal(again.to_numpy(), matrix[[SPLIT + 2, SPLIT + 5]])


def test_positions_masks_and_arithmetic_still_work(
    opened: xr.Dataset, matrix: matrices.Array
) -> None:
    h = opened.hessian
    kernel = (opened.row_layer == "first") & (opened.row_variable == "kernel")
    np.testing.assert_array_equal(h.sel(row=kernel).to_numpy(), matrix[:25])
    np.testing.assert_array_equal(h.isel(row=3).to_numpy(), matrix[3])
    np.testing.assert_array_equal(h.isel(row=[1, 4], col=slice(5)).to_numpy(), matrix[[1, 4], :5])
    np.testing.assert_array_equal((opened.hessian_pde - h).to_numpy(), matrix)
    with pytest.raises(ValueError, match="row of the two arrays differ"):
        h.isel(row=slice(5)) + h.isel(row=slice(5, 10))


def test_unknown_names_are_refused_with_those_there_are(opened: xr.Dataset) -> None:
    with pytest.raises(KeyError, match="no row_layer is 'third'; there are first, second"):
        opened.hessian.sel(row_layer="third")
    with pytest.raises(KeyError, match="no parameter has"):
        opened.hessian.sel(row_layer="second", row_variable="bias")

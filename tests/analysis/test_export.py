"""Exported files, read back by the programs they are for."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io

from pipeline.analysis import export as module
from pipeline.analysis.export import export_matrix
from pipeline.errors import ConfigError, StoreError
from pipeline.store.store import HessianStore
from tests.helpers import matrices

Array = matrices.Array


@pytest.fixture(scope="module", params=[np.float32, np.float64])
def matrix(request: pytest.FixtureRequest) -> Array:
    return matrices.matrix_of_spectrum(np.linspace(-3.0, 7.0, 50)).astype(request.param)


@pytest.fixture(scope="module")
def store(matrix: Array, tmp_path_factory: pytest.TempPathFactory) -> HessianStore:
    terms = {"pde": 2 * matrix, "wall": -matrix}
    return matrices.store_matrix(tmp_path_factory.mktemp("e") / "h.zarr", matrix, 16, terms)


def expect_labels(read: Any, squeeze: bool = False) -> None:
    layout = matrices.two_layers(50)
    for name, codes in layout.labels().items():
        found = np.squeeze(read[name]) if squeeze else read[name]
        np.testing.assert_array_equal(found, codes)
    assert np.squeeze(read["theta"]).shape == np.squeeze(read["gradient"]).shape == (50,)


def test_npy(store: HessianStore, matrix: Array, tmp_path: Path) -> None:
    found = np.load(export_matrix(store, tmp_path / "h.npy"))
    assert found.dtype == matrix.dtype
    np.testing.assert_array_equal(found, matrix)
    np.testing.assert_array_equal(
        np.load(export_matrix(store, tmp_path / "h.npy", "pde")), 2 * matrix
    )
    assert [path.name for path in tmp_path.iterdir()] == ["h.npy"]


def test_npz(store: HessianStore, matrix: Array, tmp_path: Path) -> None:
    with np.load(export_matrix(store, tmp_path / "h.npz")) as read:
        np.testing.assert_array_equal(read["hessian"], matrix)
        expect_labels(read)
        assert read["layer_names"].tolist() == ["first", "second"]
        assert read["variable_names"].tolist() == ["first/kernel", "first/bias", "second/kernel"]


def test_hdf5(store: HessianStore, matrix: Array, tmp_path: Path) -> None:
    with h5py.File(export_matrix(store, tmp_path / "h.h5")) as file:
        np.testing.assert_array_equal(file["hessian"][...], matrix)
        assert file["hessian"].chunks == (16, 16)
        expect_labels({name: file[name][...] for name in file})
        assert file["layer_names"].asstr()[...].tolist() == ["first", "second"]
        assert "Hessian" in file["hessian"].attrs["title"]


def test_matlab_5(store: HessianStore, matrix: Array, tmp_path: Path) -> None:
    read = scipy.io.loadmat(export_matrix(store, tmp_path / "h.mat"))
    np.testing.assert_array_equal(read["hessian"], matrix)
    expect_labels(read, squeeze=True)
    assert [name.strip() for name in read["layer_names"]] == ["first", "second"]


def test_matlab_73(
    store: HessianStore, matrix: Array, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_OLD_MATLAB_BYTES", 0)
    path = export_matrix(store, tmp_path / "h.mat")
    header = path.read_bytes()[:128]
    assert header.startswith(b"MATLAB 7.3 MAT-file")
    assert header[124:] == b"\x00\x02IM"
    # This is how SciPy tells the version, from the header alone.
    with pytest.raises(NotImplementedError, match=r"7\.3"):
        scipy.io.loadmat(path)
    with h5py.File(path) as file:
        assert file.userblock_size == 512
        # MATLAB's columns are HDF5's rows.
        np.testing.assert_array_equal(file["hessian"][...].T, matrix)
        kind = {"float32": b"single", "float64": b"double"}[matrix.dtype.name]
        assert file["hessian"].attrs["MATLAB_class"] == kind
        expect_labels({name: file[name][...] for name in file}, squeeze=True)
        assert file["layer"].attrs["MATLAB_class"] == b"int32"
        names = file["layer_names"]
        assert names.attrs["MATLAB_class"] == b"char"
        assert ["".join(map(chr, row)).strip() for row in names[...].T] == ["first", "second"]


@pytest.mark.parametrize("name", ["h.csv", "h", "missing/h.npy"])
def test_what_cannot_be_written_is_refused(store: HessianStore, tmp_path: Path, name: str) -> None:
    with pytest.raises((ConfigError, StoreError), match=r"expected one of|no directory"):
        export_matrix(store, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_and_damage_leave_nothing_behind(
    store: HessianStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "free_bytes", lambda path: 100)
    with pytest.raises(StoreError, match=r"needs .* and 100 B are free"):
        export_matrix(store, tmp_path / "h.npy")
    monkeypatch.undo()
    damaged = matrices.store_matrix(tmp_path / "d.zarr", np.eye(40), 16)
    tile = Path(str(damaged.location)) / "hessian" / "c" / "2" / "0"
    tile.write_bytes(tile.read_bytes()[:-3])
    with pytest.raises(StoreError, match=r"Object hessian/c/2/0 of .* is damaged"):
        export_matrix(damaged, tmp_path / "d.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["d.zarr"]

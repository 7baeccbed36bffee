"""Stored matrices as files of other programs, a block row or a tile at a time."""

from __future__ import annotations

import io
import uuid
import zipfile
from pathlib import Path
from typing import IO, Any, TypeAlias

import h5py
import numpy as np
import numpy.typing as npt
import scipy.io

from pipeline.analysis._tiles import TiledMatrix, complete_matrix
from pipeline.errors import ConfigError, StoreError
from pipeline.store.places import Place, free_bytes, writing
from pipeline.store.store import HessianStore
from pipeline.units import format_bytes

__all__ = ["export_matrix"]

Array: TypeAlias = npt.NDArray[Any]

# MATLAB's older format is written from memory, so that only small matrices go there; it ends at
# 2 GiB a variable anyway.
MAX_OLD_MATLAB_BYTES = 256 * 2**20
# "MATLAB 7.3" is HDF5 behind a text header of 116 bytes, 8 for subsystem data, version 0x0200 and
# the byte order, in a user block of 512 (MAT-File Format, The MathWorks).
MATLAB_HEADER = b"MATLAB 7.3 MAT-file, written by hessian-pipeline".ljust(116) + bytes(8)
MATLAB_VERSION = b"\x00\x02IM"


def export_matrix(store: HessianStore | Place, path: str | Path, term: str | None = None) -> Path:
    """Write a stored matrix to a file for NumPy, HDF5 or MATLAB; its ending decides which.

    ``.npy`` has the matrix alone. ``.npz``, ``.h5`` and ``.mat`` also have ``theta`` and
    ``gradient`` ``[P]``, and for every parameter the codes ``layer`` and ``variable`` and its
    ``index`` in the variable, all from 0, with ``layer_names`` and ``variable_names``. In HDF5
    these are beside a matrix in chunks of tiles. ``.mat`` is of version 5 up to 256 MiB, of version
    7.3 beyond, which is HDF5 as well; MATLAB reads arrays column by column, which a symmetric
    matrix does not show.

    One block row is in memory at a time, for HDF5 one tile. The file is put in place when it is
    complete.

    Args:
        store: A complete store, or where it is.
        path: The file, of that ending; replaced if it exists.
        term: A loss term's matrix instead of the total's.

    Returns:
        Where it was written.

    Raises:
        ConfigError: If the ending is none of these.
        StoreError: If the store is not complete, or the file cannot be written.

    Example:
        >>> import tempfile
        >>> from pipeline import compute_hessian, load_problem
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     small = load_problem("regression", width=4, depth=1, num_samples=10)
        ...     _ = compute_hessian(small, f"{directory}/h.zarr")
        ...     np.load(export_matrix(f"{directory}/h.zarr", f"{directory}/h.npy")).shape
        (13, 13)
    """
    path = Path(path)
    writers = {".npy": _write_npy, ".npz": _write_npz, ".h5": _write_hdf5, ".hdf5": _write_hdf5}
    writers[".mat"] = _write_matlab
    if path.suffix not in writers:
        raise ConfigError(f"{path} ends in {path.suffix!r}; expected one of {', '.join(writers)}.")
    opened, matrix = complete_matrix(store, term)
    if not path.parent.is_dir():
        raise StoreError(f"There is no directory {path.parent} to write {path.name} to.")
    needed = matrix.array.nbytes
    if free_bytes(path) < needed:
        raise StoreError(
            f"{path} needs {format_bytes(needed)} and {format_bytes(free_bytes(path))} are free."
        )
    half_made = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with writing(path):
            writers[path.suffix](half_made, opened, matrix)
            half_made.replace(path)
    finally:
        half_made.unlink(missing_ok=True)
    return path


def _beside(store: HessianStore) -> dict[str, Array]:
    # What goes with the matrix, by name.
    layout = store.layout
    return {
        "theta": store.read("theta"),
        "gradient": store.read("gradient"),
        **layout.labels(),
        "layer_names": np.array(layout.layers()),
        "variable_names": np.array([v.path for v in layout.variables]),
    }


def _write_npy(path: Path, store: HessianStore, matrix: TiledMatrix) -> None:
    with path.open("wb") as file:
        _stream(file, store, matrix)


def _stream(file: IO[bytes], store: HessianStore, matrix: TiledMatrix) -> None:
    # As numpy.save writes it, but a memory map would count as memory of this process.
    shape = (store.num_params,) * 2
    header = {"descr": store.dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    rows = store.block_rows
    block = np.empty((rows[0].num_rows, store.num_params), store.dtype)
    for row in rows:
        # Tile by tile: Zarr would decode all of them side by side.
        for col in rows:
            block[: row.num_rows, col.start : col.stop] = matrix.read(row, col)
        file.write(block[: row.num_rows].data)


def _write_npz(path: Path, store: HessianStore, matrix: TiledMatrix) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open(f"{store.matrix.name}.npy", "w", force_zip64=True) as file:
            _stream(file, store, matrix)
        for name, array in _beside(store).items():
            held = io.BytesIO()
            np.save(held, array)
            archive.writestr(f"{name}.npy", held.getvalue())


def _write_hdf5(path: Path, store: HessianStore, matrix: TiledMatrix) -> None:
    with h5py.File(path, "w") as file:
        target = _reserve(file, store)
        target.attrs["title"] = store.attributes["title"]
        for name, array in _beside(store).items():
            text = array.dtype.kind == "U"
            file[name] = array.astype(h5py.string_dtype()) if text else array
        _fill(target, store, matrix)


def _reserve(file: h5py.File, store: HessianStore) -> Any:
    return file.create_dataset(
        store.matrix.name,
        (store.num_params,) * 2,
        store.dtype,
        chunks=(store.tile, store.tile),
        rdcc_nbytes=0,
    )


def _fill(target: Any, store: HessianStore, matrix: TiledMatrix) -> None:
    for row in store.block_rows:
        for col in store.block_rows:
            target[row.start : row.stop, col.start : col.stop] = matrix.read(row, col)


def _write_matlab(path: Path, store: HessianStore, matrix: TiledMatrix) -> None:
    if matrix.array.nbytes <= MAX_OLD_MATLAB_BYTES:
        contents = {store.matrix.name: np.asarray(matrix.array[...]), **_beside(store)}
        scipy.io.savemat(path, contents, oned_as="column")
        return
    with h5py.File(path, "w", userblock_size=512) as file:
        target = _reserve(file, store)
        target.attrs["MATLAB_class"] = _class_of(store.dtype)
        for name, array in _beside(store).items():
            _add_matlab(file, name, array)
        _fill(target, store, matrix)
    with path.open("r+b") as raw:
        raw.write(MATLAB_HEADER + MATLAB_VERSION)


def _class_of(dtype: np.dtype[Any]) -> np.bytes_:
    return np.bytes_({"float32": "single", "float64": "double"}.get(dtype.name, dtype.name))


def _add_matlab(file: h5py.File, name: str, array: Array) -> None:
    # MATLAB's axes are HDF5's in reverse order: a column is one row here, and names, one a row
    # padded with blanks, are one a column.
    if array.dtype.kind == "U":
        width = max(map(len, array.tolist()))
        codes = np.array([list(map(ord, text.ljust(width))) for text in array.tolist()], np.uint16)
        file[name] = codes.T
        file[name].attrs["MATLAB_class"] = np.bytes_("char")
        file[name].attrs["MATLAB_int_decode"] = np.int32(2)
    else:
        file[name] = array[np.newaxis]
        file[name].attrs["MATLAB_class"] = _class_of(array.dtype)

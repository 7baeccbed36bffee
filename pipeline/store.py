"""The store of a run: one Zarr group with matrices, inputs, labels and records.

Plain ``zarr``, ``dask.array.from_zarr`` and ``xarray.open_zarr`` open it as well. A
store is data: opening one runs no code from it.
"""

from __future__ import annotations

import contextlib
import errno
import shlex
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import zarr

from hessian_tasks.parameters import ParameterLayout
from hessian_tasks.spec import BlockRow, EngineName, matrix_of
from pipeline.errors import StoreError, StoreMismatchError
from pipeline.plan import split_rows
from pipeline.records import GROUP, BlockRecord, checksum, damaged_objects
from pipeline.retrying import RetryingFiles
from pipeline.template import FORMAT_VERSION

__all__ = ["HessianStore", "differing_inputs", "free_bytes", "writing"]


class HessianStore:
    """An open store.

    Attributes:
        path: Its directory.
        attributes: The root group's attributes.
        num_params: P.
        tile: Side of the square tiles.
        dtype: Dtype of the matrices.
        layout: The parameter table.
        engine: Name of the engine that computes it.
        matrix: Which matrix it holds.
        arrays: Names of the matrix's arrays, by loss term; the total's term is None.
        jacobians: Names of the arrays of the residuals' Jacobians, by loss term; none beside a
            Hessian.
    """

    def __init__(self, path: str | Path, *, writable: bool = False) -> None:
        """Open a store that exists.

        Raises:
            StoreError: If there is none, or it is damaged or of another format.
        """
        self.path = Path(path)
        if not self.path.is_dir():
            raise StoreError(f"There is no Hessian store at {path}. Start one with: hessian run")
        try:
            files = RetryingFiles(self.path, read_only=not writable)
            self._group = zarr.open_group(files, mode="r+" if writable else "r")
            self.attributes: dict[str, Any] = dict(self._group.attrs)
            _check_format(self.path, self.attributes["format_version"])
            self._read_attributes()
        except StoreError:
            raise
        # Damaged metadata surfaces as any of these from JSON, Zarr and our own reading.
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(
                f"{path} is not a readable Hessian store ({type(error).__name__}: {error})."
            ) from error

    def _read_attributes(self) -> None:
        self.tile = int(self.attributes["tile"])
        engine = self.attributes["engine"]
        if engine not in get_args(EngineName):
            raise ValueError(f"engine {engine!r} is unknown")
        self.engine: EngineName = engine
        self.matrix = matrix_of(engine)
        self.layout = ParameterLayout.from_json(self.attributes["parameters"])
        self.num_params = self.layout.num_params
        self.arrays: dict[str | None, str] = {
            a["term"]: a["name"] for a in self.attributes["arrays"]
        }
        # Stores of the Hessian from before there were others do not say that they have none.
        self.jacobians: dict[str, str] = {
            a["term"]: a["name"] for a in self.attributes.get("jacobians", [])
        }
        # Both axes of a matrix are parameters, of a Jacobian the second.
        axes = dict.fromkeys(self.arrays.values(), 0) | dict.fromkeys(self.jacobians.values(), 1)
        for name, axis in axes.items():
            array, sides = self.hessian(name), 2 - axis
            shape, chunks = array.shape[axis:], array.chunks[axis:]
            if shape != (self.num_params,) * sides or chunks != (self.tile,) * sides:
                raise ValueError(f"array {name!r} does not have the recorded shape and tiles")
        self.dtype = self.hessian().dtype

    def hessian(self, name: str | None = None) -> zarr.Array[Any]:
        """One of the arrays by name, by default the total loss's matrix ``[P, P]``."""
        array = self._group[self.arrays[None] if name is None else name]
        if not isinstance(array, zarr.Array):
            raise KeyError(name)
        return array

    def read(self, name: str) -> npt.NDArray[Any]:
        """A small array as a whole: ``theta``, ``gradient``, points.

        Raises:
            StoreError: If it is missing or damaged.
        """
        try:
            return np.asarray(self.hessian(name)[...])
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise StoreError(f"Array {name!r} of {self.path} cannot be read: {error}") from error

    @property
    def resume_command(self) -> str:
        """The shell command that computes what is missing."""
        return f"hessian run --store {shlex.quote(str(self.path))}"

    @property
    def block_rows(self) -> list[BlockRow]:
        """All block rows."""
        return split_rows(self.num_params, self.tile)

    def records(self) -> dict[int, BlockRecord]:
        """The completion records by block row index; unreadable ones are left out."""
        found = {}
        for row in self.block_rows:
            directory = self.path / GROUP / f"{row.index:06d}"
            if not directory.is_dir():
                continue
            # A damaged record is as good as none: its block row is computed again.
            with contextlib.suppress(OSError, KeyError, TypeError, ValueError, AttributeError):
                record = BlockRecord.from_json(dict(zarr.open_group(directory, mode="r").attrs))
                if record.row == row and set(record.checksums) == set(self.object_keys(row)):
                    found[row.index] = record
        return found

    def pending(self) -> list[BlockRow]:
        """Block rows that are not stored, or whose stored objects are damaged."""
        done = self.records()
        damaged = set(damaged_objects(self.path, done.values()).values())
        return [row for row in self.block_rows if row.index not in done or row in damaged]

    def object_keys(self, row: BlockRow) -> list[str]:
        """Keys of the objects that its task writes: tiles, and chunks of Jacobians."""
        keys = []
        for name in self.arrays.values():
            encode = self.hessian(name).metadata.encode_chunk_key
            tiles = [(row.index, other) for other in range(row.index, len(self.block_rows))]
            tiles += [(other, row.index) for other in range(row.index + 1, len(self.block_rows))]
            keys += [f"{name}/{encode(tile)}" for tile in tiles]
        for name in self.jacobians.values():
            array = self.hessian(name)
            encode = array.metadata.encode_chunk_key
            chunks = range(-(-array.shape[0] // array.chunks[0]))
            keys += [f"{name}/{encode((chunk, row.index))}" for chunk in chunks]
        return keys

    def write_block_row(self, row: BlockRow, name: str, block: npt.NDArray[Any]) -> None:
        """Write a block row and its transpose, whole tiles only.

        Args:
            row: The block row.
            name: Name of the array.
            block: Its entries from column ``row.start`` on, ``[rows, P - start]``.

        Raises:
            ValueError: If the block row does not fall on tiles, or the shape is wrong:
                a partly written tile would race with its neighbour's.
        """
        if row != self.block_rows[row.index] or block.shape != (
            row.num_rows,
            self.num_params - row.start,
        ):
            raise ValueError(f"{row} with shape {block.shape} is not one of {self.path}")
        # An all-NaN tile would equal the fill value and not be written at all.
        array = self.hessian(name).with_config({"write_empty_chunks": True})
        array[row.start : row.stop, row.start :] = block
        if row.stop < self.num_params:
            array[row.stop :, row.start : row.stop] = block[:, row.num_rows :].T

    def write_columns(self, row: BlockRow, name: str, columns: npt.NDArray[Any]) -> None:
        """Write the columns of a Jacobian that belong to a block row, whole chunks only.

        Args:
            row: The block row.
            name: Name of the array.
            columns: ``J[:, start:stop]`` ``[N C, rows]``.

        Raises:
            ValueError: If the block row does not fall on tiles, or the shape is wrong.
        """
        array = self.hessian(name).with_config({"write_empty_chunks": True})
        if row != self.block_rows[row.index] or columns.shape != (array.shape[0], row.num_rows):
            raise ValueError(f"columns of {row} with shape {columns.shape} are not of {self.path}")
        array[:, row.start : row.stop] = columns

    def checksums(self, row: BlockRow) -> dict[str, int]:
        """Read back what was stored of a block row."""
        return {key: checksum(self.path / key) for key in self.object_keys(row)}

    def check_fingerprint(self, fingerprint: dict[str, str]) -> None:
        """Refuse inputs other than those that the store was made from.

        Raises:
            StoreMismatchError: Naming what differs.
        """
        differing = differing_inputs(self.attributes["fingerprint"], fingerprint)
        if differing:
            raise StoreMismatchError(
                f"{self.path} was made from other inputs: {', '.join(differing)} differ"
                f"{'s' if len(differing) == 1 else ''}. Give this run another --store, or run "
                "with the inputs that the store was made from. The store was left as it was."
            )

    def set_certificate(self, certificate: dict[str, Any] | None) -> None:
        """Record the result of a verification, or drop it."""
        if certificate is not None:
            self._group.attrs["certificate"] = certificate
        elif "certificate" in self.attributes:
            del self._group.attrs["certificate"]
        self.attributes = dict(self._group.attrs)

    def sweep(self) -> None:
        """Remove what killed writers left behind: ``*.partial`` files."""
        for litter in self.path.rglob("*.partial"):
            litter.unlink(missing_ok=True)


def differing_inputs(first: Mapping[str, str], second: Mapping[str, str]) -> list[str]:
    """The labels in which two fingerprints differ.

    Example:
        >>> differing_inputs({"dtype": "float32"}, {"dtype": "float64"})
        ['dtype']
    """
    labels = dict.fromkeys([*first, *second])
    return [label for label in labels if first.get(label) != second.get(label)]


def _check_format(path: Path, found: object) -> None:
    if found != FORMAT_VERSION:
        raise StoreError(f"{path} has store format {found}; this version reads {FORMAT_VERSION}.")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write below ``path`` into one clear message."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        advice = {
            errno.ENOSPC: "the disk is full. Free some space and run the same command again",
            errno.EDQUOT: "the disk quota is used up. Free some space and run again",
            errno.EROFS: "the file system is read-only. Remount it, or copy the store",
            errno.EACCES: "permission was denied. Check who owns the directory",
        }.get(error.errno or 0, str(error))
        raise StoreError(f"Cannot write to {path}: {advice}. What was stored is intact.") from error


def free_bytes(path: Path) -> int:
    """Free disk space where ``path`` is or will be."""
    existing = next(p for p in [path, *path.absolute().parents] if p.exists())
    return shutil.disk_usage(existing).free

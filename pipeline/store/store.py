"""The store of a run: one Zarr group with matrices, inputs, labels and records.

Plain ``zarr``, ``dask.array.from_zarr`` and ``xarray.open_zarr`` open it as well. A
store is data: opening one runs no code from it.
"""

from __future__ import annotations

import copy
import shlex
import warnings
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import zarr

from hessian_tasks.frozen import FrozenInputs
from hessian_tasks.spec import BlockRow, EngineName, Matrix
from pipeline.errors import StoreError, StoreMismatchError, StoreWarning
from pipeline.store._ledger import Ledger
from pipeline.store.agreement import differing_inputs
from pipeline.store.arrays import object_key
from pipeline.store.below import check_one
from pipeline.store.checking import examine
from pipeline.store.expected import check_arrays
from pipeline.store.metadata import SelfCheck, read_attributes, template_of
from pipeline.store.opened import HoldsInputs
from pipeline.store.places import Place, locate
from pipeline.store.places.chunks import checksum, write_chunks
from pipeline.store.places.location import ROOT
from pipeline.store.records import BlockRecord, Statistics
from pipeline.store.seal import group_json, sealed
from pipeline.store.template import label_contents
from pipeline.store.tiling import split_rows

__all__ = ["HessianStore"]


class HessianStore(HoldsInputs):
    """An open store.

    Attributes:
        tile: Side of the square tiles.
        dtype: Dtype of the matrices.
        engine: Name of the engine that computes it.
        matrices: Which matrices it holds: one, or the Hessian and the Gauss-Newton matrix.
        matrix: Of which of them questions are; the first, see :meth:`select`.
        arrays: Names of that matrix's arrays, by loss term; the total's term is None.
        all_arrays: Names of the arrays of all of them.
        jacobians: Names of the arrays of the residuals' Jacobians, by loss term; none beside a
            Hessian alone.
        self_check: What the run that completed it found when it checked itself, or that failed.
        left_out: Terms that have no such matrix, and why; the total's is the sum of the others.
    """

    def __init__(self, place: Place, *, warn: bool = True) -> None:
        """Open a store that exists.

        Args:
            place: A path, or an URL such as ``s3://bucket/path/h.zarr``.
            warn: Whether to warn of a failed self-check; not where the store is computed.

        Raises:
            StoreError: If there is none, or it is damaged or of another format.
        """
        location = locate(place)
        if not location.exists():
            check_one(location)
            raise StoreError(f"There is no Hessian store at {place}. Start one with: hessian run")
        try:
            checked, attributes = read_attributes(location)
        except StoreError:
            check_one(location)
            raise
        self.tile = checked.tile
        self.engine: EngineName = checked.engine
        self.matrices = checked.matrices
        self.matrix = self.matrices[0]
        self._tables = {matrix: checked.arrays_of(matrix) for matrix in self.matrices}
        self.arrays = self._tables[self.matrix]
        self.all_arrays = tuple(array.name for array in checked.arrays)
        self.jacobians = {a.term: a.name for a in checked.jacobians}
        self.left_out = {t.term: t.reason for t in checked.left_out}
        names = [*self.all_arrays, *self.jacobians.values()]
        super().__init__(location, attributes, checked, names)
        check_arrays(location, checked, self.metadata)
        self.check_contents()
        self.dtype = self.hessian().dtype
        self.self_check = checked.self_check
        if warn and self.self_check is not None and not self.self_check.passed:
            warnings.warn(
                f"{location} failed the check of the run that computed it, and its numbers are "
                f"not to be used. {self.self_check.failure}",
                StoreWarning,
                # The same line each time, so that Python says it once for each store.
                stacklevel=1,
            )

    def check_contents(self) -> None:
        """See that inputs and labels hold what was written.

        Raises:
            StoreError: Naming the first that does not.
        """
        super().check_contents()
        for name, content in label_contents(self.layout).items():
            wanted = {key: checksum(data) for key, data in content.objects(name).items()}
            if self.has_checksums:
                fits = all(self.recorded(key, None) == found for key, found in wanted.items())
            else:
                fits = np.array_equal(self.read(name), content.data)
            if not fits:
                raise StoreError(f"{name} of {self.location} does not name the parameters' rows.")

    def select(self, matrix: Matrix) -> Self:
        """The same store as one of a single matrix that it holds, for questions to that.

        Raises:
            StoreError: If it does not hold it.
        """
        if matrix not in self.matrices:
            raise StoreError(f"{self.location} holds no {matrix.title}.")
        found = copy.copy(self)
        found.matrices, found.matrix = (matrix,), matrix
        found.arrays = self._tables[matrix]
        return found

    def each(self) -> list[Self]:
        """The same store as one of each matrix that it holds."""
        return [self.select(matrix) for matrix in self.matrices]

    def hessian(self, name: str | None = None) -> zarr.Array[Any]:
        """One of the arrays by name, by default the total loss's matrix ``[P, P]``.

        Raises:
            StoreError: If there is none of that name.
        """
        return self.array(self.arrays[None] if name is None else name)

    def read_part(self, rows: slice, columns: slice, name: str | None = None) -> npt.NDArray[Any]:
        """Entries of a matrix or of a Jacobian, as they are stored, not to be changed.

        Raises:
            StoreError: If a tile is damaged, or they do not fit into memory.
        """
        return self.read_entries(rows, columns, self.arrays[None] if name is None else name)

    @cached_property
    def template(self) -> int | None:
        """Which store it is, by the checksum of its attributes as they were created.

        None of a store from before records said which they belong to.
        """
        return template_of(self.attributes)

    @property
    def resume_command(self) -> str:
        """The shell command that computes what is missing."""
        return f"hessian run --store {shlex.quote(str(self.location))}"

    @cached_property
    def block_rows(self) -> list[BlockRow]:
        """All block rows."""
        return split_rows(self.num_params, self.tile)

    @property
    def num_block_rows(self) -> int:
        """Number of block rows, also of tiles along a side."""
        return len(self.block_rows)

    @cached_property
    def ledger(self) -> Ledger:
        """Its completion records."""
        return Ledger(self)

    def records(self) -> dict[int, BlockRecord]:
        """The completion records by block row index; unreadable ones are left out."""
        return self.ledger.records()

    def recorded_statistics(self, name: str) -> Statistics:
        """Those of a complete matrix, as its records have them."""
        return Statistics.total([record.statistics[name] for record in self.records().values()])

    def recorded(self, key: str, found: int | None) -> int | None:
        """The checksum that an object was recorded with, None if it was not.

        Of tiles and chunks of Jacobians the record of the block row says it that wrote them.

        Raises:
            ValueError: If that record is damaged, or of another store.
        """
        name, _, place = key.partition("/c/")
        if name not in (*self.all_arrays, *self.jacobians.values()):
            return super().recorded(key, found)
        tiles = [int(number) for number in place.split("/")]
        index = tiles[1] if name in self.jacobians.values() else min(tiles)
        return self.ledger.checksum(index, key, found)

    def pending(self) -> list[BlockRow]:
        """Block rows that are not stored, or not as their records say."""
        done = self.records()
        wrong = set(examine(self, done.values()).wrong)
        return [row for row in self.block_rows if row.index not in done or row in wrong]

    def damaged_objects(self, records: Iterable[BlockRecord]) -> dict[str, BlockRow]:
        """Find stored objects that are missing or whose checksum differs.

        Returns:
            Keys of the damaged objects, with the block row that wrote each.
        """
        return examine(self, records).damaged

    def object_keys(self, row: BlockRow) -> list[str]:
        """Keys of the objects that its task writes: tiles, and chunks of Jacobians."""
        tiles = [(row.index, other) for other in range(row.index, self.num_block_rows)]
        tiles += [(other, row.index) for other in range(row.index + 1, self.num_block_rows)]
        keys = [object_key(name, tile) for name in self.all_arrays for tile in tiles]
        for name in self.jacobians.values():
            chunks = range(self.metadata[name].grid()[0])
            keys += [object_key(name, (chunk, row.index)) for chunk in chunks]
        return keys

    def write_block_row(self, row: BlockRow, name: str, block: npt.NDArray[Any]) -> dict[str, int]:
        """Write a block row and its transpose, whole tiles only.

        Args:
            row: The block row.
            name: Name of the array.
            block: Its entries from column ``row.start`` on, ``[rows, P - start]``.

        Returns:
            CRC-32C of what was meant to be written, by key.

        Raises:
            ValueError: If the block row does not fall on tiles, or the shape is wrong:
                a partly written tile would race with its neighbour's.
        """
        if row != self.block_rows[row.index] or block.shape != (
            row.num_rows,
            self.num_params - row.start,
        ):
            raise ValueError(f"{row} with shape {block.shape} is not one of {self.location}")
        parts = {}
        for other in self.block_rows[row.index :]:
            part = block[:, other.start - row.start : other.stop - row.start]
            parts[row.index, other.index] = part
            if other != row:
                parts[other.index, row.index] = part.T
        return self._write(name, parts)

    def write_columns(self, row: BlockRow, name: str, columns: npt.NDArray[Any]) -> dict[str, int]:
        """Write the columns of a Jacobian that belong to a block row, whole chunks only.

        Args:
            row: The block row.
            name: Name of the array.
            columns: ``J[:, start:stop]`` ``[N C, rows]``.

        Returns:
            CRC-32C of what was meant to be written, by key.

        Raises:
            ValueError: If the block row does not fall on tiles, or the shape is wrong.
        """
        array = self.hessian(name)
        if row != self.block_rows[row.index] or columns.shape != (array.shape[0], row.num_rows):
            raise ValueError(
                f"columns of {row} with shape {columns.shape} are not of {self.location}"
            )
        height = array.chunks[0]
        parts = {
            (chunk, row.index): columns[chunk * height : (chunk + 1) * height]
            for chunk in range(self.metadata[name].grid()[0])
        }
        return self._write(name, parts)

    def _write(
        self, name: str, parts: Mapping[tuple[int, int], npt.NDArray[Any]]
    ) -> dict[str, int]:
        by_key = {object_key(name, place): part for place, part in parts.items()}
        return write_chunks(self.location, by_key, tuple(self.metadata[name].chunks))

    def check_inputs(self, frozen: FrozenInputs) -> None:
        """Refuse inputs other than those that the store was made from.

        Raises:
            StoreMismatchError: Naming what differs.
            StoreError: If the recorded gradient cannot be read.
        """
        differing = differing_inputs(self, frozen)
        if differing:
            raise StoreMismatchError(
                f"{self.location} was made from other inputs: {differing}. Give this run another "
                "--store, or run with the inputs that the store was made from. The store was left "
                "as it was."
            )

    def set_certificate(self, certificate: dict[str, Any] | None) -> None:
        """Record the result of a verification, or drop it."""
        self._set("certificate", certificate)

    def set_self_check(self, found: SelfCheck | None) -> None:
        """Record the result of a run's check of itself, or drop it."""
        self._set("self_check", None if found is None else found.model_dump())
        self.self_check = found

    @property
    def verified(self) -> bool | None:
        """Whether its last verification and its run's check passed; None before a verification."""
        if self.self_check is not None and not self.self_check.passed:
            return False
        certificate = self.attributes.get("certificate")
        return None if certificate is None else bool(certificate["passed"])

    def _set(self, key: str, value: dict[str, Any] | None) -> None:
        """Change one of the attributes that are set later, among those that are there now."""
        _, now = read_attributes(self.location)
        if template_of(now) != self.template:
            raise StoreError(f"{self.location} is another store than the one that was opened.")
        kept = {name: other for name, other in now.items() if name != key}
        self.attributes = sealed(kept if value is None else {**kept, key: value})
        if self.attributes != now:
            with self.location.writing():
                self.location.write(ROOT, group_json(self.attributes))

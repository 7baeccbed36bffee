"""The completion records of a store, as far as they are its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from hessian_tasks.spec import BlockRow
from pipeline.store.places import Location
from pipeline.store.places.location import ROOT
from pipeline.store.records import GROUP, BlockRecord, record_key

__all__ = ["Ledger"]


class Recorded(Protocol):
    """What is asked of a store."""

    location: Location
    all_arrays: tuple[str, ...]

    @property
    def template(self) -> int | None:
        """Which store it is."""

    @property
    def block_rows(self) -> list[BlockRow]:
        """All block rows."""

    def object_keys(self, row: BlockRow) -> list[str]:
        """Keys of the objects of a block row."""


class Ledger:
    """Reads the records of a store."""

    def __init__(self, store: Recorded) -> None:
        """Of a store."""
        self._store = store
        self._checksums: dict[int, Mapping[str, int]] = {}

    def records(self) -> dict[int, BlockRecord]:
        """The records by block row index; a damaged one is as good as none."""
        rows = {record_key(row): row for row in self._store.block_rows}
        location = self._store.location
        there = sorted(rows.keys() & {f"{GROUP}/{name}" for name in location.children(GROUP)})
        found = location.each(lambda key: self._find(rows[key]), there)
        records = {record.row.index: record for record in found if record is not None}
        self._checksums = {index: record.checksums for index, record in records.items()}
        return records

    def checksum(self, index: int, key: str, found: int | None) -> int | None:
        """The checksum that a block row's record has of an object, None without a record.

        Args:
            index: Index of the block row.
            key: Key of the object.
            found: Its checksum now: if that is another one than was known, the record is read
                again, since a run may have replaced both.

        Raises:
            ValueError: If the record is damaged, or of another store.
        """
        if self._checksums.get(index, {}).get(key) != found:
            self._checksums.pop(index, None)
        if index not in self._checksums:
            try:
                self._checksums[index] = self._read(self._store.block_rows[index]).checksums
            except FileNotFoundError:
                return None
        return self._checksums[index][key]

    def _find(self, row: BlockRow) -> BlockRecord | None:
        try:
            return self._read(row)
        except (FileNotFoundError, ValueError):
            return None

    def _read(self, row: BlockRow) -> BlockRecord:
        store, key = self._store, record_key(row)
        try:
            record = BlockRecord.from_json(store.location.read(f"{key}/{ROOT}"))
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{key} is no record") from error
        fits = record.row == row and set(record.checksums) == set(store.object_keys(row))
        fits &= set(record.statistics) == set(store.all_arrays)
        if not fits or record.template != store.template:
            raise ValueError(f"{key} is not the record of {row} of this store")
        return record

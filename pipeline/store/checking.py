"""Whether what is stored is what was recorded of it: checksums, and statistics.

One pass over the objects of block rows. A checksum finds what was altered since; statistics are
computed again from the tiles, since a record is only what somebody has written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hessian_tasks.spec import BlockRow
from pipeline.store.places import Location
from pipeline.store.places.chunks import CHECKSUM_BYTES, checksum
from pipeline.store.places.guard import GuardedStore
from pipeline.store.records import BlockRecord, Statistics

__all__ = ["examine"]


class Tiled(Protocol):
    """What is asked of a store."""

    location: Location
    objects: GuardedStore
    dtype: np.dtype[Any]
    tile: int

    @property
    def block_rows(self) -> list[BlockRow]:
        """All block rows."""


@dataclass(frozen=True)
class Examined:
    """What is not as records say.

    Attributes:
        damaged: Keys of objects that are missing or altered, with the block row that wrote each.
        misstated: Block rows whose recorded statistics are not those of their tiles.
    """

    damaged: dict[str, BlockRow] = field(default_factory=dict)
    misstated: list[BlockRow] = field(default_factory=list)

    @property
    def wrong(self) -> list[BlockRow]:
        """Block rows that have to be computed again."""
        return [*self.damaged.values(), *self.misstated]


def examine(store: Tiled, records: Iterable[BlockRecord]) -> Examined:
    """Read every object that records list, once.

    Raises:
        StoreError: If the place cannot be read.
    """
    found = Examined()
    for record in records:
        parts = store.location.each(_Examiner(store, record), record.checksums)
        damaged = [part.key for part in parts if part.damaged]
        found.damaged.update(dict.fromkeys(damaged, record.row))
        if not damaged and not _agree(record, parts):
            found.misstated.append(record.row)
    return found


@dataclass(frozen=True)
class _Part:
    """An object, and what it adds to the statistics of an array, if it does."""

    key: str
    damaged: bool = False
    statistics: Statistics | None = None


def _agree(record: BlockRecord, parts: Sequence[_Part]) -> bool:
    for name, recorded in record.statistics.items():
        own = [p.statistics for p in parts if p.statistics and p.key.startswith(f"{name}/")]
        if not recorded.agree(Statistics.total(own)):
            return False
    return True


@dataclass(frozen=True)
class _Examiner:
    """Reads the objects of a block row."""

    store: Tiled
    record: BlockRecord

    def __call__(self, key: str) -> _Part:
        try:
            # Network file systems hand out wrong bytes now and then: what is damaged is so twice.
            data = self._read(key) or self._read(key)
        except FileNotFoundError:
            return _Part(key, damaged=True)
        if data is None:
            return _Part(key, damaged=True)
        name, _, place = key.partition("/c/")
        i, j = (int(number) for number in place.split("/"))
        # Those below the diagonal are the transposes of those beyond it.
        if name not in self.record.statistics or i > j:
            return _Part(key)
        return _Part(key, statistics=Statistics.of_tile(self._entries(data, i, j), i == j))

    def _read(self, key: str) -> bytes | None:
        """The object, if it is what was recorded."""
        data = self.store.location.read(key, self.store.objects.limit(key))
        return data if checksum(data) == self.record.checksums[key] else None

    def _entries(self, data: bytes, i: int, j: int) -> npt.NDArray[Any]:
        side, rows = self.store.tile, self.store.block_rows
        stored = np.frombuffer(data[:-CHECKSUM_BYTES], self.store.dtype.newbyteorder("<"))
        return stored.reshape(side, side)[: rows[i].num_rows, : rows[j].num_rows]

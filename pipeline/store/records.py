"""Completion records: which block rows are stored, and what exactly was stored.

A record is a Zarr group ``records/000012`` whose attributes say what block row 12
wrote. It is one small object, put in place at once after all tiles of its block
row, so a record implies the data; and it lists a checksum of every stored
object, so that a tile that was damaged later is found.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, FiniteFloat

from hessian_tasks.spec import BlockRow
from pipeline.store.places import Location
from pipeline.store.seal import SEAL, group_json, is_sealed

__all__ = ["GROUP", "BlockRecord", "Statistics", "record_key"]

GROUP = "records"
# Entries that are looked at several times while they are in the processor's cache.
STRIP_BYTES = 256 * 2**10


@dataclass(frozen=True)
class Statistics:
    """A block row's share of the quantities that need every entry.

    Entries right of the diagonal tile count twice, for their transposes.

    Attributes:
        trace: Sum of its diagonal entries.
        squares: Sum of squared entries; their total is ``‖H‖_F²``.
        max_abs: Largest absolute entry.
    """

    trace: FiniteFloat
    squares: FiniteFloat
    max_abs: FiniteFloat

    @classmethod
    def of_tile(cls, entries: npt.NDArray[Any], diagonal: bool) -> Statistics:
        """What one of its tiles adds to them.

        Example:
            >>> tiles = np.array([[1.0, 2.0], [2.0, 5.0]]), np.array([[3.0], [0.0]])
            >>> Statistics.total([Statistics.of_tile(tiles[0], True),
            ...                   Statistics.of_tile(tiles[1], False)])
            Statistics(trace=6.0, squares=52.0, max_abs=5.0)
        """
        if diagonal:
            return cls.of(entries)
        strips = _strips(entries)
        squares = 2 * sum(map(_squares, strips))
        return cls(0.0, squares, float(np.max(list(map(_largest, strips)))))

    @classmethod
    def total(cls, parts: Sequence[Statistics]) -> Statistics:
        """Those of all of its tiles."""
        return cls(
            trace=math.fsum(part.trace for part in parts),
            squares=math.fsum(part.squares for part in parts),
            max_abs=float(np.max([part.max_abs for part in parts])),
        )

    def agree(self, found: Statistics) -> bool:
        """Whether they are the same up to the order of summation.

        Sums of n numbers differ by at most n eps times the sum of their sizes, which for the
        largest block rows stays below 1e-8.
        """
        scale = math.sqrt(found.squares)
        return (
            self.max_abs == found.max_abs
            and math.isclose(self.squares, found.squares, rel_tol=1e-8)
            and math.isclose(self.trace, found.trace, rel_tol=0.0, abs_tol=1e-8 * scale)
        )

    @classmethod
    def of(cls, block: npt.NDArray[Any]) -> Statistics:
        """Of a block row ``[rows, P - start]``, summed in float64.

        Example:
            >>> Statistics.of(np.array([[1.0, 2.0, 3.0], [2.0, 5.0, 0.0]]))
            Statistics(trace=6.0, squares=52.0, max_abs=5.0)
        """
        side, strips = len(block), _strips(block)
        squares = [_squares(strip[:, :side]) + 2 * _squares(strip[:, side:]) for strip in strips]
        return cls(
            trace=float(np.trace(block, dtype=np.float64)),
            squares=float(np.sum(squares)),
            max_abs=float(np.max(list(map(_largest, strips)))),
        )


@dataclass(frozen=True)
class BlockRecord:
    """What is known of a stored block row.

    Attributes:
        row: The block row.
        checksums: CRC-32C of the contents of every stored object, by its key in the store.
        statistics: By array name.
        engine: Name of the engine that computed it.
        compute_seconds: Time in the engine.
        store_seconds: Time to encode and write.
        peak_bytes: Largest resident memory of the process up to then.
        template: Which store it belongs to, see
            :attr:`~pipeline.store.store.HessianStore.template`; None in those from before.
    """

    row: BlockRow
    checksums: Mapping[str, int]
    statistics: Mapping[str, Statistics]
    engine: str
    compute_seconds: FiniteFloat
    store_seconds: FiniteFloat
    peak_bytes: int
    template: int | None = None

    def save(self, location: Location) -> None:
        """Put the record in place, as one object."""
        location.write(f"{record_key(self.row)}/zarr.json", group_json(asdict(self)))

    @classmethod
    def from_json(cls, data: bytes) -> BlockRecord:
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: If it is no record, or not as it was written.
        """
        found = _Group.model_validate_json(data, strict=True).attributes
        attributes = json.loads(data)["attributes"]
        if (SEAL in attributes or found.template is not None) and not is_sealed(attributes):
            raise ValueError("the record is not as it was written")
        return found


class _Group(BaseModel):
    attributes: BlockRecord


def _strips(block: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    height = max(1, STRIP_BYTES // block[0].nbytes)
    return [block[start : start + height] for start in range(0, len(block), height)]


def _largest(entries: npt.NDArray[Any]) -> Any:
    # NaN wins.
    return np.maximum(entries.max(), -entries.min())


def _squares(entries: npt.NDArray[Any]) -> float:
    flat = entries.astype(np.float64, copy=False).reshape(-1)
    return float(np.dot(flat, flat))


def record_key(row: BlockRow) -> str:
    """Where the record of a block row is.

    Example:
        >>> record_key(BlockRow(12, 1200, 1300))
        'records/000012'
    """
    return f"{GROUP}/{row.index:06d}"

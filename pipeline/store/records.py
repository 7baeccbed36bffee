"""Completion records: which block rows are stored, and what exactly was stored.

A record is a Zarr group ``records/000012`` whose attributes say what block row 12
wrote. It is one small object, put in place at once after all tiles of its block
row, so a record implies the data; and it lists a checksum of every stored
object, so that a tile that was damaged later is found.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, FiniteFloat

from hessian_tasks.spec import BlockRow
from pipeline.store.places import Location

__all__ = ["GROUP", "BlockRecord", "Statistics", "group_json", "record_key"]

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
    def of(cls, block: npt.NDArray[Any]) -> Statistics:
        """Of a block row ``[rows, P - start]``, summed in float64.

        Example:
            >>> Statistics.of(np.array([[1.0, 2.0, 3.0], [2.0, 5.0, 0.0]]))
            Statistics(trace=6.0, squares=52.0, max_abs=5.0)
        """
        side = len(block)
        height = max(1, STRIP_BYTES // block[0].nbytes)
        strips = [block[start : start + height] for start in range(0, side, height)]
        # NaN wins.
        largest = [np.maximum(strip.max(), -strip.min()) for strip in strips]
        squares = [_squares(strip[:, :side]) + 2 * _squares(strip[:, side:]) for strip in strips]
        return cls(
            trace=float(np.trace(block, dtype=np.float64)),
            squares=float(np.sum(squares)),
            max_abs=float(np.max(largest)),
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
    """

    row: BlockRow
    checksums: Mapping[str, int]
    statistics: Mapping[str, Statistics]
    engine: str
    compute_seconds: FiniteFloat
    store_seconds: FiniteFloat
    peak_bytes: int

    def save(self, location: Location) -> None:
        """Put the record in place, as one object."""
        location.write(f"{record_key(self.row)}/zarr.json", group_json(asdict(self)))

    @classmethod
    def from_json(cls, data: bytes) -> BlockRecord:
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: If it is no record.
        """
        return _Group.model_validate_json(data, strict=True).attributes


class _Group(BaseModel):
    attributes: BlockRecord


def _squares(entries: npt.NDArray[Any]) -> float:
    flat = entries.astype(np.float64).reshape(-1)
    return float(np.dot(flat, flat))


def record_key(row: BlockRow) -> str:
    """Where the record of a block row is.

    Example:
        >>> record_key(BlockRow(12, 1200, 1300))
        'records/000012'
    """
    return f"{GROUP}/{row.index:06d}"


def group_json(attributes: Mapping[str, Any]) -> bytes:
    """The metadata of a Zarr group (Zarr v3 specification, section "Group metadata")."""
    group = {"attributes": attributes, "zarr_format": 3, "node_type": "group"}
    return json.dumps(group, indent=2).encode()

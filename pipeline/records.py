"""Completion records: which block rows are stored, and what exactly was stored.

A record is a Zarr group ``records/000012`` whose attributes say what block row 12
wrote. It is one small object, put in place by a rename after all tiles of its block
row, so a record implies the data; and it lists a checksum of every stored
object, so that a tile that was damaged later is found.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from hessian_tasks.spec import BlockRow
from pipeline.retrying import RetryingFiles

__all__ = ["BlockRecord", "Statistics", "checksum", "damaged_objects"]

GROUP = "records"


@dataclass(frozen=True)
class Statistics:
    """A block row's share of the quantities that need every entry.

    Entries right of the diagonal tile count twice, for their transposes.

    Attributes:
        trace: Sum of its diagonal entries.
        squares: Sum of squared entries; their total is ``‖H‖_F²``.
        max_abs: Largest absolute entry.
    """

    trace: float
    squares: float
    max_abs: float

    @classmethod
    def of(cls, block: npt.NDArray[Any]) -> Statistics:
        """Of a block row ``[rows, P - start]``, summed in float64.

        Example:
            >>> Statistics.of(np.array([[1.0, 2.0, 3.0], [2.0, 5.0, 0.0]]))
            Statistics(trace=6.0, squares=52.0, max_abs=5.0)
        """
        side = len(block)
        squares = np.einsum("ij,ij->j", block, block, dtype=np.float64)
        return cls(
            trace=float(np.trace(block, dtype=np.float64)),
            squares=float(squares[:side].sum() + 2 * squares[side:].sum()),
            # NaN wins; the absolute values of all entries would be a copy of the block.
            max_abs=float(np.maximum(block.max(), -block.min())),
        )


@dataclass(frozen=True)
class BlockRecord:
    """What is known of a stored block row.

    Attributes:
        row: The block row.
        checksums: CRC-32 of every stored object, by its key in the store.
        statistics: By array name.
        engine: Name of the engine that computed it.
        compute_seconds: Time in the engine.
        store_seconds: Time to encode, write and read back.
        peak_bytes: Largest resident memory of the process up to then.
    """

    row: BlockRow
    checksums: Mapping[str, int]
    statistics: Mapping[str, Statistics]
    engine: str
    compute_seconds: float
    store_seconds: float
    peak_bytes: int

    def save(self, root: Path) -> None:
        """Put the record in place, as one object, by rename."""
        zarr.create_group(
            RetryingFiles(root),
            path=f"{GROUP}/{self.row.index:06d}",
            attributes=asdict(self),
            zarr_format=3,
            overwrite=True,
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BlockRecord:
        """Read what :meth:`save` wrote.

        Raises:
            KeyError, TypeError: If it is no record.
        """
        fields = dict(data)
        fields["row"] = BlockRow(**fields["row"])
        fields["statistics"] = {k: Statistics(**s) for k, s in fields["statistics"].items()}
        return cls(**fields)


def checksum(path: Path) -> int:
    """CRC-32 of a stored object.

    Raises:
        OSError: If it cannot be read.
    """
    return zlib.crc32(path.read_bytes())


def damaged_objects(root: Path, records: Iterable[BlockRecord]) -> dict[str, BlockRow]:
    """Find stored objects that are missing or whose checksum differs.

    Returns:
        Keys of the damaged objects, with the block row that wrote each.
    """
    damaged = {}
    for record in records:
        for key, expected in record.checksums.items():
            path = root / key
            if not path.is_file() or checksum(path) != expected:
                damaged[key] = record.row
    return damaged

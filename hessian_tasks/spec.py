"""The unit of work: one block row of the Hessian."""

from dataclasses import dataclass

__all__ = ["BlockRow"]


@dataclass(frozen=True, order=True)
class BlockRow:
    """Rows ``[start, stop)`` of the Hessian: the unit of work and of retry.

    Attributes:
        index: Position among the block rows, from 0; also the tile row.
        start: First row, a multiple of the tile side.
        stop: One past the last row.

    Example:
        >>> row = BlockRow(index=2, start=128, stop=192)
        >>> row.num_rows, str(row)
        (64, 'block row 2 (rows 128 to 191)')
    """

    index: int
    start: int
    stop: int

    @property
    def num_rows(self) -> int:
        """Number of rows, ``stop - start``."""
        return self.stop - self.start

    def __str__(self) -> str:
        return f"block row {self.index} (rows {self.start} to {self.stop - 1})"

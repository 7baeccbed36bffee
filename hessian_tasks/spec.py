"""The unit of work, one block row of the Hessian, and the names of what computes it."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["BlockRow", "EngineChoice", "EngineName"]

EngineName = Literal["auto", "layered", "autodiff"]


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


@dataclass(frozen=True)
class EngineChoice:
    """Which engine computes a Hessian, and why it is that one.

    Attributes:
        name: Name of the engine.
        reason: What the layered engine does not take; empty if it takes everything.
    """

    name: EngineName
    reason: str

"""How the matrices of a store are cut: into square tiles, and block rows of these."""

from __future__ import annotations

from dataclasses import dataclass

from hessian_tasks.spec import BlockRow

__all__ = ["MAX_BLOCK_ROWS", "MAX_TILE_BYTES", "Tiling", "residual_chunk", "split_rows"]

# Tiles below 1 MiB cost more in file operations than in bytes, tiles above 16 MiB
# in memory; measured on a local disk at P = 12,288.
MAX_TILE_BYTES = 16 * 2**20
# As many squared are the files of a matrix: what no run plans, no store is believed to have.
MAX_BLOCK_ROWS = 10_000


@dataclass(frozen=True)
class Tiling:
    """Which matrices a store has, and how they are cut.

    Attributes:
        tile: Side of a tile.
        per_term: Whether every loss term has a matrix of its own beside the total.
    """

    tile: int
    per_term: bool = False


def split_rows(num_params: int, tile: int) -> list[BlockRow]:
    """Cut ``[0, P)`` into block rows of ``tile`` rows; the last may be shorter.

    Example:
        >>> [str(row) for row in split_rows(10, 4)]
        ['block row 0 (rows 0 to 3)', 'block row 1 (rows 4 to 7)', \
'block row 2 (rows 8 to 9)']
    """
    starts = range(0, num_params, tile)
    return [BlockRow(i, s, min(s + tile, num_params)) for i, s in enumerate(starts)]


def residual_chunk(num_residuals: int, tile: int, itemsize: int) -> int:
    """Rows of a chunk of a Jacobian, whose columns are those of a tile.

    Example:
        >>> residual_chunk(1000, 896, 4), residual_chunk(10**6, 896, 4)
        (1000, 4681)
    """
    return min(num_residuals, max(1, MAX_TILE_BYTES // (tile * itemsize)))

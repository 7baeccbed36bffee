"""Trace and Frobenius norm of a stored matrix, from its tiles, compared with its records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from pipeline.analysis._tiles import Tile, TiledMatrix, complete_matrix, map_shares
from pipeline.errors import StoreError
from pipeline.store.records import Statistics
from pipeline.store.store import HessianStore

__all__ = ["exact_sums"]


def exact_sums(store: HessianStore, term: str | None = None) -> tuple[float, float]:
    """The trace and the Frobenius norm of a complete matrix, from one pass over half of it.

    Args:
        store: The store.
        term: A loss term's matrix instead of the total's.

    Raises:
        StoreError: If block rows are missing or damaged, or are recorded with other sums.
    """
    opened, matrix = complete_matrix(store, term)
    parts = defaultdict(list)
    for share in map_shares(_by_block_row, matrix.upper(), matrix=matrix):
        for index, statistics in share:
            parts[index].append(statistics)
    found = {index: Statistics.total(own) for index, own in parts.items()}
    records = opened.records()
    wrong = [str(i) for i in found if not records[i].statistics[matrix.name].agree(found[i])]
    if wrong:
        raise StoreError(
            f"Block rows {', '.join(wrong)} of {opened.location}/{matrix.name} are recorded with "
            f"other sums than their tiles have. {opened.advice}"
        )
    total = Statistics.total(list(found.values()))
    return total.trace, float(np.sqrt(total.squares))


def _by_block_row(tiles: Sequence[Tile], matrix: TiledMatrix) -> list[tuple[int, Statistics]]:
    return [
        (row.index, Statistics.of_tile(matrix.read(row, col), row == col)) for row, col in tiles
    ]

"""Shards: the parts of a sum over points, each a product of its own.

A residual term's loss is a sum over points, and so are its derivatives, that the products of
all shards add up to the product of the whole:

    H V = Σ over shards of H_shard V.

A :class:`~hessian_tasks.problem.LossTerm` has no points that could be told apart; it is one shard,
unless it is declared ``batched``: then the examples of its data are its points.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

__all__ = ["MAX_BATCH", "Shard", "cut"]

MAX_BATCH = 256
"""Points, or examples, that are computed at once."""


@dataclass(frozen=True)
class Shard:
    """Points ``[start, stop)`` of one loss term.

    Attributes:
        term: Name of the term.
        start: First point.
        stop: One past the last point.
        batch: How many points are computed at once; it bounds memory.
    """

    term: str
    start: int
    stop: int
    batch: int

    @property
    def num_points(self) -> int:
        """Number of points."""
        return self.stop - self.start

    def batches(self) -> list[tuple[int, int]]:
        """The points computed at once, ``[start, stop)`` each; the last may be fewer.

        Example:
            >>> Shard("pde", 4, 9, batch=2).batches()
            [(4, 6), (6, 8), (8, 9)]
        """
        starts = range(self.start, self.stop, self.batch)
        return [(start, min(start + self.batch, self.stop)) for start in starts]

    def head(self) -> Shard:
        """The first batch alone."""
        return replace(self, stop=min(self.start + self.batch, self.stop))

    def __str__(self) -> str:
        return f"points {self.start} to {self.stop - 1} of term {self.term!r}"


def cut(term: str, num_points: int, max_batch: int, num_shards: int) -> list[Shard]:
    """Cut a term into shards of whole batches, as equal as can be.

    Args:
        term: Name of the term.
        num_points: Its number of points.
        max_batch: Largest number of points to compute at once.
        num_shards: Number of shards; there are fewer if there are not as many batches.

    Example:
        >>> for shard in cut("pde", 10, max_batch=4, num_shards=2):
        ...     print(shard, shard.batches())
        points 0 to 7 of term 'pde' [(0, 4), (4, 8)]
        points 8 to 9 of term 'pde' [(8, 10)]
    """
    num_batches = -(-num_points // max_batch)
    batch = -(-num_points // num_batches)
    num_shards = min(num_shards, num_batches)
    edges = [-(-i * num_batches // num_shards) * batch for i in range(num_shards + 1)]
    edges = [min(edge, num_points) for edge in edges]
    parts = pairwise(edges)
    return [Shard(term, start, stop, batch) for start, stop in parts if start < stop]

"""Which kernel rows a block row needs: a block row may cut a layer anywhere."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hessian_tasks.layered.expand.network import Array
from hessian_tasks.layered.multiply.pairs import SitePair
from hessian_tasks.layered.read.program import Program
from hessian_tasks.spec import BlockRow

__all__ = ["slabs"]


class Slab:
    """Whole kernel rows of one site, and the columns from the first of them on.

    Attributes:
        entries: ``[rows, P - start]``.
        start: Index in θ of the first row.
    """

    def __init__(
        self, program: Program, wire: int, rows: range, block: Array, row: BlockRow
    ) -> None:
        """Take the place in the block where all of it belongs there, else memory of its own.

        Args:
            program: The network.
            wire: The site.
            rows: Rows of its kernel.
            block: The block row's entries ``[rows, P - row.start]``, zeros here.
            row: The block row.
        """
        self._program = program
        self._wire = wire
        self._rows = rows
        site = program.site(wire)
        self.start = site.offset + rows.start * site.width
        self.stop = self.start + len(rows) * site.width
        self._inside = row.start <= self.start and self.stop <= row.stop
        if self._inside:
            own = slice(self.start - row.start, self.stop - row.start)
            self.entries = block[own, own.start :]
        else:
            num_columns = row.start + block.shape[1] - self.start
            self.entries = np.zeros((self.stop - self.start, num_columns), block.dtype)

    def targets(self) -> Iterator[tuple[Array, SitePair]]:
        """The pairs of sites, each with the view ``[i, j, k, p]`` of its entries.

        The first of a pair is the one that is probed: if one of them is downstream of the other,
        the one nearer to the points.
        """
        site = self._program.site(self._wire)
        for other in self._program.sites:
            second = self._program.site(other)
            if second.offset < site.offset:
                continue
            columns = range(self._rows.start if other == self._wire else 0, second.num_rows)
            start = second.offset + columns.start * second.width - self.start
            view = self.entries[:, start : second.stop - self.start].reshape(
                len(self._rows), site.width, len(columns), second.width
            )
            if self._program.probed(self._wire, other) != self._wire:
                yield view.transpose(2, 3, 0, 1), SitePair(other, columns, self._wire, self._rows)
            else:
                yield view, SitePair(self._wire, self._rows, other, columns)

    def copy_to(self, block: Array, row: BlockRow) -> None:
        """Complete the rows of the block row ``[rows, P - row.start]``.

        Columns before the slab's own are rows of the same block row, mirrored.
        """
        top, bottom = max(row.start, self.start), min(row.stop, self.stop)
        own = slice(top - row.start, bottom - row.start)
        before = max(0, self.start - row.start)
        if not self._inside:
            rows = self.entries[top - self.start : bottom - self.start]
            block[own, before:] = rows[:, max(0, row.start - self.start) :]
        block[own, :before] = block[:before, own].T


def slabs(program: Program, row: BlockRow, block: Array) -> Iterator[Slab]:
    """The slabs that a block row consists of, in order."""
    for wire in program.sites:
        site = program.site(wire)
        start = max(row.start, site.offset) - site.offset
        stop = min(row.stop, site.stop) - site.offset
        if start < stop:
            rows = range(start // site.width, -(-stop // site.width))
            yield Slab(program, wire, rows, block, row)

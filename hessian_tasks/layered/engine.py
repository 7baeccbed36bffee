"""Block rows of the Hessian by layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from hessian_tasks.autodiff import AutodiffEngine
from hessian_tasks.layered.contract import SitePair, add_curvature, add_rows, mirror
from hessian_tasks.layered.expansion import Expansion, expand_term
from hessian_tasks.layered.network import Array, Network
from hessian_tasks.layered.program import Program
from hessian_tasks.layered.reader import read_program
from hessian_tasks.layered.tangents import Tangents
from hessian_tasks.models import dtype_of, get_theta, parameter_layout
from hessian_tasks.problem import Problem, ResidualTerm
from hessian_tasks.spec import BlockRow

__all__ = ["LayeredEngine"]

POINT_BATCH = 256


class LayeredEngine:
    """Computes block rows of the Hessian from per-point tangents at the layers.

    Everything that is compiled is compiled here, once; block rows are NumPy alone. Safe to share
    between threads.
    """

    name = "layered"

    def __init__(self, problem: Problem) -> None:
        """Read the network and expand every residual term around θ.

        Args:
            problem: The problem, its model resolved to a Keras model.

        Raises:
            NotLayeredError: If the network or a residual is not of the kind that this engine
                takes; the message says what it found.
        """
        self.problem = problem
        self.layout = parameter_layout(problem.model)
        self.dtype = np.dtype(dtype_of(problem.model))
        self.point_batch = POINT_BATCH
        theta = get_theta(problem.model).astype(self.dtype)
        program = read_program(problem.model, len(problem.coordinates))
        self._network = Network(program, theta, len(problem.coordinates))
        self._pairs = _SitePairs(program)
        self._expansions = {
            term.name: expand_term(problem, self._network, term)
            for term in problem.terms
            if isinstance(term, ResidualTerm)
        }

    def block_row(
        self,
        row: BlockRow,
        term: str | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> npt.NDArray[Any]:
        """Rows ``[start, stop)`` of the Hessian, columns from ``start`` on.

        Args:
            row: The block row.
            term: Name of one loss term, or None for the total loss.
            check: Called before each batch of points; may raise to abandon the block row.

        Returns:
            Array ``[rows, P - start]`` in the model's dtype.
        """
        expansions = [e for name, e in self._expansions.items() if term in (None, name)]
        block = np.zeros((row.num_rows, self.layout.num_params - row.start), self.dtype)
        for wire in self._pairs.sites:
            rows = self._pairs.rows(wire, row)
            if rows:
                self._add_site(block, row, wire, rows, expansions, check)
        return block

    def _add_site(self, block, row, wire, rows, expansions, check):
        site = self._network.program.site(wire)
        first_row = site.offset + rows.start * site.width
        slab = np.zeros((len(rows) * site.width, self.layout.num_params - first_row), self.dtype)
        for expansion in expansions:
            self._fill(slab, expansion, wire, rows, check)
        start, stop = max(row.start, first_row), min(row.stop, first_row + len(slab))
        part = slab[start - first_row : stop - first_row, max(0, row.start - first_row) :]
        columns = max(0, first_row - row.start)
        block[start - row.start : stop - row.start, columns:] = part
        if columns:
            block[start - row.start : stop - row.start, :columns] = block[:columns, start - row.start : stop - row.start].T

    def _fill(self, slab, expansion, wire, rows, check):
        program = self._network.program
        site = program.site(wire)
        first_row = site.offset + rows.start * site.width
        targets = []
        for other in self._pairs.sites:
            second = program.site(other)
            if second.offset < site.offset:
                continue
            columns = range(rows.start if other == wire else 0, second.num_rows)
            c0 = second.offset + columns.start * second.width - first_row
            view = slab[:, c0 : second.stop - first_row].reshape(len(rows), site.width, len(columns), second.width)
            if wire in self._pairs.upstream[other] or other == wire or other not in self._pairs.upstream[wire]:
                targets.append((view, SitePair(wire, rows, other, columns)))
            else:
                targets.append((view.transpose(2, 3, 0, 1), SitePair(other, columns, wire, rows)))
        for start in range(0, expansion.num_points, self.point_batch):
            check()
            points = slice(start, min(start + self.point_batch, expansion.num_points))
            tangents = {}
            for view, pair in targets:
                if pair.first not in tangents:
                    tangents[pair.first] = Tangents(expansion, pair.first, points)
                add_curvature(view, tangents[pair.first], pair)
                add_rows(view, expansion, pair, points)
        for view, pair in targets:
            if pair.same:
                mirror(view)


class _SitePairs:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.sites = program.sites
        self.upstream = {wire: program.upstream(wire) for wire in self.sites}

    def rows(self, wire, row):
        site = self.program.site(wire)
        start = max(row.start, site.offset) - site.offset
        stop = min(row.stop, site.stop) - site.offset
        return range(start // site.width, -(-stop // site.width)) if start < stop else range(0)

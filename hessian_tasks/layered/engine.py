"""Block rows of the Hessian by layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hessian_tasks.autodiff.engine import AutodiffEngine, trial_rows
from hessian_tasks.devices import DevicePool
from hessian_tasks.errors import NotLayeredError
from hessian_tasks.layered.expand.network import Network
from hessian_tasks.layered.expand.terms import TermExpansion, expand_term
from hessian_tasks.layered.multiply.contract import Contraction
from hessian_tasks.layered.multiply.cuts import slabs
from hessian_tasks.layered.multiply.products import mirror
from hessian_tasks.layered.multiply.workspace import Workspace
from hessian_tasks.layered.xla.compiled import CompiledContraction
from hessian_tasks.networks.models import dtype_of, parameter_layout
from hessian_tasks.problem import Problem
from hessian_tasks.reading import Reading, read_terms
from hessian_tasks.spec import BlockRow

__all__ = ["LayeredEngine"]

# Up to this width, by bytes of a number, a call of BLAS for the small matrix of each point takes
# longer than loops over the points do: in float32 these take nine tenths of the time at width 12,
# two thirds at 10. In float64 loops are half as fast, and gain nothing.
SMALL_WIDTHS = {4: 12, 8: 0}


class LayeredEngine:
    """Computes block rows of the Hessian from per-point tangents at the layers.

    Everything that is compiled is compiled here, once; block rows then are NumPy alone, but for
    those terms that only automatic differentiation can take. Safe to share between threads.

    A batched loss is expanded as one over all of its examples: streams are kept for all points.

    Attributes:
        devices: The devices that do the products; none where NumPy does.
        network: The networks, read.
        left_out: The terms that are left to automatic differentiation, and why.
        readings: What the other terms depend on, in words.
        point_streams: Points times streams, of all of these together: the rank-one updates that
            an entry takes.
        points_last: Whether NumPy's arrays have the points last in memory: if all layers are
            narrow, and calls for each point dear.

    Example:
        >>> import keras, numpy as np
        >>> from hessian_tasks import BlockRow, Problem, ResidualTerm
        >>> net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> fit = ResidualTerm("fit", [[1.0], [3.0]], lambda x, u: u.value)
        >>> engine = LayeredEngine(Problem(net, [fit], coordinates="x"))
        >>> engine.block_row(BlockRow(0, 0, 2))  # mean of 2 (x, 1)ᵀ(x, 1)
        array([[10.,  4.],
               [ 4.,  2.]], dtype=float32)
    """

    name = "layered"

    def __init__(
        self,
        problem: Problem,
        devices: DevicePool | None = None,
        readings: Sequence[Reading] | None = None,
    ) -> None:
        """Read the network and expand every term around θ.

        Args:
            problem: The problem, its model resolved to a Keras model.
            devices: The devices that do the products, compiled by XLA; by default NumPy does
                them. Each slab of a block row takes a free one.
            readings: All of its terms, if they are read already.

        Raises:
            NotLayeredError: If the network, or every term, is not of the kind that this engine
                takes; the message says what it found.
        """
        self.problem = problem
        self.devices = devices or DevicePool()
        self.layout = parameter_layout(problem.model)
        self.dtype = np.dtype(dtype_of(problem.model))
        self.network = Network.of(problem)
        self._program = self.network.program
        widths = [self._program.widths[wire] for wire in self._program.sites]
        self.points_last = max(widths, default=0) <= SMALL_WIDTHS[self.dtype.itemsize]
        self.left_out: dict[str, str] = {}
        self.readings: dict[str, str] = {}
        expansions: dict[str, TermExpansion] = {}
        for reading in readings or read_terms(problem):
            name = reading.term.name
            try:
                expansions[name] = expand_term(self.network, reading)
            except NotLayeredError as error:
                self.left_out[name] = str(error)
            else:
                self.readings[name] = reading.words
        if not expansions:
            raise NotLayeredError("; ".join(f"term {k!r} {v}" for k, v in self.left_out.items()))
        parts = [part for expansion in expansions.values() for part in expansion.parts]
        self.point_streams = sum(part.num_points * part.num_streams for part in parts)
        self._contractions = {
            device: self._contract(expansions, device) for device in self.devices.names or (None,)
        }
        self._borders = {n: e.border for n, e in expansions.items() if e.border is not None}
        self._others: AutodiffEngine | None = None
        others = [term for term in problem.terms if term.name in self.left_out]
        if others:
            self._others = AutodiffEngine(replace(problem, terms=others), devices=self.devices)

    def _contract(
        self, expansions: dict[str, TermExpansion], device: str | None
    ) -> dict[str, list[Contraction | CompiledContraction]]:
        workspace = Workspace(self.dtype, self.points_last)
        return {
            term: [
                Contraction(e, workspace) if device is None else CompiledContraction(e, device)
                for e in expansion.parts
            ]
            for term, expansion in expansions.items()
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

        Raises:
            ProblemError: If there is no such term.
        """
        terms = [t.name for t in self.problem.terms if t.name not in self.left_out]
        if self._others is not None and (term is None or term not in terms):
            block = self._others.block_row(row, term, check)
        else:
            block = np.zeros((row.num_rows, self.layout.num_params - row.start), self.dtype)
        chosen = [name for name in terms if term in (None, name)]
        if not chosen:
            return block
        layered = np.zeros_like(block) if self._others is not None else block
        for slab in slabs(self._program, row, layered):
            targets = list(slab.targets())
            with self.devices.take() as device:
                for name in chosen:
                    for contraction in self._contractions[device][name]:
                        contraction.add(targets, check)
            for entries, pair in targets:
                if pair.same:
                    mirror(entries)
            slab.copy_to(layered, row)
        for border in (self._borders[name] for name in chosen if name in self._borders):
            border.add_to(layered, row)
        if layered is not block:
            block += layered
        return block

    def forget(self) -> None:
        """Drop the tangents that are kept between block rows; the next ones compute them anew."""
        for terms in self._contractions.values():
            for contraction in (part for parts in terms.values() for part in parts):
                contraction.forget()

    @property
    def kept_bytes(self) -> tuple[int, int]:
        """Bytes of tangents that threads share: now, and at most once the trial rows are done."""
        parts = [part for parts in self._contractions.values() for part in parts]
        kept = [part.kept_bytes for part in parts if isinstance(part, Contraction)]
        return sum(now for now, _ in kept), sum(most for _, most in kept)

    def trial_rows(self) -> list[BlockRow]:
        """A few rows that are typical of the whole: of the first site, then of the largest."""
        sites = [self._program.site(wire) for wire in self._program.sites]
        if not sites:  # nothing but parameters beside a network that is held fixed
            return trial_rows(self.layout.num_params, 1, 3)
        largest = max(sites, key=lambda site: site.num_rows * site.width)
        chosen = [(sites[0], 1), (largest, 1), (largest, min(3, largest.num_rows))]
        return [BlockRow(0, s.offset, s.offset + rows * s.width) for s, rows in chosen]

    @property
    def tile_multiple(self) -> int:
        """Rows of the Hessian that are computed together: those of one row of the largest kernel.

        A block row that ends between them has them computed once more by the next.
        """
        sites = [self._program.site(wire) for wire in self._program.sites]
        return max(sites, key=lambda site: site.num_rows * site.width).width if sites else 1

    def num_graphs(self, per_term: bool) -> int:
        """Number of graphs that a run compiles, each about as large as the first."""
        return self._others.num_graphs(per_term) if self._others is not None else 1

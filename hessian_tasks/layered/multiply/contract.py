"""From tangents to entries: which matrix products make up the Hessian.

The entries between the weights of site l and those of site m are sums over points and streams
of products

    A_l[n,s,i] · B[n,t,a] · T[n,s,t,j,b],

with B = A_m and T = ∂G_m/∂E_l for the first part (a = k, b = p) and B = G_m, T = ∂A_m/∂E_l for
the second (a = p, b = k). One matrix product ``[i·a, pairs·n] × [pairs·n, j·b]`` does each,
where the pairs (s, t) are those whose T is not zero. The left factor is a product of
numbers and small; no larger intermediate is formed.

Where T comes from the curvature of the activation behind m alone, and l is the site before m, it is
a product itself, and the sum over the pairs falls apart into S small factors on either side:
one matrix product ``[i·j, S·n] × [S·n, k·p]``, scaled by the kernel W_m[j,p].

Points are cut into batches deep enough for products to run at full speed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from hessian_tasks.layered.expand.expansion import Expansion
from hessian_tasks.layered.expand.network import Array
from hessian_tasks.layered.expand.rows import RowFactors, times_inputs
from hessian_tasks.layered.multiply._buffered import BufferedTangents
from hessian_tasks.layered.multiply._factored import Factored
from hessian_tasks.layered.multiply._probe import Job, Prober
from hessian_tasks.layered.multiply.pairs import Combinations, PairKind, SitePair, find_kinds
from hessian_tasks.layered.multiply.products import FACTOR_BYTES, Outer, Products, batches
from hessian_tasks.layered.multiply.tangents import Moving, Tangents, present
from hessian_tasks.layered.multiply.workspace import Workspace

__all__ = ["Contraction"]

# Rows of the factors of a product; with fewer, the time to add products up shows.
PRODUCT_DEPTH = 4096


@dataclass(frozen=True)
class _Target:
    """Entries ``[i, j, k, p]`` of a pair of sites, and what is added to them."""

    entries: Array
    pair: SitePair
    kind: PairKind


@dataclass(frozen=True)
class _Factors:
    """Cotangents L and R ``[r, n, S, width]`` at some points, and the inputs that they go with."""

    inputs: Mapping[int, Array]
    points: slice
    left: Array
    right: Array
    scale: Array | None = None


class Contraction:
    """Adds one term of the loss to entries of the Hessian."""

    def __init__(self, expansion: Expansion, workspace: Workspace) -> None:
        """Take the term, and find the kinds of its pairs of sites.

        Args:
            expansion: The term around θ.
            workspace: Buffers for all threads.
        """
        self._expansion = expansion
        self._widths = expansion.network.program.widths
        self._workspace = workspace
        self._products = Products(workspace)
        self._kinds = find_kinds(expansion)
        self._prober = Prober(expansion, self._products, workspace)

    def add(self, targets: Iterable[tuple[Array, SitePair]], check: Callable[[], None]) -> None:
        """Add the term to entries.

        Args:
            targets: Views ``[i, j, k, p]`` of the Hessian, each with its pair of sites; of a pair
                of one site with itself only ``k >= i`` becomes right.
            check: Called before each batch of points; may raise.
        """
        chosen = [_Target(e, pair, self._kinds[pair.first, pair.second]) for e, pair in targets]
        num_points = self._expansion.num_points
        if self._expansion.rows is not None:
            self._add_rows(chosen, self._expansion.rows, check)
        for points in batches(num_points, PRODUCT_DEPTH // self._expansion.num_streams):
            check()
            for site in dict.fromkeys(target.pair.first for target in chosen):
                self._add_curvature([t for t in chosen if t.pair.first == site], site, points)

    def forget(self) -> None:
        """Drop the tangents that are kept between block rows."""
        self._prober.forget()

    @property
    def kept_bytes(self) -> tuple[int, int]:
        """Bytes kept between block rows: now, and at most once the largest site was cut."""
        return self._prober.kept_bytes

    def _add_rows(
        self, targets: list[_Target], rows: RowFactors, check: Callable[[], None]
    ) -> None:
        """The first part of H: a product of matrices with ρ rows a point."""
        rank, num_points = rows.signs.shape
        for points in batches(num_points, PRODUCT_DEPTH // max(1, rank)):
            check()
            for target in targets:
                left = rows.cotangents[target.pair.first][:, points]
                right = rows.cotangents[target.pair.second][:, points]
                if left.any() and right.any():
                    signs = rows.signs[:, points, None, None]
                    factors = _Factors(rows.inputs, points, signs * left, right)
                    self._add_factored(target, factors)

    def _add_curvature(self, targets: list[_Target], site: int, points: slice) -> None:
        """The second part of H, for one probe: cotangents times second derivatives."""
        width = self._widths[site]
        whole = BufferedTangents(self._expansion, site, points, slice(0, width), self._workspace)
        for target in targets:
            if target.kind.separable:
                self._add_separable(target, whole, target.kind.separable)
        diagonal = [job for t in targets for job in self._jobs(t, points, diagonal=True)]
        self._prober.add_diagonal(diagonal, whole)
        whole.release()
        dense = [job for t in targets for job in self._jobs(t, points, diagonal=False)]
        self._prober.add_dense(dense, site, points)

    def _add_separable(
        self, target: _Target, tangents: Tangents, bends: Mapping[tuple[int, int], Array]
    ) -> None:
        expansion, points, second = self._expansion, tangents.points, target.pair.second
        source = expansion.network.program.inputs(second)[0]
        streams = sorted({between for between, _ in bends})
        shape = (len(streams), points.stop - points.start, expansion.num_streams)
        left = np.zeros((*shape, self._widths[source]), expansion.network.dtype)
        right = np.zeros((*shape, self._widths[second]), expansion.network.dtype)
        for b, between in enumerate(streams):
            for s in range(expansion.num_streams):
                moved = tangents.first(source, s, between)
                if moved is not None:
                    left[b, :, s] = moved
                if (between, s) in bends:
                    right[b, :, s] = bends[between, s][points]
        factors = _Factors(expansion.inputs, points, left, right, expansion.network.kernel(second))
        self._add_factored(target, factors)

    def _add_factored(self, target: _Target, factors: _Factors) -> None:
        """Add ``scale[j,p] Σ_rn (Σ_s A_l[i] L[j]) (Σ_t A_m[k] R[p])``."""
        pair, points = target.pair, factors.points
        take = self._workspace.take
        columns = factors.inputs[pair.first][points, :, _slice(pair.first_rows)]
        left = times_inputs(columns, factors.left, take("left", *_shape(columns, factors.left)))
        column_bytes = len(left) * factors.right.shape[3] * left.itemsize
        for kept in batches(len(pair.second_rows), FACTOR_BYTES // column_bytes):
            columns = factors.inputs[pair.second][points, :, _slice(pair.second_rows[kept])]
            out = take("right", *_shape(columns, factors.right))
            right = times_inputs(columns, factors.right, out)
            corner = kept.start if pair.same else None
            entries = target.entries[:, :, kept]
            self._products.add_outer(entries, left, right, factors.scale, corner)

    def _jobs(self, target: _Target, points: slice, *, diagonal: bool) -> Iterator[Job]:
        """What comes from tangents that are diagonals, or from those that are not."""
        expansion, pair = self._expansion, target.pair
        left = _streams(expansion.inputs[pair.first][points, :, _slice(pair.first_rows)])
        part = len(pair.first_rows) < expansion.network.program.site(pair.first).num_rows
        if bent := target.kind.bent.get(diagonal):
            right = _streams(expansion.inputs[pair.second][points, :, _slice(pair.second_rows)])
            outer = Outer((left, right), bent, pair.same, self._workspace)
            find = partial(_bent, pair.second, bent)
            name = (pair.first, pair.second, "bent") if part else None
            entries = target.entries.transpose(0, 2, 1, 3)
            yield Job(_diagonal(entries) if diagonal else entries, outer, find, len(bent), name)
        site = expansion.network.program.site(pair.second)
        rows = _slice(pair.second_rows[: site.num_inputs - pair.second_rows.start])
        moved = target.kind.moved.get(diagonal)
        if moved and site.source is not None and rows.start < rows.stop:
            cotangents = {t: g[points] for t, g in expansion.cotangents[pair.second].items()}
            outer = Outer((left, cotangents), moved, False, self._workspace)
            entries = target.entries[:, rows if diagonal else slice(None)]
            entries = entries[:, :, : rows.stop - rows.start].transpose(0, 3, 1, 2)
            name = (pair.first, pair.second, "moved") if part else None
            find = partial(_moved, site.source, rows, moved)
            yield Job(_diagonal(entries) if diagonal else entries, outer, find, len(moved), name)


def _diagonal(entries: Array) -> Array:
    """Entries ``[i, a, j, j]`` of ``[i, a, j, b]``, as ``[i, a, j, 1]``."""
    diagonal: Array = np.einsum("iajj->iaj", entries)
    return diagonal[..., None]


def _bent(site: int, pairs: Combinations, tangents: Tangents) -> list[Moving]:
    return present(tangents.second(site, s, t) for s, t in pairs)


def _moved(wire: int, rows: slice, pairs: Combinations, tangents: Tangents) -> list[Moving]:
    found = present(tangents.first(wire, s, t) for s, t in pairs)
    return [t.columns(rows) if isinstance(t, Factored) else t[..., rows] for t in found]


def _shape(inputs: Array, factor: Array) -> tuple[int, int, int, int]:
    return (*factor.shape[:2], inputs.shape[2], factor.shape[3])


def _streams(inputs: Array) -> dict[int, Array]:
    return {stream: inputs[:, stream] for stream in range(inputs.shape[1])}


def _slice(rows: range) -> slice:
    return slice(rows.start, rows.stop)

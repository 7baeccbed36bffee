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
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from hessian_tasks.layered.expand.expansion import Expansion
from hessian_tasks.layered.expand.network import Array
from hessian_tasks.layered.multiply._buffered import BufferedTangents
from hessian_tasks.layered.multiply._factored import Factored, multiply_streams
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


_Sum: TypeAlias = list[tuple[Array, Array]]
"""What a site multiplies ``[N, rows]``, by streams, with the cotangents ``[n, width]`` of each."""


@dataclass(frozen=True)
class _Factors:
    """Sums on the left and on the right, r of each, at some points, and a scale or none."""

    points: slice
    left: list[_Sum]
    right: list[_Sum]
    scale: Array | None = None


class Contraction:
    """Adds one term of the loss to entries of the Hessian."""

    def __init__(self, expansion: Expansion, workspace: Workspace) -> None:
        """Take the term, and find the kinds of its pairs of sites.

        Args:
            expansion: The term around θ.
            workspace: Buffers for all threads.
        """
        self._expansion = expansion = _arrange(expansion, workspace)
        self._widths = expansion.network.program.widths
        self._workspace = workspace
        self._inputs = {s: _streams(a, workspace) for s, a in expansion.inputs.items()}
        self._rows: dict[int, list[_Sum]] = {}
        if (rows := expansion.rows) is not None:
            for site, inputs in rows.inputs.items():
                entering = _streams(inputs, workspace)
                slopes = [_streams(row, workspace) for row in rows.cotangents[site]]
                self._rows[site] = [
                    [(entering[s], slope) for s, slope in row.items() if s in entering]
                    for row in slopes
                ]
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
            self._add_rows(chosen, self._expansion.rows.signs, check)
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

    def _add_rows(self, targets: list[_Target], signs: Array, check: Callable[[], None]) -> None:
        """The first part of H: a product of matrices with ρ rows a point."""
        rank, num_points = signs.shape
        for points in batches(num_points, PRODUCT_DEPTH // max(1, rank)):
            check()
            for target in targets:
                factors = _Factors(points, [], [])
                sites = self._rows[target.pair.first], self._rows[target.pair.second]
                for sign, left, right in zip(signs[:, points, None], *sites, strict=True):
                    if left and right:
                        factors.left.append([(a, sign * row[points]) for a, row in left])
                        factors.right.append([(a, row[points]) for a, row in right])
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
        dense = [job for t in targets for job in self._jobs(t, points, diagonal=False)]
        self._prober.add_dense(dense, whole)
        whole.release()

    def _add_separable(
        self, target: _Target, tangents: Tangents, bends: Mapping[tuple[int, int], Array]
    ) -> None:
        network, points, pair = self._expansion.network, tangents.points, target.pair
        source = network.program.inputs(pair.second)[0]
        before, behind = self._inputs[pair.first], self._inputs[pair.second]
        factors = _Factors(points, [], [], network.kernel(pair.second))
        for between in sorted({between for between, _ in bends}):
            moved = [(a, tangents.first(source, s, between)) for s, a in before.items()]
            left = [(a, np.asarray(diagonal)) for a, diagonal in moved if diagonal is not None]
            bent = [(a, bends.get((between, s))) for s, a in behind.items()]
            right = [(a, bend[points]) for a, bend in bent if bend is not None]
            if left and right:
                factors.left.append(left)
                factors.right.append(right)
        self._add_factored(target, factors)

    def _add_factored(self, target: _Target, factors: _Factors) -> None:
        """Add ``scale[j,p] Σ_rn (Σ_s A_l[i] L[j]) (Σ_t A_m[k] R[p])``."""
        pair, points = target.pair, factors.points
        if not factors.left:
            return
        left = self._times_inputs(factors.left, points, pair.first_rows, "left")
        column_bytes = len(left) * target.entries.shape[3] * left.itemsize
        for kept in batches(len(pair.second_rows), FACTOR_BYTES // column_bytes):
            rows = pair.second_rows[kept]
            right = self._times_inputs(factors.right, points, rows, "right")
            corner = kept.start if pair.same else None
            entries = target.entries[:, :, kept]
            self._products.add_outer(entries, left, right, factors.scale, corner)

    def _times_inputs(self, sums: list[_Sum], points: slice, rows: range, purpose: str) -> Array:
        """``Σ_s A[n,s,i] F[r,n,s,j]`` for some rows i, as a matrix ``[r·n, i·j]``."""
        num_points, width = sums[0][0][1].shape
        out = self._workspace.take(purpose, len(sums), num_points, len(rows), width)
        for place, pairs in zip(out, sums, strict=True):
            inputs = [entering[points, _slice(rows)] for entering, _ in pairs]
            multiply_streams(inputs, [factor for _, factor in pairs], place)
        return out.reshape(len(sums) * num_points, -1)

    def _streams(self, site: int, points: slice, rows: range) -> dict[int, Array]:
        """Streams of what a site multiplies, some of its rows."""
        inputs = self._inputs[site]
        return {s: values[points, _slice(rows)] for s, values in inputs.items()}

    def _jobs(self, target: _Target, points: slice, *, diagonal: bool) -> Iterator[Job]:
        """What comes from tangents that are diagonals, or from those that are not."""
        expansion, pair = self._expansion, target.pair
        left = self._streams(pair.first, points, pair.first_rows)
        part = len(pair.first_rows) < expansion.network.program.site(pair.first).num_rows
        if bent := target.kind.bent.get(diagonal):
            right = self._streams(pair.second, points, pair.second_rows)
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


def _streams(stacked: Array, workspace: Workspace) -> dict[int, Array]:
    """The streams of ``[N, S, width]`` that are not zero."""
    streams = {s: stacked[:, s] for s in range(stacked.shape[1]) if stacked[:, s].any()}
    return {s: workspace.arrange(values) for s, values in streams.items()}


def _arrange(expansion: Expansion, workspace: Workspace) -> Expansion:
    """The expansion, what its tangents are made of in the order of memory of a workspace."""

    def arranged(streams: Mapping[Any, Array]) -> dict[Any, Array]:
        return {key: workspace.arrange(values) for key, values in streams.items()}

    return replace(
        expansion,
        jacobians={wire: arranged(slopes) for wire, slopes in expansion.jacobians.items()},
        cotangents=[arranged(values) for values in expansion.cotangents],
        curvatures={wire: arranged(bends) for wire, bends in expansion.curvatures.items()},
    )


def _slice(rows: range) -> slice:
    return slice(rows.start, rows.stop)

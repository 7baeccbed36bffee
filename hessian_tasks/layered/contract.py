"""From tangents to entries: the large matrix products.

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
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hessian_tasks.layered.expansion import Expansion
from hessian_tasks.layered.network import Array
from hessian_tasks.layered.tangents import Tangents, is_diagonal

__all__ = ["PRODUCT_BYTES", "SitePair", "add_curvature", "add_rows", "mirror"]

# Bytes of one product before it is added to the entries: it should stay in the cache.
PRODUCT_BYTES = 8 * 2**20
# Parts into which the rows of a triangle are cut; 1/16 of its square is computed in vain.
TRIANGLE_PARTS = 8


@dataclass(frozen=True)
class SitePair:
    """Two sites, and which rows of their kernels are wanted.

    Attributes:
        first: Wire of the site that is probed; never downstream of the second.
        first_rows: Rows i of its kernel, the bias being the last.
        second: Wire of the other site.
        second_rows: Rows k of its kernel.
    """

    first: int
    first_rows: range
    second: int
    second_rows: range

    @property
    def same(self) -> bool:
        """Whether both are the same site; its rows then start with the same."""
        return self.first == self.second


def add_curvature(entries: Array, tangents: Tangents, pair: SitePair) -> None:
    """Add the second part of H for a batch of points: cotangents times second derivatives.

    Args:
        entries: View of the Hessian ``[i, j, k, p]``, added to; of a pair of one site with itself
            only ``k >= i`` up to :func:`mirror`.
        tangents: Of the batch, with respect to the probe of the pair's first site.
        pair: The sites.
    """
    expansion, points = tangents.expansion, tangents.points
    left = site_inputs(expansion, pair.first, points, pair.first_rows)
    right = site_inputs(expansion, pair.second, points, pair.second_rows)
    bends = tangents.separable(pair.second)
    if bends is not None:
        _add_separable(entries, tangents, pair, _Factors(left, right, bends))
    elif pair.same:
        _add_symmetric(entries, tangents, pair, (left, right))
    else:
        found = {(s, t): tangents.second(pair.second, s, t) for s in left for t in right}
        _add_products(entries.transpose(0, 2, 1, 3), left, right, found)
    _add_moved_inputs(entries, tangents, pair, left)


def _add_symmetric(
    entries: Array,
    tangents: Tangents,
    pair: SitePair,
    inputs: tuple[dict[int, Array], dict[int, Array]],
) -> None:
    """A site with itself: its tangents are symmetric, so that half of the pairs will do."""
    left, right = inputs
    found = {
        (s, t): tangents.second(pair.first, s, t)
        for s in right
        for t in right
        if s <= t and (s in left or t in left)
    }
    upper = {(s, t): tangent for (s, t), tangent in found.items() if s in left}
    lower = {(t, s): tangent for (s, t), tangent in found.items() if s != t and t in left}
    target = entries.transpose(0, 2, 1, 3)
    _add_products(target, left, right, upper, triangular=True)
    _add_products(target.swapaxes(2, 3), left, right, lower, triangular=True)


def _add_moved_inputs(
    entries: Array, tangents: Tangents, pair: SitePair, left: dict[int, Array]
) -> None:
    """The product rule's second term: the probe moves the inputs of the second site."""
    expansion = tangents.expansion
    site = expansion.network.program.site(pair.second)
    rows = slice(pair.second_rows.start, min(pair.second_rows.stop, site.num_inputs))
    if site.source is None or rows.start >= rows.stop:
        return
    right = {t: g[tangents.points] for t, g in expansion.cotangents[pair.second].items()}
    found: dict[tuple[int, int], Array | None] = {}
    for s in left:
        for t in right:
            moved = tangents.first(site.source, s, t)
            found[s, t] = None if moved is None else moved[..., rows]
    entries = entries[:, :, : rows.stop - rows.start]
    if any(moved is not None and is_diagonal(moved) for moved in found.values()):
        entries = entries[:, rows]
    _add_products(entries.transpose(0, 3, 1, 2), left, right, found)


def _add_products(
    entries: Array,
    left: dict[int, Array],
    right: dict[int, Array],
    tangents: dict[tuple[int, int], Array | None],
    triangular: bool = False,
) -> None:
    """Add ``Σ left_s[i] right_t[a] tangent_st[j,b]`` to entries ``[i, a, j, b]``."""
    pairs = [(s, t, tangent) for (s, t), tangent in tangents.items() if tangent is not None]
    for diagonal in (True, False):
        chosen = [entry for entry in pairs if is_diagonal(entry[2]) == diagonal]
        if not chosen:
            continue
        stacked = _stack_tangents([tangent for _, _, tangent in chosen])
        target = np.einsum("iajj->iaj", entries)[..., None] if diagonal else entries
        for rows, columns in _parts(target, triangular):
            part = target[rows, columns]
            outer = [left[s][:, rows, None] * right[t][:, None, columns] for s, t, _ in chosen]
            part += (_stack(outer).T @ stacked).reshape(part.shape)


def _parts(entries: Array, triangular: bool) -> Iterator[tuple[slice, slice]]:
    """Cut entries ``[i, a, …]`` into parts of bounded size; in a triangle those with a >= i."""
    num_rows = len(entries)
    step = max(1, PRODUCT_BYTES // (entries[0].size * entries.itemsize))
    if triangular:
        step = min(step, -(-num_rows // TRIANGLE_PARTS))
    for row in range(0, num_rows, step):
        yield slice(row, min(row + step, num_rows)), slice(row if triangular else 0, None)


def mirror(entries: Array) -> None:
    """Fill ``k < i`` of entries ``[i, j, k, p]`` of a site with itself from ``k >= i``."""
    for row in range(1, len(entries)):
        entries[row, :, :row] = entries[:row, :, row].transpose(2, 0, 1)


def _stack_tangents(tangents: list[Array]) -> Array:
    """Tangents below each other, with one row a point ``[pairs·n, j·b]``."""
    if is_diagonal(tangents[0]):
        return np.concatenate(tangents)
    width, num_points, other_width = tangents[0].shape
    stacked = np.empty((len(tangents), num_points, width, other_width), tangents[0].dtype)
    for place, tangent in zip(stacked, tangents, strict=True):
        place[...] = tangent.transpose(1, 0, 2)
    return stacked.reshape(len(tangents) * num_points, -1)


def _stack(arrays: list[Array]) -> Array:
    return np.concatenate([array.reshape(len(array), -1) for array in arrays])


@dataclass(frozen=True)
class _Factors:
    left: dict[int, Array]
    right: dict[int, Array]
    bends: dict[tuple[int, int], Array]


def _add_separable(entries: Array, tangents: Tangents, pair: SitePair, factors: _Factors) -> None:
    network = tangents.expansion.network
    source = network.program.inputs(pair.second)[0]
    left: dict[int, Array] = {}
    right: dict[int, Array] = {}
    for between in {b for b, _ in factors.bends}:
        for s, inputs in factors.left.items():
            moved = tangents.first(source, s, between)
            if moved is not None:
                _accumulate(left, between, inputs[:, :, None] * moved[:, None, :])
        for t, inputs in factors.right.items():
            if (between, t) in factors.bends:
                bend = factors.bends[between, t]
                _accumulate(right, between, inputs[:, :, None] * bend[:, None, :])
    shared = sorted(set(left) & set(right))
    if not shared:
        return
    kernel = network.kernel(pair.second)[:, None, :]
    stacked = _stack([right[b] for b in shared])
    for rows, _ in _parts(entries, triangular=False):
        part = entries[rows]
        product = _stack([left[b][:, rows] for b in shared]).T @ stacked
        part += product.reshape(part.shape) * kernel


def _accumulate(entries: dict[int, Array], key: int, value: Array) -> None:
    entries[key] = entries[key] + value if key in entries else value


def add_rows(entries: Array, expansion: Expansion, pair: SitePair, points: slice) -> None:
    """Add the first part of H for a batch of points: a product of matrices with ρ rows a point.

    Args:
        entries: View of the Hessian ``[i, j, k, p]``, added to.
        expansion: The term around θ.
        pair: The sites.
        points: Which points.
    """
    left = jacobian_rows(expansion, pair.first, points, pair.first_rows)
    right = jacobian_rows(expansion, pair.second, points, pair.second_rows)
    if left is None or right is None:
        return
    left = left * expansion.signs[:, points].reshape(-1, 1)
    width, other_width = entries.shape[1], entries.shape[3]
    for rows, columns in _parts(entries.transpose(0, 2, 1, 3), pair.same):
        part = entries[rows, :, columns]
        chosen = left[:, rows.start * width : rows.stop * width]
        product = chosen.T @ right[:, columns.start * other_width :]
        part += product.reshape(part.shape)


def jacobian_rows(expansion: Expansion, wire: int, points: slice, rows: range) -> Array | None:
    """Rows of ``|ℓ''|^½ ∂u/∂W`` for one site, ``[ρ·n, rows·width]``, or None if they are zero."""
    inputs = site_inputs(expansion, wire, points, rows)
    total: Array | None = None
    for t, cotangent in expansion.rows[wire].items():
        if t in inputs:
            product = inputs[t][:, :, None] * cotangent[:, points, None, :]
            total = product if total is None else total + product
    return None if total is None else total.reshape(total.shape[0] * total.shape[1], -1)


def site_inputs(expansion: Expansion, wire: int, points: slice, rows: range) -> dict[int, Array]:
    """Streams of what a site multiplies, ``[n, rows]`` each, with the 1 of the bias at the end."""
    site = expansion.network.program.site(wire)
    streams = {} if site.source is None else expansion.wires[site.source]
    kept = slice(rows.start, min(rows.stop, site.num_inputs))
    found = {s: values[points, kept] for s, values in streams.items()}
    if rows.stop > site.num_inputs:
        num_points = len(range(*points.indices(expansion.num_points)))
        nothing = np.zeros((num_points, len(rows) - 1), expansion.network.dtype)
        one = np.ones((num_points, 1), expansion.network.dtype)
        found.setdefault(0, nothing)
        found = {s: np.append(v, one if s == 0 else 0 * one, 1) for s, v in found.items()}
    return {s: values for s, values in found.items() if values.any()}

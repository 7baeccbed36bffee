"""The large matrix products, and how they are cut.

A product is done in parts of the rows that stay in the cache until they are added to the entries.
Of a site with itself only the triangle ``k >= i`` is computed, up to :func:`mirror`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

import numpy as np

from hessian_tasks.layered.expand.network import Array
from hessian_tasks.layered.expand.rows import slices
from hessian_tasks.layered.multiply._factored import multiply_streams
from hessian_tasks.layered.multiply.pairs import Combinations
from hessian_tasks.layered.multiply.workspace import Workspace

__all__ = ["FACTOR_BYTES", "Outer", "Products", "batches", "mirror"]

# Bytes of one product before it is added to the entries, and of a factor.
PRODUCT_BYTES = 8 * 2**20
FACTOR_BYTES = 64 * 2**20
# Parts into which the rows of a triangle are cut, 1/16 of its square being computed in vain, unless
# these had fewer rows of a product than let it run at full speed.
TRIANGLE_PARTS = 8
TRIANGLE_ROWS = 256


class Outer:
    """Sums of products ``left_s[i] right_t[a]``, in parts of the rows i.

    They are kept if that takes no more than FACTOR_BYTES, since the parts of a probe share them.
    """

    def __init__(
        self,
        factors: tuple[Mapping[int, Array], Mapping[int, Array]],
        combinations: Combinations,
        triangular: bool,
        workspace: Workspace,
    ) -> None:
        """Take the factors.

        Args:
            factors: Left and right ones by stream, ``[n, i]`` and ``[n, a]``.
            combinations: For each tangent the pairs (s, t) that it belongs to, how often.
            triangular: Whether only ``a >= i`` is wanted.
            workspace: Lends the memory.
        """
        self._factors = factors
        self._combinations = list(combinations.values())
        self._triangular = triangular
        self._workspace = workspace
        self._kept: list[tuple[slice, int, Array]] | None = None

    def parts(self) -> Iterable[tuple[slice, int, Array]]:
        """Rows, the first column, and the matrix ``[pairs·n, i·a]`` of each part."""
        left, right = (next(iter(factors.values())) for factors in self._factors)
        row_bytes = len(self._combinations) * right.size * right.itemsize
        num_rows = left.shape[1]
        corner = right.shape[1] if self._triangular else None
        rows = _row_parts(num_rows, FACTOR_BYTES // row_bytes, corner)
        if num_rows * row_bytes > FACTOR_BYTES:
            return (self._part(some, partial(self._workspace.take, "outer")) for some in rows)
        if self._kept is None:
            self._kept = [self._part(some, self._workspace.lend) for some in rows]
        return self._kept

    def _part(self, rows: slice, make: Callable[..., Array]) -> tuple[slice, int, Array]:
        above = rows.start if self._triangular else 0
        left = {s: values[:, rows] for s, values in self._factors[0].items()}
        right = {t: values[:, above:] for t, values in self._factors[1].items()}
        num_points, num_rows = next(iter(left.values())).shape
        num_columns = next(iter(right.values())).shape[1]
        outer = make(len(self._combinations), num_points, num_rows, num_columns)
        for place, pairs in zip(outer, self._combinations, strict=True):
            sums: dict[int, Array] = {}
            for (s, t), coefficient in pairs.items():
                scaled = right[t].dtype.type(coefficient) * right[t]
                sums[s] = sums[s] + scaled if s in sums else scaled
            multiply_streams([left[s] for s in sums], list(sums.values()), place)
        return rows, above, outer.reshape(len(self._combinations) * num_points, -1)

    def release(self) -> None:
        """Give the memory back."""
        self._workspace.give_back(matrix for _, _, matrix in self._kept or [])
        self._kept = None


class Products:
    """Adds matrix products to entries of the Hessian."""

    def __init__(self, workspace: Workspace) -> None:
        """Take the buffers for products and factors."""
        self.workspace = workspace

    def add_outer(
        self, entries: Array, left: Array, right: Array, scale: Array | None, corner: int | None
    ) -> None:
        """Add ``scale[j,p] Σ_K left[K,ij] right[K,kp]`` to entries ``[i, j, k, p]``.

        Args:
            entries: Added to.
            left: First factor ``[K, i·j]``.
            right: Second factor ``[K, k·p]``.
            scale: A factor of the sum, or None.
            corner: In a triangle, the row i to which the first column k belongs; else None.
        """
        width, other_width = entries.shape[1], entries.shape[3]
        row_bytes = entries[0].size * entries.itemsize
        triangle = None if corner is None else width
        for rows in _row_parts(len(entries), PRODUCT_BYTES // row_bytes, triangle):
            above = 0 if corner is None else max(0, rows.start - corner)
            part = entries[rows, :, above:]
            if not part.size:
                continue
            chosen = left[:, rows.start * width : rows.stop * width]
            product = self._multiply(chosen, right[:, above * other_width :]).reshape(part.shape)
            if scale is not None:
                product *= scale[:, None, :]
            part += product

    def add_tangents(self, entries: Array, outer: Outer, stacked: Array) -> None:
        """Add ``Σ_r outer_r[i,a] tangent_r[j,b]``, summed over points, to entries ``[i, a, j, b]``.

        Args:
            entries: Added to.
            outer: The products of left and right.
            stacked: The tangents below each other, with one row a point ``[tangents·n, j·b]``.
        """
        for rows, above, matrix in outer.parts():
            part = entries[rows, above:]
            part += self._multiply(matrix, stacked).reshape(part.shape)

    def _multiply(self, left: Array, right: Array) -> Array:
        product = self.workspace.take("product", left.shape[1], right.shape[1])
        return np.matmul(left.T, right, out=product)


def batches(length: int, largest: int) -> Iterator[slice]:
    """Cut ``[0, length)`` into as few slices of at most ``largest`` as there can be, all alike.

    Example:
        >>> [(part.start, part.stop) for part in batches(10, 4)]
        [(0, 4), (4, 8), (8, 10)]
        >>> [(part.start, part.stop) for part in batches(9, 4)]
        [(0, 3), (3, 6), (6, 9)]
    """
    number = -(-length // max(1, largest))
    return slices(length, -(-length // max(1, number)))


def _row_parts(num_rows: int, step: int, triangle: int | None) -> Iterator[slice]:
    """Parts of ``step`` rows, of a triangle narrow ones; its rows are ``triangle`` of a product."""
    if triangle is None:
        return slices(num_rows, step)
    narrow = max(-(-num_rows // TRIANGLE_PARTS), TRIANGLE_ROWS // triangle)
    return slices(num_rows, min(step, narrow))


def mirror(entries: Array) -> None:
    """Fill ``k < i`` of entries ``[i, j, k, p]`` of a site with itself from ``k >= i``."""
    for row in range(1, len(entries)):
        entries[row, :, :row] = entries[:row, :, row].transpose(2, 0, 1)

"""Tangents behind a kernel that a diagonal enters: products that need not be formed.

A diagonal ``D[n,j]`` that enters a kernel W leaves it as ``D[n,j] W[j,p]``. A factor on each
neuron, and sums over streams, change the numbers of a point alone,

    T[n,j,p] = W[j,p] · Σ_b L_b[n,j] R_b[n,p],

so that such tangents are kept as the small factors L and R. Where T is needed itself, the sum is
one small matrix product a point, several times as fast as so many element-wise ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hessian_tasks.layered.expand.network import Array

__all__ = ["Factored", "multiply_streams"]


@dataclass(frozen=True, eq=False)
class Factored:
    """A tangent ``[n, j, p]`` that is not formed.

    Attributes:
        terms: The factors L ``[n, j]`` and R ``[n, p]`` of each term.
        matrix: W ``[j, p]``.
    """

    terms: tuple[tuple[Array, Array], ...]
    matrix: Array

    # That of an array of its entries.
    ndim = 3

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the tangent."""
        return (len(self.terms[0][0]), *self.matrix.shape)

    def scaled(self, factor: Array) -> Factored:
        """The tangent of a product with ``factor`` ``[n, p]`` on each neuron."""
        return Factored(tuple((left, right * factor) for left, right in self.terms), self.matrix)

    def columns(self, columns: slice) -> Factored:
        """Some neurons p."""
        terms = tuple((left, right[:, columns]) for left, right in self.terms)
        return Factored(terms, self.matrix[:, columns])

    def plus(self, other: Factored) -> Factored | None:
        """The sum, or None if the matrices are not the same."""
        if self.matrix.__array_interface__ != other.matrix.__array_interface__:
            return None
        terms = {id(left): (left, right) for left, right in self.terms}
        for left, right in other.terms:
            known = terms.get(id(left))
            terms[id(left)] = (left, right if known is None else known[1] + right)
        return Factored(tuple(terms.values()), self.matrix)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """It, formed."""
        formed = np.empty(self.shape, dtype or self.matrix.dtype)
        self.write(formed)
        return formed

    def write(self, place: Array) -> None:
        """Form it in ``place`` ``[n, j, p]``."""
        lefts, rights = zip(*self.terms, strict=True)
        multiply_streams(lefts, rights, place)
        place *= self.matrix


def multiply_streams(lefts: Sequence[Array], rights: Sequence[Array], out: Array) -> None:
    """``Σ_s left_s[n,i] right_s[n,a]`` in ``out`` ``[n, i, a]``.

    Args:
        lefts: Each ``[n, i]``.
        rights: Each ``[n, a]``.
        out: Written to.

    Example:
        >>> out = np.empty((1, 2, 2))
        >>> multiply_streams([np.array([[1.0, 2.0]])], [np.array([[3.0, 4.0]])], out)
        >>> out[0]
        array([[3., 4.],
               [6., 8.]])
    """
    if out.strides[0] == out.itemsize:
        _multiply_long(lefts, rights, out)
        return
    # NumPy leaves products of vectors with each other to a loop of its own, eight times as slow as
    # BLAS with a zero beside them.
    depth = max(2, len(lefts))
    left = np.empty((out.shape[0], depth, out.shape[1]), out.dtype)
    right = np.empty((out.shape[0], depth, out.shape[2]), out.dtype)
    left[:, len(lefts) :], right[:, len(rights) :] = 0, 0
    for s, (some, others) in enumerate(zip(lefts, rights, strict=True)):
        left[:, s], right[:, s] = some, others
    np.matmul(left.swapaxes(1, 2), right, out=out)


def _multiply_long(lefts: Sequence[Array], rights: Sequence[Array], out: Array) -> None:
    """The same where the points are next to each other in memory."""
    place = out.transpose(1, 2, 0)
    if len(lefts) == 1:
        np.multiply(lefts[0].T[:, None], rights[0].T, out=place)
    else:
        stacked = (np.stack([factor.T for factor in factors]) for factors in (lefts, rights))
        np.einsum("sin,san->ian", *stacked, out=place)

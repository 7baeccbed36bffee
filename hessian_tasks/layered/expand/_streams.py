"""Streams: the derivatives with respect to the coordinates that travel through the network.

A stream is a partial derivative, named by a sorted tuple of axes: ``()`` is the value,
``(0, 0)`` is u_xx. To differentiate φ(z(x)) along x and y one needs z_x and z_y besides z_xy, so
the streams of a residual are its derivatives and all derivatives of lower order on the way.

Of the highest ones a residual often uses only a sum, such as u_xx + u_yy. That sum can travel as
one *merged* stream, because the highest derivatives of z enter those of φ(z) linearly:

    (φ(z))_xx + (φ(z))_yy = φ'(z) (z_xx + z_yy) + φ''(z) (z_x² + z_y²),

the forward Laplacian (R. Li et al., "A computational framework for neural network-based
variational Monte Carlo with forward Laplacian", Nature Machine Intelligence 6, 2024).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from hessian_tasks.jets import Index

__all__ = ["Streams", "closure", "maximal", "row_space"]


@dataclass(frozen=True)
class Streams:
    """Which streams travel, in a fixed order: first the plain ones, then the merged.

    Attributes:
        plain: Single derivatives; the first is the value ``()``.
        merged: Sums of derivatives, each a tuple of ``(index, coefficient)``.

    Example:
        >>> laplacian = Streams(((), (0,), (1,)), ((((0, 0), 1.0), ((1, 1), 1.0)),))
        >>> len(laplacian), laplacian.terms(3)
        (4, (((0, 0), 1.0), ((1, 1), 1.0)))
    """

    plain: tuple[Index, ...]
    merged: tuple[tuple[tuple[Index, float], ...], ...] = ()

    def __len__(self) -> int:
        return len(self.plain) + len(self.merged)

    def terms(self, stream: int) -> tuple[tuple[Index, float], ...]:
        """The stream as a sum of derivatives with coefficients."""
        if stream < len(self.plain):
            return ((self.plain[stream], 1.0),)
        return self.merged[stream - len(self.plain)]

    def indices(self) -> list[Index]:
        """All derivatives that occur, merged or not."""
        return [index for stream in range(len(self)) for index, _ in self.terms(stream)]

    @property
    def order(self) -> int:
        """Highest order of differentiation."""
        return max(len(index) for index in self.indices())


def closure(indices: Iterable[Index]) -> list[Index]:
    """All derivatives on the way to the given ones, the value first.

    Example:
        >>> closure([(0, 1)])
        [(), (0,), (1,), (0, 1)]
    """
    found = {
        part for index in indices for k in range(len(index) + 1) for part in combinations(index, k)
    }
    return sorted(found | {()}, key=lambda index: (len(index), index))


def maximal(indices: Iterable[Index]) -> list[Index]:
    """Those derivatives that are on the way to no other.

    Example:
        >>> maximal([(), (0,), (1, 1), (0, 0)])
        [(0, 0), (1, 1)]
    """
    given = sorted(set(indices))
    on_the_way = {
        part for index in given for k in range(len(index)) for part in combinations(index, k)
    }
    return [index for index in given if index not in on_the_way]


def row_space(
    rows: npt.NDArray[np.float64], tolerance: float
) -> tuple[npt.NDArray[np.float64], list[int]]:
    """A basis of the row space, in reduced row echelon form up to the order of columns.

    Args:
        rows: Matrix ``[R, C]``.
        tolerance: Singular values below this times the largest count as zero.

    Returns:
        The basis ``[rank, C]`` and the pivot columns, in which it is the identity.

    Example:
        >>> row_space(np.array([[2.0, -1.0], [4.0, -2.0]]), 1e-12)
        (array([[ 1. , -0.5]]), [0])
    """
    lengths = np.linalg.norm(rows, axis=1)
    rows = rows[lengths > 0] / lengths[lengths > 0, None]
    if not len(rows):
        return np.zeros((0, rows.shape[1])), []
    _, values, basis = np.linalg.svd(rows, full_matrices=False)
    basis = basis[values > tolerance * values[0]]
    pivots = []
    for row in range(len(basis)):
        pivots.append(int(np.argmax(np.abs(basis[row]))))
        basis[row] /= basis[row, pivots[-1]]
        others = np.arange(len(basis)) != row
        basis[others] -= np.outer(basis[others, pivots[-1]], basis[row])
    return basis, pivots

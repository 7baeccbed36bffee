"""How vectors, matrices, and the subspaces in which they curve most lie to each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.linalg

__all__ = ["Subspace", "cosines", "overlap", "principal_angles"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Subspace:
    """Eigenpairs of the largest magnitude of a symmetric matrix.

    Attributes:
        eigenvalues: ``[k]``, the largest magnitude first.
        vectors: Their eigenvectors ``[P, k]``, orthonormal columns.
    """

    eigenvalues: Array
    vectors: Array


def cosines(products: Array) -> Array:
    """``⟨a_i, a_j⟩ / (‖a_i‖ ‖a_j‖)`` from all inner products ``[n, n]``; NaN where one is zero.

    Example:
        >>> cosines(np.array([[4.0, -2.0], [-2.0, 4.0]])).tolist()
        [[1.0, -0.5], [-0.5, 1.0]]
    """
    norms = np.sqrt(np.diag(products))
    scale = np.outer(norms, norms)
    empty = np.full(scale.shape, np.nan)
    return np.asarray(np.divide(products, scale, out=empty, where=scale > 0))


def principal_angles(first: Array, second: Array) -> Array:
    """Principal angles between the ranges of two matrices, in radians, the smallest first.

    The cosines are the singular values of ``UᵀV`` for orthonormal bases U and V; small angles are
    taken from sines, where cosines have no digits (A. Björck, G. Golub, 1973).

    Args:
        first: ``[P, k]``.
        second: ``[P, m]``.

    Returns:
        ``[min(k, m)]``.

    Example:
        >>> plane, line = np.eye(3)[:, :2], np.array([[0.0], [1.0], [1.0]])
        >>> np.degrees(principal_angles(plane, line)).round(6).tolist()
        [45.0]
    """
    angles: Array = scipy.linalg.subspace_angles(first, second)
    return angles[::-1]


def overlap(first: Array, second: Array) -> float:
    """Mean squared cosine of the principal angles, ``‖UᵀV‖_F² / k``.

    1 if one subspace holds the other, 0 if they are orthogonal, and max(k, m)/P on average for
    random ones (G. Gur-Ari, D. Roberts, E. Dyer, "Gradient descent happens in a tiny subspace",
    2018).

    Args:
        first: ``[P, k]``, orthonormal columns.
        second: ``[P, m]``, orthonormal columns.

    Example:
        >>> overlap(np.eye(4)[:, :2], np.eye(4)[:, 1:3])
        0.5
    """
    return float(np.sum((first.T @ second) ** 2) / min(first.shape[1], second.shape[1]))

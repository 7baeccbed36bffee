"""All eigenvalues of a stored matrix, in memory, by LAPACK."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.linalg

from pipeline.analysis._tiles import TiledMatrix, map_shares

__all__ = ["dense_bytes", "dense_eigenpairs", "read_symmetric"]

Array: TypeAlias = npt.NDArray[Any]

# ``dsyevd`` with vectors asks for a workspace of 1 + 6 n + 2 n² numbers and counts them in 32 bits
# in SciPy's LAPACK: beyond this n that overflows (scipy#11080, #22007).
MAX_DIVIDE_AND_CONQUER = 32_766


def dense_bytes(num_params: int, vectors: bool = False) -> int:
    """Memory that :func:`dense_eigenpairs` takes, in bytes.

    Example:
        >>> dense_bytes(10_000), dense_bytes(10_000, vectors=True)
        (833554432, 2433554432)
    """
    # The matrix, with vectors also the workspace of driver evd (evr: one matrix less), and tiles
    # that are being read.
    return 8 * num_params**2 * (3 if vectors else 1) + 2**25


def read_symmetric(matrix: TiledMatrix) -> Array:
    """The matrix in float64 ``[P, P]``, exactly symmetric; half of the array is read.

    Raises:
        StoreError: If it is damaged, or tiles are missing.
    """
    result = np.empty((matrix.num_params,) * 2)
    map_shares(_fill, matrix.upper(), matrix=matrix, result=result)
    matrix.check_finite(result)
    return result


def _fill(tiles: Any, matrix: TiledMatrix, result: Array) -> None:
    for row, col in tiles:
        tile = matrix.read(row, col)
        if row == col:
            tile = (tile + tile.T.astype(np.float64)) / 2
        result[row.start : row.stop, col.start : col.stop] = tile
        result[col.start : col.stop, row.start : row.stop] = tile.T


def dense_eigenpairs(
    matrix: Array, vectors: bool = False, interval: tuple[float, float] | None = None
) -> tuple[Array, Array | None]:
    """Eigenvalues, ascending, and eigenvectors ``[P, K]`` of a symmetric matrix in float64.

    Args:
        matrix: ``[P, P]``, in C order; it is overwritten.
        vectors: Whether to compute eigenvectors.
        interval: Only eigenvalues in ``(low, high]``.

    Example:
        >>> values, vectors = dense_eigenpairs(np.diag([2.0, 1.0]), vectors=True)
        >>> values.round(9).tolist(), np.abs(vectors).round(9).tolist()
        ([1.0, 2.0], [[0.0, 1.0], [1.0, 0.0]])
    """
    # Values alone cost the same by any driver, nearly all of it the tridiagonal form. With vectors
    # divide and conquer (evd) is the fastest, mostly matrix products.
    divide = vectors and interval is None and len(matrix) <= MAX_DIVIDE_AND_CONQUER
    # The transpose of an array in C order is in Fortran's, which LAPACK overwrites in place.
    found = scipy.linalg.eigh(
        matrix.T,
        eigvals_only=not vectors,
        overwrite_a=True,
        check_finite=False,
        driver="evd" if divide else "evr",
        subset_by_value=interval,
    )
    if not vectors:
        return np.asarray(found), None
    return np.asarray(found[0]), np.asarray(found[1])

"""All eigenvalues of a stored matrix, in memory, by LAPACK."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.linalg
from scipy.linalg import lapack

from pipeline.analysis._tiles import TiledMatrix, map_shares

__all__ = ["dense_bytes", "dense_eigenpairs", "dense_ends", "read_symmetric"]

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


def dense_ends(matrix: Array, num_smallest: int, num_largest: int) -> tuple[Array, Array]:
    """All eigenvalues, ascending, and eigenvectors of the ends alone.

    ``A = Q T Qᵀ`` with T tridiagonal takes 4/3 P³ operations, all eigenvectors four times as many.
    Those of T at its ends, by multiple relatively robust representations (``dstemr``), which are
    orthogonal where eigenvalues are close, too, and Q's reflections of them take P² for each.

    Args:
        matrix: ``[P, P]``, symmetric, in C order; it is overwritten.
        num_smallest: Eigenvectors of so many smallest eigenvalues.
        num_largest: And of so many largest; both together at most P.

    Returns:
        Eigenvalues ``[P]``, and eigenvectors ``[P, num_smallest + num_largest]`` in their order.

    Example:
        >>> values, vectors = dense_ends(np.diag([2.0, 1.0, 5.0]), 1, 1)
        >>> values.round(9).tolist(), np.abs(vectors.T).round(9).tolist()
        ([1.0, 2.0, 5.0], [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    """
    size = len(matrix)
    work = int(lapack.dsytrd_lwork(size, lower=1)[0])
    # The transpose of an array in C order is in Fortran's, which LAPACK overwrites in place.
    packed, diagonal, beside, factors, _ = lapack.dsytrd(
        matrix.T, lower=1, lwork=work, overwrite_a=1
    )
    values = scipy.linalg.eigvalsh_tridiagonal(diagonal, beside)
    ranges = [(0, num_smallest - 1), (size - num_largest, size - 1)]
    vectors = np.concatenate(
        [
            scipy.linalg.eigh_tridiagonal(
                diagonal, beside, select="i", select_range=chosen, lapack_driver="stemr"
            )[1]
            for chosen in ranges
            if chosen[0] <= chosen[1]
        ],
        axis=1,
    )
    if size > 1:
        # Q moves all but the first entry: below the diagonal of what dsytrd leaves are the
        # reflections of a QR decomposition.
        reflections, rest = packed[1:, :-1], np.asfortranarray(vectors[1:])
        _, work, _ = lapack.dormqr("L", "N", reflections, factors, rest, -1)
        vectors[1:] = lapack.dormqr("L", "N", reflections, factors, rest, int(work[0]))[0]
    return values, vectors

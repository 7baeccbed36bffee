"""The spectrum of a stored matrix, and the eigenvectors at both of its ends."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import psutil

from pipeline.analysis._dense import dense_bytes, dense_ends, read_symmetric
from pipeline.analysis._tiles import complete_matrix
from pipeline.analysis.spectrum import Spectrum, exact_quantities, spectrum
from pipeline.store.places import Place
from pipeline.store.store import HessianStore

__all__ = ["end_ranks", "spectrum_with_ends"]

Array: TypeAlias = npt.NDArray[Any]


def end_ranks(number: int, num_largest: int, num_smallest: int) -> Array:
    """Positions in ascending order of the largest and the smallest eigenvalues, largest first.

    Example:
        >>> end_ranks(10, 2, 1).tolist(), end_ranks(2, 2, 1).tolist()
        ([9, 8, 0], [1, 0])
    """
    order = np.arange(number)[::-1]
    if number <= num_largest + num_smallest:
        return order
    return np.concatenate([order[:num_largest], order[number - num_smallest :]])


def spectrum_with_ends(
    store: HessianStore | Place,
    num_largest: int,
    num_smallest: int,
    *,
    memory: int | None = None,
) -> tuple[Spectrum, Array, Array]:
    """The spectrum as :func:`~pipeline.analysis.spectrum.spectrum` has it, and vectors of its ends.

    All eigenvectors would take four times as long as all eigenvalues.

    Args:
        store: A complete store, or where it is.
        num_largest: Eigenvectors of so many largest eigenvalues.
        num_smallest: And of so many smallest.
        memory: Bytes that may be taken; what is free by default.

    Returns:
        The spectrum; the eigenvalues at its ends ``[K]``, the largest first; and their eigenvectors
        ``[K, P]``.

    Raises:
        StoreError: If block rows are missing or damaged.

    Example:
        >>> import tempfile
        >>> from pipeline import compute_hessian, load_problem
        >>> small = load_problem("regression", width=4, depth=1, num_samples=9, dtype="float64")
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     hessian = compute_hessian(small, f"{directory}/h.zarr").hessian.to_numpy()
        ...     found, values, vectors = spectrum_with_ends(f"{directory}/h.zarr", 2, 1)
        >>> len(found.eigenvalues), vectors.shape
        (13, (3, 13))
        >>> np.allclose(vectors @ hessian, values[:, np.newaxis] * vectors)
        True
    """
    opened, matrix = complete_matrix(store, None)
    size = opened.num_params
    available = psutil.virtual_memory().available if memory is None else memory
    # The matrix, and the reflections that make it tridiagonal.
    if 2 * dense_bytes(size) > available:
        found = spectrum(opened, memory=memory, num_extreme=max(20, num_largest, num_smallest))
        assert found.vectors is not None, "of extreme eigenvalues"
        ranks = end_ranks(len(found.eigenvalues), num_largest, num_smallest)
        return found, found.eigenvalues[ranks], found.vectors.T[ranks]
    ranks = end_ranks(size, num_largest, num_smallest)
    smallest = min(num_smallest, size)
    values, vectors = dense_ends(read_symmetric(matrix), smallest, len(ranks) - smallest)
    found = Spectrum(values, True, **exact_quantities(opened))
    return found, values[ranks], vectors.T[::-1]

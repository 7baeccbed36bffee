"""Eigenvalues of a stored matrix, with the floor below which they are noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import psutil

from pipeline.analysis._dense import dense_bytes, dense_eigenpairs, read_symmetric
from pipeline.analysis._filtered import filtered_eigenpairs
from pipeline.analysis._tiles import complete_matrix
from pipeline.analysis.eigenpairs import Eigenpairs, extreme_eigenpairs
from pipeline.analysis.operator import (
    HessianOperator,
    noise_floor,
    open_operator,
    relative_error,
)
from pipeline.analysis.sums import exact_sums
from pipeline.errors import PlanError
from pipeline.store.places import Place
from pipeline.store.store import HessianStore
from pipeline.units import format_bytes

__all__ = ["Spectrum", "eigenvalues_between", "exact_quantities", "spectrum"]

Array: TypeAlias = npt.NDArray[Any]

# Out of core an interval is reached from the nearer end; beyond so many eigenvalues their vectors
# cost more than the matrix.
FIRST_FROM_THE_ENDS = 16
MAX_FROM_THE_ENDS = 512


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of a Hessian or Gauss-Newton matrix, ascending.

    What counts eigenvalues is None unless all of them are there.

    Attributes:
        eigenvalues: All P of them, or some, float64.
        complete: Whether they are all there.
        noise_floor: Eigenvalues of smaller magnitude cannot be told from zero; from the
            store's certificate if it has one, else from the precision of its dtype.
        trace: The trace; of a store the exact one, from the diagonal.
        frobenius_norm: ``‖H‖_F``; of a store the exact one, from the entries.
        vectors: Eigenvectors ``[P, K]``, if they were asked for or found by iteration.
        pairs: What was found by iteration, with the residual of each, else None.
    """

    eigenvalues: npt.NDArray[np.float64]
    complete: bool
    noise_floor: float
    trace: float
    frobenius_norm: float
    vectors: Array | None = None
    pairs: Eigenpairs | None = None

    @property
    def errors(self) -> Array:
        """Bounds on the errors of the eigenvalues ``[K]``, see :meth:`Eigenpairs.errors`."""
        if self.pairs is None:
            return np.full(len(self.eigenvalues), self.noise_floor)
        return self.pairs.errors(self.noise_floor)

    @property
    def inertia(self) -> tuple[int, int, int] | None:
        """Numbers of eigenvalues ``(above, within, below)`` ``±noise_floor``."""
        if not self.complete:
            return None
        above = int(np.sum(self.eigenvalues > self.noise_floor))
        below = int(np.sum(self.eigenvalues < -self.noise_floor))
        return above, len(self.eigenvalues) - above - below, below

    @property
    def numerical_rank(self) -> int | None:
        """Number of eigenvalues whose magnitude is above the noise floor."""
        return len(self._resolved) if self.complete else None

    @property
    def condition_number(self) -> float | None:
        """``max |λ| / min |λ|`` over the eigenvalues above the noise floor.

        It is that of H on the subspace which the stored precision resolves; the
        condition number of the whole matrix is at least that.
        """
        resolved = self._resolved
        return float(resolved.max() / resolved.min()) if self.complete and len(resolved) else None

    @property
    def least_condition_number(self) -> float:
        """A lower bound for the condition number of the whole matrix.

        Of the largest and the smallest magnitude that were found, each as far off as it may be:
        no eigenvalue is by more than δ, so it is ``(max |λ| - δ) / (min |λ| + δ)``.
        """
        size = np.abs(self.eigenvalues)
        largest, smallest = size.max() - self.noise_floor, size.min() + self.noise_floor
        return max(1.0, float(largest / smallest)) if size.any() else 1.0

    @property
    def conditioning(self) -> str:
        """The condition number as far as it is known, in words.

        Where an eigenvalue cannot be told from zero it is a bound by the noise floor, which is
        itself known to its order of magnitude alone: it comes from a few random vectors.
        """
        if len(self._resolved) < len(self.eigenvalues):
            return f"at least {10.0 ** np.floor(np.log10(self.least_condition_number)):.0e}"
        known = self.condition_number
        return f"at least {self.least_condition_number:.3g}" if known is None else f"{known:.3g}"

    @property
    def effective_rank(self) -> float | None:
        """``(Σ |λ|)² / Σ λ²`` over the eigenvalues above the noise floor.

        n for n equal ones; 1 for a single one, whatever small ones follow.
        """
        if not self.complete or not len(self._resolved):
            return None
        return float(self._resolved.sum() ** 2 / np.sum(self._resolved**2))

    @property
    def _resolved(self) -> Array:
        size = np.abs(self.eigenvalues)
        return np.asarray(size[size > self.noise_floor])

    def to_json(self, num_extreme: int = 10) -> dict[str, Any]:
        """A summary as JSON data, with the extreme eigenvalues at both ends."""
        return {
            "num_eigenvalues": len(self.eigenvalues),
            "complete": self.complete,
            "largest": self.eigenvalues[::-1][:num_extreme].tolist(),
            "smallest": self.eigenvalues[:num_extreme].tolist(),
            "residuals": None if self.pairs is None else self.pairs.residuals.tolist(),
            "noise_floor": self.noise_floor,
            "inertia": self.inertia,
            "numerical_rank": self.numerical_rank,
            "effective_rank": self.effective_rank,
            "condition_number": self.condition_number,
            "least_condition_number": self.least_condition_number,
            "trace": self.trace,
            "frobenius_norm": self.frobenius_norm,
        }


def spectrum(
    store: HessianStore | Place,
    term: str | None = None,
    num_extreme: int | None = None,
    *,
    vectors: bool = False,
    memory: int | None = None,
) -> Spectrum:
    """All eigenvalues while the dense matrix fits into memory, else the extreme ones.

    The matrix is symmetrised, ``(H + Hᵀ)/2``, and solved in float64.

    Args:
        store: A complete store, or where it is.
        term: A loss term's matrix instead of the total's.
        num_extreme: Only that many eigenvalues at each end, by iteration. By default all of them,
            or 20 at each end where the memory is short.
        vectors: Whether to compute eigenvectors too; those of extreme eigenvalues always are.
        memory: Bytes that may be taken; what is free by default.

    Raises:
        StoreError: If block rows are missing or damaged, or there is no such array.

    Example:
        >>> import tempfile
        >>> from pipeline import compute_hessian, load_problem
        >>> small = load_problem("regression", width=4, depth=1, num_samples=9, dtype="float64")
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     hessian = compute_hessian(small, f"{directory}/h.zarr").hessian.to_numpy()
        ...     found = spectrum(f"{directory}/h.zarr")
        >>> found.complete, np.allclose(found.eigenvalues, np.linalg.eigvalsh(hessian))
        (True, True)
    """
    opened, matrix = complete_matrix(store, term)
    exact = exact_quantities(opened, term)
    if num_extreme is None and _fits(opened.num_params, vectors, memory):
        values, found = dense_eigenpairs(read_symmetric(matrix), vectors)
        return Spectrum(values, True, vectors=found, **exact)
    pairs = extreme_eigenpairs(open_operator(opened, term), num_extreme or 20)
    return _of_pairs(pairs, len(pairs.values) == opened.num_params, exact)


def eigenvalues_between(
    store: HessianStore | Place,
    interval: tuple[float, float],
    term: str | None = None,
    *,
    vectors: bool = False,
    memory: int | None = None,
) -> Spectrum:
    """The eigenvalues in an interval ``(low, high]``.

    Where the dense matrix does not fit into memory, the interval is reached from the ends of the
    spectrum, if there are not too many eigenvalues up to it, and otherwise by a polynomial filter
    (:mod:`pipeline.analysis._filtered`), if it is not too narrow.

    Args:
        store: A complete store, or where it is.
        interval: ``(low, high)``.
        term: A loss term's matrix instead of the total's.
        vectors: Whether to compute eigenvectors too.
        memory: Bytes that may be taken; what is free by default.

    Raises:
        PlanError: If the memory is short and the interval is neither reached from the ends nor by
            a filter; says how much would do.
        StoreError: If block rows are missing or damaged, or there is no such array.

    Example:
        >>> import tempfile
        >>> from pipeline import compute_hessian, load_problem
        >>> small = load_problem("regression", width=4, depth=1, num_samples=9, dtype="float64")
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     hessian = compute_hessian(small, f"{directory}/h.zarr").hessian.to_numpy()
        ...     found = eigenvalues_between(f"{directory}/h.zarr", (0.01, np.inf))
        >>> expected = np.linalg.eigvalsh(hessian)
        >>> np.allclose(found.eigenvalues, expected[expected > 0.01])
        True
    """
    low, high = interval
    if not low < high:
        raise PlanError(f"The interval is ({low}, {high}]; expected its lower end first.")
    opened, matrix = complete_matrix(store, term)
    if _fits(opened.num_params, vectors, memory):
        values, found = dense_eigenpairs(read_symmetric(matrix), vectors, interval)
        return Spectrum(values, False, vectors=found, **exact_quantities(opened, term))
    pairs = _search(open_operator(opened, term), (low, high))
    if pairs is None:
        raise PlanError(
            f"({low:.4g}, {high:.4g}] is too deep in the spectrum to be reached from its ends, and "
            "too narrow or too full for a polynomial. All eigenvalues at once need "
            f"{format_bytes(dense_bytes(opened.num_params, vectors))} of memory. The number of "
            "eigenvalues in it can be estimated: --density"
        )
    return _of_pairs(pairs, False, exact_quantities(opened, term))


def _search(operator: HessianOperator, interval: tuple[float, float]) -> Eigenpairs | None:
    """Go there from both ends, which takes the fewest passes, and else through a filter."""
    low, high = interval
    size, number = operator.shape[0], FIRST_FROM_THE_ENDS
    # The interval is all there once converged eigenvalues from an end have come to its far side.
    while number <= MAX_FROM_THE_ENDS:
        pairs = extreme_eigenpairs(operator, min(number, (size + 1) // 2))
        half = len(pairs.values) // 2
        below = pairs.converged[:half].all() and pairs.values[half - 1] > high
        above = pairs.converged[half:].all() and pairs.values[half] <= low
        if below or above or len(pairs.values) == size:
            return pairs.only((pairs.values > low) & (pairs.values <= high))
        number *= 2
    margins = pairs.errors(operator.noise_floor or 0.0)
    bounds = float(pairs.values[0] - margins[0]), float(pairs.values[-1] + margins[-1])
    return filtered_eigenpairs(operator, interval, bounds)


def _fits(num_params: int, vectors: bool, memory: int | None) -> bool:
    available = psutil.virtual_memory().available if memory is None else memory
    return dense_bytes(num_params, vectors) < available


def exact_quantities(store: HessianStore, term: str | None = None) -> dict[str, Any]:
    """What a :class:`Spectrum` says besides eigenvalues: noise floor, trace and norm."""
    trace, norm = exact_sums(store, term)
    return {
        "noise_floor": noise_floor(store.num_params, relative_error(store), norm),
        "trace": trace,
        "frobenius_norm": norm,
    }


def _of_pairs(pairs: Eigenpairs, complete: bool, exact: dict[str, Any]) -> Spectrum:
    return Spectrum(pairs.values, complete, vectors=pairs.vectors, pairs=pairs, **exact)

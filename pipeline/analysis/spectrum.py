"""Eigenvalues of a stored matrix, with the floor below which they are noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import scipy.linalg
import scipy.sparse.linalg

from pipeline.errors import StoreError
from pipeline.store import HessianStore
from pipeline.units import format_bytes

__all__ = ["Spectrum", "noise_floor", "spectrum"]


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of a Hessian or Gauss-Newton matrix, ascending.

    Attributes:
        eigenvalues: All P of them, or some at each end, float64.
        complete: Whether they are all there.
        noise_floor: Eigenvalues of smaller magnitude cannot be told from zero; from the
            store's certificate if it has one, else from the precision of its dtype.
        trace: Exact trace, from the diagonal.
        frobenius_norm: Exact ``‖H‖_F``, from the entries.
    """

    eigenvalues: npt.NDArray[np.float64]
    complete: bool
    noise_floor: float
    trace: float
    frobenius_norm: float

    @property
    def inertia(self) -> tuple[int, int, int] | None:
        """Numbers of eigenvalues ``(above, within, below)`` ``±noise_floor``."""
        if not self.complete:
            return None
        above = int(np.sum(self.eigenvalues > self.noise_floor))
        below = int(np.sum(self.eigenvalues < -self.noise_floor))
        return above, len(self.eigenvalues) - above - below, below

    @property
    def condition_number(self) -> float | None:
        """``max |λ| / min |λ|`` over the eigenvalues above the noise floor.

        It is that of H on the subspace which the stored precision resolves; the
        condition number of the whole matrix is at least that.
        """
        size = np.abs(self.eigenvalues)
        resolved = size[size > self.noise_floor]
        return float(resolved.max() / resolved.min()) if self.complete and len(resolved) else None

    def to_json(self, num_extreme: int = 10) -> dict[str, Any]:
        """A summary as JSON data, with the extreme eigenvalues at both ends."""
        return {
            "num_eigenvalues": len(self.eigenvalues),
            "complete": self.complete,
            "largest": self.eigenvalues[::-1][:num_extreme].tolist(),
            "smallest": self.eigenvalues[:num_extreme].tolist(),
            "noise_floor": self.noise_floor,
            "inertia": self.inertia,
            "condition_number": self.condition_number,
            "trace": self.trace,
            "frobenius_norm": self.frobenius_norm,
        }


def noise_floor(num_params: int, relative_error: float, norm: float) -> float:
    """Bound on the error of the computed eigenvalues.

    If the stored matrix is H + E, no eigenvalue is off by more than ``‖E‖₂ ≤ ‖E‖_F``
    (Weyl's theorem; G. Golub, C. Van Loan, Matrix Computations, section 8.1). A
    dense float64 solver adds about ``P eps64 ‖H‖₂``.

    Args:
        num_params: P.
        relative_error: ``‖E‖_F / ‖H‖_F``.
        norm: ``‖H‖_F``.

    Example:
        >>> f"{noise_floor(5301, 1.2e-7, 100.0):.1e}"
        '1.2e-05'
    """
    return float(norm * (relative_error + num_params * np.finfo(np.float64).eps))


def _relative_error(store: HessianStore) -> float:
    # For Gaussian v, E‖E v‖² = ‖E‖_F² and E‖H v‖² = ‖H‖_F²: the certificate's product errors
    # estimate the relative error of the array. Rounding the entries alone costs eps.
    certificate = store.attributes.get("certificate") or {}
    eps = float(np.finfo(store.dtype).eps)
    errors: list[float] = certificate.get("product_errors", [])
    return max([eps, *errors])


def spectrum(store: HessianStore, term: str | None = None, num_extreme: int = 20) -> Spectrum:
    """All eigenvalues while the dense matrix fits into memory, else the extreme ones.

    The matrix is symmetrised, ``(H + Hᵀ)/2``, and solved in float64.

    Args:
        store: A complete store.
        term: A loss term's matrix instead of the total's.
        num_extreme: Eigenvalues at each end where they are not all computed.

    Raises:
        StoreError: If block rows are missing, or there is no such array.
    """
    _check_complete(store)
    if term not in store.arrays:
        known = ", ".join(t for t in store.arrays if t) or "none (use --per-term)"
        raise StoreError(
            f"{store.location} has no {store.matrix.title} of term {term!r}; it has {known}."
        )
    name = store.arrays[term]
    statistics = [record.statistics[name] for record in store.records().values()]
    norm = float(np.sqrt(sum(s.squares for s in statistics)))
    complete = _dense_bytes(store.num_params) < psutil.virtual_memory().available
    values = _dense(store, name) if complete else _extreme(store, name, num_extreme)
    return Spectrum(
        eigenvalues=values,
        complete=complete,
        noise_floor=noise_floor(store.num_params, _relative_error(store), norm),
        trace=float(sum(s.trace for s in statistics)),
        frobenius_norm=norm,
    )


def _check_complete(store: HessianStore) -> None:
    missing = len(store.block_rows) - len(store.records())
    if missing:
        raise StoreError(
            f"{store.location} lacks {missing} of {len(store.block_rows)} block rows. Complete it "
            f"with: {store.resume_command}"
        )


def _dense_bytes(num_params: int) -> int:
    # The matrix as read, in float64, and LAPACK's working copy.
    return 3 * 8 * num_params**2


def _dense(store: HessianStore, name: str) -> npt.NDArray[np.float64]:
    everything = slice(0, store.num_params)
    matrix = store.read_part(everything, everything, name).astype(np.float64, copy=False)
    if not np.isfinite(matrix).all():  # with which LAPACK may never end
        raise StoreError(
            f"{store.location} lacks entries, although its records say that they are stored. Find "
            f"out which: hessian verify {store.location}"
        )
    matrix = (matrix + matrix.T) / 2
    values = scipy.linalg.eigh(matrix, eigvals_only=True, overwrite_a=True, check_finite=False)
    return np.asarray(values, np.float64)


def _extreme(store: HessianStore, name: str, number: int) -> npt.NDArray[np.float64]:
    operator = scipy.sparse.linalg.LinearOperator(
        (store.num_params,) * 2, matvec=lambda v: _matvec(store, name, v), dtype=np.float64
    )
    try:
        values = scipy.sparse.linalg.eigsh(
            operator, k=2 * number, which="BE", return_eigenvectors=False
        )
    except scipy.sparse.linalg.ArpackNoConvergence as error:
        raise StoreError(
            f"The extreme eigenvalues did not converge, and a dense solution needs "
            f"{format_bytes(_dense_bytes(store.num_params))} of memory: {error}"
        ) from error
    return np.sort(np.asarray(values, np.float64))


def _matvec(store: HessianStore, name: str, vector: npt.NDArray[Any]) -> npt.NDArray[Any]:
    everything = slice(0, store.num_params)
    rows = [slice(row.start, row.stop) for row in store.block_rows]
    return np.concatenate([store.read_part(r, everything, name) @ vector for r in rows])

"""Eigenvalues of a stored matrix, with the floor below which they are noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import scipy.linalg
import scipy.sparse.linalg

from pipeline.analysis.operator import noise_floor, open_operator, relative_error
from pipeline.analysis.tiles import complete_matrix
from pipeline.errors import StoreError
from pipeline.store import HessianStore
from pipeline.units import format_bytes

__all__ = ["Spectrum", "spectrum"]


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
    complete_matrix(store, term)
    name = store.arrays[term]
    statistics = [record.statistics[name] for record in store.records().values()]
    norm = float(np.sqrt(sum(s.squares for s in statistics)))
    complete = _dense_bytes(store.num_params) < psutil.virtual_memory().available
    values = _dense(store, name) if complete else _extreme(store, term, num_extreme)
    return Spectrum(
        eigenvalues=values,
        complete=complete,
        noise_floor=noise_floor(store.num_params, relative_error(store), norm),
        trace=float(sum(s.trace for s in statistics)),
        frobenius_norm=norm,
    )


def _dense_bytes(num_params: int) -> int:
    # The matrix as read, in float64, and LAPACK's working copy.
    return 3 * 8 * num_params**2


def _dense(store: HessianStore, name: str) -> npt.NDArray[np.float64]:
    matrix = np.asarray(store.hessian(name)[...], np.float64)
    matrix = (matrix + matrix.T) / 2
    values = scipy.linalg.eigh(matrix, eigvals_only=True, overwrite_a=True, check_finite=False)
    return np.asarray(values, np.float64)


def _extreme(store: HessianStore, term: str | None, number: int) -> npt.NDArray[np.float64]:
    try:
        values = scipy.sparse.linalg.eigsh(
            open_operator(store, term), k=2 * number, which="BE", return_eigenvectors=False
        )
    except scipy.sparse.linalg.ArpackNoConvergence as error:
        raise StoreError(
            f"The extreme eigenvalues did not converge, and a dense solution needs "
            f"{format_bytes(_dense_bytes(store.num_params))} of memory: {error}"
        ) from error
    return np.sort(np.asarray(values, np.float64))

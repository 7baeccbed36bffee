"""The few numbers that sum up a matrix, each with how sure it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.analysis.spectrum import Spectrum, spectrum
from pipeline.store.store import HessianStore

__all__ = ["Summary", "summarise"]


@dataclass(frozen=True)
class Summary:
    """A store in numbers.

    Attributes:
        name: Name of the store's directory.
        matrix: ``"Hessian"`` or ``"Gauss-Newton matrix"``.
        num_params: P.
        dtype: Dtype of the stored entries.
        loss: L at θ.
        gradient_norm: ``‖∇L(θ)‖``.
        spectrum: Eigenvalues, norms and the noise floor.
        trace_error: Bound on the error of the trace; of an estimate, two standard errors.
        verified: Whether the store's verification and its run's own check passed; None if it was
            not verified.
        estimated: Whether there is no matrix, but only estimates of these numbers.
    """

    name: str
    matrix: str
    num_params: int
    dtype: str
    loss: float
    gradient_norm: float
    spectrum: Spectrum
    trace_error: float
    verified: bool | None
    estimated: bool = False

    def to_json(self) -> dict[str, Any]:
        """The numbers as JSON data."""
        found = self.spectrum
        positive, _, negative = found.inertia or (None, None, None)
        return {
            "store": self.name,
            "matrix": self.matrix,
            "num_params": self.num_params,
            "dtype": self.dtype,
            "verified": self.verified,
            "estimated": self.estimated,
            "loss": self.loss,
            "gradient_norm": self.gradient_norm,
            "noise_floor": found.noise_floor,
            "largest": float(found.eigenvalues[-1]),
            "smallest": float(found.eigenvalues[0]),
            "num_positive": positive,
            "num_negative": negative,
            "condition_number": found.condition_number,
            "effective_rank": found.effective_rank,
            "trace": found.trace,
            "trace_error": self.trace_error,
            "frobenius_norm": found.frobenius_norm,
        }


def summarise(store: HessianStore, found: Spectrum | None = None) -> Summary:
    """Sum up a complete store.

    Args:
        store: The store.
        found: Its spectrum, if it is known already.

    Raises:
        StoreError: If block rows are missing or cannot be read.
    """
    found = found or spectrum(store)
    return Summary(
        name=store.location.name,
        matrix=store.matrix.title,
        num_params=store.num_params,
        dtype=str(store.dtype),
        loss=float(store.attributes["loss"]),
        gradient_norm=store.gradient_norm,
        spectrum=found,
        # If E is the error of the array, |tr E| ≤ √P ‖E‖_F (Cauchy and Schwarz).
        trace_error=float(np.sqrt(store.num_params) * found.noise_floor),
        verified=store.verified,
    )

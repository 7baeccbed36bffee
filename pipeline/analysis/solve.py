"""Solving with a stored matrix: Newton and Gauss-Newton steps, sensitivities, posteriors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.analysis.inverse import HessianInverse, open_inverse
from pipeline.analysis.operator import open_operator
from pipeline.errors import StoreMismatchError
from pipeline.store.places import Place
from pipeline.store.store import HessianStore

__all__ = ["Solution", "solve"]

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Solution:
    """x with ``(A + μ I) x = b``, and how much of it is known.

    Attributes:
        x: ``[P]`` or ``[P, K]``, float64.
        inverse: What it was computed with: method, damping, noise floor.
        residual: ``‖(A + μ I) x - b‖ / ‖b‖``, from the tiles, over the directions that were
            inverted.
        share_left_out: Share of ``‖b‖`` in the directions that were left out, of which x has none.
    """

    x: Array
    inverse: HessianInverse
    residual: float
    share_left_out: float

    @property
    def num_left_out(self) -> int:
        """Number of directions that were left out."""
        return int(self.inverse.left_out.shape[1])

    @property
    def layers_left_out(self) -> dict[str, float]:
        """What share of these directions lies in each layer; empty if there are none."""
        if not self.num_left_out:
            return {}
        layout = self.inverse.layout
        weight = np.sum(self.inverse.left_out**2, axis=1) / self.num_left_out
        by_layer = np.bincount(layout.labels()["layer"], weight)
        return dict(zip(layout.layers(), by_layer.tolist(), strict=True))

    def to_json(self) -> dict[str, Any]:
        """All but x as JSON data."""
        error = self.inverse.relative_error
        return {
            "method": self.inverse.method,
            "damping": self.inverse.damping,
            "length": float(np.linalg.norm(self.x)),
            "residual": self.residual,
            "relative_error": error if np.isfinite(error) else None,
            "noise_floor": self.inverse.noise_floor,
            "smallest": self.inverse.smallest,
            "num_left_out": self.num_left_out,
            "share_left_out": self.share_left_out,
            "layers_left_out": self.layers_left_out,
        }


def solve(
    store: HessianStore | Place,
    right: Array,
    damping: float = 0.0,
    term: str | None = None,
    *,
    memory: int | None = None,
) -> Solution:
    """Solve ``(A + μ I) x = b`` for a stored Hessian or Gauss-Newton matrix A.

    With the gradient for b, -x is the step of Newton or of Levenberg and Marquardt. Directions that
    cannot be told from singular are left out, as :func:`open_inverse` describes, and counted.

    Args:
        store: A complete store, or where it is.
        right: b ``[P]``, or several ``[P, K]``.
        damping: μ.
        term: A loss term's matrix instead of the total's.
        memory: Bytes that may be taken; what is free by default.

    Raises:
        StoreMismatchError: If b has another length, or is not finite.
        PlanError: If A is too near to singular for the memory that there is.
        StoreError: If block rows are missing or damaged, or there is no such array.

    Example:
        >>> import tempfile
        >>> from pipeline import compute_hessian, load_problem
        >>> small = load_problem("regression", width=4, depth=1, num_samples=9, dtype="float64")
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     stored = compute_hessian(small, f"{directory}/h.zarr").load()
        ...     found = solve(f"{directory}/h.zarr", stored.gradient.to_numpy(), damping=2.0)
        >>> damped = stored.hessian.to_numpy() + 2 * np.eye(13)
        >>> np.allclose(damped @ found.x, stored.gradient), found.num_left_out
        (True, 0)
    """
    opened = store if isinstance(store, HessianStore) else HessianStore(store)
    b = np.asarray(right, np.float64)
    if b.ndim not in (1, 2) or len(b) != opened.num_params or not np.isfinite(b).all():
        kind = "finite" if np.isfinite(b).all() else "that are not all finite"
        raise StoreMismatchError(
            f"The right-hand side has shape {list(b.shape)} with numbers {kind}; expected finite "
            f"ones, {opened.num_params:,} for the parameters of {opened.location}."
        )
    inverse = open_inverse(opened, damping, term, memory=memory)
    x = inverse @ b
    outside = inverse.left_out @ (inverse.left_out.T @ b)
    size = float(np.linalg.norm(b)) or 1.0
    residual = open_operator(opened, term) @ x + damping * x - (b - outside)
    return Solution(
        x, inverse, float(np.linalg.norm(residual)) / size, float(np.linalg.norm(outside)) / size
    )

"""What L-BFGS knows of the curvature: its pairs, and a factor of its inverse Hessian.

From pairs of steps and changes of the gradient, oldest first,

    s_i = θ_{i+1} - θ_i,    y_i = ∇L(θ_{i+1}) - ∇L(θ_i),    ρ_i = 1 / y_iᵀs_i,

L-BFGS builds M = M_m from M_0 = γ I, γ = s_mᵀy_m / y_mᵀy_m, by

    M_{i+1} = (I - ρ_i s_i y_iᵀ) M_i (I - ρ_i y_i s_iᵀ) + ρ_i s_i s_iᵀ

(J. Nocedal, S. Wright, Numerical Optimization, 2nd edition, (7.19)). M is positive definite, so
that M = L Lᵀ, and LᵀH L is symmetric and has the eigenvalues of M H: the Hessian as L-BFGS
sees it.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import StoreError

__all__ = ["InverseHessianFactor", "LbfgsHistory"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LbfgsHistory:
    """The pairs that L-BFGS holds after its last step.

    Attributes:
        theta: Where that step led, ``[P]``.
        steps: The steps s, ``[m, P]``, oldest first.
        gradient_changes: The changes y of the gradient over them, ``[m, P]``.

    Raises:
        StoreError: If the shapes do not belong together, or a pair has no positive ``yᵀs``.

    Example:
        >>> history = LbfgsHistory(np.ones(2), np.eye(2), np.diag([4.0, 2.0]))
        >>> history.scaling
        0.5
    """

    theta: Array
    steps: Array
    gradient_changes: Array

    def __post_init__(self) -> None:
        shape = self.steps.shape
        if self.gradient_changes.shape != shape or shape[1:] != self.theta.shape or not shape[0]:
            raise StoreError(
                f"A history of L-BFGS needs steps and changes of the gradient [m, P], at least one "
                f"pair, and P parameters; got {shape}, {self.gradient_changes.shape} and "
                f"{self.theta.shape}."
            )
        if not np.all(self.products > 0):
            raise StoreError(
                "A pair of this history of L-BFGS has yᵀs ≤ 0, which L-BFGS never keeps."
            )

    @property
    def products(self) -> Array:
        """``yᵀs`` of every pair, ``[m]``."""
        products: Array = np.einsum("ij,ij->i", self.steps, self.gradient_changes)
        return products

    @property
    def scaling(self) -> float:
        """γ, from the newest pair."""
        newest = self.gradient_changes[-1]
        return float(self.products[-1] / (newest @ newest))

    def save(self, path: str | Path) -> None:
        """Write ``theta``, ``steps`` and ``gradient_changes`` into an ``.npz`` file."""
        with Path(path).open("wb") as file:
            np.savez(
                file, theta=self.theta, steps=self.steps, gradient_changes=self.gradient_changes
            )

    @classmethod
    def load(cls, path: str | Path) -> LbfgsHistory:
        """Read what :meth:`save` wrote.

        Raises:
            StoreError: If the file is missing, damaged or something else.
        """
        try:
            # np.load leaves a file open if it turns out to be none of its own.
            with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as saved:
                return cls(saved["theta"], saved["steps"], saved["gradient_changes"])
        except StoreError as error:
            raise StoreError(f"{path}: {error}") from error
        # An .npy array lacks the entries of an archive, which is a TypeError.
        except (OSError, KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise StoreError(
                f"{path} is no history of L-BFGS ({type(error).__name__}: {error}). Record one "
                "with: hessian train --history FILE"
            ) from error


class InverseHessianFactor:
    """A square factor L of the inverse Hessian of L-BFGS, ``M = L Lᵀ``, as products.

    The BFGS update has a product form (K. Brodlie, A. Gourlay, J. Greenstadt, 1973; J. Dennis,
    R. Schnabel, Numerical Methods for Unconstrained Optimization, section 9.2),

        L_{i+1} = (I - ρ_i s_i c_iᵀ) L_i,  c_i = y_i - α_i B_i s_i,  α_i² = y_iᵀs_i / s_iᵀB_i s_i,

    with B_i the inverse of M_i. Multiplied out, ``L = √γ (I - S Zᵀ)``, two products with m columns;
    ``J = L⁻ᵀ = (I + C Tᵀ)/√γ`` gives ``B = J Jᵀ``. P. Rathore et al. (ICML 2024, appendix) take a
    factor ``[P, P + m]``, which adds m eigenvalues zero to ``LᵀH L``; otherwise they are the same.

    Example:
        >>> history = LbfgsHistory(np.ones(2), np.eye(2), np.diag([4.0, 2.0]))
        >>> L = InverseHessianFactor(history).matmat(np.eye(2))
        >>> np.allclose(L @ L.T, np.diag([0.25, 0.5]))
        True
    """

    def __init__(self, history: LbfgsHistory) -> None:
        """Multiply the updates out, in O(m² P)."""
        num_pairs, num_params = history.steps.shape
        self.num_params = num_params
        self._root = float(np.sqrt(history.scaling))
        # Columns not reached yet are zero, so that they take part in products without effect.
        self._left, self._right, changes, tangents = np.zeros((4, num_params, num_pairs))
        for i, (s, y) in enumerate(zip(history.steps, history.gradient_changes, strict=True)):
            half = (s + tangents @ (changes.T @ s)) / self._root  # Jᵀs, so ‖half‖² = sᵀB s
            image = (half + changes @ (tangents.T @ half)) / self._root
            rho = 1 / (y @ s)
            alpha = 1 / np.sqrt(rho * (half @ half))
            change = y - alpha * image
            direction = alpha * rho * s
            self._right[:, i] = change - self._right @ (self._left.T @ change)
            tangents[:, i] = direction + tangents @ (changes.T @ direction)
            self._left[:, i], changes[:, i] = rho * s, change

    def moments(self) -> tuple[float, float]:
        """``tr M`` and ``‖M‖_F²``.

        M/γ is I + W K Wᵀ with W = [S, Z] and K = [[ZᵀZ, -I], [-I, 0]].
        """
        both = np.hstack([self._left, self._right])
        num_pairs = self._left.shape[1]
        core = -np.roll(np.eye(2 * num_pairs), num_pairs, axis=0)
        core[:num_pairs, :num_pairs] = self._right.T @ self._right
        change = core @ (both.T @ both)
        trace = self.num_params + np.trace(change)
        squares = self.num_params + 2 * np.trace(change) + np.sum(change * change.T)
        return float(self._root**2 * trace), float(self._root**4 * squares)

    def matmat(self, vectors: npt.NDArray[Any]) -> Array:
        """``L V`` for V ``[P, K]`` or ``[P]``."""
        product: Array = self._root * (vectors - self._left @ (self._right.T @ vectors))
        return product

    def rmatmat(self, vectors: npt.NDArray[Any]) -> Array:
        """``LᵀV`` for V ``[P, K]`` or ``[P]``."""
        product: Array = self._root * (vectors - self._right @ (self._left.T @ vectors))
        return product

"""Steps that a curvature matrix suggests, and how many directions damping leaves.

With eigenpairs (λ_i, v_i) of H or of the Gauss-Newton matrix G, gradient g and damping μ ≥ 0, a
step is p = -Σ v_iᵀg / d_i v_i, where

    d_i = λ_i + μ      Newton on H; Gauss-Newton, that is Levenberg-Marquardt, on G,
    d_i = |λ_i| + μ    saddle-free Newton on H (Y. Dauphin et al., NeurIPS 2014).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.sparse.linalg

from pipeline.analysis._dense import dense_eigenpairs
from pipeline.analysis.operator import HessianOperator
from pipeline.errors import StoreError

__all__ = [
    "Eigenbasis",
    "Method",
    "TriedStep",
    "damped_step",
    "effective_dimension",
    "iterative_step",
    "predicted_decrease",
]

Array = npt.NDArray[np.float64]
Method = Literal["newton", "saddle_free", "gauss_newton"]


@dataclass(frozen=True)
class TriedStep:
    """A step from θ, what the quadratic model promises, and what the loss does.

    Attributes:
        method: ``"newton"``, ``"saddle_free"`` or ``"gauss_newton"``.
        damping: μ.
        length: ``‖p‖₂``.
        predicted: Decrease of the loss by the quadratic model of the method's matrix.
        loss: Loss at θ.
        loss_after: Loss at θ + p.
        effective_dimension: Of the method's matrix at that damping, eigenvalues by magnitude; the
            rank without damping.
    """

    method: Method
    damping: float
    length: float
    predicted: float
    loss: float
    loss_after: float
    effective_dimension: float

    @property
    def ratio(self) -> float:
        """Actual decrease over the predicted one: near 1 where the model can be trusted."""
        return (self.loss - self.loss_after) / self.predicted if self.predicted else float("nan")

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self) | {"ratio": self.ratio if np.isfinite(self.ratio) else None}


@dataclass(frozen=True)
class Eigenbasis:
    """All eigenpairs of a symmetric matrix, to solve with many dampings.

    Attributes:
        eigenvalues: ``[P]``, ascending; zero where they cannot be told from it.
        vectors: ``[P, P]``, a column each.
    """

    eigenvalues: Array
    vectors: Array

    @classmethod
    def of(cls, matrix: Array, noise_floor: float = 0.0) -> Eigenbasis:
        """Decompose a dense matrix; it is overwritten.

        Args:
            matrix: ``[P, P]``.
            noise_floor: Eigenvalues of smaller magnitude are taken for zero.
        """
        values, vectors = dense_eigenpairs(matrix, vectors=True)
        assert vectors is not None  # they were asked for
        return cls(np.where(np.abs(values) > noise_floor, values, 0.0), vectors)

    def step(self, gradient: Array, damping: float, *, magnitudes: bool = False) -> Array:
        """The damped step p ``[P]``.

        Without damping, directions of eigenvalue zero are left out, which gives the step of least
        length.

        Args:
            gradient: g ``[P]``.
            damping: μ.
            magnitudes: Take ``|λ|`` instead of λ: saddle-free.

        Example:
            >>> basis = Eigenbasis.of(np.diag([-2.0, 0.0, 4.0]))
            >>> np.allclose(basis.step(np.ones(3), 0.0), [0.5, 0.0, -0.25])
            True
            >>> basis.step(np.ones(3), 1.0, magnitudes=True).round(3).tolist()
            [-0.333, -1.0, -0.2]
        """
        values = np.abs(self.eigenvalues) if magnitudes else self.eigenvalues
        divisors = values + damping
        along = self.vectors.T @ gradient
        shares = np.divide(along, divisors, out=np.zeros_like(along), where=divisors != 0)
        return np.asarray(-(self.vectors @ shares))


def iterative_step(
    operator: HessianOperator,
    gradient: Array,
    damping: float,
    tolerance: float = 1e-8,
    preconditioner: scipy.sparse.linalg.LinearOperator | None = None,
) -> Array:
    """The step p of Newton or Gauss-Newton from products alone, by MINRES.

    Solves ``(A + μ I) p = -g`` for symmetric A, definite or not (C. Paige, M. Saunders, 1975).
    There is no saddle-free step without eigenvectors.

    Args:
        operator: A.
        gradient: g ``[P]``.
        damping: μ.
        tolerance: Of the residual, relative as in :func:`scipy.sparse.linalg.minres`.
        preconditioner: Something positive definite that is near to the inverse of A + μ I.

    Raises:
        StoreError: If it does not converge, which more damping cures.

    Example:
        >>> from hessian_tasks.parameters import ParameterLayout
        >>> layout = ParameterLayout.of([("a/kernel", (2,))])
        >>> operator = HessianOperator(lambda v: 3 * v, layout, relative_error=0.0)
        >>> iterative_step(operator, np.array([4.0, 8.0]), damping=1.0).round(6).tolist()
        [-1.0, -2.0]
    """
    limit = 10 * len(gradient)
    step, failed = scipy.sparse.linalg.minres(
        operator,
        -gradient,
        shift=-damping,
        rtol=tolerance,
        maxiter=limit,
        M=preconditioner,
    )
    if failed:
        raise StoreError(
            f"The step with damping {damping:g} did not converge in {limit} products; damp it more."
        )
    return np.asarray(step)


def predicted_decrease(gradient: Array, step: Array, image: Array) -> float:
    """``-(gᵀp + ½ pᵀA p)``: by how much the quadratic model falls over the step p.

    Args:
        gradient: g ``[P]``.
        step: p ``[P]``.
        image: A p ``[P]``.

    Example:
        >>> predicted_decrease(np.array([2.0]), np.array([-1.0]), np.array([-2.0]))
        1.0
    """
    return float(-(gradient @ step + step @ image / 2))


def effective_dimension(
    eigenvalues: Array, damping: float, negative: Literal["magnitude", "zero"] = "magnitude"
) -> float:
    """``d(μ) = Σ λ_i / (λ_i + μ)``: how many directions the data determine against damping μ.

    The number of parameters that a Gaussian prior of precision μ leaves to the data (D. MacKay,
    1992; W. Maddox, G. Benton, A. Wilson, 2020), ``tr A (A + μ I)⁻¹`` for semidefinite A. A Hessian
    that is not semidefinite needs a convention.

    Args:
        eigenvalues: All of them.
        damping: μ > 0.
        negative: Take negative eigenvalues by their magnitude, or for zero.

    Raises:
        ValueError: If the damping is not positive.

    Example:
        >>> effective_dimension(np.array([-1.0, 0.0, 1.0, 3.0]), 1.0)
        1.75
        >>> effective_dimension(np.array([-1.0, 0.0, 1.0, 3.0]), 1.0, negative="zero")
        1.25
    """
    if not damping > 0:
        raise ValueError(f"damping is {damping}; expected a positive number")
    values = np.abs(eigenvalues) if negative == "magnitude" else np.maximum(eigenvalues, 0)
    return float(np.sum(values / (values + damping)))


def damped_step(matrix: Array, gradient: Array, damping: float) -> Array | None:
    """``-(G + μ I)⁻¹ ∇L``, or None if that matrix is not positive definite.

    Args:
        matrix: G ``[P, P]``.
        gradient: ``∇L`` ``[P]``.
        damping: μ.

    Example:
        >>> damped_step(np.diag([3.0, 0.0]), np.array([4.0, 4.0]), 1.0)
        array([-1., -4.])
        >>> damped_step(np.diag([3.0, -1.0]), np.array([4.0, 4.0]), 1.0)
    """
    # Symmetric, and of rows in a row: its transpose is in LAPACK's order as it is.
    damped = matrix.T.copy(order="F")
    damped[np.diag_indices_from(damped)] += damping
    try:
        factor = scipy.linalg.cho_factor(damped, lower=True, overwrite_a=True, check_finite=False)
    except np.linalg.LinAlgError:
        return None
    step: Array = -scipy.linalg.cho_solve(factor, gradient, check_finite=False)
    return step

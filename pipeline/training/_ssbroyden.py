"""Self-scaled Broyden: a dense inverse Hessian, whose scale every update chooses anew.

J. Urbán, P. Stefanou, J. Pons (J. Comput. Phys. 523, 2025) found it to reach much smaller losses of
PINNs than BFGS; the choice is that of M. Al-Baali, H. Khalfan (2005). With

    s = θ' - θ,   y = ∇L(θ') - ∇L(θ),   b = sᵀH⁻¹s / yᵀs,   h = yᵀH y / yᵀs,   a = b h - 1 ≥ 0,

the family of updates is

    H' = 1/τ (H - H y yᵀH / yᵀHy + φ yᵀHy v vᵀ) + s sᵀ / yᵀs,   v = s / yᵀs - H y / yᵀHy.

All have H' y = s, as vᵀy = 0, and are positive definite if yᵀs > 0, τ > 0 and φ ≥ 0 or not too far
below. τ = φ = 1 is BFGS, φ = 0 is DFP, and τ < 1 enlarges what H says of directions other than s.
In their parameter t, φ = (1 - t) / σ with σ = 1 + a t > 0. With c = √(a / (1 + a)) the choice is

    p = min(1, h (1 - c)),   t = max((p - 1) / a, min(1 / p, (1 - b) / b)),   r = min(1, 1 / b),
    τ = min(r σ^(1/(1-P)), σ)        for t ≤ 0,
    τ = r min(σ^(1/(1-P)), 1 / t)    for t > 0,

but τ = h / σ in the first update, where H = I knows nothing of the scale.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import scipy.optimize
from scipy.linalg import blas

from pipeline.training._objective import Array, Objective, Place, check_memory

__all__ = ["InverseHessian", "run_ssbroyden", "self_scaling"]

WORDS = "self-scaled Broyden"
# a ≥ 0 by Cauchy and Schwarz; what is smaller than this is the rounding of b h.
ROUNDING = 1e-12
# Strong Wolfe conditions, and the trials after which a line search gives up.
DECREASE, CURVATURE, TRIALS = 1e-4, 0.9, 30


class InverseHessian:
    """What is known of the inverse Hessian: symmetric, of which the lower triangle is kept.

    Attributes:
        is_fresh: Whether it is still the identity.

    Example:
        >>> H = InverseHessian(2)
        >>> s, y = np.array([1.0, 0.0]), np.array([2.0, 1.0])
        >>> H.update(s, y, H @ y, tau=1.0, phi=1.0)
        >>> H @ y
        array([1., 0.])
    """

    def __init__(self, size: int) -> None:
        """Begin with the identity ``[P, P]``."""
        self._matrix = np.eye(size, order="F")
        self.is_fresh = True

    def __matmul__(self, vector: Array) -> Array:
        """``H x`` ``[P]``."""
        product: Array = blas.dsymv(1.0, self._matrix, vector, lower=1)
        return product

    def update(self, s: Array, y: Array, image: Array, tau: float, phi: float) -> None:
        """Replace H by H'.

        Args:
            s: The step ``[P]``.
            y: The change of the gradient ``[P]``, with ``yᵀs > 0``.
            image: ``H y``.
            tau: τ.
            phi: φ.
        """
        rho, square = 1 / (y @ s), y @ image
        # Multiplied out, with U = [s, H y]: H' = H / τ + U C Uᵀ.
        core = np.array(
            [
                [rho + phi * square * rho**2 / tau, -phi * rho / tau],
                [-phi * rho / tau, (phi - 1) / (square * tau)],
            ]
        )
        both = np.stack([s, image], axis=1)
        self._matrix = blas.dsyr2k(
            0.5, both, both @ core, beta=1 / tau, c=self._matrix, lower=1, overwrite_c=1
        )
        self.is_fresh = False


def self_scaling(b: float, h: float, size: int, *, is_first: bool = False) -> tuple[float, float]:
    """τ and φ of an update.

    Args:
        b: ``sᵀH⁻¹s / yᵀs > 0``.
        h: ``yᵀH y / yᵀs > 0``.
        size: P.
        is_first: Whether H is the identity.

    Example:
        >>> self_scaling(1.0, 1.0, 10)  # H has the curvature that was found: BFGS
        (1.0, 1.0)
    """
    a = b * h - 1
    if a < ROUNDING:  # s and H y are parallel, v = 0, and φ does not matter
        return (h if is_first else min(1.0, 1 / b)), 1.0
    p = min(1.0, h * (1 - math.sqrt(a / (1 + a))))
    t = max((p - 1) / a, min(1 / p, (1 - b) / b))
    sigma = 1 + a * t
    phi = (1 - t) / sigma
    if is_first:
        return h / sigma, phi
    volume, r = sigma ** (1 / (1 - size)), min(1.0, 1 / b)
    return (min(r * volume, sigma) if t <= 0 else r * min(volume, 1 / t)), phi


def run_ssbroyden(objective: Objective, num_steps: int) -> None:
    """Iterate until the loss does not fall any more.

    Args:
        objective: The loss.
        num_steps: Largest number of iterations.

    Raises:
        ProblemError: If the loss or its gradient is not finite.
        DoesNotFitError: If memory does not hold a dense matrix.
    """
    theta = objective.begin("ssbroyden", WORDS)
    check_memory(WORDS.capitalize(), len(theta), 1)
    at = objective(theta)
    inverse = InverseHessian(len(theta))
    # As if the last step had been one of length 1, which the first one is then tried to be.
    before = at.loss + float(np.linalg.norm(at.gradient)) / 2
    for _ in range(num_steps):
        found = _search(objective, at, inverse, before)
        if found is None and not inverse.is_fresh:
            # Rounding may have bent H; steepest descent says whether there is more to gain.
            inverse = InverseHessian(len(theta))
            found = _search(objective, at, inverse, before)
        if found is None:
            break
        there, length = found
        _learn(inverse, at, there, length)
        before, at = at.loss, there
        objective.move(at.theta)
        objective.report(at.loss)
    objective.move(at.theta)


def _search(
    objective: Objective, at: Place, inverse: InverseHessian, before: float
) -> tuple[Place, float] | None:
    """The next place, and how many times ``-H ∇L`` away it is; None if no loss is smaller.

    Args:
        objective: The loss.
        at: Where to begin.
        inverse: H.
        before: The loss one step before, from which the length of the first trial is found.
    """
    direction, last = -(inverse @ at.gradient), at
    if not at.gradient @ direction < 0:
        return None

    def ask(theta: Array) -> Place:
        # The search asks for the loss, and then for the gradient at the same place.
        nonlocal last
        if not np.array_equal(theta, last.theta):
            last = objective(theta)
        return last

    with warnings.catch_warnings():
        # What it warns of is that it has found nothing, which it also returns.
        warnings.simplefilter("ignore", RuntimeWarning)
        length, *_ = scipy.optimize.line_search(
            lambda theta: ask(theta).loss,
            lambda theta: ask(theta).gradient,
            at.theta,
            direction,
            gfk=at.gradient,
            old_fval=at.loss,
            old_old_fval=before,
            c1=DECREASE,
            c2=CURVATURE,
            maxiter=TRIALS,
        )
    if length is None:
        return None
    there = ask(at.theta + length * direction)
    # Where the fall that is asked for is less than the rounding of the loss, it need not fall.
    return (there, length) if there.loss < at.loss else None


def _learn(inverse: InverseHessian, at: Place, there: Place, length: float) -> None:
    s, y = there.theta - at.theta, there.gradient - at.gradient
    inner, fall = y @ s, -(at.gradient @ s)
    # As L-BFGS-B has it: a smaller one would be the rounding of the gradients.
    if inner <= np.finfo(np.float64).eps * fall:
        return
    image = inverse @ y
    # H⁻¹ s is the gradient, times minus the length.
    b, h = length * fall / inner, (y @ image) / inner
    tau, phi = self_scaling(b, h, len(s), is_first=inverse.is_fresh)
    inverse.update(s, y, image, tau, phi)

"""Levenberg-Marquardt: steps ``(G + μ I)⁻¹ ∇L`` with the Gauss-Newton matrix, in float64.

For residual terms G is ``Σ 2 w / (N C) JᵀJ``, what J. Müller, M. Zeinhofer (2023) call energy
natural gradient of a PINN's loss. The step d = -(G + μ I)⁻¹ ∇L minimises the model

    m(d) = L + ∇Lᵀd + ½ dᵀG d

in a ball, the smaller the larger μ is, and promises ``L - m(d) = ½ (μ dᵀd - ∇Lᵀd)``. It is taken
only if the loss falls. How much of the promise came true is the gain ratio, by which μ is adapted
(H. Nielsen, 1999; K. Madsen, H. Nielsen, O. Tingleff, Methods for Non-Linear Least Squares
Problems, 2004, algorithm 3.16):

    gain > 0:  μ ← μ max(1/3, 1 - (2 gain - 1)³),  ν ← 2;      else  μ ← μ ν,  ν ← 2 ν.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hessian_tasks.autodiff.generalised import find_kinds
from hessian_tasks.errors import ProblemError
from hessian_tasks.gauss_newton import GaussNewtonEngine
from hessian_tasks.problem import Problem
from hessian_tasks.reading import read_terms
from hessian_tasks.spec import BlockRow
from pipeline.analysis.steps import damped_step
from pipeline.errors import PlanError
from pipeline.run.engines import choose_engine
from pipeline.training._objective import Array, Objective, Place, check_memory

__all__ = ["Damping", "run_levenberg_marquardt"]

WORDS = "Levenberg-Marquardt"
# Of the largest diagonal entry of G, which the first μ is: a small number, as Madsen and others
# advise where the start is thought to be good, as it is after Adam.
FIRST = 1e-3
# With what is larger, no entry of a step changes a weight of float64.
LARGEST = 1e16


@dataclass
class Damping:
    """μ, and how fast it grows.

    Attributes:
        value: μ.

    Example:
        >>> damping = Damping(1.0)
        >>> damping.adapt(1.0)  # the model is right
        >>> damping.value
        0.3333333333333333
        >>> damping.adapt(-0.5)  # the loss rose
        >>> damping.adapt(-0.5)
        >>> damping.value
        2.6666666666666665
    """

    value: float
    _growth: float = 2.0

    def adapt(self, gain: float) -> None:
        """Learn from a step.

        Args:
            gain: By how much the loss fell, relative to what the model promised.
        """
        if gain > 0:
            self.value *= max(1 / 3, 1 - (2 * gain - 1) ** 3)
            self._growth = 2.0
        else:
            self.value *= self._growth
            self._growth *= 2


def run_levenberg_marquardt(objective: Objective, num_steps: int) -> None:
    """Step until no damping lets the loss fall.

    Args:
        objective: The loss.
        num_steps: Largest number of steps.

    Raises:
        ProblemError: If the loss, its gradient or the matrix is not finite.
        PlanError: If a term has no Gauss-Newton matrix.
        DoesNotFitError: If memory does not hold two dense matrices.
    """
    theta = objective.begin("levenberg-marquardt", WORDS)
    check_memory(WORDS, len(theta), 2)
    at = objective(theta)
    engine = _engine(objective.problem)
    damping: Damping | None = None
    for number in range(num_steps):
        if number > 0:
            engine.refresh()
        matrix = engine.block_row(BlockRow(0, 0, len(theta))).astype(np.float64, copy=False)
        if not np.isfinite(matrix).all():
            raise ProblemError(
                f"The Gauss-Newton matrix holds NaN or infinity where the loss is {at.loss:.3e}. "
                "Look for a root, quotient or logarithm at the end of its domain."
            )
        damping = damping or Damping(FIRST * _scale(matrix))
        found = _descend(objective, at, matrix, damping)
        if found is None:
            break
        at = found
        objective.report(at.loss)
    objective.move(at.theta)


def _engine(problem: Problem) -> GaussNewtonEngine:
    left_out = find_kinds(read_terms(problem)).left_out
    if left_out:
        reasons = "; ".join(f"term {name!r} {reason}" for name, reason in left_out.items())
        raise PlanError(
            f"{WORDS} needs the Gauss-Newton matrix of every loss term, but {reasons}. Train with "
            "L-BFGS or self-scaled Broyden."
        )
    engine, _ = choose_engine(problem, "ggn")
    assert isinstance(engine, GaussNewtonEngine)
    return engine


def _descend(objective: Objective, at: Place, matrix: Array, damping: Damping) -> Place | None:
    """Where the loss is smaller, which the network has then, or None if no damping leads there."""
    limit = LARGEST * _scale(matrix)
    while damping.value <= limit:
        step = damped_step(matrix, at.gradient, damping.value)
        if step is None:
            damping.adapt(-1.0)
            continue
        promised = float(step @ (damping.value * step - at.gradient)) / 2
        there = objective.measure(at.theta + step)
        falls = there.loss < at.loss and bool(np.isfinite(there.gradient).all())
        damping.adapt((at.loss - there.loss) / promised if falls else -1.0)
        if falls:
            return there
    return None


def _scale(matrix: Array) -> float:
    """The largest diagonal entry, or 1 of a matrix that has none."""
    return float(np.abs(matrix.diagonal()).max()) or 1.0

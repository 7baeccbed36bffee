"""L-BFGS, which is SciPy's, and the pairs that it holds at the end."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import scipy.optimize

from pipeline.analysis.lbfgs import LbfgsHistory
from pipeline.training._objective import Array, Objective

__all__ = ["run_lbfgs"]

MEMORY = 50
"""Number of pairs that L-BFGS keeps."""


def run_lbfgs(objective: Objective, num_steps: int) -> LbfgsHistory | None:
    """Iterate until the loss does not fall any more.

    Args:
        objective: The loss.
        num_steps: Largest number of iterations.

    Returns:
        The pairs, or None if it made no step.

    Raises:
        ProblemError: If the loss or its gradient is not finite.
    """
    start = objective.begin("lbfgs", "L-BFGS")
    last = objective(start)
    pairs = _Pairs(start, last.gradient)

    def loss_and_gradient(theta: Array) -> tuple[float, Array]:
        nonlocal last
        last = objective(theta)
        return last.loss, last.gradient

    # SciPy passes the loss as well as θ only to a callback whose argument has this name.
    def iterated(intermediate_result: Any) -> None:
        # An iteration ends where the line search asked last.
        pairs.reach(intermediate_result.x, last.gradient)
        objective.report(float(intermediate_result.fun))

    # No tolerance on the loss: PINN losses creep for long before they fall again.
    options = {"maxiter": num_steps, "maxfun": 20 * num_steps, "maxcor": MEMORY, "ftol": 0.0}
    result = scipy.optimize.minimize(
        loss_and_gradient, start, method="L-BFGS-B", jac=True, callback=iterated, options=options
    )
    # The last point tried by a line search need not be the best.
    objective.move(result.x)
    return pairs.history()


class _Pairs:
    """The newest pairs of L-BFGS, recorded as it goes.

    SciPy's ``hess_inv`` has them too, but in the order of a ring buffer that has wrapped round,
    which changes the matrix, without the last step's, and none after a line search has failed.
    """

    def __init__(self, theta: Array, gradient: Array) -> None:
        self._theta, self._gradient = theta.copy(), gradient.copy()
        self._pairs: deque[tuple[Array, Array]] = deque(maxlen=MEMORY)

    def reach(self, theta: Array, gradient: Array) -> None:
        """Record the step to a new iterate, if L-BFGS-B keeps its pair."""
        s, y = theta - self._theta, gradient - self._gradient
        # Its own condition for that, which keeps the matrix positive definite in rounding.
        if s @ y > np.finfo(np.float64).eps * -(self._gradient @ s):
            self._pairs.append((s, y))
        self._theta, self._gradient = theta.copy(), gradient.copy()

    def history(self) -> LbfgsHistory | None:
        if not self._pairs:
            return None
        steps, changes = (np.array(part) for part in zip(*self._pairs, strict=True))
        return LbfgsHistory(self._theta, steps, changes)

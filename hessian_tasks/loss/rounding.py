"""How far rounding alone may move a loss and its gradient."""

from __future__ import annotations

import numpy as np

from hessian_tasks.frozen import Evaluated, Rounding
from hessian_tasks.loss.gradient import CompiledLosses
from hessian_tasks.networks.models import get_theta, kept_weights, set_theta

__all__ = ["measure_rounding"]

NUM_PROBES = 2


def measure_rounding(compiled: CompiledLosses, at_theta: Evaluated) -> Rounding:
    """The largest changes between θ and ``θ ± ulp(θ)``, with random signs.

    A backward stable evaluation is the exact one at parameters that differ by a few units in the
    last place (N. Higham, Accuracy and Stability of Numerical Algorithms, section 1.5), so two of
    them, on other processors or in another order, may differ by this much. At a minimum, where
    large terms cancel, it is a great part of the gradient.

    Args:
        compiled: The losses, at the weights θ, which they have again afterwards.
        at_theta: The losses and their gradient there.

    Returns:
        That, or nothing measured for a loss that is another when it is evaluated again: what it
        draws is not rounding.

    Example:
        >>> from hessian_tasks.loss import compile_losses_and_gradient
        >>> from hessian_tasks.problems.poisson import problem
        >>> compiled = compile_losses_and_gradient(problem(width=4, depth=1))
        >>> at_theta = Evaluated(*compiled.evaluate())
        >>> found = measure_rounding(compiled, at_theta)
        >>> bool(0 < found.gradient < 1e-4 * np.linalg.norm(at_theta.gradient))
        True
    """
    if Evaluated(*compiled.evaluate()).disagreement(at_theta):
        return Rounding()
    model, signs = compiled.problem.model, np.random.default_rng(0)
    theta, losses = get_theta(model), np.array(list(at_theta.losses.values()))
    changes = []
    with kept_weights(model):
        for _ in range(NUM_PROBES):
            steps = np.copysign(np.spacing(theta), signs.uniform(-1, 1, len(theta)))
            set_theta(model, theta + steps)
            values, gradient = (tensor.numpy() for tensor in compiled())
            moved = np.abs(values - losses).max(), np.linalg.norm(gradient - at_theta.gradient)
            changes.append(moved)
    # Where the loss is finite at θ alone, nothing is known of its rounding.
    loss, grad = np.nan_to_num(changes, nan=0.0, posinf=0.0).max(axis=0).tolist()
    return Rounding(loss, grad)

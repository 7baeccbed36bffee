"""The loss of a problem at the present weights: its terms, their gradient, and what they read.

Imports TensorFlow, and of this package problems and their networks.
"""

from hessian_tasks.loss.gradient import (
    compile_losses_and_gradient,
    flatten,
    gradient,
    losses_and_gradient,
)
from hessian_tasks.loss.terms import (
    View,
    seen_loss,
    term_loss,
    term_values,
)

__all__ = [
    "View",
    "compile_losses_and_gradient",
    "flatten",
    "gradient",
    "losses_and_gradient",
    "seen_loss",
    "term_loss",
    "term_values",
]

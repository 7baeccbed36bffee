"""The loss of a problem at the present weights: its terms, their gradient, and what they read.

Imports TensorFlow, and of this package problems and their networks.
"""

from hessian_tasks.loss.gradient import (
    CompiledLosses,
    compile_losses_and_gradient,
    flatten,
    gradient,
    losses_and_gradient,
)
from hessian_tasks.loss.terms import (
    View,
    by_term,
    part_loss,
    seen_loss,
    seen_values,
    term_loss,
    term_values,
)

__all__ = [
    "CompiledLosses",
    "View",
    "by_term",
    "compile_losses_and_gradient",
    "flatten",
    "gradient",
    "losses_and_gradient",
    "part_loss",
    "seen_loss",
    "seen_values",
    "term_loss",
    "term_values",
]

"""What a loss term depends on: read once, from the term's own code, for every engine.

- :mod:`~hessian_tasks.reading._stand_in` stands for the network in a loss;
- :mod:`~hessian_tasks.reading._evaluations` finds where the loss evaluates the network, and which
  weights it reads itself;
- :mod:`~hessian_tasks.reading._checks` holds it as a function of jets against itself, and
  :mod:`~hessian_tasks.reading._arguments` and :mod:`~hessian_tasks.reading._quadratic`
  differentiate it by these;
- :mod:`~hessian_tasks.reading._convexity` says whether it is convex in them;
- :mod:`~hessian_tasks.reading._words` says all that in words;
- :mod:`~hessian_tasks.reading._flat` warns of derivatives that are zero everywhere;
- :mod:`~hessian_tasks.reading._read` keeps what was found.

Imports TensorFlow, and of this package what says how a loss is evaluated.
"""

from hessian_tasks.reading._evaluations import Dependence, Evaluation, functions_inlined
from hessian_tasks.reading._flat import warn_of_flat_derivatives
from hessian_tasks.reading._quadratic import QuadraticModel
from hessian_tasks.reading._read import Reading, read_terms
from hessian_tasks.reading._stand_in import Known, below, view_of_stand_ins

__all__ = [
    "Dependence",
    "Evaluation",
    "Known",
    "QuadraticModel",
    "Reading",
    "below",
    "functions_inlined",
    "read_terms",
    "view_of_stand_ins",
    "warn_of_flat_derivatives",
]

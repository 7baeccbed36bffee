"""What a loss term depends on: read once, from the term's own code, for every engine.

- :mod:`~hessian_tasks.reading.stand_in` stands for the network in a loss;
- :mod:`~hessian_tasks.reading.evaluations` finds where the loss evaluates the network, and which
  weights it reads itself;
- :mod:`~hessian_tasks.reading.arguments` and :mod:`~hessian_tasks.reading.quadratic` differentiate
  it by the network's jets there, and :mod:`~hessian_tasks.reading.checks` hold it against itself;
- :mod:`~hessian_tasks.reading.convexity` says whether it is convex in them.

Imports TensorFlow, and of this package what says how a loss is evaluated.
"""

from hessian_tasks.reading.convexity import is_convex
from hessian_tasks.reading.evaluations import (
    Evaluation,
    Reading,
    derivative_names,
    functions_inlined,
    name_derivative,
    read_term,
)
from hessian_tasks.reading.quadratic import (
    QuadraticModel,
    ResidualModel,
    differentiate_residual,
    differentiate_twice,
)
from hessian_tasks.reading.stand_in import view_of_stand_ins

__all__ = [
    "Evaluation",
    "QuadraticModel",
    "Reading",
    "ResidualModel",
    "derivative_names",
    "differentiate_residual",
    "differentiate_twice",
    "functions_inlined",
    "is_convex",
    "name_derivative",
    "read_term",
    "view_of_stand_ins",
]

"""What a worker runs: the problem, its loss, and the rows of its Hessian.

Importing this package imports neither TensorFlow nor Keras, so that planning,
status and analysis start at once. The modules that need them say so:
:mod:`~hessian_tasks.jets`, :mod:`~hessian_tasks.loss`,
:mod:`~hessian_tasks.models`, :mod:`~hessian_tasks.autodiff`,
:mod:`~hessian_tasks.linearised`, :mod:`~hessian_tasks.gauss_newton`,
:mod:`~hessian_tasks.rebuild`.
"""

from hessian_tasks.errors import HessianError, ProblemError, ReproductionError
from hessian_tasks.parameters import ParameterLayout, Variable
from hessian_tasks.problem import DensityTerm, LossTerm, Problem, ResidualTerm
from hessian_tasks.spec import BlockRow

__all__ = [
    "BlockRow",
    "DensityTerm",
    "HessianError",
    "LossTerm",
    "ParameterLayout",
    "Problem",
    "ProblemError",
    "ReproductionError",
    "ResidualTerm",
    "Variable",
]

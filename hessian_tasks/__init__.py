"""What a worker runs: the problem, its loss, and the rows of its Hessian.

From below, each room importing those before it:

- :mod:`~hessian_tasks.problem` is what a user declares, :mod:`~hessian_tasks.problems` are those
  built in, :mod:`~hessian_tasks.bridges` reads those of other libraries, and
  :mod:`~hessian_tasks.source` says where one comes from;
- :mod:`~hessian_tasks.networks` asks Keras' networks what they are and take, with
  :mod:`~hessian_tasks.jets` for their derivatives;
- :mod:`~hessian_tasks.loss` evaluates a loss, and :mod:`~hessian_tasks.reading` finds out what it
  depends on;
- :mod:`~hessian_tasks.autodiff` and :mod:`~hessian_tasks.layered` compute rows of matrices, and
  :mod:`~hessian_tasks.gauss_newton` those of the Gauss-Newton matrix with either;
- :mod:`~hessian_tasks.rebuild` freezes a problem's inputs, :mod:`~hessian_tasks.frozen`, and makes
  the problem from them again.

Importing this package imports neither TensorFlow nor Keras, so that planning, status and analysis
start at once; the rooms from networks on need them.
"""

from typing import TYPE_CHECKING, Any

from hessian_tasks.errors import (
    HessianError,
    ModelError,
    ProblemError,
    ProblemWarning,
    ReproductionError,
    WeightsWarning,
)
from hessian_tasks.parameters import ParameterLayout, Variable
from hessian_tasks.problem import DensityTerm, LossTerm, Problem, ResidualTerm
from hessian_tasks.source import load_problem
from hessian_tasks.spec import BlockRow

if TYPE_CHECKING:
    from hessian_tasks.problems.networks import mlp

__all__ = [
    "BlockRow",
    "DensityTerm",
    "HessianError",
    "LossTerm",
    "ModelError",
    "ParameterLayout",
    "Problem",
    "ProblemError",
    "ProblemWarning",
    "ReproductionError",
    "ResidualTerm",
    "Variable",
    "WeightsWarning",
    "load_problem",
    "mlp",
]


def __getattr__(name: str) -> Any:
    # Keras takes seconds to import.
    if name != "mlp":
        raise AttributeError(f"module 'hessian_tasks' has no attribute {name!r}")
    from hessian_tasks.problems.networks import mlp

    return mlp

"""What the user declares: a problem, and the terms of its loss.

Imports NumPy, and of this package nothing but errors.
"""

from hessian_tasks.problem._problem import Problem
from hessian_tasks.problem.terms import DensityTerm, LossTerm, PointTerm, ResidualTerm, Term

__all__ = ["DensityTerm", "LossTerm", "PointTerm", "Problem", "ResidualTerm", "Term"]

"""Built-in problems: one readable file each, with the exact solution where known.

Every module has a function ``problem(...)`` returning a
:class:`~hessian_tasks.problem.Problem`; its arguments are the problem's options.
"""

BUILTIN = (
    "biharmonic",
    "burgers",
    "classification",
    "convection",
    "heat",
    "helmholtz",
    "kdv",
    "kovasznay",
    "poisson",
    "reaction",
    "regression",
    "wave",
)

__all__ = ["BUILTIN"]

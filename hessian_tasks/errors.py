"""Errors that a problem can cause.

::

    HessianError
    ├── ProblemError        also a ValueError
    │   └── ModelError
    ├── ReproductionError
    └── NotLayeredError     caught by the choice of the engine

:mod:`pipeline.errors` extends the same tree. The command line prints the
message of any :class:`HessianError` and exits; every other exception is a bug.
"""

__all__ = [
    "HessianError",
    "ModelError",
    "NotLayeredError",
    "ProblemError",
    "ReproductionError",
]


class HessianError(Exception):
    """Base class of every error that this software raises on purpose."""


class ProblemError(HessianError, ValueError):
    """The problem is not one whose Hessian can be computed."""


class ModelError(ProblemError):
    """The network or its weights cannot be loaded, or do not fit the problem."""


class ReproductionError(HessianError):
    """A rebuilt problem does not give the loss and gradient that were recorded."""


class NotLayeredError(HessianError):
    """The layered engine does not apply; the message says why."""

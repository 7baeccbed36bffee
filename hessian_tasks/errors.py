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

import re

__all__ = [
    "HessianError",
    "ModelError",
    "NotLayeredError",
    "ProblemError",
    "ReproductionError",
    "plain",
]

_TERMINAL = re.compile(r"\x1b\[[0-9;]*m")


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


def plain(error: BaseException) -> str:
    r"""The text of a library's error on one line, without codes for terminals.

    Example:
        >>> plain(ValueError("Exception of call().\n\n\x1b[1mexpected 2\x1b[0m, got 4"))
        'Exception of call(). expected 2, got 4'
    """
    return " ".join(_TERMINAL.sub("", str(error)).split())

"""Errors that a problem can cause.

::

    HessianError
    ├── ProblemError        also a ValueError
    │   └── ModelError
    ├── ReproductionError
    └── NotLayeredError     caught by the choice of the engine

:mod:`pipeline.errors` extends the same tree. The command line prints the
message of any :class:`HessianError` and exits; every other exception is a bug.

:class:`ProblemWarning` is what a problem may leave to be said, :class:`WeightsWarning` what a file
of weights may.
"""

import re

__all__ = [
    "HessianError",
    "ModelError",
    "NotLayeredError",
    "ProblemError",
    "ProblemWarning",
    "ReproductionError",
    "WeightsWarning",
    "plain",
]

_TERMINAL = re.compile(r"\x1b\[[0-9;]*m")


class HessianError(Exception):
    """Base class of every error that this software raises on purpose.

    Example:
        >>> from hessian_tasks import HessianError, load_problem
        >>> try:
        ...     load_problem("regresion")
        ... except HessianError as error:
        ...     print(type(error).__name__)
        ProblemError
    """


class ProblemError(HessianError, ValueError):
    """The problem is not one whose Hessian can be computed; also a :class:`ValueError`.

    Example:
        >>> from hessian_tasks import Problem
        >>> Problem(model=None, terms=[])
        Traceback (most recent call last):
            ...
        hessian_tasks.errors.ProblemError: The problem has no loss terms; expected at least one.
    """


class ModelError(ProblemError):
    """The network or its weights cannot be loaded, or do not fit the problem.

    Example:
        >>> from hessian_tasks import ModelError, ParameterLayout
        >>> try:
        ...     ParameterLayout.of([])
        ... except ModelError as error:
        ...     print(str(error).partition(".")[0])
        The model has no trainable weights, so it has no Hessian
    """


class ReproductionError(HessianError):
    """A rebuilt problem does not give the loss and gradient that were recorded.

    Example:
        >>> import tempfile
        >>> from hessian_tasks import LossTerm, Problem, ReproductionError, mlp
        >>> from pipeline import compute_hessian, verify_hessian
        >>> def scaled(factor):
        ...     data = {"x": [[1.0]]}
        ...     term = LossTerm("scaled", lambda model, x: factor * model(x)[0, 0], data=data)
        ...     return Problem(mlp(1, width=2, depth=1), [term])
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     _ = compute_hessian(scaled(1.0), f"{directory}/h.zarr")
        ...     try:
        ...         verify_hessian(f"{directory}/h.zarr", scaled(2.0))
        ...     except ReproductionError:
        ...         print("that is another loss")
        that is another loss
    """


class NotLayeredError(HessianError):
    """The layered engine does not apply; the message says why."""


class ProblemWarning(UserWarning):
    """The problem is computed as it is declared, but can hardly be meant so.

    Example:
        >>> import warnings
        >>> import keras
        >>> from hessian_tasks import Problem, ProblemWarning, ResidualTerm
        >>> from pipeline import train
        >>> net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(3, "relu")])
        >>> pde = ResidualTerm("pde", [[0.5], [1.0]], lambda x, u: u.d("xx") + 1.0)
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("error", ProblemWarning)
        ...     try:
        ...         train(Problem(net, [pde], "x"))
        ...     except ProblemWarning as warning:
        ...         print(str(warning).partition(" whatever")[0])
        Term 'pde' depends on u.xx, which is zero at all of its points
    """


class WeightsWarning(UserWarning):
    """A file of weights was read, but the loss is perhaps not at what was trained.

    Example:
        >>> import tempfile, warnings
        >>> from hessian_tasks import LossTerm, Problem, WeightsWarning, mlp
        >>> from hessian_tasks.networks.weights import load_weights
        >>> term = LossTerm("size", lambda model, nu: nu**2)
        >>> problem = Problem(mlp(1, width=2, depth=1), [term], parameters={"nu": 0.3})
        >>> with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings():
        ...     path = f"{directory}/net.weights.h5"  # has no place for nu
        ...     problem.model.save_weights(path)
        ...     warnings.simplefilter("error", WeightsWarning)
        ...     try:
        ...         load_weights(path, problem)
        ...     except WeightsWarning as warning:
        ...         print(str(warning).partition(" has ")[2].partition(". ")[0])
        no value of the parameter nu = 0.3, which stays as the problem has it
    """


def plain(error: BaseException) -> str:
    r"""The text of a library's error on one line, without codes for terminals.

    Example:
        >>> plain(ValueError("Exception of call().\n\n\x1b[1mexpected 2\x1b[0m, got 4"))
        'Exception of call(). expected 2, got 4'
    """
    return " ".join(_TERMINAL.sub("", str(error)).split())

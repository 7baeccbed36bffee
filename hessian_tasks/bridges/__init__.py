"""Models of other libraries, read as problems.

A bridge calls the library's own code for the loss and rewrites nothing of it. Importing this room
imports none of the libraries; whoever has a model of one has imported it.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from hessian_tasks.errors import ProblemError
from hessian_tasks.problem import Problem

__all__ = ["as_problem", "choose_backends", "how_to_install", "imported", "is_model"]

_DEEPXDE = ("deepxde", "tensorflow_probability", "tf_keras")


def choose_backends() -> None:
    """Let libraries that have several backends take TensorFlow, unless the user has chosen.

    DeepXDE would look for what is installed, and note that in the user's home directory.
    """
    os.environ.setdefault("DDE_BACKEND", "tensorflow")


def is_model(found: Any) -> bool:
    """Whether this is a model of a library that there is a bridge to.

    Example:
        >>> is_model(3)
        False
    """
    library = sys.modules.get("deepxde")
    # A library whose import failed half way has no models.
    kind = getattr(library, "Model", None)
    return kind is not None and isinstance(found, kind)


def as_problem(model: Any) -> Problem:
    """Such a model as a problem.

    Raises:
        ProblemError: If something of it is not supported.
    """
    from hessian_tasks.bridges.deepxde import problem

    return problem(model)


def how_to_install(error: BaseException) -> str:
    """What to do about a package that a bridge needs and that is missing; empty for all else.

    Example:
        >>> how_to_install(ModuleNotFoundError("No module named 'deepxde'", name="deepxde"))
        "; pip install 'hessian-pipeline[deepxde]' brings it"
    """
    if isinstance(error, ModuleNotFoundError) and error.name in _DEEPXDE:
        return "; pip install 'hessian-pipeline[deepxde]' brings it"
    return ""


def imported(name: str) -> Any:
    """A library that a bridge leads to.

    Raises:
        ProblemError: If it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ProblemError(f"{name} cannot be imported: {error}{how_to_install(error)}.") from error

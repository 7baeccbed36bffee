"""Built-in problems that a store names: their options are bounded before anything is built.

They run without having been named, since they are this software's own. But a store chooses their
options, and so what they take: a network of 10⁹ units, or points without end. So options are those
that the function declares, of the declared types, and no larger than what the store itself holds.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from hessian_tasks.errors import ModelError, ProblemError
from hessian_tasks.problems import BUILTIN
from hessian_tasks.source import ProblemSource
from pipeline.store.opened import HoldsInputs

__all__ = ["check_options"]

# As many can be built anyway, as where a file's network was taken in place of the problem's.
MAX_WEIGHTS = 10**6
# What a number of an option may always be.
HARMLESS = 1000


def check_options(source: ProblemSource, store: HoldsInputs) -> None:
    """Refuse options of a built-in problem that it does not declare, or that are too large.

    Args:
        source: The problem that the store names; files are left to their users.
        store: The store, or estimates.

    Raises:
        ProblemError: If an option is none, of another type, or larger than what the store holds.
    """
    if source.reference not in BUILTIN:
        return
    module = importlib.import_module(f"hessian_tasks.problems.{source.reference}")
    declared = inspect.signature(module.problem).parameters
    bounds = _bounds(store)
    for name, value in source.options.items():
        default = declared[name].default if name in declared else None
        reason = _why_not(name, value, default, max(HARMLESS, bounds.get(name, bounds[""])))
        if reason:
            raise _refused(source, store, reason)
    _check_size(source, store)


def _why_not(name: str, value: Any, default: Any, most: int) -> str:
    """Why an option is not used, or nothing."""
    if default is None:
        return f"there is no {name[:50]!a}"
    if type(value) is not type(default) and (type(default), type(value)) != (float, int):
        return f"{name} is a {type(value).__name__}, expected a {type(default).__name__}"
    if type(value) is int and name != "seed" and not 0 <= value <= most:
        return f"{name} is {str(value)[:50]}, where what it holds allows for {most} at most"
    return ""


def _bounds(store: HoldsInputs) -> dict[str, int]:
    """The largest numbers that options can have been, by name; under "" for numbers of points."""
    lengths = [
        max(store.metadata[f"{term['name']}_{key}"].shape, default=0)
        for term in store.attributes["terms"]
        for key in term["arrays"]
    ]
    num_variables = len(store.layout.variables) + len(store.layout.held)
    return {"depth": num_variables, "width": store.num_params, "": max(lengths, default=0)}


def _check_size(source: ProblemSource, store: HoldsInputs) -> None:
    from hessian_tasks.networks.architecture import count_weights

    def build() -> Any:
        return source.load().model

    try:
        count_weights(build, 0, max(MAX_WEIGHTS, store.num_params))
    except ModelError as error:
        raise _refused(source, store, str(error).rstrip(".")) from error


def _refused(source: ProblemSource, store: HoldsInputs, reason: str) -> ProblemError:
    return ProblemError(
        f"{store.location} names options of the problem {source.reference} that were not used: "
        f"{reason}. {source.advice}"
    )

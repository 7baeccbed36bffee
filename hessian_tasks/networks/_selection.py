"""What a problem's ``only`` leaves out of θ, by the names of weights."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import accumulate

from hessian_tasks.errors import ProblemError
from hessian_tasks.parameters import LAYER, NETWORK

__all__ = ["positions_held"]


def positions_held(paths: Sequence[Collection[str]], only: Collection[str]) -> list[int]:
    """Positions of the weights that no name chooses.

    A name chooses the weights that have it as their path, or as the beginning of it: those of a
    layer, of a network, of all parameters. One parameter is known by its name alone, too, and
    ``"network"`` are the weights that are in no layer.

    Args:
        paths: Of every weight that is trained, in order; several where networks share it.
        only: Names.

    Raises:
        ProblemError: If a name chooses nothing, or both a parameter and something else.

    Example:
        >>> paths = [["a/kernel"], ["a/bias"], ["b/kernel"], ["parameters/nu"]]
        >>> positions_held(paths, ["nu", "a"]), positions_held(paths, ["a/bias"])
        ([2], [0, 2, 3])
    """
    chosen: set[int] = set()
    for name in only:
        found = _under(name, paths)
        parameter = _under(f"{LAYER}/{name}", paths)
        if found and parameter:
            inside = next(path for path in paths[min(found)] if _begins(name, path))
            raise ProblemError(
                f"In the problem's only, {name!r} is the parameter {LAYER}/{name} as well as what "
                f"has {inside}. Say '{LAYER}/{name}', or name the variables one by one."
            )
        if not found | parameter:
            raise _unknown(name, paths)
        chosen |= found | parameter
    return [position for position in range(len(paths)) if position not in chosen]


def _under(name: str, paths: Sequence[Collection[str]]) -> set[int]:
    return {i for i, own in enumerate(paths) if any(_begins(name, path) for path in own)}


def _begins(name: str, path: str) -> bool:
    whole = f"{path}/"
    return whole.startswith(f"{name}/") or (
        "/" not in path and f"{NETWORK}/{whole}".startswith(f"{name}/")
    )


def _unknown(name: str, paths: Sequence[Collection[str]]) -> ProblemError:
    every = [path for own in paths for path in own]
    known = dict.fromkeys(part for path in every for part in _beginnings(path))
    known |= dict.fromkeys(p.removeprefix(f"{LAYER}/") for p in every if p.startswith(f"{LAYER}/"))
    advice = ""
    if _uncounted(name) in map(_uncounted, known):
        advice = (
            " Keras counts the names that it gives layers on with every network: give them names "
            "of your own."
        )
    return ProblemError(
        f"The problem's only names {name!r}, but what is trained is {', '.join(known)}, or a "
        f"variable of these, as {every[0]}.{advice}"
    )


def _beginnings(path: str) -> list[str]:
    """What a path is in, from the outside in; of a variable of no layer the variable."""
    first, *others = path.split("/")
    return list(accumulate([first, *others[:-1]], lambda outer, inner: f"{outer}/{inner}"))


def _uncounted(name: str) -> str:
    return re.sub(r"_\d+(?=/|$)", "", name)

"""From what pydantic finds to one sentence a mistake, which names where it stands and the key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from pipeline.settings._sources import Origins
from pipeline.settings.profiles import MODELS, NESTED
from pipeline.text import shown, shown_name, shown_names

__all__ = ["explain"]

MAX_MISTAKES = 10
MAX_REASON = 300


def explain(
    error: ValidationError, path: Path | None, origins: Origins, keys: Sequence[str]
) -> Iterator[str]:
    """Sentences, one a mistake.

    Args:
        error: What was found.
        path: The file, if there is one.
        origins: What set keys that the file does not.
        keys: Those that there are.
    """
    mistakes = error.errors(include_url=False, include_context=False)
    for mistake in mistakes[:MAX_MISTAKES]:
        yield f"{_origin(mistake['loc'], path, origins)}: {_sentence(mistake, keys)}"
    if len(mistakes) > MAX_MISTAKES:
        yield f"and {len(mistakes) - MAX_MISTAKES} more mistakes"


def _origin(location: Sequence[str | int], path: Path | None, origins: Origins) -> str:
    # A profile's kind, which stands after its name, is no key.
    kind = location[0] == "profiles" and len(location) > 2
    keys = (*location[:2], *location[3:]) if kind else tuple(location)
    fits = [set_by for key, set_by in origins.items() if key[: len(keys)] == keys[: len(key)]]
    if fits:
        return fits[-1]
    return "the command line" if path is None else str(path)


def _sentence(mistake: Any, keys: Sequence[str]) -> str:
    key = shown_name(".".join(map(str, mistake["loc"])))
    if mistake["type"] == "extra_forbidden":
        return f"unknown key '{key}'; the keys are {shown_names(_known(mistake['loc'], keys))}."
    reason = " ".join(mistake["msg"].removeprefix("Value error, ").split())
    reason = reason if len(reason) <= MAX_REASON else f"{reason[:MAX_REASON]}…"
    return f"{key} is {shown(mistake['input'])}: {reason}."


def _known(location: Sequence[str | int], keys: Sequence[str]) -> Sequence[str]:
    """The keys beside one that is unknown."""
    if len(location) < 3 or location[0] != "profiles":
        return keys
    # A profile's own keys come after its name and its kind.
    if len(location) > 4:
        return list(NESTED[str(location[3])].model_fields)
    for model in MODELS:
        if location[2] in get_args(model.model_fields["kind"].annotation):
            return list(model.model_fields)
    return []

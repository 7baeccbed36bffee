"""What of a problem a store may name: what this user has named before.

A store holds the path of the file that its problem comes from, which function of it, and with what
options, so that it can be resumed and verified without these being named again. A store from a
stranger can name any file of this machine, its digest included, any function and any options, and
to import a file is to run it. So what a store names is run only if its user has once named the
same, on a command line or in a call: the file, with the text that it has now and what it imports
from its own folder, the function, and the options. What was named is remembered by digests, in
``$XDG_STATE_HOME/hessian-pipeline/problems``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from hessian_tasks.digests import digest_text
from hessian_tasks.source import ProblemSource
from pipeline.errors import ProblemError

__all__ = ["as_flags", "check_named", "how_to_name", "recorded_options", "remember"]

# A line that nobody can read names nothing.
MAX_COMMAND = 2000


def remember(source: ProblemSource) -> None:
    """Note that the user has named a problem: file, function and options."""
    if source.file is None or source.advice:
        return
    note = _note(source.file)
    # Where nothing can be remembered, the file has to be named again, and that is all.
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        named = f"{_digest(source)}:{_digest_call(source)}"
        if not note.exists() or named not in note.read_text().split():
            with note.open("a") as notes:
                notes.write(f"{named}\n")


def check_named(source: ProblemSource, where: str) -> None:
    """Refuse a problem that a store names and the user has not, without running anything of it.

    Args:
        source: The problem that the store names.
        where: The store, for the message.

    Raises:
        ProblemError: If it is a file, function or options that were not named before, or the file
            has another text now; says how to name them.
    """
    if source.file is None:
        return  # a built-in problem, or none that could be found
    try:
        named = _note(source.file).read_text().split()
    except (OSError, UnicodeDecodeError):
        named = []
    reason = _why_not(source, named)
    if reason:
        raise ProblemError(
            f"{where} says that its problem is {source.reference}, {reason}. A store can come "
            f"from anybody, so nothing of it was run. {source.advice}"
        )


def how_to_name(reference: str, options: Mapping[str, Any], *commands: tuple[str, str]) -> str:
    """What to do so that a problem counts as named, in a sentence.

    Args:
        reference: The problem, as a store names it.
        options: Its options, likewise.
        commands: What does it, before and after the problem and its options.

    Example:
        >>> how_to_name("/x/a b.py:make", {"width": 3}, ("hessian run", "--store h.zarr"))
        "If you trust it, name it: hessian run '/x/a b.py:make' -o width=3 --store h.zarr"
    """
    try:
        problem = shlex.join([ProblemSource(reference).reference, *as_flags(options)])
    except ValueError as error:
        return f"It cannot be named on a command line: {error}"
    if len(problem) > MAX_COMMAND:
        return f"Its options are too long for a command line ({len(problem)} characters)."
    lines = [" ".join(filter(None, [before, problem, after])) for before, after in commands]
    return f"If you trust it, name it: {', or '.join(lines)}"


def as_flags(options: Mapping[str, Any]) -> list[str]:
    r"""The flags of the command line that give a problem its options.

    Args:
        options: JSON data by name.

    Raises:
        ValueError: If a name is none of an argument, or a value is nested too deeply.

    Example:
        >>> as_flags({"width": 20, "layers": [1, "a, b"]})
        ['-o', 'width=20', '-o', "layers=[1, 'a, b']"]
        >>> as_flags({"rate": 1e-5, "note": "\x1b[1m"})
        ['-o', 'rate=1.0e-05', '-o', 'note="\\e[1m"']
    """
    flags = []
    for name, value in options.items():
        if not (name.isascii() and name.isidentifier()):
            raise ValueError(f"{name[:50]!a} is no name of an option.")
        flags += ["-o", f"{name}={_as_yaml(value)}"]
    return flags


def _as_yaml(value: Any) -> str:
    """A value as what ``-o`` reads, on one line and without orders to a terminal."""
    try:
        for style in (None, '"'):
            text = yaml.safe_dump(
                value, default_flow_style=True, default_style=style, width=float("inf")
            )
            text = text.removesuffix("\n").removesuffix("\n...")
            if text.isprintable() and text.isascii():
                return text
    except RecursionError:
        pass
    raise ValueError("an option is nested too deeply.")


def _why_not(source: ProblemSource, named: list[str]) -> str:
    """Why a problem does not count as named, as the rest of a sentence; empty if it does."""
    if not named:
        return "which was not named by you before"
    digest, call = _digest(source), _digest_call(source)
    if f"{digest}:{call}" in named:
        return ""
    if digest in named:
        return (
            "a file that you named for an earlier version of this software, which did not note "
            "functions and options"
        )
    if any(note.startswith(f"{digest}:") for note in named):
        return "a file that you have named before, but not with this function and these options"
    return "which has changed since you last named it"


def _digest(source: ProblemSource) -> str:
    imports = source.imports
    if not imports:
        return source.digest
    return digest_text("\n".join([source.digest, *map(" ".join, imports.items())]))


def _digest_call(source: ProblemSource) -> str:
    """Digest of the function's name and of the options, as a store records them."""
    return digest_text(json.dumps([source.name, recorded_options(source)], sort_keys=True))


def recorded_options(source: ProblemSource) -> dict[str, Any]:
    """The options as a store records them: as JSON data, and what is none by its text."""
    found: dict[str, Any] = json.loads(json.dumps(dict(source.options), default=repr))
    return found


def _note(file: Path) -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    digest = hashlib.sha256(str(file).encode()).hexdigest()
    return Path(state) / "hessian-pipeline" / "problems" / digest

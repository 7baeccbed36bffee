"""Which problem files a store may name: those that this user has named before.

A store holds the path of the file that its problem comes from, so that it can be resumed and
verified without it being named again. A store from a stranger can name any file of this machine,
its digest included, and to import a file is to run it. So a file that a store names is run only if
its user has once named the same file, on a command line or in a call, with the same text of it and
of what it imports from its own folder. What was named is remembered by digests, in
``$XDG_STATE_HOME/hessian-pipeline/problems``.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from hessian_tasks.digests import digest_text
from hessian_tasks.source import ProblemSource
from pipeline.errors import ProblemError

__all__ = ["check_named", "remember"]


def remember(source: ProblemSource) -> None:
    """Note that the user has named a problem file."""
    if source.file is None:
        return
    note = _note(source.file)
    # Where nothing can be remembered, the file has to be named again, and that is all.
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        digest = _digest(source)
        if not note.exists() or digest not in note.read_text().split():
            with note.open("a") as notes:
                notes.write(f"{digest}\n")


def check_named(source: ProblemSource, where: str) -> None:
    """Refuse a problem file that a store names and the user has not, without reading it.

    Args:
        source: The problem that the store names.
        where: The store, for the message.

    Raises:
        ProblemError: If it is a file that was not named before, or has another text now.
    """
    if source.file is None:
        return  # a built-in problem, or none that could be found
    try:
        named = _note(source.file).read_text().split()
    except (OSError, UnicodeDecodeError):
        named = []
    if not named or _digest(source) not in named:
        changed = "has changed since you last named it" if named else "was not named by you before"
        raise ProblemError(
            f"{where} says that its problem is {source.file}, which {changed}. A store can come "
            "from anybody, so this file was not run. If you trust it, name it: hessian run "
            f"{source.reference} --store, or hessian verify --problem {source.reference}"
        )


def _digest(source: ProblemSource) -> str:
    imports = source.imports
    if not imports:
        return source.digest
    return digest_text("\n".join([source.digest, *map(" ".join, imports.items())]))


def _note(file: Path) -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    digest = hashlib.sha256(str(file).encode()).hexdigest()
    return Path(state) / "hessian-pipeline" / "problems" / digest

"""Text from elsewhere: shown without what terminals obey, and without what takes pages."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path

__all__ = ["path_obstacle", "printable", "shown", "shown_name", "shown_names"]

MAX_SHOWN, MAX_NAMES = 80, 20
# What file systems take; names of their own are shorter.
MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 4095


class _Escapes(dict[int, str]):
    """Replacements by character, found when they are first needed."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        harmless = character.isprintable() or character in "\n\t"
        # Spaces of other widths are not printable to Python, but to terminals.
        harmless = harmless or unicodedata.category(character) == "Zs"
        self[code] = character if harmless else repr(character)[1:-1]
        return self[code]


_escapes = _Escapes()


def printable(text: str) -> str:
    r"""Text whose control and invisible characters are written out, but for newline and tab.

    Names, messages and files of others may hold what a terminal obeys, or what makes a line look
    like another one.

    Example:
        >>> printable("hidden\x1b[2J_1\u202e κ\n")
        'hidden\\x1b[2J_1\\u202e κ\n'
    """
    return text.translate(_escapes)


def shown(value: object, limit: int = MAX_SHOWN) -> str:
    """A value as an error quotes it: in one line, and no more than its beginning.

    Example:
        >>> shown("many"), shown("a" * 100, 10)
        ("'many'", "'aaaaaaaaa…")
    """
    if isinstance(value, Path):
        value = str(value)
    # Not all of a text is escaped to show its beginning.
    text = printable(repr(value[: limit + 1] if isinstance(value, str) else value))
    return text if len(text) <= limit + 2 else f"{text[:limit]}…"


def shown_name(name: object) -> str:
    """A name as an error says it: as it is, and no more than its beginning.

    Example:
        >>> shown_name("profiles.slurm.workers")
        'profiles.slurm.workers'
    """
    text = printable(str(name)[: MAX_SHOWN + 1].replace("\n", "\\n"))
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def shown_names(names: Iterable[object]) -> str:
    """Names in a line, the first of them if there are many.

    Example:
        >>> shown_names(["threads", "serial"])
        'threads, serial'
    """
    listed = list(names)
    more = [f"and {len(listed) - MAX_NAMES} more"] if len(listed) > MAX_NAMES else []
    return ", ".join([*map(shown_name, listed[:MAX_NAMES]), *more])


def path_obstacle(path: str) -> str | None:
    """Why no file can have such a path, or None.

    Example:
        >>> path_obstacle("runs/h.zarr")
        >>> path_obstacle("runs/" + 300 * "h")
        'expected names of at most 255 bytes'
    """
    encoded = path.encode(errors="surrogateescape")
    if "\0" in path:
        return "expected a path without the character NUL"
    if len(encoded) > MAX_PATH_BYTES:
        return f"expected a path of at most {MAX_PATH_BYTES} bytes"
    if any(len(name) > MAX_NAME_BYTES for name in encoded.split(b"/")):
        return f"expected names of at most {MAX_NAME_BYTES} bytes"
    return None

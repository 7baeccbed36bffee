"""The files that a problem file imports from its own folder.

They decide what the problem is as the file itself does. They are found in its text, not by
running it: what a store names must be compared before any of it is run. An import whose name is
only made up at run time is not seen.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from hessian_tasks.digests import digest_text

__all__ = ["digests_of", "imported_files", "imported_fresh"]

# This software is no input; where a problem file lies beside it, its packages are not the user's.
OWN = ("hessian_tasks", "pipeline")


def imported_files(file: Path) -> dict[str, Path]:
    """The files of its own folder that a Python file imports, and that these import, by module.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     folder = Path(directory)
        ...     _ = (folder / "problem.py").write_text("import numpy, helper")
        ...     _ = (folder / "helper.py").write_text("nu = 0.01")
        ...     list(imported_files(folder / "problem.py"))
        ['helper']
    """
    file = file.resolve()
    folder = file.parent
    found: dict[str, Path] = {}
    waiting = [(file, "")]
    while waiting:
        path, package = waiting.pop()
        for name in _imports(path, package):
            # A module runs the packages that it lies in.
            parts = name.split(".")
            for length in range(1, len(parts) + 1):
                module = ".".join(parts[:length])
                place = _find(folder, parts[:length])
                if place is None or parts[0] in OWN:
                    break
                if module not in found and place != file:
                    found[module] = place
                    inside = module if place.name == "__init__.py" else module.rpartition(".")[0]
                    waiting.append((place, inside))
    return dict(sorted(found.items()))


def digests_of(files: Mapping[str, Path]) -> dict[str, str]:
    """SHA-256 of the text of each file."""
    return {name: digest_text(_text(path)) for name, path in files.items()}


@contextmanager
def imported_fresh(file: Path) -> Iterator[None]:
    """Within this, a file imports from its own folder, and runs the text that is there now.

    Where a file that it imports has changed since this process ran it, or is that of another
    folder, all are run again, since they hold each other's objects. What nobody has imported by a
    problem file is left alone.
    """
    _prefer(str(file.resolve().parent))
    files = imported_files(file)
    digests = digests_of(files)
    loaded = {name: path for name, path in _loaded(files) if path in (files[name], *_ran)}
    fresh = {name: path for name, path in files.items() if _ran.get(path) == digests[name]}
    if not loaded.items() <= fresh.items():
        for name in loaded:
            del sys.modules[name]
    _ran.update({path: digests[name] for name, path in files.items()})
    importlib.invalidate_caches()
    # Compiled files are told from changed ones by a time in seconds and a size, which may agree.
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


# Digests of files, as they were when they were last imported here.
_ran: dict[Path, str] = {}
# The folders of problem files that are searched for modules, behind all others.
_folders: list[str] = []


def _prefer(folder: str) -> None:
    """Search a folder for modules before those of other problem files."""
    if folder in sys.path and folder not in _folders:
        return
    for known in _folders:
        if known in sys.path:
            sys.path.remove(known)
    _folders[:] = [folder, *(known for known in _folders if known != folder)]
    sys.path.extend(_folders)


def _loaded(names: Iterable[str]) -> Iterator[tuple[str, Path]]:
    for name in names:
        place = getattr(sys.modules.get(name), "__file__", None)
        if place is not None:
            yield name, Path(place).resolve()


def _find(folder: Path, parts: list[str]) -> Path | None:
    place = folder.joinpath(*parts)
    for path in (place / "__init__.py", place.with_name(f"{place.name}.py")):
        if path.is_file():
            return path.resolve()
    return None


def _imports(path: Path, package: str) -> Iterator[str]:
    """Names of modules that a file may import; some of them are names of what is in a module."""
    try:
        tree = ast.parse(_text(path))
    except (SyntaxError, ValueError):
        return  # running it says so better
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            around = package.split(".") if node.level else []
            around = around[: len(around) - node.level + 1]
            module = ".".join([*around, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""  # likewise

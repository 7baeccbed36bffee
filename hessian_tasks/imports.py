"""The files that a problem file imports from its own folder.

They decide what the problem is as the file itself does. They are found in its text, not by
running it: what a store names must be compared before any of it is run. An import whose name is
only made up at run time is not seen. Of Python files the text is run that is compared, and never
what a ``__pycache__`` beside it holds.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ModuleSpec,
    PathFinder,
    SourceFileLoader,
)
from pathlib import Path
from types import CodeType, ModuleType

from hessian_tasks.digests import digest_text

__all__ = ["FromText", "digests_of", "imported_files", "imported_fresh"]

# This software is no input; where a problem file lies beside it, its packages are not the user's.
OWN = ("hessian_tasks", "pipeline")
# In the order in which Python looks for a module.
SUFFIXES = (*EXTENSION_SUFFIXES, *SOURCE_SUFFIXES, *BYTECODE_SUFFIXES)


class FromText(SourceFileLoader):
    """Loads a module by compiling its text.

    A compiled file in a ``__pycache__`` beside it need not be of that text: whoever can put one
    there decides what runs.
    """

    def get_code(self, fullname: str) -> CodeType:
        """The text, compiled."""
        code: CodeType = self.source_to_code(self.get_data(self.path), self.path)
        return code


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
                    inside = module if place.stem == "__init__" else module.rpartition(".")[0]
                    waiting.append((place, inside))
    return dict(sorted(found.items()))


def digests_of(files: Mapping[str, Path]) -> dict[str, str]:
    """SHA-256 of the text of each file, or of its bytes if it is compiled."""
    return {
        name: digest_text(_text(path)) if path.suffix in SOURCE_SUFFIXES else _digest_bytes(path)
        for name, path in files.items()
    }


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
    finder = _Finder(files)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        sys.dont_write_bytecode = before


class _Finder(MetaPathFinder):
    """Finds the modules that a problem file imports where Python does, to load their text."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        own = self._files.get(fullname)
        spec = None if own is None else PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin is None or Path(spec.origin).resolve() != own:
            return None
        if own.suffix in SOURCE_SUFFIXES:
            spec.loader = FromText(fullname, spec.origin)
        return spec


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
    for stem in (place / "__init__", place):
        for suffix in SUFFIXES:
            path = stem.with_name(stem.name + suffix)
            if path.is_file():
                return path.resolve()
    return None


def _imports(path: Path, package: str) -> Iterator[str]:
    """Names of modules that a file may import; some of them are names of what is in a module."""
    if path.suffix not in SOURCE_SUFFIXES:
        return
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


def _digest_bytes(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""  # likewise


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""  # likewise

"""Where a problem comes from: a built-in, a user's file, or a live object."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import Parameter
from numbers import Integral, Real
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from hessian_tasks.bridges import as_problem, choose_backends, how_to_install, is_model
from hessian_tasks.digests import digest_text
from hessian_tasks.errors import HessianError, ProblemError, plain
from hessian_tasks.imports import FromText, digests_of, imported_files, imported_fresh
from hessian_tasks.problem import Problem
from hessian_tasks.problems import BUILTIN

__all__ = ["LIVE", "ProblemSource", "load_problem"]

LIVE = "live object"

MAX_SOURCE_BYTES = 10 * 2**20
MAX_QUOTED = 200


@dataclass(frozen=True)
class ProblemSource:
    """A reference from which a worker can build the problem again.

    Attributes:
        reference: Name of a built-in problem, ``path/to/file.py`` or
            ``path/to/file.py:name``; the name, ``problem`` by default, is a
            :class:`Problem`, a model that there is a bridge to, or a function returning one. A file
            without ``problem`` may call such a model ``model``. :data:`LIVE` for an object that
            only this process has.
        options: Arguments of that function.
        live: The object itself, if there is no other source.
        advice: Where a store names it, and not the user: how the user would. Then it has to be a
            :class:`Problem` or a function that the file itself defines.
    """

    reference: str
    options: Mapping[str, Any] = field(default_factory=dict)
    live: Problem | None = None
    advice: str = ""

    def __post_init__(self) -> None:
        # A store is verified and resumed from wherever its user happens to be.
        path, name = self._split()
        if path is not None:
            # Unlike Path.resolve, this does not mind links that lead in a circle.
            object.__setattr__(self, "reference", f"{os.path.realpath(path)}:{name}")

    @property
    def file(self) -> Path | None:
        """The file that is run to build it, or None if it is built in or a live object."""
        return self._split()[0]

    @property
    def name(self) -> str:
        """The name of the problem, or of the function, in its file."""
        return self._split()[1]

    def load(self) -> Problem:
        """Build the problem.

        Raises:
            ProblemError: If it cannot be found or built, naming the reference.
        """
        if self.live is not None:
            return self.live
        if self.reference == LIVE:
            raise ProblemError(
                "This store was made from a problem object in a notebook or script. Pass "
                "that problem again, or the .py file that defines it."
            )
        path, name = self._split()
        module = _import_file(path) if path else _import_builtin(self.reference)
        named = hasattr(module, name)
        if not named and not (name == "problem" and is_model(getattr(module, "model", None))):
            raise ProblemError(
                f"{self.reference} has no {name!r}; expected a Problem, or a function that "
                "returns one, under that name; or a dde.Model called 'model'."
            )
        found = getattr(module, name if named else "model")
        if self.advice and path is not None:
            self._check_own(found, path)
        return self._call(found)

    def check(self) -> None:
        """Find out whether the source is there, without building anything.

        Raises:
            ProblemError: If there is no such problem, or the file cannot be read.
        """
        _ = self.text

    @property
    def digest(self) -> str:
        """SHA-256 of the source text, or ``""`` for a live object."""
        return digest_text(self.text) if self.text else ""

    @property
    def imports(self) -> dict[str, str]:
        """SHA-256 of the files that the source imports from its own folder, by module."""
        return {} if self.file is None else digests_of(imported_files(self.file))

    @property
    def text(self) -> str:
        """The source file's text, or ``""`` for a live object.

        Raises:
            ProblemError: If there is no such problem, or the file cannot be read.
        """
        if self.reference == LIVE:
            return ""
        path, _ = self._split()
        if path is None:
            _check_builtin(self.reference)
            path = Path(__file__).with_name("problems") / f"{self.reference}.py"
        return _read(path)

    def _split(self) -> tuple[Path | None, str]:
        if self.reference in BUILTIN:
            return None, "problem"
        path, colon, name = self.reference.rpartition(":")
        if not colon:
            path, name = self.reference, "problem"
        if not path.endswith(".py"):
            return None, "problem"
        return Path(path), name

    def _call(self, found: Any) -> Problem:
        if callable(found) and not isinstance(found, Problem):
            self._check_options(found)
            try:
                found = found(**self.options)
            except HessianError:
                raise
            # What leaves the program leaves it unfinished, whatever its exit code says.
            except (Exception, SystemExit) as error:
                given = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
                where = "" if self.file is None else _line_of(error, self.file)
                raise ProblemError(
                    f"Building the problem of {self.reference}{given and ' with '}"
                    f"{given[:MAX_QUOTED]} failed{where}: {type(error).__name__}: {plain(error)}"
                ) from error
        if is_model(found):
            return as_problem(found)
        if not isinstance(found, Problem):
            raise ProblemError(f"{self.reference} gives a {type(found).__name__}, no Problem.")
        return found

    def _check_own(self, found: Any, file: Path) -> None:
        """Refuse what the file has only imported, or made of something else: it may do anything."""
        if isinstance(found, Problem) or is_model(found):
            return
        function = inspect.unwrap(found) if callable(found) else found
        if isinstance(function, FunctionType) and function.__code__.co_filename == str(file):
            return
        raise ProblemError(
            f"{self.reference} is no function that this file defines itself, but a "
            f"{type(found).__name__} from elsewhere; since only a store names it, it was not "
            f"called. {self.advice}"
        )

    def _check_options(self, function: Callable[..., Any]) -> None:
        parameters = {
            name: parameter
            for name, parameter in _parameters(function).items()
            if parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
        }
        unknown = sorted(set(self.options) - set(parameters))
        if unknown:
            raise ProblemError(
                f"{self.reference} has no option {unknown[0][:MAX_QUOTED]!r}; its options are "
                f"{', '.join(parameters) or 'none'}."
            )
        for name, value in self.options.items():
            expected = _expected(parameters[name], value)
            if expected is not None:
                raise ProblemError(
                    f"Option {name} of {self.reference} is {repr(value)[:MAX_QUOTED]}; expected "
                    f"{expected}."
                )


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Those of a function; annotations that cannot be evaluated stay text."""
    try:
        return inspect.signature(function, eval_str=True).parameters
    except Exception:  # whatever an annotation of a stranger's file raises
        return inspect.signature(function).parameters


def _expected(parameter: inspect.Parameter, value: Any) -> str | None:
    """What a parameter is annotated to be, if a value is not that; None for all else."""
    kinds = typing.get_args(parameter.annotation) or (parameter.annotation,)
    if value is None and parameter.default is None:
        return None
    if not all(kind in _ACCEPTED for kind in kinds) or any(_is(value, kind) for kind in kinds):
        return None
    expected = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
    # YAML's numbers with an exponent have a point and a sign, too.
    if float in kinds and isinstance(value, str) and re.fullmatch(r"[-+.\d]+e[-+]?\d+", value):
        expected += ", with a point and a sign as 1.0e-3"
    return expected


_ACCEPTED: dict[Any, type] = {
    int: Integral, float: Real, str: str, bool: bool, type(None): type(None),
}  # fmt: skip


def _is(value: Any, kind: Any) -> bool:
    # To Python the truth values are integers.
    return isinstance(value, _ACCEPTED[kind]) and (kind is bool or not isinstance(value, bool))


def _read(path: Path) -> str:
    """The text of a file; what is none may have no end, or wait for a writer for ever."""
    if os.path.exists(path) and not os.path.isfile(path):  # pathlib's raise if a name is long
        raise ProblemError(f"Problem file {path} cannot be read: it is no regular file.")
    try:
        if path.stat().st_size > MAX_SOURCE_BYTES:
            raise ProblemError(f"Problem file {path} cannot be read: it is larger than 10 MiB.")
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ProblemError(f"Problem file {path} cannot be read: {error}") from error


def load_problem(reference: str | Path, **options: Any) -> Problem:
    """Build a problem that is built in, or that a file defines.

    Args:
        reference: Name of a built-in problem, ``path/to/file.py`` or ``path/to/file.py:name``; the
            name, ``problem`` by default, is a :class:`Problem`, a ``dde.Model`` of DeepXDE, or a
            function returning one of them.
        options: Arguments of that function, such as ``width``.

    Raises:
        ProblemError: If it cannot be found or built, naming the reference.

    Example:
        >>> load_problem("regression", width=4, num_samples=10).terms
        (LossTerm('fit', data=['x', 'y'], weight=1.0),)
    """
    return ProblemSource(str(reference), options).load()


def _import_builtin(name: str) -> ModuleType:
    _check_builtin(name)
    return importlib.import_module(f"hessian_tasks.problems.{name}")


def _check_builtin(name: str) -> None:
    if name not in BUILTIN:
        raise ProblemError(
            f"There is no built-in problem {name!r}. Give a file, path/to/problem.py, or one "
            f"of: {', '.join(BUILTIN)}."
        )


def _import_file(path: Path) -> ModuleType:
    if not os.path.isfile(path):
        raise ProblemError(f"Problem file {path} does not exist.")
    # The module's name depends on its path alone, so that loading twice replaces it.
    name = f"hessian_problem_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    loader = FromText(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None, path
    assert spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    choose_backends()
    try:
        with imported_fresh(path):
            spec.loader.exec_module(module)
    except HessianError:
        raise
    except (Exception, SystemExit) as error:
        raise ProblemError(
            f"Problem file {path} failed{_line_of(error, path)}: {type(error).__name__}: "
            f"{plain(error)}{how_to_install(error)}"
        ) from error
    return module


def _line_of(error: BaseException, path: Path) -> str:
    lines = []
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return f" at line {lines[-1]}" if lines else ""

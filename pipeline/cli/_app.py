"""The application that the commands belong to, its exit codes, and how results are printed."""

from __future__ import annotations

import json
import logging
import shlex
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from pipeline.errors import ProblemWarning, StoppedError, StoreWarning, WeightsWarning
from pipeline.text import printable

if TYPE_CHECKING:
    from pipeline.store.store import HessianStore

__all__ = [
    "EXIT_ERROR",
    "EXIT_NOT_VERIFIED",
    "EXIT_STOPPED",
    "EXIT_USAGE",
    "STOPPED",
    "Terminal",
    "app",
    "escaped_logs",
    "print_answer",
    "print_result",
    "print_warnings",
    "results",
    "say",
    "say_if_unverified",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])

# What mistaken arguments raise; typer names only those below it.
_UsageError: Any = typer.BadParameter.__mro__[1]


class _Commands(TyperGroup):
    """The commands; what is said of mistaken arguments quotes them."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Parse what stands before the command."""
        with _escaped_mistakes():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        """Parse the command's own arguments, and run it."""
        with _escaped_mistakes():
            return super().invoke(ctx)


@contextmanager
def _escaped_mistakes() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        raise StoppedError(STOPPED) from error
    except _UsageError as error:
        error.message = printable(error.message)
        raise


class _Command(TyperCommand):
    """A command; its standard output is its results alone, for scripts to read."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Parse what it was given, pairs of numbers with a space or a comma between them."""
        pairs = {n for option in self.params if option.nargs == 2 for n in option.opts}
        return super().parse_args(ctx, spaced(args, pairs))

    def invoke(self, ctx: Any) -> Any:
        """Run it, with what a user's file or a library prints among what is said beside."""
        with _others_aside():
            return super().invoke(ctx)


# Where results go while standard output stands for standard error.
_results: list[TextIO] = []


def spaced(args: Sequence[str], pairs: Collection[str]) -> list[str]:
    """Arguments in which options that take two values have them one by one.

    Example:
        >>> spaced(["--interval", "-1, 2", "--term=pde"], {"--interval"})
        ['--interval', '-1', '2', '--term=pde']
        >>> spaced(["--interval=-1,2"], {"--interval"})
        ['--interval', '-1', '2']
    """
    found: list[str] = []
    for arg in args:
        name, equals, value = arg.partition("=")
        if equals and name in pairs:
            found.append(name)
            arg = value
        parts = [part.strip() for part in arg.split(",")]
        takes = bool(found) and found[-1] in pairs and len(parts) == 2 and all(parts)
        found += parts if takes else [arg]
    return found


@contextmanager
def _others_aside() -> Iterator[None]:
    _results.append(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _results.pop()


def results() -> TextIO:
    """Standard output, which is for results."""
    return _results[-1] if _results else sys.stdout


class _App(typer.Typer):
    def command(self, *arguments: Any, **options: Any) -> Callable[[_Function], _Function]:
        return super().command(*arguments, cls=_Command, **options)


app = _App(
    cls=_Commands,
    help="The exact Hessian of a neural network's training loss.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

STOPPED = "stopped by Ctrl-C; what was stored stays"
# 2 is also what typer exits with for wrong flags.
EXIT_ERROR, EXIT_USAGE, EXIT_STOPPED, EXIT_NOT_VERIFIED = 1, 2, 3, 4


class Terminal(Console):
    r"""Where progress is shown; text is shown as it is, and never obeyed.

    Example:
        >>> Terminal(width=40).print("[bold] \x1b[2J")
        [bold] \x1b[2J
    """

    def __init__(self, **options: Any) -> None:
        """As rich's, for text that is no markup."""
        super().__init__(soft_wrap=True, highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Text as rich draws it."""
        return super().render_str(printable(text), **options)


def say(text: object, err: bool = False) -> None:
    """Print a line; all that is printed goes through here or :class:`Terminal`."""
    typer.echo(printable(str(text)), file=None if err else results(), err=err)


def print_result(text: str, data: dict[str, Any], as_json: bool) -> None:
    """Print text for people, or data for scripts."""
    say(json.dumps(data, indent=2) if as_json else text)


def print_answer(
    stores: Sequence[HessianStore], text: str, data: dict[str, Any], as_json: bool
) -> None:
    """Print what stores answer, and beside it whether they are verified."""
    for store in stores:
        say_if_unverified(store)
    verdicts = [store.verified for store in stores]
    verified = None if None in verdicts and False not in verdicts else all(verdicts)
    print_result(text, {"verified": verified, **data}, as_json)


def say_if_unverified(store: HessianStore) -> None:
    """Say beside a store's numbers if they are not known to be right, or known not to be."""
    command = f"hessian verify {shlex.quote(str(store.location))}"
    certificate = store.attributes.get("certificate")
    if certificate is None:
        say(f"hessian: not verified yet: {command}", err=True)
    elif not certificate["passed"]:
        say(f"hessian: verification FAILED; what is wrong says: {command}", err=True)


_OURS = (ProblemWarning, StoreWarning, WeightsWarning)


@contextmanager
def print_warnings() -> Iterator[None]:
    """Print what problems, stores and files of weights warn of, each once, in a line."""
    said: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *where: Any, **options: Any) -> None:
        if not issubclass(category, _OURS):
            show_others(printable(str(message)), category, *where, **options)
        elif str(message) not in said:
            said.add(str(message))
            say(f"hessian: {message}", err=True)

    with warnings.catch_warnings():
        for ours in _OURS:
            warnings.simplefilter("always", ours)
        show_others, warnings.showwarning = warnings.showwarning, show
        yield


class _EscapedRecord(logging.LogRecord):
    def getMessage(self) -> str:
        return printable(super().getMessage())


@contextmanager
def escaped_logs() -> Iterator[None]:
    """Have what libraries log of names and errors escaped, too."""
    before = logging.getLogRecordFactory()
    logging.setLogRecordFactory(_EscapedRecord)
    try:
        yield
    finally:
        logging.setLogRecordFactory(before)

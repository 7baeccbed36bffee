"""The application that the commands belong to, its exit codes, and how results are printed."""

from __future__ import annotations

import json
import shlex
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from pipeline.errors import StoreWarning

if TYPE_CHECKING:
    from pipeline.store.store import HessianStore

__all__ = [
    "EXIT_ERROR",
    "EXIT_NOT_VERIFIED",
    "EXIT_STOPPED",
    "EXIT_USAGE",
    "app",
    "print_result",
    "print_warnings",
    "say_if_unverified",
]

app = typer.Typer(
    help="The exact Hessian of a neural network's training loss.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

# 2 is also what typer exits with for wrong flags.
EXIT_ERROR, EXIT_USAGE, EXIT_STOPPED, EXIT_NOT_VERIFIED = 1, 2, 3, 4


def print_result(text: str, data: dict[str, Any], as_json: bool) -> None:
    """Print text for people, or data for scripts."""
    typer.echo(json.dumps(data, indent=2) if as_json else text)


def say_if_unverified(store: HessianStore) -> None:
    """Say beside a store's numbers if they are not known to be right, or known not to be."""
    command = f"hessian verify {shlex.quote(str(store.location))}"
    certificate = store.attributes.get("certificate")
    if certificate is None:
        typer.echo(f"hessian: not verified yet: {command}", err=True)
    elif not certificate["passed"]:
        typer.echo(f"hessian: verification FAILED; what is wrong says: {command}", err=True)


@contextmanager
def print_warnings() -> Iterator[None]:
    """Print what stores warn of, each once, in a line."""
    said: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *where: Any, **options: Any) -> None:
        if not issubclass(category, StoreWarning):
            show_others(message, category, *where, **options)
        elif str(message) not in said:
            said.add(str(message))
            typer.echo(f"hessian: {message}", err=True)

    with warnings.catch_warnings():
        warnings.simplefilter("always", StoreWarning)
        show_others, warnings.showwarning = warnings.showwarning, show
        yield

"""The application that the commands belong to, its exit codes, and how results are printed."""

from __future__ import annotations

import json
from typing import Any

import typer

__all__ = [
    "EXIT_ERROR",
    "EXIT_NOT_VERIFIED",
    "EXIT_STOPPED",
    "EXIT_USAGE",
    "app",
    "print_result",
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

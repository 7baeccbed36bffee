"""Asking all workers at once, of which some may be lost before they answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distributed import Client

__all__ = ["ask_workers"]


def ask_workers(
    client: Client,
    function: Callable[..., Any],
    *arguments: Any,
    answers: tuple[type[Exception], ...] = (),
) -> dict[str, Any]:
    """What a function returns on every worker that answers, by its address.

    Args:
        client: Of the workers.
        function: Run on each of them, beside its tasks; does not raise an OSError, which stands for
            a lost connection.
        arguments: Of the function.
        answers: Exceptions that are answers, too.

    Raises:
        Exception: The first of another kind that the function raised on a worker.
    """
    found = client.run(function, *arguments, on_error="return")
    heard = {worker: answer for worker, answer in found.items() if not isinstance(answer, OSError)}
    for answer in heard.values():
        if isinstance(answer, Exception) and not isinstance(answer, answers):
            raise answer
    return heard

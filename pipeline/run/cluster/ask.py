"""Asking workers, of which some may be lost before they answer, and none be there for a moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from distributed import Client

from pipeline.errors import ClusterError, StoppedError
from pipeline.run.cluster._refused import why_refused

__all__ = ["ask_workers", "wait_for_worker"]

POLL_SECONDS = 0.1


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


def wait_for_worker(client: Client, seconds: float, stop: threading.Event) -> None:
    """Wait until there is a worker, the first or one that takes the place of a lost one.

    Args:
        client: Of the workers.
        seconds: How long to wait.
        stop: Set to wait no longer.

    Raises:
        ClusterError: If none comes, the queue refuses all jobs, or the scheduler is lost.
        StoppedError: If ``stop`` was set.
    """
    deadline = time.monotonic() + seconds
    while not client.nthreads():
        if client.status not in ("running", "connecting"):
            raise ClusterError(f"The connection to the scheduler is {client.status}.")
        refused = why_refused(client.cluster)
        if refused is not None:
            raise ClusterError(f"No worker can come: {refused}")
        if stop.wait(POLL_SECONDS):
            raise StoppedError("It was stopped while it waited for workers.")
        if time.monotonic() > deadline:
            raise ClusterError(
                f"There has been no worker for {seconds:g} s. Look into the queue and the workers' "
                "logs; do the workers reach the network interface that the scheduler listens on?"
            )

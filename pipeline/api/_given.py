"""What the interface is given: a problem in any form, and whose workers compute."""

from __future__ import annotations

import reprlib
import threading
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from hessian_tasks.errors import ProblemError
from hessian_tasks.problem import Problem
from hessian_tasks.source import LIVE, ProblemSource

if TYPE_CHECKING:
    from pipeline.run.cluster.given import AnyClient
    from pipeline.run.cluster.workers import Workers

__all__ = ["source_of", "workers_of"]


def workers_of(
    client: AnyClient | None, stop: threading.Event | None = None
) -> AbstractContextManager[Workers | None]:
    """The workers of a client or a cluster while a run needs them, or none."""
    if client is None:
        return nullcontext()
    # Dask's distributed part takes half a second to import.
    from pipeline.run.cluster.given import given_workers

    return given_workers(client, stop)


def source_of(problem: Problem | ProblemSource | str | Path) -> ProblemSource:
    """Where a problem comes from, in whatever form it was given.

    Raises:
        ProblemError: If it is none.
    """
    if isinstance(problem, ProblemSource):
        return problem
    if isinstance(problem, Problem):
        return ProblemSource(LIVE, live=problem)
    if not isinstance(problem, str | Path):
        call = " Call the function: it has to return one." if callable(problem) else ""
        raise ProblemError(
            f"The problem is {reprlib.repr(problem)}; expected a Problem, the name of a built-in "
            f"one, or path/to/problem.py.{call}"
        )
    return ProblemSource(str(problem))

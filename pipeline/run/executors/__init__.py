"""Executors: how the tasks of a run are carried out in this process; workers are `cluster`'s.

An executor is a function ``execute(task, block_rows, num_threads)`` that calls
``task(row)`` once for every block row and returns when all are done; the first exception
ends the run and is raised. :mod:`~pipeline.run.executors.serial` defines what that means.
Each executor is a module of its own, imported when it is chosen.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, cast

from hessian_tasks.spec import BlockRow

__all__ = ["ExecutorName", "Task", "get_executor"]

Task: TypeAlias = Callable[[BlockRow], object]
Execute: TypeAlias = Callable[[Task, Sequence[BlockRow], int], None]

ExecutorName: TypeAlias = Literal["serial", "threads"]


def get_executor(name: ExecutorName) -> Execute:
    """The executor of that name."""
    module = importlib.import_module(f"pipeline.run.executors.{name}")
    return cast(Execute, module.execute)

"""One block row after the other: the definition of what executing means."""

from collections.abc import Sequence

from hessian_tasks.spec import BlockRow
from pipeline.run.executors import Task

__all__ = ["execute"]


def execute(task: Task, block_rows: Sequence[BlockRow], num_threads: int) -> None:
    """Call ``task`` for every block row, in order.

    Example:
        >>> execute(print, [BlockRow(0, 0, 4), BlockRow(1, 4, 6)], num_threads=1)
        block row 0 (rows 0 to 3)
        block row 1 (rows 4 to 5)
    """
    for row in block_rows:
        task(row)

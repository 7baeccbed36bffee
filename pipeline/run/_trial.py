"""A trial: what a few rows cost in this process, so that a run can be planned."""

from __future__ import annotations

import time
from collections.abc import Sequence

from hessian_tasks.layered.engine import LayeredEngine
from hessian_tasks.process import available_cores, peak_bytes, reset_peak, resident_bytes
from hessian_tasks.spec import BlockRow
from pipeline.run.engines import AnyEngine, uses_numpy
from pipeline.run.executors import ExecutorName
from pipeline.run.plan import WANTED_BLOCK_ROWS, Cost

__all__ = ["measure", "num_threads_of", "wanted_block_rows"]

BLOCK_ROWS_PER_THREAD = 3


def num_threads_of(
    engines: Sequence[AnyEngine], executor: ExecutorName, wanted: int | None, side_by_side: int
) -> int:
    """Block rows to compute at once.

    Args:
        engines: Compute them.
        executor: Carries them out.
        wanted: Cores to use, or None for all.
        side_by_side: How many TensorFlow does well with.
    """
    if executor == "serial":
        return 1
    if uses_numpy(*engines):
        return wanted or available_cores()
    # Those without a device store what they have computed.
    return side_by_side if wanted else max(side_by_side, _num_devices(engines))


def wanted_block_rows(engines: Sequence[AnyEngine], num_threads: int, num_workers: int) -> int:
    """How many block rows keep all threads of all workers busy to the end."""
    at_once = num_workers * _at_once(engines, num_threads)
    # By layers a block row costs something apart from its rows, so that fewer are better.
    fewest = 1 if uses_numpy(*engines) else WANTED_BLOCK_ROWS
    return max(fewest, BLOCK_ROWS_PER_THREAD * at_once)


def _at_once(engines: Sequence[AnyEngine], num_threads: int) -> int:
    """Block rows that a process computes at once, as fast as one alone."""
    # TensorFlow fills all cores, or a device, with the rows of one block row, NumPy only one core.
    return num_threads if uses_numpy(*engines) else max(1, _num_devices(engines))


def _num_devices(engines: Sequence[AnyEngine]) -> int:
    return max(len(engine.devices) for engine in engines)


def measure(
    engines: Sequence[AnyEngine],
    per_term: bool,
    num_threads: int,
    num_workers: int,
    *,
    timed: bool = True,
) -> Cost:
    """What a few rows cost in this process.

    Args:
        engines: Compute them, one after the other.
        per_term: Whether the run computes the matrix of each loss term.
        num_threads: Block rows that are computed at once, in each worker.
        num_workers: Number of workers.
        timed: Whether the time is to be known as well as can be. Otherwise one row is tried less,
            and what a block row costs apart from its rows counts with these.
    """
    share = num_workers * _at_once(engines, num_threads)
    costs = [_measure(engine, per_term, share, timed) for engine in engines]
    return Cost(
        # What the trials before have left is there when the last begins.
        reserved_bytes=costs[-1].reserved_bytes,
        shared_bytes=sum(cost.shared_bytes for cost in costs),
        workspace_bytes=max(cost.workspace_bytes for cost in costs),
        seconds_per_row=sum(cost.seconds_per_row for cost in costs),
        seconds_per_block_row=sum(cost.seconds_per_block_row for cost in costs),
    )


def _measure(engine: AnyEngine, per_term: bool, share: int, timed: bool) -> Cost:
    reserved = resident_bytes()
    reset_peak()
    first, short, long = engine.trial_rows()
    engine.block_row(first)  # compiles
    # The graph of the first layer is the largest.
    graphs = (engine.num_graphs(per_term) - 1) * max(0, resident_bytes() - reserved)
    fixed = 0.0
    if timed:
        seconds = [_seconds(engine, row) for row in (short, long)]
        per_row = max(0.0, seconds[1] - seconds[0]) / max(1, long.num_rows - short.num_rows)
        fixed = max(0.0, seconds[0] - per_row * short.num_rows)
    else:
        per_row = _seconds(engine, long) / long.num_rows
    columns = engine.layout.num_params - long.start
    # Threads share what is kept from one block row to the next.
    kept, most_kept = engine.kept_bytes if isinstance(engine, LayeredEngine) else (0, 0)
    return Cost(
        reserved_bytes=reserved,
        shared_bytes=graphs + most_kept,
        workspace_bytes=max(0, peak_bytes() - reserved - kept),
        seconds_per_row=per_row * engine.layout.num_params / columns / share,
        seconds_per_block_row=fixed / share,
    )


def _seconds(engine: AnyEngine, row: BlockRow) -> float:
    if isinstance(engine, LayeredEngine):
        engine.forget()  # or the second trial would find what the first has left
    started = time.perf_counter()
    engine.block_row(row)
    return time.perf_counter() - started

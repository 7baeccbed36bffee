"""A run: plan, template, pending block rows, executor. Resuming is the same path."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from hessian_tasks.autodiff import AutodiffEngine
from hessian_tasks.frozen import FrozenInputs
from hessian_tasks.process import configure_tensorflow, peak_bytes, reset_peak, resident_bytes
from hessian_tasks.rebuild import rebuild
from hessian_tasks.spec import BlockRow
from pipeline.blocks import BlockTask
from pipeline.errors import PlanError, StoreMismatchError
from pipeline.events import BlockRowStored, Callback, Event, RunFinished, RunStarted
from pipeline.executors import ExecutorName, get_executor
from pipeline.plan import Cost, Plan, Request, make_plan
from pipeline.records import BlockRecord
from pipeline.store import HessianStore, free_bytes, writing
from pipeline.template import create_template
from pipeline.units import format_bytes

__all__ = ["Prepared", "RunOptions", "execute", "prepare"]

TRIAL_ROWS = 16


@dataclass(frozen=True)
class RunOptions:
    """How to run; what to compute is in the frozen inputs.

    Attributes:
        executor: Name of the executor.
        num_threads: Cores to use; by default those that the process may run on.
        allowed_bytes: Budget of resident memory; by default half of what is free.
        tile: Side of a tile; chosen by default.
        per_term: Also store the Hessian of every loss term; by default what an existing
            store has, or no.
    """

    executor: ExecutorName = "threads"
    num_threads: int | None = None
    allowed_bytes: int | None = None
    tile: int | None = None
    per_term: bool | None = None


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to start: the engine is compiled and the plan is made.

    Attributes:
        engine: Computes block rows.
        plan: The plan.
        startup_seconds: What preparing took.
    """

    engine: AutodiffEngine
    plan: Plan
    startup_seconds: float


def prepare(frozen: FrozenInputs, options: RunOptions, store: HessianStore | None) -> Prepared:
    """Rebuild the problem, try a few rows, and plan.

    Args:
        frozen: The inputs.
        options: How to run.
        store: The store to resume, whose tiles and arrays are kept, or None.

    Raises:
        ReproductionError: If the problem cannot be rebuilt.
        PlanError: If it does not fit into memory.
        StoreMismatchError: If the options contradict the store.
    """
    started = time.perf_counter()
    num_threads = configure_tensorflow(options.num_threads)
    if options.executor == "serial":
        num_threads = 1
    engine = AutodiffEngine(rebuild(frozen))
    tile, per_term = options.tile, bool(options.per_term)
    if store is not None:
        tile, per_term = _keep(store, options)
    num_graphs = len(frozen.layout.layers()) * (len(frozen.terms) if per_term else 1)
    cost = _measure(engine, num_graphs)
    request = Request(
        num_params=frozen.layout.num_params,
        itemsize=frozen.dtype.itemsize,
        num_arrays=1 + (len(frozen.terms) if per_term else 0),
        num_threads=num_threads,
        allowed_bytes=options.allowed_bytes or psutil.virtual_memory().available // 2,
        tile=tile,
    )
    plan = make_plan(request, cost)
    engine.row_batch = plan.row_batch
    return Prepared(engine, plan, time.perf_counter() - started)


def _measure(engine: AutodiffEngine, num_graphs: int) -> Cost:
    reserved = resident_bytes()
    reset_peak()
    row = BlockRow(0, 0, min(TRIAL_ROWS, engine.layout.num_params))
    engine.block_row(row)  # compiles
    # The graph of the first layer is the largest.
    graphs = (num_graphs - 1) * max(0, resident_bytes() - reserved)
    started = time.perf_counter()
    engine.block_row(row)
    seconds = (time.perf_counter() - started) / row.num_rows
    return Cost(reserved, graphs, max(0, peak_bytes() - reserved), seconds)


def _keep(store: HessianStore, options: RunOptions) -> tuple[int, bool]:
    per_term = len(store.arrays) > 1
    if options.tile not in (None, store.tile):
        raise StoreMismatchError(
            f"{store.path} has tiles of side {store.tile}, but --tile {options.tile} was asked "
            "for. Leave --tile out to resume, or give another --store."
        )
    if options.per_term not in (None, per_term):
        raise StoreMismatchError(
            f"{store.path} was made {'with' if per_term else 'without'} Hessians of the single "
            "loss terms. Resume it that way, or give another --store."
        )
    return store.tile, per_term


def execute(
    path: str | Path,
    frozen: FrozenInputs,
    options: RunOptions,
    callbacks: Sequence[Callback] = (),
    stop: threading.Event | None = None,
) -> HessianStore:
    """Compute what is missing in a store, creating it first if need be.

    Args:
        path: The store.
        frozen: The inputs.
        options: How to run.
        callbacks: Told of every event.
        stop: Set it from another thread or a signal handler to stop the run.

    Returns:
        The complete store.

    Raises:
        StoreError: If the store cannot be written, or was made from other inputs.
        StoppedError: If ``stop`` was set; the same call resumes.
        HessianError: Of any other kind, if the problem or a block row fails.
    """
    started = time.perf_counter()
    path = Path(path)
    resumed = path.exists()
    store = HessianStore(path) if resumed else None
    if store is not None:
        store.check_fingerprint(frozen.fingerprint())
    prepared = prepare(frozen, options, store)
    with writing(path):
        if store is None:
            _check_disk(path, prepared.plan)
            create_template(path, frozen, prepared.plan, prepared.engine.name)
        store = HessianStore(path, writable=True)
        pending = store.pending()
        _start(store, pending)
    reporter = _Reporter(callbacks)
    reporter.tell(RunStarted(prepared.plan, tuple(pending), resumed, prepared.startup_seconds))
    task = BlockTask(prepared.engine, store, stop or threading.Event(), reporter.stored)
    get_executor(options.executor)(task, pending, prepared.plan.num_threads)
    reporter.tell(RunFinished(time.perf_counter() - started, len(pending), peak_bytes()))
    return store


def _start(store: HessianStore, pending: list[BlockRow]) -> None:
    if pending:
        store.sweep()
        store.set_certificate(None)


def _check_disk(path: Path, plan: Plan) -> None:
    free = free_bytes(path)
    if plan.stored_bytes > free:
        raise PlanError(
            f"The arrays take up to {format_bytes(plan.stored_bytes)}, but only "
            f"{format_bytes(free)} are free at {path.parent}. Choose another --store."
        )


@dataclass(frozen=True)
class _Reporter:
    """Tells callbacks of events, one at a time, from whatever thread."""

    callbacks: Sequence[Callback]
    lock: threading.Lock = field(default_factory=threading.Lock)

    def tell(self, event: Event) -> None:
        with self.lock:
            for callback in self.callbacks:
                callback(event)

    def stored(self, record: BlockRecord) -> None:
        self.tell(BlockRowStored(record))

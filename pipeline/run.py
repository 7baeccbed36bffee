"""A run: plan, template, pending block rows, executor. Resuming is the same path."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import psutil
from threadpoolctl import threadpool_limits

from hessian_tasks.frozen import FrozenInputs
from hessian_tasks.layered.engine import LayeredEngine
from hessian_tasks.process import (
    available_cores,
    configure_tensorflow,
    peak_bytes,
    reset_peak,
    resident_bytes,
)
from hessian_tasks.rebuild import rebuild
from hessian_tasks.spec import BlockRow, EngineChoice, EngineName, matrix_of
from pipeline.blocks import BlockTask
from pipeline.engines import AnyEngine, choose_engine, uses_numpy
from pipeline.errors import PlanError, StoreMismatchError
from pipeline.events import BlockRowStored, Callback, Event, RunFinished, RunStarted
from pipeline.executors import ExecutorName, get_executor
from pipeline.plan import WANTED_BLOCK_ROWS, Cost, Plan, Request, make_plan
from pipeline.records import BlockRecord
from pipeline.storage import Location, Place, locate
from pipeline.store import HessianStore
from pipeline.template import create_template
from pipeline.units import format_bytes

if TYPE_CHECKING:
    # Dask's distributed part takes half a second to import, which runs in this process do not need.
    from pipeline.cluster.workers import Workers

__all__ = ["Prepared", "RunOptions", "execute", "prepare"]

BLOCK_ROWS_PER_THREAD = 3


@dataclass(frozen=True)
class RunOptions:
    """How to run; what to compute is in the frozen inputs.

    Attributes:
        executor: Name of the executor.
        num_threads: Cores to use; by default those that the process may run on.
        num_workers: Processes that use so many cores each.
        allowed_bytes: Budget of resident memory; by default half of what is free.
        tile: Side of a tile; chosen by default.
        per_term: Also store the matrix of every loss term; by default what an existing
            store has, or no.
        engine: Name of the engine, or ``"auto"``: what an existing store was begun with,
            or the fastest one that applies. ``"ggn"`` computes the Gauss-Newton matrix instead
            of the Hessian, and the Jacobians of residuals.
    """

    executor: ExecutorName = "threads"
    num_threads: int | None = None
    num_workers: int = 1
    allowed_bytes: int | None = None
    tile: int | None = None
    per_term: bool | None = None
    engine: EngineName = "auto"


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to start: the engine is compiled and the plan is made.

    Attributes:
        engine: Computes block rows.
        choice: Which engine that is, and why.
        plan: The plan.
        startup_seconds: What preparing took.
    """

    engine: AnyEngine
    choice: EngineChoice
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
    name, tile, per_term = options.engine, options.tile, bool(options.per_term)
    if store is not None:
        name, tile, per_term = _keep(store, options)
    engine, choice = choose_engine(rebuild(frozen), name)
    if uses_numpy(engine):
        num_threads = options.num_threads or available_cores()
    elif options.num_threads is None:
        # Those without a device store what they have computed.
        num_threads = max(num_threads, len(engine.devices))
    if options.executor == "serial":
        num_threads = 1
    with threadpool_limits(1, "blas"):
        cost = _measure(engine, per_term, num_threads, options.num_workers)
    request = Request(
        num_params=frozen.layout.num_params,
        itemsize=frozen.dtype.itemsize,
        num_arrays=1 + (len(frozen.terms) - len(choice.left_out) if per_term else 0),
        num_threads=num_threads,
        allowed_bytes=options.allowed_bytes or psutil.virtual_memory().available // 2,
        tile=tile,
        num_block_rows=_wanted_block_rows(engine, num_threads, options.num_workers),
        tile_multiple=engine.tile_multiple,
        num_residuals=sum(residuals.count for residuals in choice.residuals),
        matrix=matrix_of(choice.name),
    )
    plan = make_plan(request, cost)
    return Prepared(engine, choice, plan, time.perf_counter() - started)


def _wanted_block_rows(engine: AnyEngine, num_threads: int, num_workers: int) -> int:
    at_once = num_workers * _at_once(engine, num_threads)
    # By layers a block row costs something apart from its rows, so that fewer are better.
    fewest = 1 if uses_numpy(engine) else WANTED_BLOCK_ROWS
    return max(fewest, BLOCK_ROWS_PER_THREAD * at_once)


def _at_once(engine: AnyEngine, num_threads: int) -> int:
    """Block rows that a process computes at once, as fast as one alone."""
    # TensorFlow fills all cores, or a device, with the rows of one block row, NumPy only one core.
    return num_threads if uses_numpy(engine) else max(1, len(engine.devices))


def _measure(engine: AnyEngine, per_term: bool, num_threads: int, num_workers: int) -> Cost:
    reserved = resident_bytes()
    reset_peak()
    first, short, long = engine.trial_rows()
    engine.block_row(first)  # compiles
    # The graph of the first layer is the largest.
    graphs = (engine.num_graphs(per_term) - 1) * max(0, resident_bytes() - reserved)
    seconds = [_seconds(engine, row) for row in (short, long)]
    per_row = max(0.0, seconds[1] - seconds[0]) / max(1, long.num_rows - short.num_rows)
    fixed = max(0.0, seconds[0] - per_row * short.num_rows)
    columns = engine.layout.num_params - long.start
    share = num_workers * _at_once(engine, num_threads)
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


def _keep(store: HessianStore, options: RunOptions) -> tuple[EngineName, int, bool]:
    per_term = len(store.arrays) > 1
    if options.engine not in ("auto", store.engine):
        raise StoreMismatchError(
            f"{store.location} was begun with engine {store.engine}, but --engine "
            f"{options.engine} was asked for. Leave --engine out to resume, or give another "
            "--store."
        )
    if options.tile not in (None, store.tile):
        raise StoreMismatchError(
            f"{store.location} has tiles of side {store.tile}, but --tile {options.tile} was asked "
            "for. Leave --tile out to resume, or give another --store."
        )
    if options.per_term not in (None, per_term):
        raise StoreMismatchError(
            f"{store.location} was made {'with' if per_term else 'without'} "
            f"{store.matrix.plural} of the single loss terms. Resume it that way, or give another "
            "--store."
        )
    return store.engine, store.tile, per_term


def execute(
    place: Place,
    frozen: FrozenInputs,
    options: RunOptions,
    callbacks: Sequence[Callback] = (),
    stop: threading.Event | None = None,
    workers: Workers | None = None,
) -> HessianStore:
    """Compute what is missing in a store, creating it first if need be.

    Args:
        place: The store: a path, or an URL.
        frozen: The inputs.
        options: How to run.
        callbacks: Told of every event.
        stop: Set it from another thread or a signal handler to stop the run.
        workers: Dask workers that compute, instead of threads of this process.

    Returns:
        The complete store.

    Raises:
        StoreError: If the store cannot be written, or was made from other inputs.
        StoppedError: If ``stop`` was set; the same call resumes.
        HessianError: Of any other kind, if the problem or a block row fails.
    """
    stop = stop or threading.Event()
    location = locate(place)
    if workers is not None:
        workers.check(frozen.source)
        options = _fit(options, workers)
    with location.locked():
        return _execute(location, frozen, options, _Reporter(callbacks), stop, workers)


def _execute(
    location: Location,
    frozen: FrozenInputs,
    options: RunOptions,
    reporter: _Reporter,
    stop: threading.Event,
    workers: Workers | None,
) -> HessianStore:
    started = time.perf_counter()
    resumed = location.exists()
    store = HessianStore(location) if resumed else None
    if store is not None:
        store.check_inputs(frozen)
    prepared = prepare(frozen, options, store)
    with location.writing():
        if store is None:
            _check_space(location, prepared.plan)
            create_template(location, frozen, prepared.plan, prepared.choice)
        store = HessianStore(location)
        pending = store.pending()
        _start(store, pending)
    reporter.tell(
        RunStarted(
            prepared.plan,
            tuple(pending),
            resumed,
            prepared.startup_seconds,
            tuple(store.left_out),
        )
    )
    if workers is not None:
        job = (store, frozen.source, prepared.plan)
        workers.compute(job, pending, reporter.stored, stop)
        location.sweep()  # what workers have left that were killed meanwhile
    else:
        task = BlockTask(prepared.engine, store, stop, reporter.stored)
        # Block rows fill the cores, so that a matrix product gets one.
        with threadpool_limits(1, "blas"):
            get_executor(options.executor)(task, pending, prepared.plan.num_threads)
    reporter.tell(RunFinished(time.perf_counter() - started, len(pending), peak_bytes()))
    return store


def _fit(options: RunOptions, workers: Workers) -> RunOptions:
    """Plan for the smallest worker."""
    memory = [limit for limit in (options.allowed_bytes, workers.memory) if limit is not None]
    return replace(
        options,
        num_threads=workers.num_threads,
        allowed_bytes=min(memory) if memory else None,
        num_workers=workers.number,
    )


def _start(store: HessianStore, pending: list[BlockRow]) -> None:
    if pending:
        store.location.sweep()
        store.set_certificate(None)


def _check_space(location: Location, plan: Plan) -> None:
    free = location.free_bytes()
    if free is not None and plan.padded_bytes > free:
        raise PlanError(
            f"The arrays take up to {format_bytes(plan.padded_bytes)}, but only "
            f"{format_bytes(free)} are free for {location}. Choose another --store."
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

"""A run: plan, template, pending block rows, executor. Resuming is the same path."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import psutil
from threadpoolctl import threadpool_limits

from hessian_tasks.frozen import FrozenInputs
from hessian_tasks.networks.fixed import fixed_parts
from hessian_tasks.process import configure_tensorflow, peak_bytes
from hessian_tasks.rebuild import rebuild
from hessian_tasks.spec import BlockRow, EngineChoice, EngineName, matrix_of
from pipeline.blocks import BlockTask
from pipeline.engines import AnyEngine, choose_engine
from pipeline.errors import PlanError, StoreMismatchError
from pipeline.events import BlockRowStored, Callback, Event, RunFinished, RunStarted
from pipeline.executors import ExecutorName, get_executor
from pipeline.plan import Plan, Request, make_plan
from pipeline.records import BlockRecord
from pipeline.references import References
from pipeline.selfcheck import Guard
from pipeline.storage import Location, Place, locate
from pipeline.store import HessianStore
from pipeline.template import create_template
from pipeline.trial import measure, num_threads_of, wanted_block_rows
from pipeline.units import format_bytes

if TYPE_CHECKING:
    # Dask's distributed part takes half a second to import, which runs in this process do not need.
    from pipeline.cluster.workers import Workers

__all__ = ["Prepared", "RunOptions", "execute", "prepare"]


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
        references: Products to check the result with, or None if it is checked already.
    """

    engine: AnyEngine
    choice: EngineChoice
    plan: Plan
    references: References | None


def prepare(
    frozen: FrozenInputs, options: RunOptions, store: HessianStore | None, *, checked: bool = False
) -> Prepared:
    """Rebuild the problem, try a few rows, and plan.

    Args:
        frozen: The inputs.
        options: How to run.
        store: The store to resume, whose tiles and arrays are kept, or None.
        checked: Whether the store is complete and checked already.

    Raises:
        ReproductionError: If the problem cannot be rebuilt.
        PlanError: If it does not fit into memory.
        StoreMismatchError: If the options contradict the store.
    """
    num_threads = configure_tensorflow(options.num_threads)
    name, tile, per_term = options.engine, options.tile, bool(options.per_term)
    if store is not None:
        name, tile, per_term = _keep(store, options)
    problem = rebuild(frozen)
    engine, choice = choose_engine(problem, name)
    # Before memory is measured, so that it is planned for.
    references = None if checked else References(problem, matrix_of(choice.name), choice.left_out)
    num_threads = num_threads_of(engine, options.executor, options.num_threads, num_threads)
    with threadpool_limits(1, "blas"):
        cost = measure(engine, per_term, num_threads, options.num_workers)
    request = Request(
        num_params=frozen.layout.num_params,
        itemsize=frozen.dtype.itemsize,
        num_arrays=1 + (len(frozen.terms) - len(choice.left_out) if per_term else 0),
        num_threads=num_threads,
        allowed_bytes=options.allowed_bytes or psutil.virtual_memory().available // 2,
        tile=tile,
        num_block_rows=wanted_block_rows(engine, num_threads, options.num_workers),
        tile_multiple=engine.tile_multiple,
        num_residuals=sum(residuals.count for residuals in choice.residuals),
        matrix=matrix_of(choice.name),
    )
    return Prepared(engine, choice, make_plan(request, cost), references)


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
        return _Run(location, frozen, options, stop, workers).execute(callbacks)


@dataclass(frozen=True)
class _Run:
    """A run that has the store to itself."""

    location: Location
    frozen: FrozenInputs
    options: RunOptions
    stop: threading.Event
    workers: Workers | None

    def execute(self, callbacks: Sequence[Callback]) -> HessianStore:
        started = time.perf_counter()
        resumed = self.location.exists()
        store, prepared, pending = self.open() if resumed else self.create()
        guard = None
        if prepared.references is not None:
            guard = Guard(store, prepared.references, pending)
        reporter = _Reporter(callbacks if guard is None else [guard, *callbacks])
        startup_seconds = time.perf_counter() - started
        left_out = tuple(store.left_out)
        reporter.tell(RunStarted(prepared.plan, tuple(pending), resumed, startup_seconds, left_out))
        self.compute(store, prepared, pending, reporter.stored)
        found = None if guard is None else guard.finish()
        seconds = time.perf_counter() - started
        reporter.tell(RunFinished(seconds, len(pending), peak_bytes(), found))
        return store

    def create(self) -> tuple[HessianStore, Prepared, list[BlockRow]]:
        prepared = prepare(self.frozen, self.options, None)
        with self.location.writing():
            _check_space(self.location, prepared.plan)
            fixed = fixed_parts(prepared.engine.problem.model)
            create_template(self.location, self.frozen, prepared.plan, prepared.choice, fixed)
            store = HessianStore(self.location)
        return store, prepared, store.block_rows

    def open(self) -> tuple[HessianStore, Prepared, list[BlockRow]]:
        # Whether it is still wrong is seen at the end.
        store = HessianStore(self.location, warn=False)
        store.check_inputs(self.frozen)
        with self.location.writing():
            pending = store.pending()
        check = store.self_check
        checked = not pending and check is not None and check.passed
        prepared = prepare(self.frozen, self.options, store, checked=checked)
        with self.location.writing():
            if pending:
                self.location.sweep()
                store.set_certificate(None)
                if check is not None and check.passed:
                    store.set_self_check(None)
        return store, prepared, pending

    def compute(
        self,
        store: HessianStore,
        prepared: Prepared,
        pending: Sequence[BlockRow],
        on_stored: Callable[[BlockRecord], None],
    ) -> None:
        if self.workers is not None:
            job = (store, self.frozen.source, prepared.plan)
            self.workers.compute(job, pending, on_stored, self.stop)
            self.location.sweep()  # what workers have left that were killed meanwhile
            return
        task = BlockTask(prepared.engine, store, self.stop, on_stored)
        # Block rows fill the cores, so that a matrix product gets one.
        with threadpool_limits(1, "blas"):
            get_executor(self.options.executor)(task, pending, prepared.plan.num_threads)


def _fit(options: RunOptions, workers: Workers) -> RunOptions:
    """Plan for the smallest worker."""
    memory = [limit for limit in (options.allowed_bytes, workers.memory) if limit is not None]
    return replace(
        options,
        num_threads=workers.num_threads,
        allowed_bytes=min(memory) if memory else None,
        num_workers=workers.number,
    )


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

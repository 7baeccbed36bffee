"""A run: plan, template, pending block rows, executor. Resuming is the same path."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from threadpoolctl import threadpool_limits

from hessian_tasks.frozen import FrozenInputs
from hessian_tasks.networks.fixed import fixed_parts
from hessian_tasks.process import peak_bytes
from hessian_tasks.rebuild import rebuild
from hessian_tasks.spec import BlockRow
from pipeline.errors import DoesNotFitError
from pipeline.run._blocks import BlockTask
from pipeline.run._selfcheck import Guard
from pipeline.run.events import BlockRowStored, Callback, Event, HearsEnd, RunFinished, RunStarted
from pipeline.run.executors import get_executor
from pipeline.run.options import RunOptions
from pipeline.run.prepare import Prepared, least_bytes, nothing_left, prepare
from pipeline.store.below import check_one
from pipeline.store.places import Location, Place, locate
from pipeline.store.records import BlockRecord
from pipeline.store.repair import repair
from pipeline.store.store import HessianStore
from pipeline.store.template import create_template
from pipeline.units import format_bytes

if TYPE_CHECKING:
    # Dask's distributed part takes half a second to import, which runs in this process do not need.
    from pipeline.run.cluster.workers import Workers

__all__ = ["execute"]


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
        sent = workers.check(frozen.source)
        options = _fit(options, workers, len(sent.pickled))
    with location.locked() as hold:
        return _Run(location, frozen, options, stop, workers, hold).execute(callbacks)


@dataclass(frozen=True)
class _Run:
    """A run that has the store to itself."""

    location: Location
    frozen: FrozenInputs
    options: RunOptions
    stop: threading.Event
    workers: Workers | None
    hold: Callable[[], None]

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
        begun = RunStarted(prepared.plan, tuple(pending), resumed, startup_seconds, left_out)
        with reporter.telling(begun):
            self.compute(store, prepared, pending, reporter.stored)
            found = None if guard is None else guard.finish()
            seconds = time.perf_counter() - started
            reporter.tell(RunFinished(seconds, len(pending), peak_bytes(), found))
        return store

    @property
    def timed(self) -> bool:
        """Whether block rows are waited for by their planned time, as those of workers are."""
        return self.workers is not None

    def create(self) -> tuple[HessianStore, Prepared, list[BlockRow]]:
        check_one(self.location)
        _check_space(self.location, least_bytes(self.frozen, self.options))
        prepared = prepare(self.frozen, self.options, None, timed=self.timed)
        with self.location.writing():
            _check_space(self.location, prepared.plan.padded_bytes)
            fixed = fixed_parts(prepared.engines[0].problem.model)
            create_template(
                self.location, self.frozen, prepared.plan.tiling, prepared.choice, fixed
            )
            self.hold()
            store = HessianStore(self.location)
        return store, prepared, store.block_rows

    def open(self) -> tuple[HessianStore, Prepared, list[BlockRow]]:
        repair(self.location, self.frozen)
        # Whether it is still wrong is seen at the end.
        store = HessianStore(self.location, warn=False)
        store.check_inputs(self.frozen)
        with self.location.writing():
            pending = store.pending()
        check = store.self_check
        if not pending and check is not None and check.passed:
            if self.frozen.recorded:
                rebuild(self.frozen)
            return store, nothing_left(store, self.options), []
        prepared = prepare(self.frozen, self.options, store, timed=self.timed)
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
        if not pending:
            return
        if self.workers is not None:
            job = (store, self.frozen.source, prepared.plan)
            self.workers.compute(job, pending, on_stored, self.stop)
            self.location.sweep()  # what workers have left that were killed meanwhile
            return
        task = BlockTask(prepared.engines, store, self.stop, on_stored)
        # Block rows fill the cores, so that a matrix product gets one.
        with threadpool_limits(1, "blas"):
            get_executor(self.options.executor)(task, pending, prepared.plan.num_threads)


def _fit(options: RunOptions, workers: Workers, sent_bytes: int) -> RunOptions:
    """Plan for the smallest worker, which keeps what it was sent beside what is made of it."""
    memory = [limit for limit in (options.allowed_bytes, workers.memory) if limit is not None]
    return replace(
        options,
        num_threads=workers.num_threads,
        allowed_bytes=max(1, min(memory) - sent_bytes) if memory else None,
        num_workers=workers.number,
    )


def _check_space(location: Location, needed: int) -> None:
    free = location.free_bytes()
    if free is not None and needed > free:
        raise DoesNotFitError(
            f"The arrays take up to {format_bytes(needed)}, but only {format_bytes(free)} are free "
            f"for {location}. Choose another --store; hessian estimate needs none of it."
        )


@dataclass(frozen=True)
class _Reporter:
    """Tells callbacks of events, one at a time, from whatever thread."""

    callbacks: Sequence[Callback]
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def telling(self, begun: RunStarted) -> Iterator[None]:
        """Tell of a run that begins, and of its end, whatever that is, who hears it."""
        try:
            self.tell(begun)
            yield
        finally:
            for callback in self.callbacks:
                if isinstance(callback, HearsEnd):
                    callback.run_ended()

    def tell(self, event: Event) -> None:
        with self.lock:
            for callback in self.callbacks:
                callback(event)

    def stored(self, record: BlockRecord) -> None:
        self.tell(BlockRowStored(record))

"""What a worker does: rebuild the problem once, then compute and store block rows.

The model is rebuilt from the inputs that are frozen in the store, and kept, with what is compiled
for it, until the worker gets another job.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from distributed import get_worker
from threadpoolctl import threadpool_limits

from hessian_tasks.process import configure_tensorflow
from hessian_tasks.spec import BlockRow
from pipeline.run._blocks import BlockTask
from pipeline.run.cluster._versions import check_versions, own_versions
from pipeline.run.cluster.sending import SentSource
from pipeline.store.places import Location
from pipeline.store.records import BlockRecord
from pipeline.store.store import HessianStore

__all__ = ["Job", "forget"]


@dataclass(frozen=True)
class Job:
    """What a worker has to know to compute block rows of a run.

    Attributes:
        token: Names the job.
        store: Where the store is, the same for all workers.
        sent: Where to build the problem from.
        num_threads: Block rows that fit into a worker's memory at once.
        num_gpus: GPUs that a worker uses of those that it sees; all by default.
        versions: Those of the client's packages.
    """

    token: str
    store: Location
    sent: SentSource
    num_threads: int
    num_gpus: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, row: BlockRow) -> BlockRecord:
        """Compute a block row and store it.

        Raises:
            StoreError: If the store cannot be read or written from this worker.
            ClusterError: If a package has another version here than in the client.
            ReproductionError: If the problem is not the one that was frozen.
            ProblemError: If its source cannot be read here.
            BlockRowError: If the block row cannot be computed.
        """
        with _lock:
            if not _ready or _ready[0].token != self.token:
                _ready[:] = [_prepare(self)]
            ready = _ready[0]
        with ready.slots:
            return ready.task(row)


@dataclass(frozen=True)
class _Ready:
    """A job whose engine is built."""

    token: str
    task: BlockTask
    slots: threading.Semaphore
    blas: threadpool_limits


# The job of this process, if it has one.
_ready: list[_Ready] = []
_lock = threading.Lock()


def forget(token: str) -> None:
    """Give back the memory that a job keeps in this process, and its BLAS threads."""
    with _lock:
        if _ready and _ready[0].token == token:
            _ready.pop().blas.restore_original_limits()


def _prepare(job: Job) -> _Ready:
    # The workers that were there before are checked already; this one may have come later.
    check_versions(get_worker().address, own_versions(), job.versions)
    # TensorFlow is imported here, on a thread for tasks: the worker's event loop has to answer.
    # It may have been started by others before, with operations as wide as the machine.
    num_threads = configure_tensorflow(job.num_threads, job.num_gpus)
    from hessian_tasks.rebuild import rebuild
    from pipeline.run.engines import choose_engines
    from pipeline.run.inputs import stored_inputs

    store = HessianStore(job.store, warn=False)  # the client does
    frozen = stored_inputs(store, job.sent.receive())
    store.check_inputs(frozen)
    with_ggn = len(store.matrices) > 1
    engines, _ = choose_engines(rebuild(frozen), store.engine, with_ggn=with_ggn)
    task = BlockTask(engines, store, threading.Event(), lambda record: None)
    first, short, _ = engines[0].trial_rows()
    task.warm_up([first, short])
    slots = threading.Semaphore(min(num_threads, job.num_threads))
    return _Ready(job.token, task, slots, threadpool_limits(1, "blas"))

"""How a problem reaches a worker: by its name, or, if it is an object of this process, as bytes.

Few bytes travel with every task. Many go to the scheduler once, as a plugin of workers, which it
passes on to those that there are and to those that come; none is lost with a worker.
"""

from __future__ import annotations

import pickle
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import cloudpickle
from distributed import Client, WorkerPlugin, get_worker

from hessian_tasks.errors import ProblemError, plain
from hessian_tasks.source import ProblemSource
from pipeline.errors import ClusterError, ConfigError
from pipeline.units import format_bytes

__all__ = ["SentSource", "carried", "send_source"]

# What travels with every task, and what goes through the scheduler's memory.
TASK_BYTES, MAX_BYTES = 2**20, 256 * 2**20
FILE = "Put the problem into a file that the workers see, and give path/to/problem.py:name."


@dataclass(frozen=True)
class SentSource:
    """Where a problem comes from, as it is sent; the scheduler, which reads tasks, imports nothing.

    Attributes:
        source: Without the object.
        pickled: The object, if there is no other source.
        plugin: Which plugin of workers has the object, in place of ``pickled``.
    """

    source: ProblemSource
    pickled: bytes = b""
    plugin: str | None = None

    def receive(self) -> ProblemSource:
        """The source on a worker, which has to find the same loss and gradient by it.

        Raises:
            ProblemError: If the object cannot be made again here.
            ClusterError: If it has not come here.
        """
        pickled = self.pickled if self.plugin is None else _unload(self.plugin)
        if not pickled:
            return self.source
        try:
            return replace(self.source, live=pickle.loads(pickled))
        # It runs what the object's classes say.
        except Exception as error:
            raise ProblemError(
                "The problem object cannot be made again on a worker "
                f"({type(error).__name__}: {plain(error)}). {FILE}"
            ) from error


def send_source(source: ProblemSource) -> SentSource:
    """Take the object of a source, with the functions that are defined beside it, as bytes.

    Raises:
        ConfigError: If it cannot be sent, or is too large to be.
    """
    if source.live is None:
        return SentSource(source)
    try:
        pickled = cloudpickle.dumps(source.live)
    except Exception as error:
        raise ConfigError(
            f"The problem object cannot be sent to workers ({type(error).__name__}: "
            f"{plain(error)}). {FILE}"
        ) from error
    if len(pickled) > MAX_BYTES:
        raise ConfigError(
            f"The problem object takes {format_bytes(len(pickled))}, and at most "
            f"{format_bytes(MAX_BYTES)} go through a scheduler. Put the problem into a file that "
            "the workers see, which reads its data there, and give path/to/problem.py:name."
        )
    return SentSource(replace(source, live=None), pickled)


@contextmanager
def carried(client: Client, sent: SentSource) -> Iterator[SentSource]:
    """A source as tasks take it along: many bytes are on the workers until this is left.

    Raises:
        ClusterError: If they cannot be brought there.
    """
    if len(sent.pickled) <= TASK_BYTES:
        yield sent
        return
    # Dask's own class: a worker that comes and lacks this package is not ended by it.
    plugin, name = WorkerPlugin(), f"hessian-problem-{uuid.uuid4().hex[:8]}"
    vars(plugin)["pickled"] = sent.pickled
    try:
        client.register_plugin(plugin, name=name)
    except OSError as error:
        raise ClusterError(
            f"The problem object could not be brought to the workers: {error}. Run again."
        ) from error
    try:
        yield replace(sent, pickled=b"", plugin=name)
    finally:
        if client.status == "running":
            # A worker was just lost, or the scheduler, and its plugins with it.
            with suppress(OSError, ValueError):
                client.unregister_worker_plugin(name)


def _unload(name: str) -> bytes:
    plugin = get_worker().plugins.get(name)
    if plugin is None:
        raise ClusterError(
            "The problem object was lost with the scheduler that had it. Run again: what is stored "
            "is not computed again."
        )
    pickled: bytes = vars(plugin)["pickled"]
    return pickled

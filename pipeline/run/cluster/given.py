"""Workers of a client or cluster that the user has, which keeps what it is and has."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from distributed import Client
from distributed.comm.core import CommClosedError

from pipeline.errors import ClusterError
from pipeline.run.cluster.workers import Workers
from pipeline.settings.profiles import ClusterProfile

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

__all__ = ["AnyClient", "given_workers"]

CONNECT_SECONDS = 30.0
# With its defaults: workers that are lost are waited for, and failures tried again.
_PROFILE = ClusterProfile.model_validate({})


class HasScheduler(Protocol):
    """A cluster of Dask's: LocalCluster, SLURMCluster and so on."""

    @property
    def scheduler_address(self) -> str:
        """Where its scheduler is."""


class MakesClients(Protocol):
    """A cluster that is reached in a way of its own, as dask-gateway's GatewayCluster."""

    def get_client(self) -> Client:
        """A client that is connected."""


AnyClient: TypeAlias = Client | HasScheduler | MakesClients | Workers


@contextmanager
def given_workers(given: AnyClient, stop: threading.Event | None = None) -> Iterator[Workers]:
    """The workers of a client or cluster, which goes on as it was when this is left.

    Its workers are not restarted, whatever takes long, nor are others asked for.

    Args:
        given: A client, a cluster, or what :func:`~pipeline.run.cluster.connect.connect` gives.
        stop: Set, by another thread, to wait for lost workers no longer.

    Raises:
        ClusterError: If it is nothing of that kind, is closed, asynchronous, or without workers;
            or the scheduler is lost meanwhile.

    Example:
        >>> from distributed import LocalCluster
        >>> with LocalCluster(n_workers=1, dashboard_address="127.0.0.1:0") as cluster:
        ...     with given_workers(cluster) as workers:
        ...         workers.number
        1
    """
    if isinstance(given, Workers):
        yield given
        return
    try:
        with _client(given) as client:
            _check_usable(client)
            yield Workers(client, _PROFILE, stop or threading.Event(), is_own=False)
    except CommClosedError as error:
        raise ClusterError(f"The connection to the scheduler was lost: {error}") from error


def _client(given: object) -> AbstractContextManager[Client]:
    if isinstance(given, Client):
        return nullcontext(given)
    if not hasattr(given, "scheduler_address") and not hasattr(given, "get_client"):
        raise ClusterError(
            f"client is {given!r:.200}; expected a distributed.Client, a cluster of Dask's such as "
            "LocalCluster, SLURMCluster or GatewayCluster, or what pipeline.connect gives."
        )
    if getattr(given, "asynchronous", False):
        raise ClusterError(_ASYNCHRONOUS.format("cluster"))
    status = getattr(given, "status", None)
    status = getattr(status, "name", status)  # text, where it is no member of an enumeration
    if status in ("closing", "closed", "failed"):
        raise ClusterError(f"The cluster is {status}. Start one, and give that.")
    try:
        return _connected(given)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise ClusterError(f"The cluster's scheduler cannot be reached: {error}") from error


def _connected(cluster: Any) -> Client:
    """A client of our own, which does not become what Dask's functions take by default."""
    if hasattr(cluster, "scheduler_address"):
        return Client(cluster, timeout=CONNECT_SECONDS, set_as_default=False)
    takes = inspect.signature(cluster.get_client).parameters
    client: Client = cluster.get_client(
        **({"set_as_default": False} if "set_as_default" in takes else {})
    )
    return client


_ASYNCHRONOUS = (
    "The {} is asynchronous, and this function waits for workers in the thread of its event loop. "
    "Call it in another: await asyncio.to_thread(compute_hessian, …), or give one that was made "
    "without asynchronous=True."
)


def _check_usable(client: Client) -> None:
    if client.status not in ("running", "connecting"):
        raise ClusterError(
            f"The client is {client.status}. Make one that is connected, Client(cluster), and give "
            "that."
        )
    # Made by asyncio.run, which has ended: it would be waited for without end.
    asyncio_loop: asyncio.AbstractEventLoop | None = getattr(client.loop, "asyncio_loop", None)
    if asyncio_loop is None or not asyncio_loop.is_running():
        raise ClusterError(
            "The client's event loop has ended, and nothing answers. Make a client without "
            "asynchronous=True, Client(cluster), and give that."
        )
    if client.asynchronous:
        raise ClusterError(_ASYNCHRONOUS.format("client"))
    if not client.nthreads():
        raise ClusterError(
            "The client has no workers. Ask for some, cluster.scale(2), wait for the first, "
            "client.wait_for_workers(1), and call again."
        )

"""From a profile to Dask workers: started here, or found at an address."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import dask
from distributed import Client, Security
from distributed.comm.core import CommClosedError

from pipeline.errors import ClusterError, ConfigError
from pipeline.run.cluster.ask import wait_for_worker
from pipeline.run.cluster.settings import cluster_settings
from pipeline.run.cluster.start import start
from pipeline.run.cluster.workers import Workers
from pipeline.settings.profiles import Address, ClusterProfile, StartedProfile

__all__ = ["connect"]

CONNECT_SECONDS = 30.0


@contextmanager
def connect(profile: ClusterProfile, stop: threading.Event | None = None) -> Iterator[Workers]:
    """Start workers, or find them, and wait for the first; those that were started end again.

    Args:
        profile: Which workers.
        stop: Set, by another thread, to wait no longer.

    Raises:
        ConfigError: If the profile is not one that can be started here; says what to install.
        ClusterError: If nobody answers, no worker comes, or the scheduler is lost.
        StoppedError: If ``stop`` was set.

    Example:
        >>> from pipeline import load_settings
        >>> settings = load_settings(assignments=["profiles.processes.workers=1"])
        >>> with connect(settings.profiles["processes"]) as workers:
        ...     len(workers.client.nthreads())
        1
    """
    stop = threading.Event() if stop is None else stop
    try:
        with dask.config.set(cluster_settings(profile)), _client(profile) as client:
            wait_for_worker(client, profile.wait, stop)
            yield Workers(client, profile, stop)
    except CommClosedError as error:
        raise ClusterError(f"The connection to the scheduler was lost: {error}") from error


@contextmanager
def _client(profile: ClusterProfile) -> Iterator[Client]:
    if isinstance(profile, Address):
        with _find(profile) as client:
            yield client
    else:
        assert isinstance(profile, StartedProfile), profile
        with start(profile) as cluster, Client(cluster, set_as_default=False) as client:
            yield client


def _find(profile: Address) -> Client:
    security = _client_security(profile)
    try:
        return Client(
            profile.address,
            scheduler_file=profile.scheduler_file and str(profile.scheduler_file),
            security=security,
            timeout=min(profile.wait, CONNECT_SECONDS),
            set_as_default=False,
        )
    except (OSError, ValueError, TypeError) as error:
        where = profile.address or profile.scheduler_file
        raise ClusterError(f"The scheduler at {where} cannot be reached: {error}") from error


def _client_security(profile: Address) -> Security | None:
    if profile.tls is None:
        return None
    files = {"ca": profile.tls.ca, "cert": profile.tls.cert, "key": profile.tls.key}
    for name, path in files.items():
        if not path.is_file():
            raise ConfigError(f"The file of tls.{name}, {path}, does not exist.")
    return Security(
        tls_ca_file=str(profile.tls.ca),
        tls_client_cert=str(profile.tls.cert),
        tls_client_key=str(profile.tls.key),
        require_encryption=True,
    )

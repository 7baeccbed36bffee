"""From a profile to Dask workers: started here, or found at an address."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dask
from distributed import Client, Security
from distributed.comm.core import CommClosedError

from pipeline.errors import ClusterError, ConfigError, StoppedError
from pipeline.run.cluster._certificates import shared_certificates
from pipeline.run.cluster._settings import cluster_settings
from pipeline.run.cluster._start import start
from pipeline.run.cluster.ask import POLL_SECONDS, wait_for_worker
from pipeline.run.cluster.workers import Workers
from pipeline.settings.profiles import Address, ClusterProfile, StartedProfile

__all__ = ["connect"]

CONNECT_SECONDS = 30.0
MAX_FILE_BYTES = 2**20


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
        with dask.config.set(cluster_settings(profile)), _client(profile, stop) as client:
            wait_for_worker(client, profile.wait, stop)
            yield Workers(client, profile, stop)
    except CommClosedError as error:
        raise ClusterError(f"The connection to the scheduler was lost: {error}") from error


@contextmanager
def _client(profile: ClusterProfile, stop: threading.Event) -> Iterator[Client]:
    if isinstance(profile, Address):
        with _find(profile, stop) as client:
            yield client
    else:
        assert isinstance(profile, StartedProfile), profile
        with (
            shared_certificates(profile) as files,
            dask.config.set(files),
            start(profile) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            yield client


def _find(profile: Address, stop: threading.Event) -> Client:
    security = _client_security(profile)
    file = profile.scheduler_file
    address = profile.address if file is None else _wait_for_address(file, profile.wait, stop)
    try:
        return Client(
            address,
            security=security,
            timeout=min(profile.wait, CONNECT_SECONDS),
            set_as_default=False,
        )
    except (OSError, ValueError, TypeError) as error:
        raise ClusterError(f"The scheduler at {address} cannot be reached: {error}") from error


def _wait_for_address(file: Path, seconds: float, stop: threading.Event) -> str:
    """The address that a scheduler leaves in a file; Dask would wait for the file for ever."""
    deadline = time.monotonic() + seconds
    while True:
        # A file may be there before its text is.
        address, obstacle = _read_address(file)
        if address is not None:
            return address
        if time.monotonic() > deadline:
            raise ClusterError(
                f"No scheduler has left its address in {file} for {seconds:g} s: {obstacle}. Start "
                "one with: dask scheduler --scheduler-file"
            )
        if stop.wait(POLL_SECONDS):
            raise StoppedError(f"It was stopped while it waited for {file}.")


def _read_address(file: Path) -> tuple[str | None, str]:
    if not os.path.exists(file):
        return None, "there is no such file"
    if not os.path.isfile(file):
        return None, "it is no regular file"
    try:
        with file.open("rb") as opened:
            return str(json.loads(opened.read(MAX_FILE_BYTES))["address"]), ""
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        return None, f"it cannot be read ({type(error).__name__}: {error})"


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

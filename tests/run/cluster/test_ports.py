"""What is encrypted is not told in the clear beside it: HTTP is for this machine alone."""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import ValidationError

from pipeline.errors import ClusterError
from pipeline.run.cluster.connect import connect
from pipeline.settings.profiles import Listening, Processes
from tests.helpers.runs import processes
from tests.run.cluster.clusters import profile_of, queue_jobs


def public_interface() -> str:
    """A network interface that other machines reach."""
    for name, addresses in psutil.net_if_addrs().items():
        for address in addresses:
            if address.family == socket.AF_INET and not address.address.startswith("127."):
                return name
    pytest.skip("this machine has no network")


def ports(found: list[psutil.Process]) -> set[tuple[str, int]]:
    """Where processes listen."""
    places = set()
    for process in found:
        with suppress(psutil.NoSuchProcess):  # it has ended since
            connections = process.net_connections(kind="inet")
            places |= {c.laddr for c in connections if c.status == psutil.CONN_LISTEN}
    return {(place.ip, place.port) for place in places}


def speaks_http(where: tuple[str, int]) -> bool:
    """Whether a port answers HTTP that is not encrypted."""
    try:
        with socket.create_connection(where, timeout=10.0) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
            return connection.recv(64).startswith(b"HTTP/")
    except OSError:
        return False


@pytest.mark.parametrize("kind", ["processes", "cuda", "pbs", "ssh"])
def test_http_is_on_loopback_alone(kind: str, tmp_path: Path) -> None:
    keys = {"interface": public_interface(), "encrypt": True}
    with ExitStack() as stack:
        profile: Any = stack.enter_context(profile_of(kind, tmp_path))
        options = profile.model_dump(exclude_unset=True) | keys
        if kind == "pbs":
            options["options"]["shared_temp_directory"] = str(tmp_path)
        stack.enter_context(connect(type(profile).model_validate(options), threading.Event()))
        found = [psutil.Process(), *psutil.Process().children(recursive=True)]
        if kind == "pbs":
            found += queue_jobs(tmp_path / "queue")
        everywhere = ports(found)
        hosts = {ip for ip, port in everywhere if speaks_http((ip, port))}
        public = {ip for ip, _ in everywhere} - {"127.0.0.1"}
    assert hosts == {"127.0.0.1"}
    # The scheduler and the workers themselves, by TLS.
    assert len(public) == 1


def test_a_scheduler_that_was_started_with_certificates_is_reached_by_them(tmp_path: Path) -> None:
    with profile_of("address with TLS", tmp_path) as given:
        with connect(given, threading.Event()) as workers:
            assert workers.client.scheduler.address.startswith("tls://")
            assert workers.num_threads == 1
        without = given.model_copy(update={"tls": None, "wait": 1})
        with (
            pytest.raises(ClusterError, match="cannot be reached"),
            connect(without, threading.Event()),
        ):
            pass


@pytest.mark.parametrize("dashboard", ["0.0.0.0:8787", ":8787", "8787", "node1:0", ""])
def test_a_public_dashboard_beside_encryption_is_refused(dashboard: str) -> None:
    with pytest.raises(ValidationError, match="expected a dashboard on loopback"):
        processes(encrypt=True, dashboard=dashboard)
    assert processes(dashboard=dashboard).dashboard == dashboard


@pytest.mark.parametrize("dashboard", ["127.0.0.1:0", "localhost:8787", "[::1]:0"])
def test_a_dashboard_on_loopback_is_not(dashboard: str) -> None:
    profile = processes(encrypt=True, dashboard=dashboard)
    assert isinstance(profile, Processes)
    assert isinstance(profile, Listening)

"""Stores in object storage: the same bytes and the same promises as in a directory.

The server runs in a process of its own, on loopback, and fails when it is told to.
"""

from __future__ import annotations

import itertools
import os
import pickle
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from hessian_tasks.frozen import FrozenInputs
from pipeline import open_store, verify_hessian
from pipeline.analysis.spectrum import spectrum
from pipeline.errors import ClusterError, ConfigError, HessianError, StoreError
from pipeline.run.cluster.workers import Workers
from pipeline.store.places import Bucket, locate
from pipeline.store.places import _bucket as bucket
from pipeline.store.places import _lease as lease
from pipeline.store.store import HessianStore
from tests.helpers.runs import Cli, Run, computed, connected, processes, start_held, wait_for

TILE, NUM_BLOCK_ROWS = 5, 8
# Beside the server's address.
VARIABLES = {
    "AWS_ALLOW_HTTP": "true",
    "AWS_ACCESS_KEY_ID": "someone",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "us-east-1",
}
PROBLEM = ["regression", "-o", "width=12", "-o", "depth=1", "-o", "num_samples=20"]


def request(server: str, path: str, method: str = "GET") -> bytes:
    data = b"" if method == "PUT" else None
    with urllib.request.urlopen(
        urllib.request.Request(f"{server}{path}", data, method=method)
    ) as answer:
        found: bytes = answer.read()
    return found


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a server with one bucket, ``bucket``, which the environment points to."""
    program = Path(__file__).with_name("s3_server.py")
    command = [sys.executable, str(program)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = f"http://127.0.0.1:{int(process.stdout.readline())}"
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("AWS_ENDPOINT_URL", address)
                for name, value in VARIABLES.items():
                    patch.setenv(name, value)
                request(address, "/bucket", "PUT")
                yield address
        finally:
            process.kill()


@pytest.fixture
def url(server: str, counter: Iterator[int] = itertools.count()) -> str:  # noqa: B008
    """A place where nothing is yet."""
    return f"s3://bucket/some/where/{next(counter)}.zarr"


def matrix_objects(store: HessianStore) -> dict[str, bytes]:
    keys = [key for row in store.block_rows for key in store.object_keys(row)]
    return dict(zip(keys, store.location.each(store.location.read, keys), strict=True))


@pytest.fixture(scope="module")
def local(inputs: FrozenInputs, run: Run, tmp_path_factory: pytest.TempPathFactory) -> HessianStore:
    path = tmp_path_factory.mktemp("local") / "h.zarr"
    run(path, inputs, tile=TILE)
    return HessianStore(path)


@pytest.fixture(scope="module")
def complete(server: str, inputs: FrozenInputs, run: Run) -> str:
    run("s3://bucket/complete.zarr", inputs, tile=TILE)
    return "s3://bucket/complete.zarr"


def test_bytes_are_those_of_a_directory(complete: str, local: HessianStore) -> None:
    store = HessianStore(complete)
    assert matrix_objects(store) == matrix_objects(local)
    assert store.pending() == []
    here, there = local.records(), store.records()
    assert {i: r.checksums for i, r in there.items()} == {i: r.checksums for i, r in here.items()}
    assert {i: r.statistics for i, r in there.items()} == {i: r.statistics for i, r in here.items()}


def test_everything_reads_an_url(complete: str, local: HessianStore) -> None:
    dataset = pickle.loads(pickle.dumps(open_store(complete)))
    expected = open_store(str(local.location))
    assert set(dataset.variables) == set(expected.variables)
    assert all(dataset[name].equals(expected[name]) for name in expected.variables)
    assert verify_hessian(complete).passed
    assert HessianStore(complete).attributes["certificate"]["passed"] is True
    found = spectrum(HessianStore(complete)).eigenvalues
    assert np.array_equal(found, spectrum(local).eigenvalues)


def test_commands_take_an_url(url: str, hessian: Cli) -> None:
    arguments = [*PROBLEM, "--store", url, "--tile", TILE]
    code, output, errors = hessian("run", *arguments)
    assert (code, errors) == (0, "")
    assert f"next: hessian verify {url}" in output
    assert "verified" in hessian("verify", url)[1]
    assert f"{NUM_BLOCK_ROWS} of {NUM_BLOCK_ROWS} stored" in hessian("status", url)[1]
    assert "37 trainable, float32" in hessian("info", url)[1]
    assert hessian("spectrum", url)[0] == 0
    # Without a problem it is taken from the store.
    assert hessian("run", "--store", url)[0] == 0
    for command in ("submit", "cancel"):
        profile = ["regression", "--profile", "q", "--set", "profiles.q.kind=slurm"]
        arguments = [*profile, "--store", url] if command == "submit" else [url]
        code, _, errors = hessian(command, *arguments)
        assert code == 2, errors
        assert "directory" in errors


def test_resume_computes_what_is_lost_and_what_is_damaged(
    url: str, run: Run, inputs: FrozenInputs, local: HessianStore
) -> None:
    run(url, inputs, tile=TILE)
    location = locate(url)
    location.write("hessian/c/2/6", b"not what was written")
    client = location.open().store
    client.delete("records/000005/zarr.json")
    client.delete("hessian/c/4/4")
    assert {row.index for row in HessianStore(url).pending()} == {2, 4, 5}
    assert computed(run(url, inputs)) == [2, 4, 5]
    assert matrix_objects(HessianStore(url)) == matrix_objects(local)


class Clock:
    """A clock for those who watch a lease, on which time passes only while they wait."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


# A client of this machine that takes a store, says so, and is killed.
HOLD = """
import sys
from pipeline.store.places import locate
with locate(sys.argv[1]).locked():
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_the_lease_of_a_dead_client_is_not_waited_for(
    url: str, run: Run, inputs: FrozenInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", HOLD, url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        process.kill()
    clock = Clock()
    monkeypatch.setattr(lease, "time", clock)
    assert computed(run(url, inputs, tile=TILE)) == list(range(NUM_BLOCK_ROWS))
    assert clock.now == 0.0


@pytest.mark.slow
def test_killed_run_resumes(url: str, hessian: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["run", *PROBLEM, "--store", url, "--tile", 1]
    with start_held("rows", 4, command) as process:
        # Beside the metadata of their group.
        wait_for(lambda: len(locate(url).children("records")) == 1 + 4 or bool(process.poll()))
        process.kill()
    stored = set(HessianStore(url).records())
    assert len(stored) == 4
    clock = Clock()
    monkeypatch.setattr(lease, "time", clock)
    code, output, errors = hessian("run", "--store", url)
    assert (code, errors) == (0, "")
    # The lease of a process of this machine that is dead is not waited for.
    assert clock.now == 0.0
    assert f"computed {37 - len(stored)} of 37 block rows" in output


def test_server_that_fails_one_time_in_ten_changes_nothing(
    server: str, url: str, run: Run, inputs: FrozenInputs, local: HessianStore
) -> None:
    before = int(request(server, "/faults/0.1"))
    try:
        # A block row fails only if one of its requests does all times, once in 10^13.
        assert computed(run(url, inputs, tile=TILE)) == list(range(NUM_BLOCK_ROWS))
        found = matrix_objects(HessianStore(url))
        assert HessianStore(url).pending() == []
        assert np.array_equal(open_store(url).hessian, open_store(local.location).hessian)
    finally:
        faults = int(request(server, "/faults/0")) - before
    assert found == matrix_objects(local)
    assert faults >= 20


def set_environment(variables: dict[str, str]) -> None:
    """Of this process; empty ones are removed."""
    for name, value in variables.items():
        os.environ.pop(name, None)
        if value:
            os.environ[name] = value


@pytest.fixture
def told(server: str, workers: Workers) -> Iterator[Workers]:
    """A worker that knows of the server, as if it had been started by the one that runs it."""
    variables = {**VARIABLES, "AWS_ENDPOINT_URL": server}
    workers.client.run(set_environment, variables)
    yield workers
    workers.client.run(set_environment, dict.fromkeys(variables, ""))


@pytest.mark.slow
def test_two_workers_write_to_it(
    url: str, run: Run, inputs: FrozenInputs, local: HessianStore
) -> None:
    with connected(processes()) as workers:
        assert computed(run(url, inputs, tile=TILE, workers=workers)) == list(range(NUM_BLOCK_ROWS))
    assert matrix_objects(HessianStore(url)) == matrix_objects(local)


def test_a_worker_writes_to_it(
    url: str, run: Run, inputs: FrozenInputs, local: HessianStore, told: Workers
) -> None:
    assert computed(run(url, inputs, tile=TILE, workers=told)) == list(range(NUM_BLOCK_ROWS))
    assert matrix_objects(HessianStore(url)) == matrix_objects(local)


def test_worker_without_credentials_is_said(
    url: str, run: Run, inputs: FrozenInputs, told: Workers
) -> None:
    told.client.run(set_environment, {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"})
    with pytest.raises(ClusterError, match=rf"does not see {url}.*not answer"):
        run(url, inputs, workers=told)


def test_two_clients_exclude_each_other(url: str, run: Run, inputs: FrozenInputs) -> None:
    with (
        locate(url).locked(),
        pytest.raises(StoreError, match="Another run is at work on s3://bucket"),
    ):
        run(url, inputs)
    run(url, inputs)


@pytest.mark.parametrize("renewed", [True, False])
def test_lease_of_another_machine_is_watched(
    renewed: bool, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, beside = locate(url), locate(f"{url}.lock")
    clock = Clock()
    monkeypatch.setattr(lease, "time", clock)
    if renewed:
        monkeypatch.setattr(lease, "BEAT_SECONDS", 0.1)
        # Until it is renewed, however long this machine takes.
        monkeypatch.setattr(clock, "sleep", time.sleep)
        with place.locked():
            monkeypatch.setattr(lease, "_machine", lambda: "another")
            with pytest.raises(StoreError, match="Another run"), place.locked():
                pass
    else:
        beside.write(lease.KEY, b'{"token": "of a client that is gone", "machine": "another"}')
        with place.locked():
            assert clock.now >= lease.MISSED_BEATS * lease.BEAT_SECONDS
    assert not beside.children("")


def test_store_is_made_once(url: str) -> None:
    place = locate(url)
    place.create({"zarr.json": b"{}", "theta/zarr.json": b"{}"})
    with pytest.raises(StoreError, match="Another run has made"):
        place.create({"zarr.json": b"{ }"})
    assert place.read("zarr.json") == b"{}"


def test_records_without_a_store_are_not_believed(url: str, run: Run, inputs: FrozenInputs) -> None:
    locate(url).write("records/000001/zarr.json", b"{}")
    with pytest.raises(StoreError, match=r"completion records below .* but no store"):
        run(url, inputs)
    assert not locate(url).exists()


@pytest.mark.parametrize(
    ("environment", "place", "message"),
    [
        ({}, "s3://nowhere/h.zarr", "no such bucket"),
        (
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
            "s3://bucket/1",
            r"server does not answer.*after 12 retries",
        ),
        ({"AWS_ALLOW_HTTP": None}, "s3://bucket/2", "set AWS_ALLOW_HTTP=true"),
    ],
)
def test_what_is_wrong_is_said(
    environment: dict[str, str | None],
    place: str,
    message: str,
    server: str,
    hessian: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)
    # It is asked as often as it would be, but with hardly a pause.
    pauses = {key: timedelta(milliseconds=1) for key in ("init_backoff", "max_backoff")}
    retry = {**bucket.RETRY, "backoff": {**pauses, "base": 2}}
    monkeypatch.setattr(bucket, "RETRY", retry)
    for command in (["status", place], ["run", *PROBLEM, "--store", place]):
        code, _, errors = hessian(*command)
        assert (code, errors.count("\n")) == (1, 1), errors
        assert re.search(message, errors)


@pytest.mark.parametrize("place", ["s3://bucket", "s3:///x", "http://h/x", "ftp://h/x"])
def test_urls_that_hold_no_store_are_refused(place: str) -> None:
    with pytest.raises(StoreError, match="No store can be at"):
        locate(place)


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(ConfigError, match=r"pip install 'hessian-pipeline\[s3\]'") as caught:
        Bucket("s3://never/opened").open()
    assert isinstance(caught.value, HessianError)

"""Two clients on one store: one works, the other is told so, and a dead one is no obstacle."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from hessian_tasks.frozen import FrozenInputs
from pipeline.errors import StoreError
from pipeline.run.events import RunStarted
from pipeline.store.places import locate
from pipeline.store.store import HessianStore
from tests.helpers.runs import WAIT, Run, snapshot

# Takes the lock of a store, says so, and keeps it until it is ended or told to give it back.
HOLD = """
import sys
from pipeline.store.places import locate
with locate(sys.argv[1]).locked():
    print("held", flush=True)
    sys.stdin.readline()
"""


def hold(path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(path)]
    process = subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("end", ["killed", "finished"])
def test_second_client_is_refused_until_the_first_has_ended(
    end: str, tmp_path: Path, run: Run, inputs: FrozenInputs
) -> None:
    path = tmp_path / "h.zarr"
    run(path, inputs, tile=5)
    # A tile that the other is about to rename.
    written = path / "hessian" / "c" / "1" / "1.0123.partial"
    written.write_bytes(b"half")
    (path / "records" / "000001" / "zarr.json").unlink()
    before = snapshot(path)
    with hold(path) as other:
        with pytest.raises(StoreError, match=r"Another run is at work on .*h\.zarr\. Wait"):
            run(path, inputs)
        assert snapshot(path) == before
        if end == "killed":
            other.kill()
        else:
            other.communicate("\n")
    run(path, inputs)
    assert not written.exists()
    assert HessianStore(path).pending() == []
    assert [p.name for p in tmp_path.iterdir()] == ["h.zarr"]


def test_clients_that_start_at_once_make_one_store(
    tmp_path: Path, run: Run, inputs: FrozenInputs
) -> None:
    path = tmp_path / "h.zarr"
    started: list[Any] = []
    refused: list[StoreError] = []
    refusal = threading.Event()

    def listen(event: Any) -> None:
        if isinstance(event, RunStarted):
            started.append(event)
            assert refusal.wait(WAIT)

    def client() -> None:
        try:
            run(path, inputs, [listen], tile=5)
        except StoreError as error:
            refused.append(error)
            refusal.set()

    clients = [threading.Thread(target=client) for _ in range(3)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    assert len(started) + len(refused) == 3
    assert sum(not event.resumed for event in started) == 1
    assert refused
    assert HessianStore(path).pending() == []


def test_lock_is_never_held_twice(tmp_path: Path) -> None:
    """Removing the lock's file while others open it lets none of them in beside the next."""
    path, inside, most, taken = tmp_path / "h.zarr", [0], [0], [0]

    def client() -> None:
        for _ in range(200):
            try:
                with locate(path).locked():
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    taken[0] += 1
                    time.sleep(0)
                    inside[0] -= 1
            except StoreError:
                continue

    clients = [threading.Thread(target=client) for _ in range(6)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    assert most[0] == 1
    # It is refused while another client has it, but never for ever.
    assert taken[0] >= 6
    assert list(tmp_path.iterdir()) == []

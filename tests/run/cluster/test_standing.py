"""A scheduler that stands apart: lost and started again during a run, or not there yet."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from hessian_tasks.frozen import FrozenInputs
from pipeline.errors import ClusterError, StoppedError
from pipeline.run.cluster.connect import connect
from pipeline.run.events import BlockRowStored
from pipeline.settings.profiles import Address
from pipeline.store.store import HessianStore
from tests.helpers.runs import Cli, Run, intact, objects
from tests.run.cluster.clusters import NUM_BLOCK_ROWS, TILE, Standing


class Restarted(Standing):
    """Its scheduler is killed after some block rows, and another one takes its port."""

    def after_rows(self, number: int) -> Any:
        left = [number]

        def count(event: Any) -> None:
            left[0] -= isinstance(event, BlockRowStored)
            if left[0] == 0:
                self.restart()

        return count

    def restart(self) -> None:
        _, port = self.address
        self.scheduler.kill()
        self.scheduler.wait()
        self.file.unlink()
        where = ["--port", port, "--no-show", "--scheduler-file", self.file]
        self.scheduler = self.start("scheduler", where, {})
        self.work()


def test_a_restarted_scheduler_ends_a_run_or_not_and_the_same_command_resumes(
    tmp_path: Path,
    run: Run,
    inputs: FrozenInputs,
    expected: dict[str, bytes],
    hessian: Cli,
) -> None:
    path = tmp_path / "h.zarr"
    with Restarted(tmp_path, 1) as standing:
        address = Address(kind="address", address="tcp://{}:{}".format(*standing.address), wait=300)
        said = None
        try:
            with connect(address, threading.Event()) as workers:
                run(path, inputs, [standing.after_rows(3)], tile=TILE, workers=workers)
        except ClusterError as error:
            said = str(error)
        stored = len(HessianStore(path).records())
        assert intact(path)
        assert stored >= 3
        assert said is None or ("scheduler" in said and "\n" not in said)
        assert (said is None) == (stored == NUM_BLOCK_ROWS)
        where = ["--set", f"profiles.standing={{kind: address, address: {address.address}}}"]
        code, output, errors = hessian("run", "--store", path, "--profile", "standing", *where)
    assert (code, errors) == (0, "")
    assert f"of {NUM_BLOCK_ROWS} block rows" in output
    assert objects(path) == expected


def test_a_scheduler_file_is_waited_for_no_longer_than_told(tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    profile = Address(kind="address", scheduler_file=file, wait=0.3)
    os.mkfifo(tmp_path / "fifo")
    cases = {"there is no such file": file, "it is no regular file": tmp_path / "fifo"}
    for reason, path in cases.items():
        gone = profile.model_copy(update={"scheduler_file": path})
        with (
            pytest.raises(ClusterError, match=rf"left its address in {path} for 0\.3 s: {reason}"),
            connect(gone, threading.Event()),
        ):
            pass
    for text in ("", "[1, 2]", '{"address": ', "{}", "[" * 100_000):
        file.write_text(text)
        with (
            pytest.raises(ClusterError, match="cannot be read"),
            connect(profile, threading.Event()),
        ):
            pass
    file.write_text(json.dumps({"address": "tcp://127.0.0.1:1"}))
    unheard = pytest.raises(ClusterError, match=r"127\.0\.0\.1:1 cannot be reached")
    with unheard, connect(profile, threading.Event()):
        pass


def test_waiting_for_a_scheduler_file_can_be_stopped(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    profile = Address(kind="address", scheduler_file=tmp_path / "scheduler.json")
    with pytest.raises(StoppedError, match="while it waited for"), connect(profile, stop):
        pass

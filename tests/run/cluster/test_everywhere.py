"""The same run everywhere: in this process, and on real processes, schedulers and queues."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from hessian_tasks.frozen import FrozenInputs
from pipeline.run.cluster.workers import Workers
from tests.helpers.runs import WORKER_MEMORY, Cli, Run, computed, connected, objects
from tests.run.cluster.clusters import NUM_BLOCK_ROWS, TILE, profile_of

# Slow are those that differ from others by a name, or by less, and that other tests start, too: the
# test of the command below, and those of faults, of jobs that are submitted, and of open ports.
WORKERS = [
    "sge with TLS",
    *(
        pytest.param(kind, marks=pytest.mark.slow)
        for kind in (
            *("processes", "cuda", "address", "address with TLS", "ssh"),
            *("slurm", "pbs", "lsf", "htcondor"),
        )
    ),
]


@pytest.mark.parametrize("kind", WORKERS)
def test_every_cluster_gives_the_same_bytes(
    kind: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    run: Run,
    inputs: FrozenInputs,
    expected: dict[str, bytes],
) -> None:
    if kind == "slurm":
        request.getfixturevalue("slurm")
    path = tmp_path / "h.zarr"
    with (
        profile_of(kind, tmp_path) as profile,
        connected(profile) as workers,
    ):
        events = run(path, inputs, tile=TILE, workers=workers)
    assert computed(events) == list(range(NUM_BLOCK_ROWS))
    assert objects(path) == expected


def test_threads_give_the_same_bytes(
    tmp_path: Path, run: Run, inputs: FrozenInputs, expected: dict[str, bytes]
) -> None:
    run(tmp_path / "h.zarr", inputs, tile=TILE)
    assert objects(tmp_path / "h.zarr") == expected


def test_the_command_runs_on_processes_and_resumes(
    tmp_path: Path, hessian: Cli, expected: dict[str, bytes]
) -> None:
    store = tmp_path / "h.zarr"
    options = [f"-o{o}" for o in ("width=12", "depth=1", "num_samples=20", "dtype=float64")]
    keys = {"workers": 1, "memory": WORKER_MEMORY}
    where = ["--profile", "processes"]
    where += [f"--set=profiles.processes.{key}={value}" for key, value in keys.items()]
    arguments = ["run", "regression", *options, "--tile", TILE, "--store", store, *where]
    code, output, errors = hessian(*arguments)
    assert (code, errors) == (0, "")
    assert f"computed {NUM_BLOCK_ROWS} of {NUM_BLOCK_ROWS} block rows" in output
    assert objects(store) == expected
    (store / "hessian" / "c" / "0" / "3").unlink()
    code, output, _ = hessian("run", "--store", store, *where)
    assert code == 0
    assert f"computed 1 of {NUM_BLOCK_ROWS} block rows" in output
    assert objects(store) == expected


def test_ctrl_c_does_not_reach_workers(workers: Workers) -> None:
    """The terminal sends it to all processes of a run, and their client ends them."""
    before = workers.client.run(os.getpid)
    for pid in before.values():
        os.kill(pid, signal.SIGINT)
    assert workers.client.run(os.getpid) == before

"""Whole runs as jobs of a queue: submitted, asked for, cancelled, resumed."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from pipeline.store.store import HessianStore
from tests.helpers.runs import Cli, objects, wait_for
from tests.run.cluster.clusters import TILE, queue_jobs, queue_programs

PROFILE = """
problem: regression
options: {width: 12, depth: 1, num_samples: 20, dtype: float64}
store: h.zarr
profile: queue
profiles:
  queue:
    kind: KIND
    memory: 4GiB
    options: {walltime: '00:10:00', log_directory: logs}
"""


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where commands are given."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logs").mkdir()
    return tmp_path


def write_profile(directory: Path, kind: str) -> None:
    (directory / "run.yaml").write_text(PROFILE.replace("KIND", kind))


def is_complete(store: Path) -> bool:
    return store.exists() and not HessianStore(store).pending()


def test_a_whole_run_is_submitted_cancelled_and_resumed(
    slurm: None, directory: Path, hessian: Cli, expected: dict[str, bytes]
) -> None:
    write_profile(directory, "slurm")
    code, output, errors = hessian("submit", "--config", "run.yaml", "--tile", TILE)
    assert (code, errors) == (0, "")
    assert "submitted as slurm job " in output
    assert "submitted as slurm job " in hessian("status", "h.zarr")[1]
    code, output, _ = hessian("cancel", "h.zarr")
    assert code == 0
    assert "resume with: hessian submit" in output
    wait_for(lambda: not subprocess.check_output(["squeue", "--noheader"]))
    code, _, errors = hessian("cancel", "h.zarr")
    assert code == 1
    assert "No job was submitted for h.zarr" in errors
    assert hessian("submit", "--config", "run.yaml", "--tile", TILE)[0] == 0
    store = directory / "h.zarr"
    wait_for(lambda: is_complete(store))
    assert objects(store) == expected


FLAGS = ["--tile", TILE, "--engine", "layered", "--threads", 1, "--total-only"]


def submitted_with(hessian: Cli) -> list[str]:
    """Submit with these flags; the arguments of the job."""
    code, _, errors = hessian("submit", "--config", "run.yaml", *FLAGS)
    assert (code, errors) == (0, "")
    known = json.loads(hessian("status", "h.zarr", "--json")[1])
    return shlex.split(known["job"]["command"])[1:]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pbs", "lsf"])
def test_a_whole_run_is_submitted_to_other_queues(
    kind: str, directory: Path, hessian: Cli, expected: dict[str, bytes]
) -> None:
    write_profile(directory, kind)
    store = directory / "h.zarr"
    with queue_programs(directory) as programs:
        assert submitted_with(hessian) == ["run", "--config", "run.yaml", *map(str, FLAGS)]
        wait_for(lambda: is_complete(store))
        wait_for(lambda: not queue_jobs(programs))
    assert json.loads(hessian("status", "h.zarr", "--json")[1])["fraction"] == 1
    assert objects(store) == expected


def test_a_job_of_another_kind_of_queue_is_cancelled(directory: Path, hessian: Cli) -> None:
    write_profile(directory, "sge")
    with queue_programs(directory) as programs:
        assert submitted_with(hessian) == ["run", "--config", "run.yaml", *map(str, FLAGS)]
        assert queue_jobs(programs)
        assert hessian("cancel", "h.zarr")[0] == 0
        wait_for(lambda: not queue_jobs(programs))

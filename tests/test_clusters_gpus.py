"""One worker for each GPU: found without TensorFlow, and given to one worker alone."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from hessian_tasks.source import ProblemSource
from pipeline.cluster.connect import connect
from pipeline.cluster.gpus import visible_gpus, visible_uuids
from pipeline.errors import ClusterError, ConfigError
from pipeline.profiles import Cuda
from tests.clusters import processes

# As nvidia-smi -L prints it: two whole GPUs, and one that is split into two MIG devices.
LISTED = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-aaaa)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-bbbb)
GPU 2: NVIDIA H100 80GB HBM3 (UUID: GPU-cccc)
  MIG 1g.10gb     Device  0: (UUID: MIG-dddd)
  MIG 1g.10gb     Device  1: (UUID: MIG-eeee)
"""
ALL = ["GPU-aaaa", "GPU-bbbb", "MIG-dddd", "MIG-eeee"]


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A driver's program that lists these GPUs."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n[ \"$*\" = -L ] && cat <<'END'\n{LISTED}END\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return program


@pytest.mark.parametrize(
    ("given", "names", "uuids"),
    [
        (None, ALL, ALL),
        ("", [], []),
        ("-1", [], []),
        ("1,0", ["1", "0"], ["GPU-bbbb", "GPU-aaaa"]),
        ("1, 0,-1,2", ["1", "0"], ["GPU-bbbb", "GPU-aaaa"]),
        ("7", ["7"], []),
        ("MIG-eeee,GPU-aaaa", ["MIG-eeee", "GPU-aaaa"], ["MIG-eeee", "GPU-aaaa"]),
    ],
)
def test_visible_gpus(
    given: str | None,
    names: list[str],
    uuids: list[str],
    driver: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert visible_gpus() == names
    assert visible_uuids() == uuids


def test_a_driver_that_fails_is_said(driver: Path) -> None:
    driver.write_text("#!/bin/sh\necho no devices >&2\nexit 9\n")
    with pytest.raises(ClusterError, match=r"GPUs of this machine cannot be listed: .* status 9"):
        visible_gpus()


def test_a_machine_without_gpus_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with (
        pytest.raises(ConfigError, match="Use --profile processes"),
        connect(Cuda(kind="cuda"), threading.Event()),
    ):
        pass


def test_every_worker_has_a_gpu_of_its_own(driver: Path) -> None:
    with connect(Cuda(kind="cuda"), threading.Event()) as workers:
        workers.client.wait_for_workers(len(ALL), timeout=30)
        workers.check(ProblemSource("regression"))
        assert sorted(workers.client.run(visible_gpus).values()) == [[gpu] for gpu in sorted(ALL)]


def test_workers_that_would_share_a_gpu_are_refused(driver: Path) -> None:
    with connect(processes(), threading.Event()) as workers:
        workers.client.wait_for_workers(2, timeout=30)
        with pytest.raises(ClusterError, match=r"would both compute on GPU-aaaa.*--profile cuda"):
            workers.check(ProblemSource("regression"))

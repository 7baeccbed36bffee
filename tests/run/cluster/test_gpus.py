"""One worker for each GPU: found without TensorFlow, and given to one worker alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import WorkerPlugin

from hessian_tasks.frozen import FrozenInputs
from hessian_tasks.source import ProblemSource
from hessian_tasks.spec import HESSIAN
from pipeline.errors import ClusterError, ConfigError
from pipeline.estimates._distributed import distributed_product
from pipeline.run.cluster._gpus import visible_gpus, visible_uuids
from pipeline.run.cluster.workers import Workers
from pipeline.settings.profiles import Cuda
from tests.helpers.runs import WAIT, WORKER_MEMORY, Run, connected, processes
from tests.run.cluster.clusters import TILE

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


def test_a_program_that_may_not_be_run_lists_nothing(driver: Path) -> None:
    driver.chmod(0o644)
    assert visible_gpus() == []


def test_a_machine_without_gpus_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with (
        pytest.raises(ConfigError, match="Use --profile processes"),
        connected(Cuda(kind="cuda")),
    ):
        pass


def test_every_worker_has_a_gpu_of_its_own(driver: Path) -> None:
    with connected(Cuda(kind="cuda")) as workers:
        workers.client.wait_for_workers(len(ALL), timeout=WAIT)
        workers.check(ProblemSource("regression"))
        assert sorted(workers.client.run(visible_gpus).values()) == [[gpu] for gpu in sorted(ALL)]


def test_workers_that_would_share_a_gpu_are_refused(driver: Path) -> None:
    with connected(processes()) as workers:
        workers.client.wait_for_workers(2, timeout=WAIT)
        with pytest.raises(ClusterError, match=r"would both compute on GPU-aaaa.*--profile cuda"):
            workers.check(ProblemSource("regression"))


class TwoGpus(WorkerPlugin):
    """Has TensorFlow find two GPUs in every worker, as with dask-cuda; they cannot compute."""

    name = "two GPUs"

    def setup(self, worker: Any) -> None:
        from hessian_tasks import process

        listed = process._list_gpus

        def list_two(tf: Any) -> list[Any]:
            add_gpus()
            return listed(tf)

        process._list_gpus = list_two


def add_gpus() -> None:
    from tensorflow.python.eager.context import PhysicalDevice, context

    own = context()
    if not own.list_physical_devices("GPU"):
        gpus = [PhysicalDevice(f"/physical_device:GPU:{i}", "GPU") for i in range(2)]
        own._physical_devices += gpus
        own._visible_device_list += gpus
        own._memory_growth_map |= dict.fromkeys(gpus)


def gpus_in_use() -> list[str]:
    import tensorflow as tf

    return [gpu.name for gpu in tf.config.get_visible_devices("GPU")]


def compute(workers: Workers, path: Path, run: Run, inputs: FrozenInputs) -> None:
    run(path, inputs, tile=TILE, workers=workers)


def multiply(workers: Workers, path: Path, run: Run, inputs: FrozenInputs) -> None:
    from hessian_tasks.autodiff.products import cut_points

    shards = cut_points(inputs.source.load(), max_batch=1)
    distributed_product(workers, inputs, HESSIAN, shards)(np.ones((len(inputs.theta), 1)))


@pytest.mark.parametrize("use", [compute, pytest.param(multiply, marks=pytest.mark.slow)])
def test_a_worker_uses_the_first_of_the_gpus_that_it_sees(
    use: Any, tmp_path: Path, run: Run, inputs: FrozenInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    profile = Cuda.model_validate({"kind": "cuda", "memory": WORKER_MEMORY})
    with connected(profile, TwoGpus()) as workers:
        use(workers, tmp_path / "h.zarr", run, inputs)
        (found,) = workers.client.run(gpus_in_use).values()
    assert found == ["/physical_device:GPU:0"]

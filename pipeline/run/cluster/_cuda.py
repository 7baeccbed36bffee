"""One worker process for each GPU of this machine."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from distributed import LocalCluster

from pipeline.errors import ConfigError
from pipeline.run.cluster._gpus import VISIBLE, visible_gpus

__all__ = ["find_gpus", "gpu_cluster"]


class GpuCluster(LocalCluster):
    """Worker processes on this machine, each of which sees a GPU of its own."""

    def __init__(self, gpus: list[str], **options: Any) -> None:
        """Start as many workers as there are GPUs."""
        self._gpus = gpus
        super().__init__(n_workers=0, **options)  # type: ignore[no-untyped-call]
        self.scale(len(gpus))  # type: ignore[no-untyped-call]

    def new_worker_spec(self) -> dict[int, dict[str, Any]]:
        """The next worker; its nanny sets the variable before the process starts TensorFlow."""
        ((number, spec),) = super().new_worker_spec().items()  # type: ignore[no-untyped-call]
        env = {**spec["options"].get("env", {}), VISIBLE: self._gpus[number]}
        return {number: {**spec, "options": {**spec["options"], "env": env}}}


def find_gpus() -> list[str]:
    """The GPUs to start workers for.

    Raises:
        ConfigError: If there are none.
        ClusterError: If the driver does not answer.
    """
    gpus = visible_gpus()
    if not gpus:
        raise ConfigError(
            f"This machine shows no GPU to nvidia-smi, or {VISIBLE} hides them. "
            "Use --profile processes."
        )
    return gpus


def gpu_cluster(gpus: list[str], options: dict[str, Any]) -> LocalCluster:
    """Start a worker for every GPU: by dask-cuda, where it is installed.

    dask-cuda also binds a worker to the cores next to its GPU. It shows all GPUs to every worker,
    its own first, so that a job must use no more than the first.

    Args:
        gpus: Their names.
        options: Of a LocalCluster.
    """
    if importlib.util.find_spec("dask_cuda") is None:
        return GpuCluster(gpus, **options)
    started = importlib.import_module("dask_cuda").LocalCUDACluster
    cluster: LocalCluster = started(CUDA_VISIBLE_DEVICES=gpus, **options)
    return cluster

"""Pods of a Kubernetes cluster, which the Dask operator makes of one object."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pipeline.errors import ClusterError
from pipeline.run.cluster._extras import require
from pipeline.run.cluster._settings import as_environment, cluster_settings
from pipeline.settings.profiles import Kubernetes

__all__ = ["cluster_spec", "start_kubernetes"]

GPU = "nvidia.com/gpu"
# Seconds without block rows, as after its client was killed, until a cluster is deleted.
IDLE_SECONDS = 900
DELETE_SECONDS = 5.0


def cluster_spec(profile: Kubernetes, name: str) -> dict[str, Any]:
    """The DaskCluster object, for the operator's API ``kubernetes.dask.org/v1``.

    The operator's own template gives resources to the scheduler too, which would take a GPU, and
    leaves a worker as many threads as its node has cores; hence both are set here.

    Args:
        profile: What to ask for.
        name: Of the object.

    Raises:
        ConfigError: If dask-kubernetes is not installed.

    Example:
        >>> from pipeline import load_settings
        >>> given = "profiles.pods={kind: kubernetes, image: example.org/hessian, workers: 2}"
        >>> spec = cluster_spec(load_settings(assignments=[given]).profiles["pods"], "hessian-1")
        >>> spec["kind"], spec["spec"]["worker"]["replicas"]
        ('DaskCluster', 2)
    """
    template = require("dask_kubernetes.operator", "kubernetes").make_cluster_spec
    command = ["dask-worker", "--nthreads", str(profile.threads)]
    if profile.memory is not None:
        command += ["--memory-limit", f"{int(profile.memory)}B"]
    spec: dict[str, Any] = template(
        name=name,
        image=profile.image,
        n_workers=profile.first_workers,
        env=_environment(profile),
        worker_command=command,
        idle_timeout=max(IDLE_SECONDS, int(profile.wait)),
    )
    scheduler, worker = (spec["spec"][role]["spec"] for role in ("scheduler", "worker"))
    for container in (scheduler["containers"][0], worker["containers"][0]):
        container.pop("resources")
    worker["containers"][0]["resources"] = _resources(profile)
    _mount(profile.volumes, worker)
    for pod, addition in (
        (scheduler, profile.pod),
        (worker, profile.pod),
        (worker, profile.worker_pod),
    ):
        _add(pod, addition)
    return spec


def start_kubernetes(profile: Kubernetes) -> Any:
    """Have the operator start a scheduler and workers.

    Raises:
        ConfigError: If dask-kubernetes is not installed, or there is no access to a cluster.
        ClusterError: If the cluster does not answer, or has no operator.
    """
    base = require("dask_kubernetes.operator", "kubernetes").KubeCluster
    name = f"hessian-{uuid.uuid4().hex[:8]}"
    try:
        return _bounded(base, profile.wait)(
            custom_cluster_spec=cluster_spec(profile, name),
            namespace=profile.namespace,
            quiet=True,
        )
    # The packages below it have no common class of errors: those of HTTP, of files of access, of
    # waiting, and of pods that end at once.
    except Exception as error:
        raise ClusterError(
            f"The Dask operator of the Kubernetes cluster cannot start the workers "
            f"({type(error).__name__}: {error}). Does kubectl get daskclusters work here? The "
            "operator: https://kubernetes.dask.org/en/latest/installing.html"
        ) from error


def _bounded(base: Any, seconds: float) -> Any:
    """dask-kubernetes' class of clusters, which by itself waits for a scheduler's pod for ever."""

    class BoundedCluster(base):  # type: ignore[misc]
        async def _start(self) -> None:
            try:
                await asyncio.wait_for(super()._start(), seconds)
            except BaseException as error:
                # Why it could not be started is what to report, not why it cannot be deleted.
                with suppress(Exception):
                    await asyncio.wait_for(self._close(), DELETE_SECONDS)
                # Or it would be deleted once more when Python ends, with a traceback.
                self.shutdown_on_close = False
                if isinstance(error, TimeoutError):
                    raise TimeoutError(f"no scheduler within {seconds:g} s") from error
                raise

    return BoundedCluster


def _environment(profile: Kubernetes) -> dict[str, str]:
    """What pods cannot have from this process."""
    return {**as_environment(cluster_settings(profile)), **profile.env}


def _resources(profile: Kubernetes) -> dict[str, dict[str, str]]:
    requests = {"cpu": str(profile.threads)}
    limits: dict[str, str] = {}
    if profile.memory is not None:
        requests["memory"] = limits["memory"] = str(int(profile.memory))
    if profile.gpus:
        limits[GPU] = str(profile.gpus)
    return {"requests": requests, "limits": limits}


def _mount(volumes: Mapping[str, str], pod: dict[str, Any]) -> None:
    if volumes:
        pod["volumes"] = [
            {"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim in volumes
        ]
        pod["containers"][0]["volumeMounts"] = [
            {"name": claim, "mountPath": path} for claim, path in volumes.items()
        ]


def _add(pod: dict[str, Any], addition: Mapping[str, Any]) -> None:
    for key, value in addition.items():
        pod[key] = pod[key] + value if isinstance(pod.get(key), list) else value

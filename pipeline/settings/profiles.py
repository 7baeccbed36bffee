"""Profiles: where block rows are computed, every key typed and documented."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.settings._fields import Count, FilePath, Seconds, Threads
from pipeline.units import Bytes

__all__ = [
    "DEFAULTS",
    "MODELS",
    "NESTED",
    "Address",
    "ClusterProfile",
    "Cuda",
    "InProcess",
    "Kubernetes",
    "Listening",
    "Processes",
    "Profile",
    "Queue",
    "QueueKind",
    "ScaledProfile",
    "Ssh",
    "StartedProfile",
    "Tls",
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class InProcess(_Strict):
    """In the process of the command itself, without Dask workers."""

    kind: Literal["threads", "serial"] = Field(
        "threads", description="threads (block rows side by side), or serial (one after the other)."
    )


class ClusterProfile(_Strict):
    """What all profiles with Dask workers have."""

    wait: Seconds = Field(
        600.0, description="Seconds to wait for the first worker, and for a lost one."
    )
    attempts: Count = Field(
        3,
        description="How often a block row may fail, or lose its worker, before it is set aside.",
    )
    limit: Seconds | None = Field(
        None,
        description="Seconds that a block row may take before its worker is restarted; by default "
        "20 times the longest so far, and an hour at least.",
    )

    @property
    def most_workers(self) -> int:
        """Workers that there will be; 1 if only the workers themselves can tell."""
        return 1

    @property
    def gpus_of_worker(self) -> int | None:
        """GPUs that one worker uses of those that it sees; None for all."""
        return None


class StartedProfile(ClusterProfile):
    """What all profiles have whose workers we start."""

    threads: Threads = Field(
        1, description="Block rows that one worker computes at once, a core for each."
    )
    memory: Bytes | None = Field(
        None, description="Memory of one worker, as 8GiB; its share of the machine's by default."
    )


class Adapt(_Strict):
    """As many workers as there are block rows to compute, within bounds."""

    minimum: int = Field(
        0, ge=0, le=100_000, description="Workers to keep when there is less to compute."
    )
    maximum: Count = Field(description="Workers to have at most.")

    @model_validator(mode="after")
    def _in_order(self) -> Adapt:
        if self.minimum > self.maximum:
            raise ValueError("expected minimum to be at most maximum")
        return self


class ScaledProfile(StartedProfile):
    """What all profiles have whose workers come and go one by one."""

    workers: Count = Field(1, description="Workers to start; the first may begin alone.")
    adapt: Adapt | None = Field(
        None,
        description="In place of workers: as many as there are block rows left, within bounds.",
    )

    @property
    def bounds(self) -> tuple[int, int]:
        """Workers to have at least, and at most."""
        if self.adapt is None:
            return self.workers, self.workers
        return self.adapt.minimum, self.adapt.maximum

    @property
    def first_workers(self) -> int:
        """Workers to start before it is known how many block rows there are."""
        return max(1, self.bounds[0])

    @property
    def most_workers(self) -> int:
        """Workers that there will be, or may be."""
        return self.bounds[1]


class Listening(_Strict):
    """What all profiles have whose scheduler is a process on one of our machines."""

    interface: str = Field(
        "lo",
        description="Network interface that scheduler and workers listen on, as ib0; lo is for "
        "this machine alone.",
    )
    encrypt: bool = Field(
        False, description="Encrypt connections with TLS, by certificates made for this run."
    )
    dashboard: str = Field(
        "127.0.0.1:0",
        description="Where the scheduler's dashboard listens (it needs bokeh); by default on "
        "loopback, on any free port.",
    )

    @model_validator(mode="after")
    def _nothing_in_the_clear(self) -> Listening:
        host = self.dashboard.rpartition(":")[0].strip("[]")
        if self.encrypt and not (host in ("localhost", "::1") or host.startswith("127.")):
            raise ValueError(
                "expected a dashboard on loopback, as 127.0.0.1:0, beside encrypt: true, since "
                "dashboards are not encrypted"
            )
        return self


class Processes(ScaledProfile, Listening):
    """Worker processes on this machine."""

    kind: Literal["processes"]


class Cuda(StartedProfile, Listening):
    """A worker process for each GPU of this machine that CUDA_VISIBLE_DEVICES names, or for all."""

    kind: Literal["cuda"]

    @property
    def gpus_of_worker(self) -> int:
        """The first: dask-cuda shows a worker those of the others too, after its own."""
        return 1


class Tls(_Strict):
    """Files of an encrypted connection, all PEM."""

    ca: FilePath = Field(description="Certificate of the authority that both sides trust.")
    cert: FilePath = Field(description="Certificate of this side.")
    key: FilePath = Field(description="Its private key.")


class Address(ClusterProfile):
    """A Dask scheduler that already runs."""

    kind: Literal["address"]
    address: str | None = Field(
        None, description="Address of the scheduler, as tcp://node1:8786 or tls://node1:8786."
    )
    scheduler_file: FilePath | None = Field(
        None, description="File in which a scheduler has left its address, instead of address."
    )
    tls: Tls | None = Field(None, description="Files of an encrypted connection: ca, cert, key.")

    @model_validator(mode="after")
    def _one_of_both(self) -> Address:
        if (self.address is None) == (self.scheduler_file is None):
            raise ValueError("expected either address or scheduler_file")
        return self


class Ssh(StartedProfile, Listening):
    """Workers on machines that ssh reaches; the first also runs the scheduler."""

    kind: Literal["ssh"]
    hosts: list[str] = Field(
        min_length=1, description="Machines; the scheduler runs on the first, workers on all."
    )
    workers: Count = Field(1, description="Workers to start on each machine.")
    python: str | None = Field(
        None, description="Python on these machines; the path of this one by default."
    )
    connect_options: dict[str, Any] = Field(
        default_factory=dict, description="Passed on to asyncssh, such as port or username."
    )

    @property
    def most_workers(self) -> int:
        """Workers on all machines."""
        return self.workers * len(self.hosts)


QueueKind: TypeAlias = Literal["slurm", "pbs", "lsf", "sge", "htcondor"]


class Queue(ScaledProfile, Listening):
    """One job of a queueing system for each worker."""

    kind: QueueKind
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="Passed on to dask-jobqueue, such as queue, account, walltime, "
        "job_extra_directives.",
    )


class Kubernetes(ScaledProfile):
    """Pods of a Kubernetes cluster in which the Dask operator runs."""

    kind: Literal["kubernetes"]
    image: str = Field(description="Container image with this package, for scheduler and workers.")
    namespace: str | None = Field(
        None, description="Namespace of the pods; that of the current context by default."
    )
    gpus: int = Field(0, ge=0, le=1000, description="GPUs of one worker; the scheduler has none.")
    env: dict[str, str] = Field(
        default_factory=dict, description="Environment variables of scheduler and workers."
    )
    volumes: dict[str, str] = Field(
        default_factory=dict,
        description="Persistent volume claims, and where workers mount them: the store's place.",
    )
    pod: dict[str, Any] = Field(
        default_factory=dict,
        description="Added to the specification of every pod, such as imagePullSecrets.",
    )
    worker_pod: dict[str, Any] = Field(
        default_factory=dict,
        description="Added to that of workers alone, such as nodeSelector and tolerations.",
    )


# All models of profiles, and of the keys that have keys of their own.
MODELS = (InProcess, Processes, Cuda, Address, Ssh, Queue, Kubernetes)
NESTED: dict[str, type[BaseModel]] = {"adapt": Adapt, "tls": Tls}

Profile: TypeAlias = Annotated[
    InProcess | Processes | Cuda | Address | Ssh | Queue | Kubernetes,
    Field(discriminator="kind"),
]

# Profiles that need no settings, by the name of their kind.
DEFAULTS = {
    kind: {"kind": kind}
    for kind in (
        "threads", "serial", "processes", "cuda", "slurm", "pbs", "lsf", "sge", "htcondor",
    )
}  # fmt: skip

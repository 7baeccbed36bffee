"""Profiles: where block rows are computed, every key typed and documented."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ByteSize, ConfigDict, Field, model_validator

__all__ = [
    "DEFAULTS",
    "Address",
    "ClusterProfile",
    "InProcess",
    "Processes",
    "Profile",
    "Queue",
    "QueueKind",
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

    wait: float = Field(
        600.0, gt=0, description="Seconds to wait for the first worker, and for a lost one."
    )
    attempts: int = Field(
        3,
        ge=1,
        description="How often a block row may fail, or lose its worker, before it is set aside.",
    )
    limit: float | None = Field(
        None,
        gt=0,
        description="Seconds that a block row may take before its worker is restarted; by default "
        "20 times the longest so far, and an hour at least.",
    )


class StartedProfile(ClusterProfile):
    """What all profiles have whose workers we start."""

    workers: int = Field(1, ge=1, description="Workers to start; the first may begin alone.")
    threads: int = Field(
        1, ge=1, description="Block rows that one worker computes at once, a core for each."
    )
    memory: ByteSize | None = Field(
        None, description="Memory of one worker, as 8GiB; its share of the machine's by default."
    )
    interface: str = Field(
        "lo",
        description="Network interface that scheduler and workers listen on, as ib0; lo is for "
        "this machine alone.",
    )
    encrypt: bool = Field(
        False, description="Encrypt connections with TLS, by certificates made for this run."
    )


class Processes(StartedProfile):
    """Worker processes on this machine."""

    kind: Literal["processes"]


class Tls(_Strict):
    """Files of an encrypted connection, all PEM."""

    ca: Path = Field(description="Certificate of the authority that both sides trust.")
    cert: Path = Field(description="Certificate of this side.")
    key: Path = Field(description="Its private key.")


class Address(ClusterProfile):
    """A Dask scheduler that already runs."""

    kind: Literal["address"]
    address: str | None = Field(
        None, description="Address of the scheduler, as tcp://node1:8786 or tls://node1:8786."
    )
    scheduler_file: Path | None = Field(
        None, description="File in which a scheduler has left its address, instead of address."
    )
    tls: Tls | None = Field(None, description="Files of an encrypted connection: ca, cert, key.")

    @model_validator(mode="after")
    def _one_of_both(self) -> Address:
        if (self.address is None) == (self.scheduler_file is None):
            raise ValueError("expected either address or scheduler_file")
        return self


class Ssh(StartedProfile):
    """Workers on machines that ssh reaches; the first also runs the scheduler."""

    kind: Literal["ssh"]
    hosts: list[str] = Field(
        min_length=1, description="Machines, each of which starts that many workers."
    )
    python: str | None = Field(
        None, description="Python on these machines; the path of this one by default."
    )
    connect_options: dict[str, Any] = Field(
        default_factory=dict, description="Passed on to asyncssh, such as port or username."
    )


QueueKind: TypeAlias = Literal["slurm", "pbs", "lsf", "sge", "htcondor"]


class Queue(StartedProfile):
    """One job of a queueing system for each worker."""

    kind: QueueKind
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="Passed on to dask-jobqueue, such as queue, account, walltime, "
        "job_extra_directives.",
    )


Profile: TypeAlias = Annotated[
    InProcess | Processes | Address | Ssh | Queue, Field(discriminator="kind")
]

# Profiles that need no settings, by the name of their kind.
DEFAULTS = {
    kind: {"kind": kind}
    for kind in ("threads", "serial", "processes", "slurm", "pbs", "lsf", "sge", "htcondor")
}

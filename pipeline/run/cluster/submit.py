"""Whole runs as jobs of a queueing system: the client is in the queue too.

The job runs the same command as a user would, in the profile's resources for one worker, and from
there asks for the workers. What is known of it lies beside the store, ``<store>.job.json``, so
that it can be found and cancelled from anywhere that sees the store.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import StringConstraints, ValidationError

from pipeline.errors import ClusterError, ConfigError, StoreError
from pipeline.settings.profiles import Queue, QueueKind
from pipeline.store.places import Directory
from pipeline.store.vetting import Line, Strict

__all__ = ["cancel_job", "find_job", "submit_job"]


MAX_NOTE_BYTES = 2**20


class _Note(Strict):
    """What is noted of a job; it becomes part of a command, and is shown."""

    kind: QueueKind
    job_id: Annotated[str, StringConstraints(pattern=r"\A[0-9]{1,20}\z")]
    command: Line


@dataclass(frozen=True)
class SubmittedJob:
    """A run in a queue.

    Attributes:
        kind: Which queueing system.
        job_id: Its number there.
        command: What it runs.
    """

    kind: str
    job_id: str
    command: str

    def __str__(self) -> str:
        """Kind and number."""
        return f"{self.kind} job {self.job_id}"


def submit_job(profile: Queue, command: list[str], store: Path) -> SubmittedJob:
    """Submit a command to a queue, and note the job beside the store.

    Args:
        profile: Which queue, and the resources.
        command: What to run.
        store: The store that it fills.

    Raises:
        ConfigError: If the profile is not valid.
        ClusterError: If the queue refuses the job; quotes what it says.
    """
    if profile.kind == "htcondor":
        raise ConfigError(
            "A whole run cannot be submitted to HTCondor, whose jobs cannot submit others. Use: "
            "hessian run --profile"
        )
    template = _job_template(profile)
    script = _beside(store, "job.sh")
    lines = ["#!/usr/bin/env bash", template.job_header, *template._job_script_prologue]
    # Some queues start jobs in the home directory, but the command's paths are relative to here.
    lines.append(f"cd {shlex.quote(str(Path.cwd()))}")
    # In place of the shell, so that a signal from the queue reaches the run.
    _put(script, "\n".join([*lines, f"exec {shlex.join(command)}", ""]))
    # LSF reads a script from its input, the others take a name and do not mind.
    arguments = [] if profile.kind == "lsf" else [str(script)]
    output = _call([*shlex.split(template.submit_command), *arguments], script)
    number = re.search(r"[0-9]+", output)
    if number is None:
        raise ClusterError(f"{template.submit_command} gave no job number: {output.strip()}")
    job = SubmittedJob(profile.kind, number.group(), shlex.join(command))
    _put(_beside(store, "job.json"), json.dumps(asdict(job)) + "\n")
    return job


def find_job(store: Path) -> SubmittedJob | None:
    """The job that was last submitted for a store.

    Raises:
        ClusterError: If what lies beside the store is not readable.
    """
    path = _beside(store, "job.json")
    if not path.exists():
        return None
    advice = "Remove it, and ask the queue for the job"
    try:
        note = _Note.model_validate_json(Directory(path.parent).read(path.name, MAX_NOTE_BYTES))
    except ValidationError as error:
        reason = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise ClusterError(f"{path} does not describe a job ({reason}). {advice}.") from error
    except (OSError, StoreError) as error:
        raise ClusterError(f"{path} does not describe a job ({error}). {advice}.") from error
    return SubmittedJob(note.kind, note.job_id, note.command)


def cancel_job(store: Path) -> SubmittedJob:
    """Cancel the job that was submitted for a store; what is stored stays.

    Raises:
        ClusterError: If there is none, or the queue refuses.
    """
    job = find_job(store)
    if job is None:
        raise ClusterError(f"No job was submitted for {store}. Stop a run by Ctrl-C where it runs.")
    from pipeline.run.cluster._queues import queue_class

    _call([queue_class(job.kind).job_cls.cancel_command, job.job_id], None)
    _beside(store, "job.json").unlink()
    return job


def _job_template(profile: Queue) -> Any:
    """A job of dask-jobqueue, for its header and its command."""
    # Dask's distributed part takes half a second to import, which asking for a job does not need.
    from pipeline.run.cluster._queues import job_options, queue_class

    options = {"job_name": "hessian", **job_options(profile)}
    try:
        return queue_class(profile.kind).job_cls(**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"The profile's options are not those of a job: {error}") from error


def _put(path: Path, text: str) -> None:
    # Not through a link to another file, which somebody may have left there.
    place = Directory(path.parent)
    with place.writing():
        place.write(path.name, text.encode())


def _beside(store: Path, ending: str) -> Path:
    return store.with_name(f"{store.name}.{ending}")


def _call(command: list[str], script: Path | None) -> str:
    try:
        with (script or Path("/dev/null")).open() as source:
            done = subprocess.run(command, stdin=source, capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise ClusterError(f"{command[0]} is not on this machine.") from error
    except subprocess.CalledProcessError as error:
        raise ClusterError(f"{shlex.join(command)} failed: {error.stderr.strip()}") from error
    return done.stdout

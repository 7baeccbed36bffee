"""The GPUs that a process may use, by the names that CUDA_VISIBLE_DEVICES takes.

CUDA is not initialised, and TensorFlow not imported: both happen in workers alone.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess

from pipeline.errors import ClusterError

__all__ = ["VISIBLE", "visible_gpus", "visible_uuids"]

VISIBLE = "CUDA_VISIBLE_DEVICES"
LIST_SECONDS = 60.0


def visible_gpus() -> list[str]:
    """GPUs of this machine that this process may use.

    Those that CUDA_VISIBLE_DEVICES names, as it names them: numbers, or UUIDs of GPUs and of
    MIG devices. Where it is not set, all by UUID; of a GPU that is split, its MIG devices.

    Raises:
        ClusterError: If the driver does not answer.
    """
    given = os.environ.get(VISIBLE)
    return _list_gpus() if given is None else _split(given)


def visible_uuids() -> list[str]:
    """Likewise, but numbers resolved; those of which the UUID is not known are left out.

    Numbers count what a job or container has, so that they say nothing to other processes.

    Raises:
        ClusterError: If the driver does not answer.
    """
    names = visible_gpus()
    if not any(name.isdigit() for name in names):
        return names
    listed = dict(enumerate(_list_gpus()))
    uuids = [listed.get(int(name)) if name.isdigit() else name for name in names]
    return [uuid for uuid in uuids if uuid is not None]


def _split(given: str) -> list[str]:
    # What CUDA cannot understand ends the list; people write -1 to have no GPU at all.
    names = []
    for name in map(str.strip, given.split(",")):
        if not re.fullmatch(r"\d+|(GPU|MIG)-\S+", name):
            break
        names.append(name)
    return names


def _list_gpus() -> list[str]:
    # Not by running it: a directory of PATH that may not be entered would be an error.
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    try:
        listed = subprocess.run(
            [command, "-L"], capture_output=True, text=True, check=True, timeout=LIST_SECONDS
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise ClusterError(f"The GPUs of this machine cannot be listed: {error}") from error
    names: list[str] = []
    for kind, uuid in re.findall(r"\(UUID: ((?:GPU|MIG)-)([^)]+)\)", listed):
        # The MIG devices of a GPU follow it, and take its place.
        if kind == "MIG-" and names and names[-1].startswith("GPU-"):
            names.pop()
        names.append(kind + uuid)
    return names

"""Runs in tests: what they stored and computed, workers, and processes that are held or killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from hessian_tasks.frozen import FrozenInputs
from pipeline.run.events import BlockRowStored
from pipeline.settings.profiles import ClusterProfile, Processes
from pipeline.store.store import HessianStore

if TYPE_CHECKING:
    from distributed import WorkerPlugin

    from pipeline.run.cluster.workers import Workers

# Of the fixtures ``run`` and ``hessian``.
Run = Callable[..., list[Any]]
Cli = Callable[..., tuple[int, str, str]]

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
HESSIAN = Path(sys.executable).with_name("hessian")
# For whatever comes sooner or later: minutes, as other processes may take most of the machine.
WAIT = 300.0
# Runs plan for workers with what this process has resident, which after a thousand tests is 4 GiB;
# two of these are less than SLURM is told that this machine has.
WORKER_MEMORY = "7GiB"


def snapshot(path: Path) -> dict[str, bytes]:
    """Every file below a directory: its bytes by its path."""
    files = sorted(p for p in path.rglob("*") if p.is_file())
    return {str(p.relative_to(path)): p.read_bytes() for p in files}


def objects(path: Path, prefix: str | tuple[str, ...] = "hessian") -> dict[str, bytes]:
    """What was computed: arrays, not records with their times."""
    return {key: data for key, data in snapshot(path).items() if key.startswith(prefix)}


def intact(path: Path) -> bool:
    """Whether every record's objects are those that were stored."""
    store = HessianStore(path)
    return store.damaged_objects(store.records().values()) == {}


def litter(path: Path) -> list[str]:
    """What an interrupted run would leave behind."""
    return [p.name for p in path.parent.rglob("*") if p.suffix in (".partial", ".creating")]


def computed(events: list[Any]) -> list[int]:
    return sorted(e.record.row.index for e in events if isinstance(e, BlockRowStored))


def fill(disk: Path, *, leave: int) -> None:
    """Fill a disk up to some bytes."""
    (disk / "ballast").write_bytes(bytes(max(0, shutil.disk_usage(disk).free - leave)))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def processes(**keys: Any) -> Processes:
    given = {"kind": "processes", "workers": 2, "memory": WORKER_MEMORY, "wait": WAIT}
    return Processes.model_validate({**given, **keys})


@contextmanager
def connected(profile: ClusterProfile, *plugins: WorkerPlugin) -> Iterator[Workers]:
    """The workers of a profile, which have these plugins."""
    from pipeline.run.cluster.connect import connect

    with connect(profile, threading.Event()) as workers:
        for plugin in plugins:
            workers.client.register_plugin(plugin)
        yield workers


def start_held(
    kind: str, number: int, arguments: Sequence[object], **pipes: Any
) -> subprocess.Popen[str]:
    """Start the command, which waits after so many block rows or products until it is let go.

    Args:
        kind: ``rows`` or ``products``.
        number: Of them.
        arguments: Of the command.
        **pipes: Of the process, besides standard input.
    """
    command = [sys.executable, HERE / "held.py", kind, number, *arguments]
    return subprocess.Popen([*map(str, command)], stdin=subprocess.PIPE, text=True, **pipes)


def read_until(stream: IO[str] | None, text: str) -> None:
    """Read lines of what a process writes, until one of them has the text."""
    lines: list[str] = []
    while not lines or text not in lines[-1]:
        assert stream is not None
        lines.append(stream.readline())
        assert lines[-1], f"the process ended without {text!r}: {lines}"


def run_and_kill(
    path: Path, inputs: FrozenInputs, rng: random.Random, scheduler_file: str | Path = ""
) -> bool:
    """Start a run in a process of its own, and kill it a random while after a random event.

    Returns:
        Whether it was killed, and not complete by then.
    """
    options = json.dumps(dict(inputs.source.options))
    command = [sys.executable, HERE / "client.py", path, options, scheduler_file]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    with subprocess.Popen(
        [*map(str, command)], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        for _ in range(rng.randint(1, 7)):
            process.stdout.readline()
        try:
            process.wait(rng.uniform(0.0, 0.2))
        except subprocess.TimeoutExpired:
            process.kill()
    assert process.returncode in (0, -signal.SIGKILL)
    return process.returncode != 0

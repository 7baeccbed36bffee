"""What a command spends from its first line to its last, stage by stage.

Every measurement is a process of its own. Functions that begin a stage are timed where `hessian
run` calls them; what a stage calls of another one counts there alone. Processor time is that of all
threads, and of several rounds the least is given: other work on the machine only ever adds. Other
commands on the store, and `import tensorflow` alone, are measured in turn with it.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

IMPORTS, REST = "importing all else", "everything else"
# What begins a stage: the module that calls it, and its name there.
STAGES = {
    "pipeline.cli._calls:freeze_source": "freezing the inputs",
    "pipeline.run.prepare:rebuild": "rebuilding the problem",
    "pipeline.run.prepare:choose_engines": "reading the terms, the engine",
    "pipeline.run.prepare:References": "products to check with",
    "pipeline.run.execute:Guard": "products to check with",
    "pipeline.run.prepare:measure": "trial rows",
    "pipeline.run.execute:create_template": "the store's template",
    "pipeline.run.executors.threads:execute": "computing and storing",
}
COMMANDS = ("info", "status", "spectrum", "verify")
NOTHING = [sys.executable, "-c", "import tensorflow"]


class Clock:
    """Books wall and processor time to the stage that is entered last."""

    def __init__(self) -> None:
        self.spent: dict[str, list[float]] = {}
        self._open = [REST]
        # Starting the interpreter took processor time, too.
        self._last = (time.perf_counter(), 0.0)

    def turn(self) -> None:
        now = (time.perf_counter(), time.process_time())
        booked = self.spent.setdefault(self._open[-1], [0.0, 0.0])
        booked[:] = [b + n - last for b, n, last in zip(booked, now, self._last, strict=True)]
        self._last = now

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.turn()
        self._open.append(name)
        try:
            yield
        finally:
            self.turn()
            self._open.pop()

    def watch(self, place: str, name: str) -> None:
        """Time a function where it is called."""
        module_name, function_name = place.split(":")
        module = importlib.import_module(module_name)
        function = getattr(module, function_name)

        @functools.wraps(function, updated=())
        def timed(*arguments: Any, **options: Any) -> Any:
            with self.stage(name):
                return function(*arguments, **options)

        setattr(module, function_name, timed)


def run(arguments: Sequence[str]) -> dict[str, list[float]]:
    """Run the command in this process; seconds by stage, wall and processor time."""
    clock = Clock()
    with clock.stage(IMPORTS):
        from hessian_tasks.process import configure_tensorflow

        with clock.stage("importing TensorFlow"):
            configure_tensorflow()
        from pipeline.cli import main

        for place, name in STAGES.items():
            clock.watch(place, name)
    sys.argv = ["hessian", *arguments]
    with suppress(SystemExit):  # as commands end
        main()
    clock.turn()
    return clock.spent


def measured(command: Sequence[str], output: Path) -> dict[str, list[float]]:
    """Wall and processor seconds of a process, and of its stages if it writes them to a file."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begun
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    whole = [seconds, usage.ru_utime + usage.ru_stime]
    stages = json.loads(output.read_text()) if output.exists() else {}
    output.unlink(missing_ok=True)
    return {**stages, "all": whole}


def measure_once(options: Sequence[str], scratch: Path) -> dict[str, list[float]]:
    """One round: TensorFlow alone, the run, and the other commands on its store."""
    store, output = scratch / "h.zarr", scratch / "stages.json"
    command = [sys.executable, __file__, *options, "--one", str(output), "--store", str(store)]
    found = {f"run: {name}": spent for name, spent in measured(command, output).items()}
    hessian = str(Path(sys.executable).with_name("hessian"))
    for name in COMMANDS:
        found[name] = measured([hessian, name, str(store)], output)["all"]
    return {"import tensorflow": measured(NOTHING, output)["all"], **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=50)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", help="where stores are written, and removed again")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--store", help=argparse.SUPPRESS)
    given = parser.parse_args()
    options = ["--width", str(given.width), "--dtype", given.dtype]
    if given.one is not None:
        problem = ["poisson", "-o", f"width={given.width}", "-o", f"dtype={given.dtype}"]
        given.one.write_text(json.dumps(run(["run", *problem, "--store", given.store])))
        return
    rounds = []
    for _ in range(given.rounds):
        with tempfile.TemporaryDirectory(dir=given.directory) as scratch:
            rounds.append(measure_once(options, Path(scratch)))
    print("| what | processor time | wall time |\n| --- | --- | --- |")
    for name in rounds[0]:
        wall, processor = (min(one[name][i] for one in rounds) for i in range(2))
        print(f"| {name} | {processor:.2f} s | {wall:.2f} s |")


if __name__ == "__main__":
    main()

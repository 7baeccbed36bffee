"""Two workers against one, and two threads against one: speedup, and what is not engine time.

Each run computes the Poisson problem's Hessian from scratch. The span is the time from the
beginning of the first block row to the end of the last; importing, preparing and the workers' own
start come before it. The overhead is the part of the span, on all cores in use, that is not spent
in the engine: storing, scheduling and waiting for the last block row.

Two cores are not always twice one: they share clock frequency, cache and memory. So the same ratio
is taken of processes that only multiply matrices.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass

from two_cores import machine_speedup

from hessian_tasks.process import configure_tensorflow
from hessian_tasks.source import ProblemSource
from pipeline.run.cluster.connect import connect
from pipeline.run.events import BlockRowStored, RunStarted
from pipeline.run.execute import execute
from pipeline.run.inputs import freeze_source
from pipeline.run.options import RunOptions
from pipeline.settings.profiles import Processes
from pipeline.store.records import BlockRecord

HEADER = "              total      span    engine   storing overhead"


@dataclass(frozen=True)
class Mode:
    """On what block rows are computed."""

    kind: str
    cores: int

    def __str__(self) -> str:
        return f"{self.cores} {self.kind}{'s' if self.cores > 1 else ''}"


class Clock:
    """Told of the events of a run: its plan, its records, and when block rows began and ended."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self.created = time.perf_counter()
        self.records: list[BlockRecord] = []
        self.began: list[float] = []

    def __call__(self, event: object) -> None:
        if isinstance(event, RunStarted):
            self.plan = event.plan
        if isinstance(event, BlockRowStored):
            record = event.record
            self.ended = time.perf_counter()
            self.records.append(record)
            self.began.append(self.ended - record.compute_seconds - record.store_seconds)

    @property
    def span(self) -> float:
        return self.ended - min(self.began)

    def __str__(self) -> str:
        engine = sum(record.compute_seconds for record in self.records)
        storing = sum(record.store_seconds for record in self.records)
        overhead = 1 - engine / (self.mode.cores * self.span)
        return (
            f"{self.mode!s:<10} {self.ended - self.created:>7.1f} s {self.span:>7.1f} s "
            f"{engine:>7.1f} s {storing:>7.1f} s {overhead:>7.1%}"
        )


def run_once(
    mode: Mode, width: int, tile: int | None = None, directory: str | None = None
) -> Clock:
    """One run from scratch; its store is removed again."""
    frozen = freeze_source(ProblemSource("poisson", {"width": width}))
    options = RunOptions(tile=tile, num_threads=mode.cores)
    with tempfile.TemporaryDirectory(dir=directory) as place, ExitStack() as stack:
        clock, workers = Clock(mode), None
        if mode.kind == "worker":
            keys = {"kind": "processes", "workers": mode.cores, "memory": "5GiB"}
            profile = Processes.model_validate(keys)
            workers = stack.enter_context(connect(profile, threading.Event()))
            workers.client.wait_for_workers(mode.cores)
        execute(f"{place}/h.zarr", frozen, options, [clock], workers=workers)
    return clock


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=100)
    parser.add_argument("--tile", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", default=["worker", "thread"])
    parser.add_argument("--directory", help="where stores are written, and removed again")
    arguments = parser.parse_args()
    print(f"2 processes of products alone are {machine_speedup():.2f} times as fast as one")
    configure_tensorflow()
    print(HEADER)
    for kind in arguments.kinds:
        ratios = []
        for _ in range(arguments.rounds):
            found = [
                run_once(Mode(kind, cores), arguments.width, arguments.tile, arguments.directory)
                for cores in (1, 2)
            ]
            print(*found, sep="\n", flush=True)
            ratios.append(found[0].span / found[1].span)
        shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"2 {kind}s are {statistics.median(ratios):.2f} times as fast as one ({shown})")


if __name__ == "__main__":
    main()

"""How many workers are worth it: a simulation of runs that are larger than this machine.

The plan is the real one. What a block row costs is measured here, by a run on one worker: a time
for each entry and one for each block row. The simulation is by events: the scheduler gives out
block rows one after the other, the largest first; workers compute them, and write them to a store
whose bandwidth they share. The bottleneck is what makes the run fastest if it is taken away.

With --teraflops workers are GPUs that sustain so much, and that reach the store by a network of
--network GB/s each; an entry then takes the FLOP of --point-streams multiply-adds.

With --validate the same model predicts runs on one and two workers of this machine, which are then
measured.
"""

from __future__ import annotations

import argparse
import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.run.plan import Cost, Plan, Request, make_plan
from pipeline.store.records import BlockRecord

WORKERS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


@dataclass(frozen=True)
class Model:
    """What block rows, the scheduler and the store cost.

    Attributes:
        per_entry: Seconds to compute one entry.
        per_block_row: Seconds of a block row that do not depend on its size.
        writer_bandwidth: Bytes a second that one worker writes, encoding and checksums included.
        store_bandwidth: Bytes a second that all together can write.
        per_task: Seconds of the scheduler for a block row.
        start: Seconds until a worker is ready.
        spread: Standard deviation of the logarithm of times, of which each worker has its factor.
    """

    per_entry: float
    per_block_row: float
    writer_bandwidth: float
    store_bandwidth: float = math.inf
    per_task: float = 0.0
    start: float = 0.0
    spread: float = 0.0


# One thread at width 100, float32, on an AMD EPYC: 26.9 s in the engine, 6.2 s to store.
HERE = Model(per_entry=1.17e-7, per_block_row=0.0, writer_bandwidth=274e6)
# Seconds of the scheduler for a task (benchmarks/scheduling.py) and of a worker until it is ready;
# how unlike machines are.
PER_TASK, START, SPREAD = 0.6e-3, 10.0, 0.05
# Importing TensorFlow for CUDA and compiling, in place of a start of 10 s: assumed, not measured.
GPU_START = 60.0


@dataclass(frozen=True)
class Work:
    """The block rows of a plan, in order: entries to compute, bytes to write."""

    entries: npt.NDArray[np.int64]
    written: npt.NDArray[np.int64]

    @classmethod
    def of(cls, plan: Plan) -> Work:
        num_params, itemsize = plan.request.num_params, plan.request.itemsize
        rows = plan.block_rows
        entries = np.array([row.num_rows * (num_params - row.start) for row in rows])
        # All but the diagonal tile is stored twice.
        both = np.array([2 * (num_params - row.start) - row.num_rows for row in rows])
        return cls(entries, both * np.array([row.num_rows for row in rows]) * itemsize)


def simulate(work: Work, model: Model, num_workers: int, seed: int = 0) -> float:
    """Seconds until all block rows are stored."""
    rng = np.random.default_rng(seed)
    pace = np.exp(model.spread * rng.standard_normal(num_workers))
    compute = model.per_block_row + model.per_entry * work.entries
    ready = [(model.start, worker) for worker in range(num_workers)]
    heapq.heapify(ready)
    computed: list[tuple[float, int, int]] = []
    writers = Writers(model)
    scheduler, given, now = 0.0, 0, 0.0
    while given < len(compute) or computed or writers.left:
        while ready and given < len(compute) and ready[0][0] <= now:
            scheduler = max(scheduler, now) + model.per_task
            _, worker = heapq.heappop(ready)
            heapq.heappush(computed, (scheduler + compute[given] * pace[worker], worker, given))
            given += 1
        following = [computed[0][0] if computed else math.inf, writers.next_end(now)]
        following.append(ready[0][0] if ready and given < len(compute) else math.inf)
        later = min(following)
        for worker in writers.advance(later - now):
            heapq.heappush(ready, (later, worker))
        now = later
        while computed and computed[0][0] <= now:
            _, worker, row = heapq.heappop(computed)
            writers.left[worker] = float(work.written[row])
    return now


class Writers:
    """Workers that write, each at its own bandwidth or at its share of the store's."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.left: dict[int, float] = {}

    @property
    def rate(self) -> float:
        return min(self.model.writer_bandwidth, self.model.store_bandwidth / len(self.left))

    def next_end(self, now: float) -> float:
        return now + min(self.left.values()) / self.rate if self.left else math.inf

    def advance(self, seconds: float) -> list[int]:
        """Let time pass; the workers that end."""
        done = self.rate * seconds if self.left else 0.0
        # To a byte: sums of times are rounded.
        ended = [worker for worker, left in self.left.items() if left <= done + 1]
        self.left = {w: left - done for w, left in self.left.items() if w not in ended}
        return ended


def bottleneck(work: Work, model: Model, num_workers: int) -> tuple[float, str]:
    """The time, and what it would be least without."""
    seconds = simulate(work, model, num_workers)
    without = {
        "store bandwidth": replace(model, store_bandwidth=math.inf),
        "start of the workers": replace(model, start=0.0),
        "scheduler": replace(model, per_task=0.0),
        "uneven workers": replace(model, spread=0.0),
    }
    gains = {name: seconds - simulate(work, other, num_workers) for name, other in without.items()}
    smooth = model.per_entry * work.entries.sum() + model.per_block_row * len(work.entries)
    smooth += work.written.sum() / model.writer_bandwidth
    even = max(smooth / num_workers, work.written.sum() / model.store_bandwidth) + model.start
    gains["last block rows"] = seconds - even
    name = max(gains, key=lambda key: gains[key])
    share = gains[name] / seconds
    return seconds, f"{name} ({share:.0%})" if share > 0.02 else "computing"


def plan_for(num_params: int, num_workers: int, tile_multiple: int) -> Plan:
    """The plan of workers that have memory enough."""
    request = Request(
        num_params,
        4,
        1,
        num_threads=1,
        allowed_bytes=2**40,
        num_block_rows=3 * num_workers,
        tile_multiple=tile_multiple,
    )
    return make_plan(request, Cost(0, 0, 0, 0.0))


def fit(records: Sequence[BlockRecord], num_params: int, itemsize: int = 4) -> Model:
    """Costs from the records of a run on one worker."""
    rows = [record.row for record in records]
    entries = np.array([row.num_rows * (num_params - row.start) for row in rows], float)
    columns = np.stack([np.ones(len(rows)), entries], axis=1)
    seconds = np.array([record.compute_seconds for record in records])
    per_block_row, per_entry = np.linalg.lstsq(columns, seconds, rcond=None)[0]
    written = sum((2 * (num_params - r.start) - r.num_rows) * r.num_rows for r in rows) * itemsize
    storing = sum(record.store_seconds for record in records)
    return Model(float(per_entry), max(0.0, float(per_block_row)), written / storing)


def validate(width: int) -> Model:
    """Measure here on one worker, and compare one and two workers with the simulation."""
    from workers import HEADER, Mode, run_once

    found = {cores: run_once(Mode("worker", cores), width) for cores in (1, 2)}
    print(HEADER, *found.values(), sep="\n")
    plan = found[1].plan
    model = fit(found[1].records, plan.request.num_params)
    print(model)
    for cores, clock in found.items():
        # What a second worker costs the first, by caches and memory that they share.
        own = fit(clock.records, plan.request.num_params)
        predicted, informed = (simulate(Work.of(plan), m, cores) for m in (model, own))
        print(
            f"{clock.mode}: measured {clock.span:.1f} s, predicted from one worker "
            f"{predicted:.1f} s, from block rows computed side by side {informed:.1f} s"
        )
    return model


def print_table(num_params: int, model: Model, tile_multiple: int) -> dict[int, float]:
    """Times by number of workers, as Markdown; the efficiencies."""
    print("| workers | tile | block rows | time | worker hours | efficiency | bottleneck |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    efficiency: dict[int, float] = {}
    for number in WORKERS:
        plan = plan_for(num_params, number, tile_multiple)
        work = Work.of(plan)
        seconds, name = bottleneck(work, model, number)
        alone = replace(model, start=0.0, store_bandwidth=math.inf, spread=0.0)
        one = simulate(Work.of(plan_for(num_params, 1, tile_multiple)), alone, 1)
        efficiency[number] = one / seconds / number
        hours = seconds / 3600
        print(
            f"| {number:,} | {plan.tile:,} | {plan.num_block_rows:,} | {hours:.2f} h | "
            f"{number * hours:.1f} | {efficiency[number]:.0%} | {name} |"
        )
    return efficiency


def draw(curves: dict[float, dict[int, float]], path: Path) -> None:
    """Efficiency by number of workers, a curve for each bandwidth of the store."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for bandwidth, efficiency in curves.items():
        label = f"store of {bandwidth:g} GB/s"
        axes.semilogx(list(efficiency), list(efficiency.values()), marker="o", label=label)
    axes.set(xlabel="workers", ylabel="efficiency", ylim=(0, 1.05))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--validate", action="store_true", help="measure and compare, at --width")
    parser.add_argument("--width", type=int, default=100)
    parser.add_argument("--params", type=int, default=1_000_000)
    parser.add_argument("--bandwidths", type=float, nargs="+", default=[1, 10, 100], help="GB/s")
    parser.add_argument("--teraflops", type=float, help="of a GPU, sustained")
    parser.add_argument("--point-streams", type=int, default=5000, help="of all terms together")
    parser.add_argument("--network", type=float, default=3.0, help="GB/s of a GPU to the store")
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    model = validate(arguments.width) if arguments.validate else HERE
    start = START
    if arguments.teraflops is not None:
        per_entry = 2 * arguments.point_streams / (arguments.teraflops * 1e12)
        model, start = Model(per_entry, 0.0, arguments.network * 1e9), GPU_START
    # Three square kernels in a row: one of their rows has about so many weights.
    multiple = math.isqrt(arguments.params // 2)
    curves = {}
    for bandwidth in arguments.bandwidths:
        print(f"\nP = {arguments.params:,}, a store of {bandwidth:g} GB/s\n")
        there = replace(model, store_bandwidth=bandwidth * 1e9, per_task=PER_TASK, start=start)
        curves[bandwidth] = print_table(arguments.params, replace(there, spread=SPREAD), multiple)
    if arguments.picture:
        draw(curves, arguments.picture)


if __name__ == "__main__":
    main()

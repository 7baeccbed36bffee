"""Where the time of the layered engine goes, stage by stage, in multiples of the limit.

The limit of a case is ½·N·S·P² multiply-adds at the rate of a product of two large matrices, which
is measured before and after every round. All is time of one thread, so that others on the machine
count little; block rows are those of a run on two threads. Of each stage the table has the best
round. Functions are timed from outside, their calls of each other left out.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from hessian_tasks.layered.engine import LayeredEngine
from hessian_tasks.layered.multiply import _buffered, _factored, _probe, contract, products
from hessian_tasks.layered.multiply.tangents import Tangents
from hessian_tasks.problems.poisson import problem as poisson
from pipeline.run.plan import Cost, Request, make_plan, split_rows

NUM_BOUNDARY = 1000
SIDE = 2048  # of the matrices that are multiplied for the limit

STAGES: list[tuple[str, Any, str]] = [
    ("products", products.Products, "_multiply"),
    ("adding products up", products.Products, "add_outer"),
    ("adding products up", products.Products, "add_tangents"),
    ("left and right factors", products.Outer, "_part"),
    ("left and right factors", contract.Contraction, "_times_inputs"),
    ("tangents: kernels", _buffered._Sum, "add_product"),
    ("tangents: sums", _buffered._Sum, "_sum_scaled"),
    ("tangents: factored", _factored.Factored, "write"),
    ("tangents: factored", _factored.Factored, "scaled"),
    ("tangents: factored", _factored.Factored, "plus"),
    ("tangents: laid out", _probe, "write"),
    ("tangents: Python", _buffered._Sum, "value"),
    ("tangents: Python", _buffered._Sum, "add_scaled"),
    ("tangents: Python", Tangents, "first"),
    ("tangents: Python", Tangents, "second"),
]
REST = "copies, mirror, rest"


class Clock:
    """Seconds of one thread by stages, each without those that it calls."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._stack = [REST]
        self._since = time.thread_time()

    def switch(self, stage: str | None) -> None:
        """Enter a stage, or leave the last one."""
        now = time.thread_time()
        self.seconds[self._stack[-1]] += now - self._since
        self._since = now
        if stage is None:
            self._stack.pop()
        else:
            self._stack.append(stage)

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            self.switch(stage)
            try:
                return function(*args, **options)
            finally:
                self.switch(None)

        return call


def stages_of(compute: Callable[[], None]) -> Counter[str]:
    """Seconds of one call by stages."""
    clock = Clock()
    known = [(place, name, getattr(place, name)) for _, place, name in STAGES]
    for (stage, place, name), (_, _, function) in zip(STAGES, known, strict=True):
        setattr(place, name, clock.timed(stage, function))
    try:
        clock.timed(REST, compute)()
    finally:
        for place, name, function in known:
            setattr(place, name, function)
    return clock.seconds


def rate(dtype: str) -> float:
    """Multiply-adds a second of one thread in a large product."""
    left, right = np.random.default_rng(0).random((2, SIDE, SIDE)).astype(dtype)
    begun = time.thread_time()
    np.matmul(left, right)
    return SIDE**3 / (time.thread_time() - begun)


def measure(width: int, num_points: int, dtype: str, rounds: int) -> dict[str, float]:
    """Stages of one case in multiples of the limit, and the limit."""
    engine = LayeredEngine(poisson(width, 3, num_points, NUM_BOUNDARY, dtype=dtype))
    size = engine.layout.num_params
    request = Request(
        size,
        engine.dtype.itemsize,
        1,
        2,
        2**40,
        num_block_rows=6,
        tile_multiple=engine.tile_multiple,
    )
    block_rows = split_rows(size, make_plan(request, Cost(0, 0, 0, 0.0)).tile)

    def compute() -> None:
        engine.forget()
        for row in block_rows:
            engine.block_row(row)

    compute()
    best: dict[str, float] = {}
    fastest = 0.0
    for _ in range(rounds):
        fastest = max(fastest, rate(dtype))
        begun = time.thread_time()
        compute()
        found = {"all": time.thread_time() - begun, **stages_of(compute)}
        best = {stage: min(seconds, best.get(stage, seconds)) for stage, seconds in found.items()}
        fastest = max(fastest, rate(dtype))
    limit = (4 * num_points + NUM_BOUNDARY) * size**2 / 2 / fastest
    return {stage: seconds / limit for stage, seconds in best.items()} | {"limit": limit}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", default=["50x1000", "10x1000", "20x10000"])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float64"])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    stages = [*dict.fromkeys(stage for stage, _, _ in STAGES), REST, "all"]
    print(f"| width x points | limit | {' | '.join(stages)} |\n|{' --- |' * (len(stages) + 2)}")
    with threadpool_limits(1, "blas"):
        for case, dtype in itertools.product(arguments.cases, arguments.dtypes):
            width, num_points = map(int, case.split("x"))
            found = measure(width, num_points, dtype, arguments.rounds)
            cells = [f"{found.get(stage, 0.0):.2f}" for stage in stages]
            print(f"| {case} {dtype} | {found['limit']:.3g} s | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

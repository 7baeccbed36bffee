"""The engines ``layered`` and ``autodiff`` by the order of the derivatives in a residual.

Both compute the first rows of the Hessian in one process, in turns, for a network 1-20-20-1 or
2-20-20-1 in float64 at 200 points. Set-up is all up to the end of the first call.
"""

from __future__ import annotations

import argparse
import time
from itertools import product
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from hessian_tasks import BlockRow, Problem, ResidualTerm
from hessian_tasks.autodiff import AutodiffEngine
from hessian_tasks.layered.engine import LayeredEngine
from hessian_tasks.networks.models import get_theta, set_theta
from hessian_tasks.problems.networks import mlp
from hessian_tasks.process import configure_tensorflow

NUM_ROWS = 20
REPEATS = 9


def derivatives(order: int, coordinates: str) -> list[str]:
    """Those whose sum is a power of the Laplacian, of which an odd order takes ∂/∂x."""
    found = ["x" * (order % 2)]
    for _ in range(order // 2):
        found = [names + 2 * axis for names in found for axis in coordinates]
    return found


def make_problem(order: int, coordinates: str) -> Any:
    rng, width = np.random.default_rng(0), len(coordinates)
    model = mlp(width, width=20, depth=2, dtype="float64")
    # Biases are 0 at first, where every other derivative of tanh is.
    set_theta(model, get_theta(model) + rng.normal(0.0, 0.3, model.count_params()))
    names, points = derivatives(order, coordinates), rng.uniform(-1.0, 1.0, (200, width))
    pde = ResidualTerm("pde", points, lambda x, u: sum(u.d(n) for n in names) - u.value**2)
    return Problem(model, [pde], coordinates)


def measure(order: int, coordinates: str) -> None:
    problem, row = make_problem(order, coordinates), BlockRow(0, 0, NUM_ROWS)
    engines: list[Any] = []
    rows, set_up, best = [], [], [float("inf")] * 2
    for make in (LayeredEngine, AutodiffEngine):
        begun = time.perf_counter()
        engines.append(make(problem))
        rows.append(engines[-1].block_row(row))
        set_up.append(time.perf_counter() - begun)
    for _ in range(REPEATS):
        engines[0].forget()  # or it would find the tangents of the time before
        for i, engine in enumerate(engines):
            begun = time.perf_counter()
            engine.block_row(row)
            best[i] = min(best[i], time.perf_counter() - begun)
    difference = np.abs(rows[0] - rows[1]).max() / np.abs(rows[1]).max()
    seconds = f"{set_up[0]:6.1f} {set_up[1]:6.1f} s  {best[0] * 1e3:6.1f} {best[1] * 1e3:7.1f} ms"
    name = f"order {order}, {len(coordinates)} coordinates"
    print(f"{name}  {seconds}  {best[1] / best[0]:6.1f}  {difference:.0e}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, nargs="+", default=[2, 4, 5, 6])
    orders = parser.parse_args().orders
    configure_tensorflow(1)
    print("layered, autodiff: set-up, best of the rows; how many times as fast, how far apart")
    # Threads of a small product mostly wait for each other.
    with threadpool_limits(1, "blas"):
        for coordinates, order in product(["x", "xy"], orders):
            measure(order, coordinates)


if __name__ == "__main__":
    main()

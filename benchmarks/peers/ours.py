"""Our engines, and the reference to which everyone is compared."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from case import Array, Case, Indices
from ways import Measurement, Way

from hessian_tasks.devices import DevicePool
from hessian_tasks.process import configure_tensorflow
from hessian_tasks.spec import BlockRow

# Before anything computes: one thread an operation, and one block row a core.
NUM_THREADS = configure_tensorflow()

# Above this many parameters the layered engine is timed on every fourth of its block rows.
MAX_WHOLE_PARAMS = 25_000


def make_case(width: int, dtype: str, seed: int = 0) -> Case:
    """The built-in Poisson problem at slightly perturbed initial weights, no bias being zero."""
    from hessian_tasks.networks.models import get_theta
    from hessian_tasks.problems.poisson import problem as poisson

    problem = poisson(width=width, dtype=dtype)
    theta = get_theta(problem.model)
    theta = theta + 0.1 * np.random.default_rng(seed).standard_normal(len(theta))
    interior, boundary = (np.asarray(term.points) for term in problem.terms)
    waves = np.sin(np.pi * (interior.astype(dtype) + 1) / 2)
    return Case(
        theta=theta.astype(dtype),
        shapes=[tuple(weight.shape) for weight in problem.model.trainable_weights],
        interior=interior.astype(dtype),
        source=(-(np.pi**2) / 2 * waves[:, :1] * waves[:, 1:]).astype(dtype),
        boundary=boundary.astype(dtype),
    )


def _problem(case: Case, dtype: str) -> Any:
    from hessian_tasks.networks.models import set_theta
    from hessian_tasks.problems.poisson import problem as poisson

    problem = poisson(width=case.width, dtype=dtype)
    set_theta(problem.model, case.theta)
    points = (case.interior, case.boundary)
    terms = [replace(t, points=p) for t, p in zip(problem.terms, points, strict=True)]
    return replace(problem, terms=terms)


def reference_rows(case: Case, indices: Indices) -> Array:
    """Rows of H in float64, by the Hessian-vector product that certifies our stores."""
    from hessian_tasks.autodiff import hessian_vector_product

    vectors = np.zeros((len(indices), case.num_params))
    vectors[np.arange(len(indices)), indices] = 1
    return hessian_vector_product(_problem(case, "float64"), vectors)


class _EngineWay:
    """Block rows of an engine on all cores; the entries left of them are known by symmetry."""

    def __init__(self, engine: Any, tile: int, part: float) -> None:
        self.engine, self.tile, self.part = engine, tile, part
        self.num_params = engine.layout.num_params

    def rows(self, indices: Indices) -> Array:
        rows = np.full((len(indices), self.num_params), np.nan, self.engine.dtype)
        for row, index in zip(rows, indices, strict=True):
            row[index:] = self.engine.block_row(BlockRow(0, int(index), int(index) + 1))[0]
        return rows

    def compute(self, rows: Iterable[BlockRow]) -> float:
        def drop(row: BlockRow) -> None:
            assert np.isfinite(self.engine.block_row(row)[0, 0])

        begun = time.perf_counter()
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            list(pool.map(drop, rows))
        return time.perf_counter() - begun


class _Autodiff(_EngineWay):
    def measure(self, num_rows: int) -> Measurement:
        """Time the first rows of every block row of the plan, or all of them."""
        from pipeline.run.plan import split_rows

        blocks = split_rows(self.num_params, self.tile)
        wanted = math.ceil(num_rows / len(blocks)) if num_rows < self.num_params else self.tile
        parts = [BlockRow(b.index, b.start, min(b.stop, b.start + wanted)) for b in blocks]
        count = sum(part.num_rows for part in parts)
        return Measurement(self.compute(parts) * self.num_params / count, count)


class _Layered(_EngineWay):
    def measure(self, num_rows: int) -> Measurement:
        """Time all block rows, or every fourth in proportion to its entries."""
        from pipeline.run.plan import split_rows

        def entries(rows: Iterable[BlockRow]) -> int:
            return sum(row.num_rows * (self.num_params - row.start) for row in rows)

        # Tangents that block rows keep for each other are not to be there from the last time.
        self.engine.forget()
        blocks = split_rows(self.num_params, self.tile)
        chosen = blocks if self.part == 1 else blocks[1 :: round(1 / self.part)]
        seconds = self.compute(chosen) * entries(blocks) / entries(chosen)
        return Measurement(seconds, sum(row.num_rows for row in chosen))


def autodiff(case: Case, batches: list[int]) -> dict[str, Way]:
    """The engine for any model and loss, cut into block rows as the planner does."""
    from hessian_tasks.autodiff import AutodiffEngine

    engine = AutodiffEngine(_problem(case, case.dtype))
    # pipeline.run.plan wants about 16 block rows, their side a multiple of 64.
    tile = min(case.num_params, math.ceil(case.num_params / 16 / 64) * 64)
    return {f"tile {tile}": _Autodiff(engine, tile, part=1)}


def layered(case: Case, batches: list[int], devices: DevicePool | None = None) -> dict[str, Way]:
    """The engine for dense networks, cut into block rows as the planner does."""
    from hessian_tasks.layered.engine import LayeredEngine
    from pipeline.run._trial import BLOCK_ROWS_PER_THREAD
    from pipeline.run.plan import Cost, Request, make_plan

    engine = LayeredEngine(_problem(case, case.dtype), devices)
    request = Request(
        num_params=case.num_params,
        itemsize=case.theta.itemsize,
        num_arrays=1,
        num_threads=NUM_THREADS,
        allowed_bytes=2**40,
        num_block_rows=BLOCK_ROWS_PER_THREAD * NUM_THREADS,
        tile_multiple=engine.tile_multiple,
    )
    tile = make_plan(request, Cost(0, 0, 0, 0.0)).tile
    part = 1.0 if case.num_params <= MAX_WHOLE_PARAMS else 0.25
    return {f"tile {tile}": _Layered(engine, tile, part)}

"""The simulation of many workers, against closed forms and bounds of list scheduling."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

FILE = Path(__file__).parents[1] / "benchmarks" / "scaling.py"


def load() -> Any:
    import sys

    spec = importlib.util.spec_from_file_location("scaling", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["scaling"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


scaling = load()

works = st.lists(st.integers(1, 10**9), min_size=1, max_size=60).map(
    lambda sizes: scaling.Work(np.array(sorted(sizes, reverse=True)), 4 * np.array(sizes))
)


@given(works, st.floats(0, 1), st.floats(1e6, 1e9), st.floats(0, 0.1))
def test_one_worker_does_one_thing_after_the_other(
    work: Any, per_block_row: float, bandwidth: float, per_task: float
) -> None:
    model = scaling.Model(1e-7, per_block_row, bandwidth, per_task=per_task, start=3.0)
    number = len(work.entries)
    expected = 3.0 + 1e-7 * work.entries.sum() + work.written.sum() / bandwidth
    expected += number * (per_block_row + per_task)
    assert scaling.simulate(work, model, 1) == pytest.approx(expected, rel=1e-9, abs=1e-4)


@given(works, st.integers(1, 30))
def test_many_workers_stay_within_grahams_bounds(work: Any, num_workers: int) -> None:
    """Graham (1969): total/W and the longest from below, their sum from above."""
    model = scaling.Model(1e-7, 0.1, 1e8)
    seconds = 1e-7 * work.entries + 0.1 + work.written / 1e8
    even, longest = seconds.sum() / num_workers, seconds.max()
    found = scaling.simulate(work, model, num_workers)
    assert max(even, longest) - 1e-4 <= found <= even + longest + 1e-4


@given(works, st.integers(1, 30), st.floats(1e6, 1e9))
def test_a_shared_store_bounds_the_run(work: Any, num_workers: int, bandwidth: float) -> None:
    model = scaling.Model(0.0, 0.0, math.inf, bandwidth)
    expected = work.written.sum() / bandwidth
    # Nothing but writing, and that is never idle before the end.
    assert scaling.simulate(work, model, num_workers) == pytest.approx(expected, rel=1e-9, abs=1e-3)


def test_work_is_that_of_the_plan() -> None:
    plan = scaling.plan_for(10_000, 4, 100)
    work = scaling.Work.of(plan)
    assert work.written.sum() == plan.stored_bytes
    # The upper triangle, and the lower halves of the diagonal tiles.
    rows = np.array([row.num_rows for row in plan.block_rows])
    assert work.entries.sum() == (10_000**2 + (rows**2).sum()) // 2

"""The layered engine's products compiled by XLA, against those in NumPy, device by device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from hessian_tasks.devices import DevicePool
from hessian_tasks.frozen import FrozenInputs
from hessian_tasks.layered.engine import LayeredEngine
from hessian_tasks.layered.xla import compiled
from hessian_tasks.problem import Problem
from hessian_tasks.problems import burgers, classification, kovasznay, poisson
from hessian_tasks.spec import BlockRow
from pipeline.run import engines
from pipeline.run.engines import choose_engine, uses_numpy
from pipeline.store.store import HessianStore
from tests.helpers.chosen import some_slow
from tests.helpers.networks import draw_problem
from tests.layered.test_engine import of

SECOND = "/device:CPU:1"

# XLA compiles this one in seconds; some take half a minute.
SEEDS = some_slow(range(30), [0])


def assert_equals_numpy(problem: Problem, row: BlockRow, tolerance: float) -> None:
    expected = LayeredEngine(problem).block_row(row)
    found = LayeredEngine(problem, DevicePool([SECOND])).block_row(row)
    assert found.dtype == expected.dtype
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("seed", SEEDS)
def test_equals_numpy_on_random_networks(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    problem = draw_problem(np.random.default_rng(seed), "float64")
    # So small that there are several batches, the last of them padded.
    monkeypatch.setattr(compiled, "BATCH_BYTES", 8 * int(rng.integers(1, 2000)))
    num_params = LayeredEngine(problem).layout.num_params
    start, stop = sorted(rng.choice(num_params + 1, 2, replace=False).tolist())
    for row in (BlockRow(0, 0, num_params), BlockRow(0, start, stop)):
        # The same sums in another order, in float64.
        assert_equals_numpy(problem, row, 1e-12)


@pytest.mark.parametrize(
    ("build", "sizes"),
    some_slow(
        [
            (poisson, (5, 2, 9, 7)),
            (burgers, (4, 3, 9, 7)),
            (kovasznay, (4, 2, 9, 7)),
            (classification, (4, 2, 12)),
        ],
        [classification],
    ),
    ids=["poisson", "burgers", "kovasznay", "classification"],
)
def test_equals_numpy_on_built_in_problems(build: Any, sizes: tuple[int, ...]) -> None:
    problem = of(build.problem(*sizes, dtype="float64"))
    num_params = LayeredEngine(problem).layout.num_params
    assert_equals_numpy(problem, BlockRow(0, 3, num_params - 2), 1e-12)


def test_equals_numpy_in_float32() -> None:
    # Both round; some ten ulp of the largest entry.
    problem = of(poisson.problem(6, 2, 40, 30))
    assert_equals_numpy(problem, BlockRow(0, 0, 73), 2e-6)


def test_computes_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = set()
    multiply = tf.matmul

    def watched(*factors: Any, **options: Any) -> Any:
        product = multiply(*factors, **options)
        if tf.executing_eagerly():
            devices.add(product.device)
        return product

    monkeypatch.setattr(tf, "matmul", watched)
    engine = LayeredEngine(of(poisson.problem(3, 1, 4, 3)), DevicePool([SECOND]))
    engine.block_row(BlockRow(0, 0, 4))
    assert len(devices) == 1
    assert devices.pop().endswith(SECOND)


def test_runs_use_a_gpu_where_there_is_one(
    tmp_path: Path, inputs: FrozenInputs, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "numpy.zarr", inputs)
    monkeypatch.setattr(engines, "gpu_names", lambda: [SECOND])
    engine, choice = choose_engine(of(poisson.problem(3, 1, 4, 3)), "auto")
    assert choice.name == "layered"
    assert not uses_numpy(engine)
    run(tmp_path / "device.zarr", inputs)
    stores = [HessianStore(tmp_path / name) for name in ("numpy.zarr", "device.zarr")]
    expected, found = (store.read(store.hessian().basename) for store in stores)
    assert np.abs(found - expected).max() <= 1e-12 * np.abs(expected).max()

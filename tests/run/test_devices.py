"""Block rows on several devices of one process; TensorFlow's logical CPUs stand for GPUs."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from hessian_tasks.autodiff import AutodiffEngine
from hessian_tasks.autodiff.matrices import AutodiffJacobian
from hessian_tasks.devices import DevicePool
from hessian_tasks.errors import NotLayeredError
from hessian_tasks.frozen import FrozenInputs
from hessian_tasks.problems import poisson
from hessian_tasks.spec import BlockRow, EngineName
from pipeline.run import engines
from pipeline.run.engines import choose_engine
from pipeline.run.events import Event, RunStarted
from pipeline.store.store import HessianStore
from tests.helpers.runs import WAIT, Run
from tests.layered.test_engine import of

DEVICES = ["/device:CPU:0", "/device:CPU:1"]


class Watch:
    """When which device was taken during a run; a callback of the run.

    The first block row on each device waits for that on the other, so that they are at once.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.spans: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self.started = False
        self.both = threading.Barrier(len(DEVICES), timeout=WAIT)
        take = DevicePool.take

        @contextmanager
        def watched(pool: DevicePool) -> Iterator[str | None]:
            with take(pool) as device:
                since = time.perf_counter()
                if self.started and device is not None and device not in self.met:
                    self.met.add(device)
                    self.both.wait()
                yield device
                if self.started and device is not None:
                    self.spans[device].append((since, time.perf_counter()))

        self.met: set[str] = set()
        monkeypatch.setattr(DevicePool, "take", watched)

    def __call__(self, event: Event) -> None:
        self.started = self.started or isinstance(event, RunStarted)

    def overlaps(self, device: str) -> bool:
        """Whether it was ever taken twice at the same time."""
        spans = sorted(self.spans[device])
        return any(second[0] < first[1] for first, second in pairwise(spans))


def refuse(*_: Any) -> None:
    raise NotLayeredError("asked to")


@pytest.mark.parametrize("engine", ["autodiff", "layered", "ggn"])
def test_a_run_uses_all_devices_and_each_for_one_block_row_at_a_time(
    engine: EngineName,
    tmp_path: Path,
    run: Run,
    inputs: FrozenInputs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # By layers the Jacobians are NumPy's.
    monkeypatch.setattr(engines, "layered_matrices", refuse)
    run(tmp_path / "one.zarr", inputs, tile=5, engine=engine)
    monkeypatch.setattr(engines, "gpu_names", lambda: DEVICES)
    watch = Watch(monkeypatch)
    run(tmp_path / "two.zarr", inputs, [watch], tile=5, engine=engine, num_threads=4)
    assert set(watch.spans) == set(DEVICES)
    assert sum(map(len, watch.spans.values())) >= 8  # P = 37
    assert not any(watch.overlaps(device) for device in DEVICES)
    one, two = (HessianStore(tmp_path / name) for name in ("one.zarr", "two.zarr"))
    expected, found = (store.read(store.matrix.name) for store in (one, two))
    # By layers these are the same sums in another order.
    assert np.abs(found - expected).max() <= 1e-12 * np.abs(expected).max()


@pytest.mark.parametrize("engine", ["autodiff", "layered"])
def test_a_block_row_is_stored_while_the_device_computes_another(
    engine: EngineName,
    tmp_path: Path,
    run: Run,
    inputs: FrozenInputs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engines, "gpu_names", lambda: DEVICES[1:])
    takers: list[int] = []
    changed, first = threading.Condition(), threading.Lock()
    take, write = DevicePool.take, HessianStore.write_block_row

    @contextmanager
    def watched(pool: DevicePool) -> Iterator[str | None]:
        with take(pool) as device:
            with changed:
                takers.append(threading.get_ident())
                changed.notify_all()
            yield device

    def taken_since() -> bool:
        """Whether another thread has had the only device since this one gave it back."""
        own = threading.get_ident()
        last = len(takers) - 1 - takers[::-1].index(own)
        return len(takers) > last + 1

    def held(*arguments: Any) -> Any:
        if first.acquire(blocking=False):
            # The first block row is not stored before that.
            with changed:
                assert changed.wait_for(taken_since, WAIT)
        return write(*arguments)

    monkeypatch.setattr(DevicePool, "take", watched)
    monkeypatch.setattr(HessianStore, "write_block_row", held)
    run(tmp_path / "h.zarr", inputs, tile=5, engine=engine, num_threads=2)
    assert HessianStore(tmp_path / "h.zarr").pending() == []


@pytest.mark.parametrize(
    ("kind", "owner"), [("autodiff", AutodiffEngine), ("ggn", AutodiffJacobian)]
)
def test_tensorflow_computes_on_the_device(
    kind: EngineName, owner: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices: list[str] = []
    compiled: Any = owner._compile  # type: ignore[attr-defined]

    def watched(*arguments: Any) -> Any:
        function = compiled(*arguments)

        def call(*bounds: Any, **options: Any) -> Any:
            found = function(*bounds, **options)
            devices.extend(tensor.device for tensor in tf.nest.flatten(found))
            return found

        return call

    monkeypatch.setattr(engines, "layered_matrices", refuse)
    monkeypatch.setattr(engines, "gpu_names", lambda: DEVICES[1:])
    monkeypatch.setattr(owner, "_compile", watched)
    engine, _ = choose_engine(of(poisson.problem(3, 1, 4, 3)), kind)
    engine.block_row(BlockRow(0, 0, 4))
    assert devices
    assert all(device.endswith(DEVICES[1]) for device in devices)


def test_a_device_is_given_back_after_a_failure() -> None:
    pool = DevicePool(["GPU:0"])
    with pytest.raises(ValueError, match="full"), pool.take():
        raise ValueError("full")
    with pool.take() as again:
        assert again == "GPU:0"

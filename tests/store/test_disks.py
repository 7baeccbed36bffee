"""Disks that are full, too small, or read-only: one clear message, and a store that goes on."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hessian_tasks.frozen import FrozenInputs
from pipeline.api import open_hessian, verify_hessian
from pipeline.errors import PlanError, StoreError
from pipeline.run.events import RunStarted
from pipeline.store.store import HessianStore
from tests.helpers.runs import Run, computed, fill, intact, litter, objects, snapshot


def test_full_disk_is_one_clear_message_and_the_run_goes_on(
    small_disk: Callable[[str], Path], complete: Path, run: Run, inputs: FrozenInputs
) -> None:
    disk = small_disk("size=4m")
    path = disk / "h.zarr"

    def tell(event: Any) -> None:
        if isinstance(event, RunStarted):
            fill(disk, leave=24 * 4096)

    with pytest.raises(StoreError, match=r"Cannot write to .*h\.zarr: the disk is full"):
        run(path, inputs, [tell], tile=5)
    stored = set(HessianStore(path).records())
    assert len(stored) < 8
    assert intact(path)
    open_hessian(path)
    (disk / "ballast").unlink()
    assert computed(run(path, inputs)) == sorted(set(range(8)) - stored)
    assert objects(path) == objects(complete)
    assert litter(path) == []


def test_disk_too_small_for_the_arrays_is_refused_at_once(
    small_disk: Callable[[str], Path], run: Run, inputs: FrozenInputs
) -> None:
    disk = small_disk("size=8k")
    with pytest.raises(PlanError, match=r"take up to 10\.7 KiB, but only 8 KiB are free"):
        run(disk / "h.zarr", inputs)
    assert list(disk.iterdir()) == []


def test_disk_too_small_for_the_template_leaves_nothing_behind(
    small_disk: Callable[[str], Path], run: Run, inputs: FrozenInputs
) -> None:
    disk = small_disk("size=24k")
    with pytest.raises(StoreError, match="the disk is full"):
        run(disk / "h.zarr", inputs)
    assert list(disk.iterdir()) == []


def test_read_only_store_is_left_alone(
    small_disk: Callable[[str], Path], complete: Path, run: Run, inputs: FrozenInputs
) -> None:
    disk = small_disk("size=4m")
    path = Path(shutil.copytree(complete, disk / "h.zarr"))
    shutil.rmtree(path / "records" / "000001")
    before = snapshot(path)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(StoreError, match="the file system is read-only"):
        run(path, inputs)
    with pytest.raises(StoreError, match="the file system is read-only"):
        verify_hessian(path)
    with pytest.raises(StoreError, match="the file system is read-only"):
        run(disk / "other.zarr", inputs)
    assert snapshot(path) == before

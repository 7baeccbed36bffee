"""Runs that are killed, again and again: what is stored is sound, and resumes to the same bytes."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from hessian_tasks.frozen import FrozenInputs
from pipeline.api import open_hessian
from pipeline.store.store import HessianStore
from tests.helpers.runs import Run, computed, intact, litter, objects, run_and_kill


def record_files(path: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of every completion record."""
    files = path.glob("records/*/zarr.json")
    return {p.parent.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


def check_killed(path: Path, before: dict[str, tuple[bytes, int]]) -> None:
    """Old records are untouched, and all records, old and new, imply sound data."""
    after = record_files(path)
    assert before.items() <= after.items()
    killed = HessianStore(path)
    assert {f"{index:06d}" for index in killed.records()} == set(after)
    assert intact(path)
    hessian = open_hessian(path).hessian.to_numpy()
    for row in killed.records().values():
        assert np.isfinite(hessian[row.row.start : row.row.stop, row.row.start :]).all()


@pytest.mark.parametrize("num_kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_runs_resume_to_the_same_bytes(
    num_kills: int, tmp_path: Path, run: Run, inputs: FrozenInputs
) -> None:
    run(tmp_path / "undisturbed.zarr", inputs, tile=2)
    undisturbed = objects(tmp_path / "undisturbed.zarr")
    rng = random.Random(20)
    kills, stores = 0, 0
    while kills < num_kills:
        stores += 1
        path = tmp_path / f"{stores}.zarr"
        killed = True
        while killed and kills < num_kills:
            before = record_files(path)
            killed = run_and_kill(path, inputs, rng)
            kills += killed
            check_killed(path, before)
        stored = set(record_files(path))
        missing = [i for i in range(19) if f"{i:06d}" not in stored]
        assert computed(run(path, inputs)) == missing
        assert objects(path) == undisturbed
        assert litter(path) == []

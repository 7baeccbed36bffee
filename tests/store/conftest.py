"""Stores: what is written, read, damaged, shared, hostile, and in buckets."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hessian_tasks.frozen import FrozenInputs
from tests.helpers.runs import Run


@pytest.fixture(scope="session")
def complete(tmp_path_factory: pytest.TempPathFactory, run: Run, inputs: FrozenInputs) -> Path:
    """A complete store with 8 block rows in tiles of side 5. Copy it to change it."""
    path = tmp_path_factory.mktemp("complete") / "h.zarr"
    run(path, inputs, tile=5)
    return path


@pytest.fixture
def store(complete: Path, tmp_path: Path) -> Path:
    """A copy of the complete store."""
    return Path(shutil.copytree(complete, tmp_path / "h.zarr"))

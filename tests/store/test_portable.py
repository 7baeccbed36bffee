"""Stores are read where there are no POSIX locks, and not written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline import open_hessian
from tests.helpers.runs import ROOT, snapshot

# Without what Linux has and Windows has not; what we import imports some of it on Linux, first.
ELSEWHERE = """
import json, os, sys
import psutil
del os.sched_getaffinity
sys.modules["fcntl"] = sys.modules["resource"] = None
"""
COMMANDS = f"""{ELSEWHERE}
from pipeline import cli
for command in json.loads(sys.argv[1]):
    sys.argv = ["hessian", *command]
    try:
        cli.main()
    except SystemExit as left:
        if left.code:
            raise
"""
LOCK = f"""{ELSEWHERE}
from pipeline.errors import StoreError
from pipeline.store.places import locate
try:
    with locate(sys.argv[1]).locked():
        print("locked")
except StoreError as error:
    sys.exit(str(error))
"""


def elsewhere(*commands: list[object]) -> subprocess.CompletedProcess[str]:
    """Run commands in one process, up to the first that fails."""
    given = json.dumps([[*map(str, command)] for command in commands])
    return process(COMMANDS, given)


def process(*code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", *code]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_stores_are_read_where_there_are_no_locks(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "h.npy"
    done = elsewhere(["info", store], ["spectrum", store], ["export", store, out])
    assert done.returncode == 0, done.stderr
    assert "numerical rank" in done.stdout
    np.testing.assert_array_equal(np.load(out), open_hessian(store).hessian)


def test_no_lock_is_taken_where_there_are_none(store: Path) -> None:
    before = snapshot(store.parent)
    done = process(LOCK, str(store))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Stores in directories are written only where")
    assert snapshot(store.parent) == before


@pytest.mark.slow
def test_stores_are_not_written_where_there_are_no_locks(store: Path) -> None:
    (store / "records" / "000003" / "zarr.json").unlink()
    before = snapshot(store.parent)
    done = elsewhere(["run", "--store", store])
    assert done.returncode == 1
    assert done.stderr.startswith("hessian: Stores in directories are written only where")
    assert done.stderr.count("\n") == 1
    assert snapshot(store.parent) == before

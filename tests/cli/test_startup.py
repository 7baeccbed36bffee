"""What commands import before they answer: seconds that nobody need wait for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hessian_tasks.frozen import FrozenInputs
from tests.helpers.runs import Run

# Runs commands one after the other, and says which of some modules they have imported.
SCRIPT = """
import sys
wanted, *commands = sys.argv[1:]
from pipeline.cli import main
for command in commands:
    sys.argv = ["hessian", *command.split()]
    try:
        main()
    except SystemExit as end:
        assert not end.code, command
print(*sorted(set(wanted.split()) & set(sys.modules)), file=sys.stderr)
"""
DASK = "dask distributed xarray"
NUMBERS = f"{DASK} tensorflow keras pandas matplotlib"


def imported(wanted: str, *commands: str) -> list[str]:
    """Which of these modules commands import."""
    process = [sys.executable, "-c", SCRIPT, wanted, *commands]
    done = subprocess.run(process, check=True, capture_output=True, text=True)
    return done.stderr.splitlines()[-1].split()


@pytest.mark.parametrize(
    ("command", "unneeded"),
    [("info", f"{NUMBERS} scipy"), ("status", f"{NUMBERS} scipy"), ("spectrum", NUMBERS)],
)
def test_what_reads_a_store_imports_what_it_needs(
    command: str, unneeded: str, tmp_path: Path, run: Run, inputs: FrozenInputs
) -> None:
    run(tmp_path / "h.zarr", inputs)
    assert imported(f"{unneeded} zarr", f"{command} {tmp_path / 'h.zarr'}") == ["zarr"]


def test_threads_need_no_dask(tmp_path: Path) -> None:
    store = tmp_path / "h.zarr"
    run = f"run poisson -o width=3 -o depth=1 -o num_interior=6 --store {store}"
    assert imported(f"{DASK} tensorflow", run, f"verify {store}") == ["tensorflow"]

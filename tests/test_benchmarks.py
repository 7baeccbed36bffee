"""Benchmarks that run on machines which are not here, or whose tables are held against a bound."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # dataclasses look their module up
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec.loader.exec_module(module)
    return module


def test_what_is_computed_first_of_a_large_matrix_is_spread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order = load("gpu", monkeypatch)._spread_first(200)
    assert sorted(order) == list(range(200))
    # Entries of block rows fall linearly: a few of them have their mean, within a tenth.
    for count in (10, 30, 100):
        assert np.mean(order[:count]) == pytest.approx(99.5, rel=0.1)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_script_for_a_gpu_runs_without_one(tmp_path: Path) -> None:
    command = [sys.executable, FOLDER / "gpu.py", "--widths", "4", "6", "--directory", tmp_path]
    done = subprocess.run(
        [*command, "--seconds", "1200"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "no GPU was found: the compiled path runs on the processor"
    compared = [line for line in lines if line.startswith("compiled against NumPy, width 4")]
    assert len(compared) == 2
    assert "WRONG" not in done.stdout
    head = next(n for n, line in enumerate(lines) if line.startswith("width"))
    rows = [line.split() for line in lines[head + 1 : head + 3]]
    assert [row[:2] for row in rows] == [["4", "57"], ["6", "109"]]
    # Small enough to be computed whole, and stored.
    assert "from" not in "".join(lines[head:])
    assert all("times" in row for row in rows)
    assert list(tmp_path.iterdir()) == []
    left_out = [line for line in lines if line.startswith("left out: ")]
    assert all("JAX" in line for line in left_out)


@pytest.mark.slow
def test_forms_are_the_same_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose times are compared: the same points, P, streams, and for most the same matrix."""
    overheads = load("overheads", monkeypatch)
    found = {form.name: form for form in overheads.measure(6, 20, 2)}
    plain = found["plain"]
    assert all(form.chosen.startswith("layered") for form in found.values())
    assert all(len(form.seconds) == 2 for form in found.values())
    sizes = {name: form.num_params for name, form in found.items()}
    assert sizes.pop("two networks") == 2 * 57
    assert sizes.pop("unknown parameter") == plain.num_params + 1
    assert set(sizes.values()) == {plain.num_params}
    assert overheads.ratios(plain, plain) == [1.0, 1.0]

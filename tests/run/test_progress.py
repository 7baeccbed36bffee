"""The bar of a run, away from notebooks: on a terminal, and where there is none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hessian_tasks.frozen import FrozenInputs
from pipeline.run.progress import ProgressBar
from tests.helpers.runs import Run


def test_a_terminal_has_one_line(
    tmp_path: Path,
    run: Run,
    inputs: FrozenInputs,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run(tmp_path / "h.zarr", inputs, [ProgressBar()], tile=13, executor="serial")
    lines = capsys.readouterr().err.split("\r\033[K")[1:]
    # P = 37: entries of block rows are 13 x 37, 13 x 24, 11 x 11, of 914.
    expected = ["0%  0 of 3", "53%  1 of 3", "87%  2 of 3", "100%  3 of 3", "100%  computed 3"]
    assert all(f"{w} block rows" in line for w, line in zip(expected, lines, strict=True))
    assert "".join(lines).count("\n") == 1


def test_elsewhere_only_the_end_is_written(
    tmp_path: Path, run: Run, inputs: FrozenInputs, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "h.zarr", inputs, [ProgressBar()], tile=13)
    assert capsys.readouterr().err.count("\n") == 1
    run(tmp_path / "h.zarr", inputs, [ProgressBar()])
    assert "100%  computed 0 block rows" in capsys.readouterr().err

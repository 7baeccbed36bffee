"""The bar of a run, away from notebooks: on a terminal, and where there is none."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hessian_tasks.frozen import FrozenInputs
from pipeline.run.events import BlockRowStored, Event, RunStarted
from pipeline.run.progress import ProgressBar
from tests.helpers.runs import Run

# P = 37: entries of block rows are 13 x 37, 13 x 24, 11 x 11, of 914.
FILLED = [0.0, 481 / 914, 793 / 914, 1.0, 1.0]


@contextmanager
def terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Standard error is a terminal so wide; what was written to it is there when this is left."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    written: list[str] = []
    try:
        with os.fdopen(theirs, "w", encoding="utf-8") as stream, monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stream)
            yield written
            # What was written is lost when this side is closed; a zero ends what is read.
            stream.write("\0")
            stream.flush()
            read = b""
            while not read.endswith(b"\0"):
                read += os.read(ours, 2**16)
        written.append(read[:-1].decode())
    finally:
        os.close(ours)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (120, r"\d of 3 block rows(, [\d.]+ M entries/s, .* left)?, [\d.]+ [MG]iB"),
        (80, r"\d of 3 block rows(, [\d.]+ M entries/s, .* left)?, [\d.]+ [MG]iB"),
        (40, r"\d of 3( block rows)?(, .* left)?"),
        (20, r"\d of 3"),
    ],
)
def test_a_terminal_has_one_line_that_fits(
    columns: int,
    said: str,
    tmp_path: Path,
    run: Run,
    inputs: FrozenInputs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with terminal(columns, monkeypatch) as written:
        run(tmp_path / "h.zarr", inputs, [ProgressBar()], tile=13, executor="serial")
    first, *lines = written[0].split("\r\x1b[K")
    assert first == ""
    assert "".join(lines).count("\n") == 1
    assert lines[-1].endswith("\n")
    # The last may be broken, since nothing takes its place.
    assert all(len(line) < columns for line in lines[:-1])
    assert len(lines) == len(FILLED)
    for done, line in zip(FILLED, lines, strict=True):
        bar, percent, note = re.fullmatch(r"(?:([█░]+) +(\d+%)  )?(.*?)\s*", line).groups()  # type: ignore[union-attr]
        if bar:
            assert 10 <= len(bar) <= 30
            assert bar.count("█") == int(len(bar) * done)
            assert percent == f"{done:.0%}"
        assert re.fullmatch(said, note) or re.match("computed 3 block rows in .*, checked", note)
    assert lines[0].startswith("░") == (columns >= 40)


def test_a_run_that_fails_leaves_the_next_line_to_others(
    tmp_path: Path, run: Run, inputs: FrozenInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(event: Event) -> None:
        if isinstance(event, BlockRowStored):
            raise KeyboardInterrupt

    with terminal(80, monkeypatch) as written:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "h.zarr", inputs, [ProgressBar(), fail], tile=13, executor="serial")
        sys.stderr.write("Traceback")
    assert re.search(r"53%  1 of 3 .*iB\r?\nTraceback$", written[0])


def test_elsewhere_only_the_end_is_written(
    tmp_path: Path, run: Run, inputs: FrozenInputs, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "h.zarr", inputs, [ProgressBar()], tile=13)
    assert capsys.readouterr().err.count("\n") == 1
    run(tmp_path / "h.zarr", inputs, [ProgressBar()])
    assert "100%  computed 0 block rows" in capsys.readouterr().err


def test_printed_events_are_short(tmp_path: Path, run: Run, inputs: FrozenInputs) -> None:
    started, *stored, finished = run(tmp_path / "h.zarr", inputs, tile=13, executor="serial")
    assert isinstance(started, RunStarted)
    assert str(started) == "RunStarted(3 of 3 block rows to compute)"
    rows = ["0: rows 0 to 13", "1: rows 13 to 26", "2: rows 26 to 37"]
    assert [str(event).rpartition(", ")[0] for event in stored] == [
        f"BlockRowStored({row}" for row in rows
    ]
    assert all(len(f"{event!r}") < 300 for event in (started, *stored, finished))

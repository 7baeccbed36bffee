"""What a run shows on a terminal and in a log."""

import io

import pytest
from rich.console import Console

from hessian_tasks.spec import BlockRow
from pipeline.cli import _progress as progress
from pipeline.cli._progress import LossDisplay, ProgressDisplay
from pipeline.run.events import BlockRowStored, RunFinished, RunStarted
from pipeline.run.plan import Cost, Request, make_plan
from pipeline.store.records import BlockRecord

PLAN = make_plan(Request(100, 8, 1, 2, 2**30, tile=25), Cost(0, 0, 0, 0.01))


def stored(row: BlockRow) -> BlockRowStored:
    return BlockRowStored(BlockRecord(row, {}, {}, "autodiff", 1.0, 0.1, 2**20))


def show(events: list[object], *, terminal: bool) -> str:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=120, highlight=False)
    display = ProgressDisplay(console)
    for event in events:
        display(event)  # type: ignore[arg-type]
    return text.getvalue()


def test_log_lines_count_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOG_INTERVAL_SECONDS", 0.0)
    rows = PLAN.block_rows
    started = RunStarted(PLAN, tuple(rows[2:]), resumed=True, startup_seconds=1.0)
    finished = RunFinished(75.0, num_computed=2, peak_bytes=2**30)
    lines = show([started, stored(rows[2]), stored(rows[3]), finished], terminal=False).splitlines()
    assert lines[0] == "resuming: 2 of 4 block rows are stored"
    assert lines[1].startswith("3 of 4 block rows, ")
    # The rows that an earlier run has stored count neither as done by this one nor as left.
    assert "4 of 4 block rows, " in lines[2]
    assert " 0 s left, " in lines[2]
    assert lines[3:] == ["computed 2 of 4 block rows in 1 min 15 s, peak memory 1 GiB"]


def test_bar_is_drawn_on_a_terminal_and_taken_away() -> None:
    rows = PLAN.block_rows
    started = RunStarted(PLAN, tuple(rows), resumed=False, startup_seconds=1.0)
    finished = RunFinished(2.0, num_computed=4, peak_bytes=2**20)
    text = show([started, *map(stored, rows), finished], terminal=True)
    assert "computing" in text
    assert text.rstrip().endswith("computed 4 of 4 block rows in 2.0 s, peak memory 1 MiB")


def test_losses_are_shown_now_and_then() -> None:
    text = io.StringIO()
    display = LossDisplay(Console(file=text))
    for phase, count in (("adam", 1000), ("levenberg-marquardt", 12)):
        for step in range(1, count + 1):
            display(phase, step, 1.0 / step)
    assert text.getvalue().splitlines() == [
        "adam   step     1  loss 1.000e+00",
        "adam   step   500  loss 2.000e-03",
        "adam   step  1000  loss 1.000e-03",
        "levenberg-marquardt step     1  loss 1.000e+00",
        "levenberg-marquardt step    10  loss 1.000e-01",
    ]

"""How far a run has come, and a bar that shows it in a notebook or on a terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from hessian_tasks.process import resident_bytes
from pipeline.run.events import BlockRowStored, Callback, Event, RunFinished, RunStarted
from pipeline.units import format_bytes, format_seconds

__all__ = ["ProgressBar", "Tally", "who_listens"]

MIN_BAR, MAX_BAR = 10, 30
# Where nothing says how wide lines are, as in notebooks.
COLUMNS = 100


class Tally:
    """Counts what is computed: entries, since block rows get shorter.

    That of block row ``[a, b)`` is ``(b - a)(P - a)``.

    Attributes:
        total: Entries that the run is to compute.
        computed: Entries that it has.
    """

    def __init__(self, event: RunStarted) -> None:
        """Nothing is computed yet."""
        self._num_params = event.plan.request.num_params
        self._num_rows, self._rows = event.plan.num_block_rows, event.num_stored
        self._started = time.perf_counter()
        self.total = sum(row.num_rows * (self._num_params - row.start) for row in event.pending)
        self.computed = 0

    def add(self, event: BlockRowStored) -> None:
        """Count a block row."""
        row = event.record.row
        self._rows += 1
        self.computed += row.num_rows * (self._num_params - row.start)

    def __str__(self) -> str:
        """Block rows, rate, time left and memory."""
        return self.notes()[0]

    def notes(self) -> list[str]:
        """The same in ever fewer words, for lines that are short."""
        rate = self.computed / (time.perf_counter() - self._started)
        speed = left = ""
        if rate:
            speed = f", {rate / 1e6:.2f} M entries/s"
            left = f", {format_seconds((self.total - self.computed) / rate)} left"
        counted = f"{self._rows} of {self._num_rows}"
        return [
            f"{counted} block rows{speed}{left}, {format_bytes(resident_bytes())}",
            f"{counted} block rows{left}",
            f"{counted}{left}",
            counted,
        ]


class ProgressBar:
    """A callback that shows the progress of a run in one line.

    In a notebook it is the line of the cell that runs, on a terminal the last one, which says less
    where it is narrow. Where standard error is neither, as in a batch job, only what is found at
    the end is written.

    Example:
        >>> import tempfile
        >>> from pipeline import compute_hessian, load_problem
        >>> small = load_problem("regression", width=2, depth=1, num_samples=5)
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     h = compute_hessian(small, f"{directory}/h.zarr", callbacks=[ProgressBar()])
        ...     int(h.hessian.sizes["row"])
        7
    """

    def __init__(self) -> None:
        """Show nothing yet."""
        self._line: _Notebook | _Terminal | None = None
        self._tally: Tally | None = None

    def __call__(self, event: Event) -> None:
        """Show an event of the run."""
        if isinstance(event, RunStarted):
            self._tally = Tally(event)
            self._line = _notebook_line() or _Terminal()
            self._show(self._tally.notes())
        elif isinstance(event, BlockRowStored):
            assert self._tally is not None
            self._tally.add(event)
            self._show(self._tally.notes())
        else:
            self._show(_summary(event), last=True)

    def run_ended(self) -> None:
        """End the line, whatever ended the run: what is written next has its own."""
        if self._line is not None:
            self._line.end()

    def _show(self, notes: list[str], last: bool = False) -> None:
        tally, line = self._tally, self._line
        assert tally is not None
        assert line is not None
        done = tally.computed / tally.total if tally.total else 1.0
        line.write(_fitted(done, notes, line.columns), last)


def _summary(event: RunFinished) -> list[str]:
    check = event.self_check
    computed = f"computed {event.num_computed} block rows in {format_seconds(event.seconds)}"
    return [computed if check is None else f"{computed}, checked: error {check.error:.1e}"]


def _fitted(done: float, notes: list[str], columns: int) -> str:
    """A bar and the longest of some notes that fit into one line; the last one alone otherwise."""
    for note in notes:
        room = columns - len(f" {done:4.0%}  {note}")
        if room >= MIN_BAR:
            width = min(MAX_BAR, room)
            filled = int(width * done)
            return f"{'█' * filled}{'░' * (width - filled)} {done:4.0%}  {note}"
    return notes[-1]


class _Terminal:
    """The last line of a terminal, which is written again and again."""

    def __init__(self) -> None:
        self._open = False

    @property
    def columns(self) -> int:
        """How wide a line may be now: windows change, and a full one is broken."""
        try:
            return (os.get_terminal_size(sys.stderr.fileno()).columns or COLUMNS) - 1
        except (OSError, ValueError):
            return COLUMNS

    def write(self, text: str, last: bool) -> None:
        on_terminal = sys.stderr.isatty()
        if on_terminal or last:
            sys.stderr.write(f"\r\033[K{text}" if on_terminal else text)
            sys.stderr.flush()
            self._open = True
        if last:
            self.end()

    def end(self) -> None:
        if self._open:
            sys.stderr.write("\n")
            sys.stderr.flush()
            self._open = False


class _Notebook:
    """The output of a notebook's cell, which is replaced again and again."""

    def __init__(self, display: Any) -> None:
        # Widgets would need a package in the browser's server as well; this needs none.
        self._handle = display({"text/plain": ""}, raw=True, display_id=True)

    columns = COLUMNS

    def write(self, text: str, last: bool) -> None:
        self._handle.update({"text/plain": text}, raw=True)

    def end(self) -> None:
        pass  # a notebook ends the lines of outputs itself


def _notebook_line() -> _Notebook | None:
    """The line of the cell that runs, if this process is a notebook's."""
    return _Notebook(sys.modules["IPython.display"].display) if _in_notebook() else None


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


def who_listens(callbacks: Sequence[Callback] | None) -> Sequence[Callback]:
    """The callbacks that are given, or where none are said a bar in notebooks.

    Example:
        >>> who_listens(None), who_listens([print])
        ((), [<built-in function print>])
    """
    if callbacks is not None:
        return callbacks
    return (ProgressBar(),) if _in_notebook() else ()

"""How far a run has come, and a bar that shows it in a notebook or on a terminal."""

from __future__ import annotations

import sys
import time
from typing import Any

from hessian_tasks.process import resident_bytes
from pipeline.run.events import BlockRowStored, Event, RunFinished, RunStarted
from pipeline.units import format_bytes, format_seconds

__all__ = ["ProgressBar", "Tally"]

BAR_WIDTH = 30


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
        rate = self.computed / (time.perf_counter() - self._started)
        left = f", {format_seconds((self.total - self.computed) / rate)} left" if rate else ""
        return (
            f"{self._rows} of {self._num_rows} block rows, {rate / 1e6:.2f} M entries/s{left}, "
            f"{format_bytes(resident_bytes())}"
        )


class ProgressBar:
    """A callback that shows the progress of a run in one line.

    In a notebook it is the line of the cell that runs, on a terminal the last one. Where standard
    error is neither, as in a batch job, only what is found at the end is written.

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
        self._line: Any = None
        self._tally: Tally | None = None

    def __call__(self, event: Event) -> None:
        """Show an event of the run."""
        if isinstance(event, RunStarted):
            self._tally = Tally(event)
            self._line = _notebook_line() or _Terminal()
            self._show(str(self._tally))
        elif isinstance(event, BlockRowStored):
            assert self._tally is not None
            self._tally.add(event)
            self._show(str(self._tally))
        else:
            self._show(_summary(event), last=True)

    def _show(self, note: str, last: bool = False) -> None:
        tally = self._tally
        assert tally is not None
        done = tally.computed / tally.total if tally.total else 1.0
        filled = int(BAR_WIDTH * done)
        bar = "█" * filled + "░" * (BAR_WIDTH - filled)
        self._line.write(f"{bar} {done:4.0%}  {note}", last)


def _summary(event: RunFinished) -> str:
    check = event.self_check
    checked = "" if check is None else f", checked: error {check.error:.1e}"
    return f"computed {event.num_computed} block rows in {format_seconds(event.seconds)}{checked}"


class _Terminal:
    """The last line of a terminal, which is written again and again."""

    def write(self, text: str, last: bool) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\033[K{text}" + "\n" * last)
        elif last:
            sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


class _Notebook:
    """The output of a notebook's cell, which is replaced again and again."""

    def __init__(self, display: Any) -> None:
        # Widgets would need a package in the browser's server as well; this needs none.
        self._handle = display({"text/plain": ""}, raw=True, display_id=True)

    def write(self, text: str, last: bool) -> None:
        self._handle.update({"text/plain": text}, raw=True)


def _notebook_line() -> _Notebook | None:
    """The line of the cell that runs, if this process is a notebook's."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    return _Notebook(sys.modules["IPython.display"].display)

"""How a run shows its progress: a live bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from pipeline.run.events import BlockRowStored, Event, RunFinished, RunStarted
from pipeline.run.progress import Tally
from pipeline.units import format_bytes, format_seconds

__all__ = ["LossDisplay", "ProgressDisplay"]

LOG_INTERVAL_SECONDS = 10.0
# A step of Levenberg-Marquardt takes and gains as much as some hundred of the others.
STEPS_BETWEEN = {"levenberg-marquardt": 10}


class ProgressDisplay:
    """A callback that draws the progress of a run."""

    def __init__(self, console: Console) -> None:
        """Draw on ``console``, which decides between bar and lines."""
        self._console = console
        self._bar = Progress(
            TextColumn("computing"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:3.0f} %  {task.fields[note]}"),
            console=console,
            transient=True,
        )
        self._task = TaskID(0)
        self._last_log = 0.0
        self._num_rows = 0

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if isinstance(event, RunStarted):
            self._start(event)
        elif isinstance(event, BlockRowStored):
            self._advance(event)
        else:
            self._finish(event)

    def close(self) -> None:
        """Restore the terminal; safe to call at any time."""
        # Stopping a bar that was never started prints an empty line.
        if self._bar.live.is_started:
            self._bar.stop()

    def _start(self, event: RunStarted) -> None:
        plan = event.plan
        self._num_rows = plan.num_block_rows
        self._tally = Tally(event)
        self._last_log = time.perf_counter()
        if event.resumed:
            self._console.print(
                f"resuming: {event.num_stored} of {plan.num_block_rows} block rows are stored"
            )
        if event.left_out:
            self._console.print(
                f"without {', '.join(event.left_out)}, of which there is no Gauss-Newton matrix: "
                "hessian info says why"
            )
        self._task = self._bar.add_task("computing", total=self._tally.total, note="")
        if self._console.is_terminal:
            self._bar.start()

    def _advance(self, event: BlockRowStored) -> None:
        self._tally.add(event)
        note = str(self._tally)
        self._bar.update(self._task, completed=self._tally.computed, note=note)
        now = time.perf_counter()
        if not self._console.is_terminal and now - self._last_log >= LOG_INTERVAL_SECONDS:
            self._last_log = now
            self._console.print(note)

    def _finish(self, event: RunFinished) -> None:
        self.close()
        check = event.self_check
        if check is not None:
            self._console.print(
                f"checked against Hessian-vector products in {format_seconds(check.seconds)}: "
                f"error {check.error:.1e} (allowed {check.tolerance:.1e})"
            )
        self._console.print(
            f"computed {event.num_computed} of {self._num_rows} block rows in "
            f"{format_seconds(event.seconds)}, peak memory {format_bytes(event.peak_bytes)}"
        )


class LossDisplay:
    """Prints the loss now and then while a network is trained."""

    def __init__(self, console: Console) -> None:
        """Print on ``console``."""
        self._console = console

    def __call__(self, phase: str, step: int, loss: float) -> None:
        """Show a step."""
        if step == 1 or step % STEPS_BETWEEN.get(phase, 500) == 0:
            self._console.print(f"{phase:<6} step {step:>5}  loss {loss:.3e}")

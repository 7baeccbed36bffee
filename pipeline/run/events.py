"""What a run reports while it goes on; progress displays and logs listen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from hessian_tasks.spec import BlockRow
from pipeline.run.plan import Plan
from pipeline.store.metadata import SelfCheck
from pipeline.store.records import BlockRecord

__all__ = ["BlockRowStored", "Callback", "Event", "HearsEnd", "RunFinished", "RunStarted"]


@dataclass(frozen=True)
class RunStarted:
    """The plan is made and the store is open.

    Attributes:
        plan: The plan.
        pending: Block rows to compute; an earlier run has stored the others.
        resumed: Whether the store was there before.
        startup_seconds: Time to build the problem, to compile for the first layer, to measure a
            few rows and to compute what the result is checked with.
        left_out: Terms that have no Gauss-Newton matrix, where that is computed.
    """

    plan: Plan
    pending: tuple[BlockRow, ...]
    resumed: bool
    startup_seconds: float
    left_out: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """How much there is to do, without the plan and the block rows one by one."""
        count = f"{len(self.pending)} of {self.plan.num_block_rows}"
        return f"RunStarted({count} block rows to compute)"

    @property
    def num_stored(self) -> int:
        """Block rows that an earlier run has stored already."""
        return self.plan.num_block_rows - len(self.pending)


@dataclass(frozen=True)
class BlockRowStored:
    """A block row is computed and stored.

    Attributes:
        record: Its completion record.
    """

    record: BlockRecord

    def __repr__(self) -> str:
        """Which block row, and how long it took, without the checksums of its record."""
        row, seconds = self.record.row, self.record.compute_seconds
        return f"BlockRowStored({row.index}: rows {row.start} to {row.stop}, {seconds:.3g} s)"


@dataclass(frozen=True)
class RunFinished:
    """All block rows are stored.

    Attributes:
        seconds: Time since the run started.
        num_computed: Block rows computed by this run.
        peak_bytes: Largest resident memory of the process.
        self_check: What the check of the result found; None if an earlier run has checked it.
    """

    seconds: float
    num_computed: int
    peak_bytes: int
    self_check: SelfCheck | None = None


Event: TypeAlias = RunStarted | BlockRowStored | RunFinished
Callback: TypeAlias = Callable[[Event], None]


@runtime_checkable
class HearsEnd(Protocol):
    """A callback that is told, too, when a run is over, be it by an error or Ctrl-C."""

    def run_ended(self) -> None:
        """End what was begun with the run."""

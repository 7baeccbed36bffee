"""What memory may be taken: seen before it is taken, where it is known how much that will be."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

from hessian_tasks.errors import NotLayeredError
from hessian_tasks.layered.expand.network import Network
from hessian_tasks.layered.expand.terms import least_bytes
from hessian_tasks.process import resident_bytes
from hessian_tasks.reading import Reading
from pipeline.errors import DoesNotFitError
from pipeline.units import format_bytes, memory_option

__all__ = ["Budget"]

# What so few take a trial measures.
FEW_POINTS = 2000


@dataclass(frozen=True)
class Budget:
    """A budget of resident memory.

    Attributes:
        allowed: Bytes that the process may have.
    """

    allowed: int

    @classmethod
    def of(cls, given: int | None) -> Budget:
        """What is given, or half of what is free."""
        return cls(given or psutil.virtual_memory().available // 2)

    def check(self, what: str, more: int) -> None:
        """Refuse what does not fit beside what the process has already.

        Args:
            what: What it is, as the subject of a sentence in the plural.
            more: Bytes that it takes at least.

        Raises:
            DoesNotFitError: If that is too much.

        Example:
            >>> Budget(2**50).check("vectors", 2**20)
        """
        reserved = resident_bytes()
        if reserved + more > self.allowed:
            raise DoesNotFitError(
                f"This does not fit into memory: {what} take {format_bytes(more)} or more, and "
                f"TensorFlow and the problem {format_bytes(reserved)} of this process already; "
                f"allowed {format_bytes(self.allowed)}. Allow more: "
                f"{memory_option(reserved + more)} or more",
                needed_bytes=reserved + more,
            )

    def check_expansions(self, readings: Sequence[Reading]) -> None:
        """Refuse more points than the layered engine has room for, before it expands a term.

        Raises:
            DoesNotFitError: If their derivatives do not fit.
        """
        large = [reading for reading in readings if _num_points(reading) > FEW_POINTS]
        more = 0
        # What is not taken by layers is computed in batches, or in graphs that a trial measures.
        with suppress(NotLayeredError):
            network = Network.of(large[0].problem) if large else None
            for reading in large:
                more += 0 if network is None else least_bytes(network, reading)
        if more:
            self.check("the network's derivatives at all points", more)


def _num_points(reading: Reading) -> int:
    return max((len(array) for array in reading.term.arrays.values()), default=0)

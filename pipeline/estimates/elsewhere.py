"""What a matrix would take on GPUs and a shared store, by its numbers of operations and bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["LARGE_BYTES", "STORE_RATE", "Elsewhere"]

# FLOP a second that a GPU is assumed to sustain, by bytes of an entry, and bytes a second of the
# store that all share: a data centre's card at a third of its matrix product, a good file server.
GPU_RATES = {4: 20e12, 8: 10e12}
STORE_RATE = 1e9
# From here on it is worth a line.
LARGE_BYTES = 10 * 2**30


@dataclass(frozen=True)
class Elsewhere:
    """Computing on n GPUs, and writing beside it into one store.

    An entry of one triangle takes a multiply-add for each stream at each point of all terms; all
    entries are written, of each matrix that is stored.

    Attributes:
        num_params: P.
        itemsize: Bytes of an entry.
        stored_bytes: Of all matrices.
        point_streams: Points times streams N S, of all terms together.

    Example:
        >>> found = Elsewhere(10**6, 4, 4 * 10**12, point_streams=5000)
        >>> found.gpu_seconds, found.store_seconds  # 5000 · P² / 20 TFLOP/s, 4 TB / 1 GB/s
        (250.0, 4000.0)
        >>> found.seconds(8), found.bound(8)
        (4000.0, 'store')
    """

    num_params: int
    itemsize: int
    stored_bytes: int
    point_streams: int

    @property
    def rate(self) -> float:
        """FLOP a second of a GPU, assumed."""
        return GPU_RATES[self.itemsize]

    @property
    def gpu_seconds(self) -> float:
        """Of one GPU: ``N S P²`` FLOP, two a multiply-add, half of the entries."""
        return self.point_streams * self.num_params**2 / self.rate

    @property
    def store_seconds(self) -> float:
        """To write everything."""
        return self.stored_bytes / STORE_RATE

    def seconds(self, num_gpus: int) -> float:
        """Of a run, in which one hides the other."""
        return max(self.gpu_seconds / num_gpus, self.store_seconds)

    def bound(self, num_gpus: int) -> str:
        """What keeps a run from being shorter: ``"computing"`` or ``"store"``."""
        return "store" if self.store_seconds > self.gpu_seconds / num_gpus else "computing"

    def to_json(self) -> dict[str, Any]:
        """As JSON data; bytes, FLOP and seconds."""
        return {
            "gpu_flop_per_second": self.rate,
            "store_bytes_per_second": STORE_RATE,
            "gpu_hours": self.gpu_seconds / 3600,
            "stored_bytes": self.stored_bytes,
            "store_seconds": self.store_seconds,
            "runs": [
                {"num_gpus": n, "seconds": self.seconds(n), "bound": self.bound(n)}
                for n in (1, 8, 64)
            ],
        }

"""The devices of a process, each of which has one block row at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue

__all__ = ["DevicePool"]


class DevicePool:
    """Devices to take, use alone, and give back; safe to share between threads.

    Two block rows on one GPU would share its memory, and would not be faster. Without devices there
    is nothing to wait for, and TensorFlow computes where it wants.

    Example:
        >>> pool = DevicePool(["GPU:0", "GPU:1"])
        >>> with pool.take() as first, pool.take() as second:
        ...     first, second
        ('GPU:0', 'GPU:1')
        >>> with DevicePool().take() as anywhere:
        ...     print(anywhere)
        None
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        """Begin with all devices free.

        Args:
            names: TensorFlow's names of the devices, as ``"GPU:0"``.
        """
        self.names = tuple(names)
        self._free: SimpleQueue[str] = SimpleQueue()
        for name in self.names:
            self._free.put(name)

    def __len__(self) -> int:
        return len(self.names)

    @contextmanager
    def take(self) -> Iterator[str | None]:
        """Wait for a free device, and have it to oneself; None if there are no devices."""
        if not self.names:
            yield None
            return
        name = self._free.get()
        try:
            yield name
        finally:
            self._free.put(name)

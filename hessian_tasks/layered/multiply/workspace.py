"""Memory that is used again: buffers of the matrix products, and those of tangents."""

from __future__ import annotations

import math
import threading
from bisect import bisect_left, insort
from collections.abc import Iterable
from typing import Any

import numpy as np

from hessian_tasks.layered.expand.network import Array

__all__ = ["Workspace"]


class Workspace(threading.local):
    """Buffers of one thread.

    Memory that is fresh from the system costs a page fault every 4 KiB, which takes as
    long as filling it.
    """

    def __init__(self, dtype: np.dtype[Any]) -> None:
        """Start without buffers."""
        self._dtype = dtype
        self._buffers: dict[str, Array] = {}
        self._idle: list[tuple[int, int, Array]] = []

    def take(self, purpose: str, *shape: int) -> Array:
        """An array of any content; the one taken before for the same purpose is lost."""
        size = math.prod(shape)
        if purpose not in self._buffers or self._buffers[purpose].size < size:
            self._buffers[purpose] = np.empty(size, self._dtype)
        return self._buffers[purpose][:size].reshape(shape)

    def lend(self, *shape: int) -> Array:
        """An array of any content, until it is given back."""
        size = math.prod(shape)
        place = bisect_left(self._idle, (size, 0))
        # A buffer twice as large or more would be wasted on it.
        if place < len(self._idle) and self._idle[place][0] <= 2 * size:
            buffer = self._idle.pop(place)[2]
        else:
            buffer = np.empty(size, self._dtype)
        return buffer[:size].reshape(shape)

    def give_back(self, arrays: Iterable[Array]) -> None:
        """Take back arrays that were lent; nothing may use them any more."""
        for array in arrays:
            buffer = array if array.base is None else array.base
            insort(self._idle, (buffer.size, id(buffer), buffer))

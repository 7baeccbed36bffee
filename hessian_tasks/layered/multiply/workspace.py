"""Memory that is used again: buffers of the matrix products, and those of tangents.

Arrays of small matrices, one a point, lie matrix by matrix where these are large enough for a call
of BLAS each. Where they are not, the points come last in memory, whatever the order of the axes:
what is done at each point then is done by few long loops over the points.
"""

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

    def __init__(self, dtype: np.dtype[Any], points_last: bool = False) -> None:
        """Start without buffers.

        Args:
            dtype: Of all arrays.
            points_last: Whether points come last in memory.
        """
        self._dtype = dtype
        self.points_last = points_last
        self._buffers: dict[str, Array] = {}
        self._idle: list[tuple[int, int, Array]] = []

    def take(self, purpose: str, *shape: int) -> Array:
        """An array of any content; the one taken before for the same purpose is lost."""
        size = math.prod(shape)
        if purpose not in self._buffers or self._buffers[purpose].size < size:
            self._buffers[purpose] = np.empty(size, self._dtype)
        return self._shaped(self._buffers[purpose][:size], shape)

    def empty(self, *shape: int) -> Array:
        """An array of any content, for good."""
        return self._shaped(np.empty(math.prod(shape), self._dtype), shape)

    def lend(self, *shape: int) -> Array:
        """An array of any content, until it is given back."""
        size = math.prod(shape)
        place = bisect_left(self._idle, (size, 0))
        # A buffer twice as large or more would be wasted on it.
        if place < len(self._idle) and self._idle[place][0] <= 2 * size:
            buffer = self._idle.pop(place)[2]
        else:
            buffer = np.empty(size, self._dtype)
        return self._shaped(buffer[:size], shape)

    def arrange(self, array: Array) -> Array:
        """Numbers ``[n, p]`` of every point, in the order of memory that goes with the others."""
        return np.asfortranarray(array) if self.points_last else array

    def _shaped(self, buffer: Array, shape: tuple[int, ...]) -> Array:
        """``[..., n, j, p]`` or a matrix; the points are the axis before the last two."""
        if not self.points_last:
            return buffer.reshape(shape)
        *outer, rows, columns = shape
        return buffer.reshape(rows, columns, *outer).transpose(*range(2, len(shape)), 0, 1)

    def give_back(self, arrays: Iterable[Array]) -> None:
        """Take back arrays that were lent; nothing may use them any more."""
        for array in arrays:
            buffer = array if array.base is None else array.base
            insort(self._idle, (buffer.size, id(buffer), buffer))

"""What every peer offers: ways to compute rows of the Hessian, which are timed alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from case import Array, Indices, spread

# A peer that differentiates all rows in one call is tried with that only up to here.
MAX_PARAMS_AT_ONCE = 1000


@dataclass(frozen=True)
class Measurement:
    """One time of the whole matrix.

    Attributes:
        seconds: Of all P rows.
        rows: How many of them were computed; the rest is extrapolated.
    """

    seconds: float
    rows: int


class Way(Protocol):
    """One way to fill the matrix, with its batch of rows and its compilation."""

    def rows(self, indices: Indices) -> Array:
        """Rows ``[K, P]`` of the Hessian; NaN where only the upper triangle is computed."""
        ...

    def measure(self, num_rows: int) -> Measurement:
        """Time the matrix, from about ``num_rows`` of its rows if it has more."""
        ...


class RowWay:
    """A function of a batch of row indices of fixed length, as compilers want it."""

    def __init__(self, num_params: int, batch: int, function: Callable[[Indices], Array]) -> None:
        self.num_params = num_params
        # Equal batches: the last one is not filled up with rows that nobody wants.
        self.batch = math.ceil(num_params / math.ceil(num_params / batch))
        self.function = function

    def rows(self, indices: Indices) -> Array:
        return np.concatenate(list(self._batches(indices)))[: len(indices)]

    def measure(self, num_rows: int) -> Measurement:
        count = min(self.num_params, math.ceil(num_rows / self.batch) * self.batch)
        indices = spread(self.num_params, count)
        begun = time.perf_counter()
        for batch in self._batches(indices):
            assert batch.shape == (self.batch, self.num_params)
        seconds = time.perf_counter() - begun
        return Measurement(seconds * self.num_params / count, count)

    def _batches(self, indices: Indices) -> Iterator[Array]:
        for start in range(0, len(indices), self.batch):
            batch = indices[start : start + self.batch]
            yield self.function(np.pad(batch, (0, self.batch - len(batch)), mode="edge"))


class WholeWay:
    """A function that computes all rows or none."""

    def __init__(self, num_params: int, function: Callable[[], Array]) -> None:
        self.num_params = num_params
        self.function = function

    def rows(self, indices: Indices) -> Array:
        return self.function()[indices]

    def measure(self, num_rows: int) -> Measurement:
        begun = time.perf_counter()
        matrix = self.function()
        seconds = time.perf_counter() - begun
        assert matrix.shape == (self.num_params, self.num_params)
        return Measurement(seconds, self.num_params)


def batches_for(num_params: int, batches: list[int]) -> list[int]:
    """The batches to try: those given that P fills, and all rows at once where it is small."""
    at_once = [num_params] if num_params <= MAX_PARAMS_AT_ONCE else []
    return [batch for batch in batches if batch < num_params] + at_once

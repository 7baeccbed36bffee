"""Products with the tangents of one probe, which are too many to be kept at once.

A group of the probe's neurons gives matrices wide enough for products to run at full speed; it is
computed in parts narrow enough for their tangents to stay in the cache. Where block rows cut a
site, the matrices are kept for the next block row, as far as memory is set aside for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hessian_tasks.layered.buffered import BufferedTangents
from hessian_tasks.layered.expansion import Expansion
from hessian_tasks.layered.network import Array
from hessian_tasks.layered.products import FACTOR_BYTES, Outer, Products, slices
from hessian_tasks.layered.tangents import Tangents
from hessian_tasks.layered.workspace import Workspace

__all__ = ["Job", "Prober"]

# Bytes of the tangents by all pairs of streams at one wire, of which a few wires are kept.
TANGENTS_BYTES = 6 * 2**20
# Bytes of matrices that one term keeps from one block row to the next.
KEPT_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Job:
    """One product: entries ``[i, a, j, b]``, its left factor, the tangents that are its right.

    Attributes:
        entries: Of all neurons j of the probe; ``[i, a, j, 1]`` if the tangents are diagonals.
        outer: The left factor.
        find: Picks the tangents ``[j, n, b]``, or ``[n, j]``.
        num_tangents: How many it picks.
        name: A name if other block rows need the same.
    """

    entries: Array
    outer: Outer
    find: Callable[[Tangents], list[Array]]
    num_tangents: int
    name: tuple[int, int, str] | None


class Prober:
    """Adds the products of one term, probe by probe."""

    def __init__(self, expansion: Expansion, products: Products, workspace: Workspace) -> None:
        """Nothing is kept yet.

        Args:
            expansion: The term around θ.
            products: Does the products.
            workspace: Buffers for all threads.
        """
        self._expansion = expansion
        self._products = products
        self._workspace = workspace
        self._kept: dict[tuple[object, ...], Array] = {}
        self._valid: set[tuple[object, ...]] = set()

    def add_diagonal(self, jobs: Sequence[Job], whole: Tangents) -> None:
        """Add products with tangents of a whole probe that are diagonals."""
        for job in jobs:
            self._products.add_tangents(job.entries, job.outer, np.concatenate(job.find(whole)))
            job.outer.release()

    def add_dense(self, jobs: Sequence[Job], site: int, points: slice) -> None:
        """Add products with tangents that are no diagonals.

        Args:
            jobs: The products.
            site: The site that is probed.
            points: At which points.
        """
        if not jobs:
            return
        num_points, itemsize = points.stop - points.start, jobs[0].entries.itemsize
        columns = sum(job.num_tangents * job.entries.shape[3] for job in jobs)
        width = self._expansion.network.program.widths[site]
        for group in slices(width, FACTOR_BYTES // (columns * num_points * itemsize)):
            matrices = self._matrices(jobs, site, points, group)
            for job, matrix in zip(jobs, matrices, strict=True):
                self._products.add_tangents(job.entries[:, :, group], job.outer, matrix)
        for job in jobs:
            job.outer.release()

    def forget(self) -> None:
        """Take what is kept between block rows for outdated; its memory will be used again."""
        self._valid.clear()

    def _matrices(self, jobs: Sequence[Job], site: int, points: slice, group: slice) -> list[Array]:
        """Tangents below each other, with one row a point ``[tangents·n, j·b]``, for each job."""
        found: list[Array] = []
        missing: list[tuple[Job, Array]] = []
        keys = [(job.name, points.start, points.stop, group.start, group.stop) for job in jobs]
        for number, (job, key) in enumerate(zip(jobs, keys, strict=True)):
            if key in self._valid:
                matrix = self._kept[key]
            else:
                num_points, num_neurons = points.stop - points.start, group.stop - group.start
                shape = (job.num_tangents, num_points, num_neurons, job.entries.shape[3])
                matrix = self._make(key, f"tangents {number}", shape)
                missing.append((job, matrix))
            found.append(matrix)
        # Threads that miss the same at the same time fill in the same numbers.
        self._fill(missing, site, points, group)
        # Another thread may keep, half filled, what this one had no room for.
        for key, matrix in zip(keys, found, strict=True):
            if self._kept.get(key) is matrix:
                self._valid.add(key)
        return [matrix.reshape(matrix.shape[0] * matrix.shape[1], -1) for matrix in found]

    def _make(self, key: tuple[Any, ...], purpose: str, shape: tuple[int, ...]) -> Array:
        """Memory for a matrix: kept if block rows share it and there is room, else a buffer."""
        if key in self._kept:
            return self._kept[key]
        dtype = self._expansion.network.dtype
        kept_bytes = sum(array.nbytes for array in list(self._kept.values()))
        if key[0] is None or kept_bytes + math.prod(shape) * dtype.itemsize > KEPT_BYTES:
            return self._workspace.take(purpose, *shape)
        return self._kept.setdefault(key, np.empty(shape, dtype))

    def _fill(
        self, matrices: Sequence[tuple[Job, Array]], site: int, points: slice, group: slice
    ) -> None:
        expansion = self._expansion
        widest = max((matrix.shape[3] for _, matrix in matrices), default=1)
        num_numbers = (points.stop - points.start) * widest * expansion.num_streams**2
        step = TANGENTS_BYTES // (num_numbers * expansion.network.dtype.itemsize)
        for part in slices(group.stop - group.start, step) if matrices else ():
            neurons = slice(group.start + part.start, group.start + part.stop)
            tangents = BufferedTangents(expansion, site, points, neurons, self._workspace)
            for job, matrix in matrices:
                for place, tangent in zip(matrix, job.find(tangents), strict=True):
                    place[:, part] = tangent.transpose(1, 0, 2)
            tangents.release()

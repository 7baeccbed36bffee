"""Products with the tangents of one probe, which are too many to be kept at once.

A group of the probe's neurons gives matrices wide enough for products to run at full speed; it is
computed in parts of the points small enough for their tangents to stay in the cache. Where block
rows cut a site, the matrices are kept for the next block row, as far as memory is set aside for it;
those of sites that block rows have left make room. Threads at the same site take other groups first
than each other, so that none computes what another one is computing.
"""

from __future__ import annotations

import math
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np

from hessian_tasks.layered.expand.expansion import Expansion
from hessian_tasks.layered.expand.network import Array
from hessian_tasks.layered.expand.rows import slices
from hessian_tasks.layered.multiply._buffered import BufferedTangents, write
from hessian_tasks.layered.multiply.products import FACTOR_BYTES, Outer, Products, batches
from hessian_tasks.layered.multiply.tangents import Moving, Tangents
from hessian_tasks.layered.multiply.workspace import Workspace

__all__ = ["Job", "Prober"]

# Bytes of the tangents by all pairs of streams at one wire, of which a few wires are kept.
TANGENTS_BYTES = 6 * 2**20
# Bytes of matrices that one term keeps from one block row to the next: those of one site of 100
# neurons, 4 streams and 1,000 points in float32.
KEPT_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Job:
    """One product: entries ``[i, a, j, b]``, its left factor, the tangents that are its right.

    Attributes:
        entries: Of all neurons j of the probe; ``[i, a, j, 1]`` if the tangents are diagonals.
        outer: The left factor.
        find: Picks the tangents ``[n, j, b]``, or ``[n, j]``.
        num_tangents: How many it picks.
        name: A name if other block rows need the same.
    """

    entries: Array
    outer: Outer
    find: Callable[[Tangents], list[Moving]]
    num_tangents: int
    name: tuple[int, int, str] | None


# The job's name, first point, first neuron and neuron after the last.
Key: TypeAlias = tuple[tuple[int, int, str] | None, int, int, int]


@dataclass
class _Kept:
    """A matrix, and whether its numbers are there."""

    matrix: Array
    filled: bool = False


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
        self._kept: dict[Key, _Kept] = {}
        self._lock = threading.Lock()
        self._filling: defaultdict[tuple[int, int, int], threading.Lock] = defaultdict(
            threading.Lock
        )

    def add_diagonal(self, jobs: Sequence[Job], whole: Tangents) -> None:
        """Add products with tangents of a whole probe that are diagonals."""
        for job in jobs:
            self._products.add_tangents(job.entries, job.outer, np.concatenate(job.find(whole)))
            job.outer.release()

    def add_dense(self, jobs: Sequence[Job], whole: BufferedTangents) -> None:
        """Add products with tangents that are no diagonals.

        Args:
            jobs: The products.
            whole: The tangents of all neurons, of which parts are taken.
        """
        if not jobs:
            return
        points = whole.points
        num_points, itemsize = points.stop - points.start, jobs[0].entries.itemsize
        columns = sum(job.num_tangents * job.entries.shape[3] for job in jobs)
        groups = batches(whole.neurons.stop, FACTOR_BYTES // (columns * num_points * itemsize))
        for group in self._in_turn(whole, groups):
            matrices = self._matrices(jobs, whole, group)
            for job, matrix in zip(jobs, matrices, strict=True):
                self._products.add_tangents(job.entries[:, :, group], job.outer, matrix)
        for job in jobs:
            job.outer.release()

    def forget(self) -> None:
        """Take what is kept between block rows for outdated; its memory will be used again."""
        for kept in list(self._kept.values()):
            kept.filled = False

    def _matrices(self, jobs: Sequence[Job], whole: BufferedTangents, group: slice) -> list[Array]:
        """Tangents below each other, with one row a point ``[tangents·n, j·b]``, for each job."""
        found: list[Array] = []
        shared: list[_Kept | None] = []
        points = whole.points
        num_points, num_neurons = points.stop - points.start, group.stop - group.start
        for number, job in enumerate(jobs):
            shape = (job.num_tangents, num_points, num_neurons, job.entries.shape[3])
            kept = self._keep((job.name, points.start, group.start, group.stop), shape)
            taken = partial(self._workspace.take, f"tangents {number}", *shape)
            found.append(taken() if kept is None else kept.matrix)
            shared.append(kept)
        # Where all is shared, one thread computes it for the others.
        with (
            nullcontext()
            if None in shared
            else self._filling[whole.site, points.start, group.start]
        ):
            pairs = zip(jobs, found, shared, strict=True)
            missing = [(job, matrix) for job, matrix, k in pairs if k is None or not k.filled]
            self._fill(missing, whole, group)
            for kept in filter(None, shared):
                kept.filled = True
        return [matrix.reshape(matrix.shape[0] * matrix.shape[1], -1) for matrix in found]

    def _in_turn(self, whole: Tangents, groups: Iterable[slice]) -> Iterator[slice]:
        """Groups of neurons, those last that another thread is at."""
        waiting = list(groups)
        while waiting:
            locks = [
                self._filling[whole.site, whole.points.start, group.start] for group in waiting
            ]
            free = (number for number, lock in enumerate(locks) if not lock.locked())
            yield waiting.pop(next(free, 0))

    def _keep(self, key: Key, shape: tuple[int, ...]) -> _Kept | None:
        """Memory for a matrix that block rows share, unless there is no room for it."""
        name = key[0]
        if name is None:
            return None
        dtype = self._expansion.network.dtype
        with self._lock:
            if key not in self._kept:
                size = math.prod(shape) * dtype.itemsize
                # Block rows come in the order of the sites.
                left = [k for k in self._kept if k[0] is not None and k[0][0] < name[0]]
                while left and self._kept_now() + size > KEPT_BYTES:
                    del self._kept[left.pop(0)]
                if self._kept_now() + size > KEPT_BYTES:
                    return None
                self._kept[key] = _Kept(self._workspace.empty(*shape))
            return self._kept[key]

    @property
    def kept_bytes(self) -> tuple[int, int]:
        """Bytes kept between block rows: now, and at most once the largest site was cut."""
        now = self._kept_now()
        return now, min(KEPT_BYTES, len(self._expansion.network.program.sites) * now)

    def _kept_now(self) -> int:
        return sum(kept.matrix.nbytes for kept in list(self._kept.values()))

    def _fill(
        self, matrices: Sequence[tuple[Job, Array]], whole: BufferedTangents, group: slice
    ) -> None:
        expansion = self._expansion
        widest = max((matrix.shape[3] for _, matrix in matrices), default=1)
        num_numbers = (group.stop - group.start) * widest * expansion.num_streams**2
        points = whole.points
        num_points = points.stop - points.start
        wanted = TANGENTS_BYTES / (num_numbers * expansion.network.dtype.itemsize)
        step = -(-num_points // max(1, round(num_points / wanted)))
        for part in slices(num_points, step) if matrices else ():
            some = slice(points.start + part.start, points.start + part.stop)
            tangents = whole.part(some, group)
            for job, matrix in matrices:
                for place, tangent in zip(matrix, job.find(tangents), strict=True):
                    write(tangent, place[part])
            tangents.release()

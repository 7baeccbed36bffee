"""What a second core is worth on this machine, to processes that only multiply matrices.

A module of its own, as each of the processes imports it.
"""

from __future__ import annotations

import time
from multiprocessing import get_context

import numpy as np
from threadpoolctl import threadpool_limits

__all__ = ["machine_speedup"]


def multiply(seconds: float) -> float:
    """Products a second of one process, with one thread."""
    rng = np.random.default_rng(0)
    factors = [rng.standard_normal((1536, 1536), np.float32) for _ in range(2)]
    with threadpool_limits(1, "blas"):
        count, begun = 0, time.perf_counter()
        while time.perf_counter() - begun < seconds:
            np.matmul(*factors)
            count += 1
        return count / (time.perf_counter() - begun)


def machine_speedup(seconds: float = 5.0) -> float:
    """How many times as many products two processes do as one."""
    with get_context("spawn").Pool(2) as pool:
        pool.map(multiply, [0.5, 0.5])  # they have started
        alone = pool.map(multiply, [seconds])[0]
        return sum(pool.map(multiply, [seconds] * 2, chunksize=1)) / alone

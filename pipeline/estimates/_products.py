"""Sums of products over shards, on threads of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hessian_tasks.autodiff.products import ShardProducts
from hessian_tasks.shards import Shard
from pipeline.errors import StoppedError
from pipeline.store.shares import deal

__all__ = ["Array", "Product", "add_up", "threaded_product"]

Array: TypeAlias = npt.NDArray[Any]
Product: TypeAlias = Callable[[Array], Array]


def threaded_product(
    products: ShardProducts,
    shards: Sequence[Shard],
    num_threads: int,
    stop: threading.Event | None = None,
) -> Product:
    """``V ↦ H V``, each thread adding up the products of its share of the shards.

    Args:
        products: Multiplies with the matrix of a shard.
        shards: All shards.
        num_threads: Number of threads; each has a sum ``[P, K]`` in float64 of its own.
        stop: Set to end a product, with a StoppedError.
    """
    shares = deal(shards, num_threads)

    def multiply(shard: Shard, vectors: Array) -> Array:
        if stop is not None and stop.is_set():
            raise StoppedError("The product was stopped.")
        return products(shard, vectors)

    def product(vectors: Array) -> Array:
        with ThreadPoolExecutor(len(shares)) as pool:
            parts = pool.map(lambda share: add_up(multiply, share, vectors), shares)
            return np.asarray(sum(parts, np.zeros(vectors.shape)))

    return product


def add_up(
    multiply: Callable[[Shard, Array], Array], shards: Sequence[Shard], vectors: Array
) -> Array:
    """The sum of the products of some shards, ``[P, K]`` float64."""
    first, *others = shards
    total = multiply(first, vectors)
    for shard in others:
        total += multiply(shard, vectors)
    return total

"""What this machine multiplies: 2048³ matrix products, the limit of everything that is dense."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from case import Array, Case, Indices
from ways import Measurement, Way

SIDE = 2048
LIMIT_FLOP = 2.0 * SIDE**3


class _Product:
    def __init__(self, multiply: Callable[[], Any]) -> None:
        self.multiply = multiply

    def rows(self, indices: Indices) -> Array:
        raise NotImplementedError("A matrix product has no rows of a Hessian.")

    def measure(self, num_rows: int) -> Measurement:
        """The best of five; the first after another process is slower."""
        seconds = []
        for _ in range(5):
            begun = time.perf_counter()
            self.multiply()
            seconds.append(time.perf_counter() - begun)
        return Measurement(min(seconds), SIDE)


def _factors(case: Case) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((SIDE, SIDE)).astype(case.dtype) for _ in range(2))
    return a, b


def numpy_product(case: Case, batches: list[int]) -> dict[str, Way]:
    """NumPy's matrix product on all cores."""
    a, b = _factors(case)
    return {"matmul": _Product(lambda: a @ b)}


def tensorflow_product(case: Case, batches: list[int]) -> dict[str, Way]:
    """TensorFlow's matrix product on all cores."""
    import tensorflow as tf

    a, b = (tf.constant(factor) for factor in _factors(case))
    return {"matmul": _Product(lambda: tf.matmul(a, b).numpy())}

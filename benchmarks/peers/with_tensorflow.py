"""TensorFlow's own ways: ``tape.jacobian``, ``tf.hessians``, and a tape a row as in notebooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from case import Array, Case, Indices
from ways import RowWay, Way, WholeWay, batches_for

tf.config.experimental.enable_tensor_float_32_execution(False)


def _loss(case: Case) -> Callable[[Any], Any]:
    interior, boundary = tf.constant(case.interior), tf.constant(case.boundary)
    source = tf.constant(case.source)

    def network(theta: Any, points: Any) -> Any:
        parts = zip(tf.split(theta, case.sizes), case.shapes, strict=True)
        weights = [tf.reshape(part, shape) for part, shape in parts]
        for kernel, bias in zip(weights[:-2:2], weights[1:-2:2], strict=True):
            points = tf.tanh(points @ kernel + bias)
        return points @ weights[-2] + weights[-1]

    def laplacian(theta: Any) -> Any:
        x, y = interior[:, 0:1], interior[:, 1:2]
        with tf.GradientTape(persistent=True) as second:
            second.watch([x, y])
            with tf.GradientTape() as first:
                first.watch([x, y])
                u = network(theta, tf.concat([x, y], 1))
            u_x, u_y = first.gradient(u, [x, y])
        return second.gradient(u_x, x) + second.gradient(u_y, y)

    def loss(theta: Any) -> Any:
        pde = tf.reduce_mean(tf.square(laplacian(theta) - source))
        return pde + tf.reduce_mean(tf.square(network(theta, boundary)))

    return loss


def _gradient(loss: Callable[[Any], Any], theta: Any) -> Any:
    with tf.GradientTape() as tape:
        tape.watch(theta)
        value = loss(theta)
    return tape.gradient(value, theta)


def _jacobian(case: Case, batches: list[int], pfor: bool) -> dict[str, Way]:
    loss, theta = _loss(case), tf.constant(case.theta)

    def rows(theta: Any, indices: Any) -> Any:
        with tf.GradientTape(persistent=not pfor) as tape:
            tape.watch(theta)
            entries = tf.gather(_gradient(loss, theta), indices)
        return tape.jacobian(entries, theta, experimental_use_pfor=pfor)

    ways: dict[str, Way] = {}
    for xla in (False, True):
        compiled = tf.function(rows, autograph=False, jit_compile=xla)
        for batch in batches_for(case.num_params, batches):
            label = f"{batch} rows{', XLA' if xla else ''}"
            ways[label] = RowWay(case.num_params, batch, _numpy(compiled, theta))
    return ways


def _numpy(compiled: Callable[[Any, Any], Any], theta: Any) -> Callable[[Indices], Array]:
    return lambda indices: np.asarray(compiled(theta, tf.constant(indices, tf.int32)).numpy())


def jacobian_pfor(case: Case, batches: list[int]) -> dict[str, Way]:
    """``tape.jacobian`` of a batch of entries of the gradient, vectorised."""
    return _jacobian(case, batches, pfor=True)


def jacobian_loop(case: Case, batches: list[int]) -> dict[str, Way]:
    """``tape.jacobian`` of a batch of entries of the gradient, in a graph loop."""
    return _jacobian(case, batches, pfor=False)


def tape_per_row(case: Case, batches: list[int]) -> dict[str, Way]:
    """Eager: a persistent tape of the gradient, and one call of it a row."""
    loss, theta = _loss(case), tf.constant(case.theta)

    def rows(indices: Indices) -> Array:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(theta)
            grad = _gradient(loss, theta)
            entries = [grad[index] for index in indices]
        return np.stack([tape.gradient(entry, theta).numpy() for entry in entries])

    sizes = batches_for(case.num_params, batches)
    return {f"{batch} rows": RowWay(case.num_params, batch, rows) for batch in sizes}


def hessians(case: Case, batches: list[int]) -> dict[str, Way]:
    """``tf.hessians`` with respect to the vector of all weights: all rows, or none."""
    loss, theta = _loss(case), tf.constant(case.theta)

    def matrix(theta: Any) -> Any:
        return tf.hessians(loss(theta), theta)[0]

    ways: dict[str, Way] = {}
    for label, xla in {"all rows": False, "all rows, XLA": True}.items():
        compiled = tf.function(matrix, autograph=False, jit_compile=xla)

        def call(compiled: Any = compiled) -> Array:
            return np.asarray(compiled(theta).numpy())

        ways[label] = WholeWay(case.num_params, call)
    return ways

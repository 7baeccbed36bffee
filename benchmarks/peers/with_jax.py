"""JAX: vectorised Hessian-vector products with one-hot vectors, compiled by XLA."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

# Read when JAX is imported; float64 would silently become float32 otherwise.
os.environ["JAX_ENABLE_X64"] = "1"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
from case import Array, Case, Indices
from ways import RowWay, Way, batches_for


def _loss(case: Case) -> Callable[[Any], Any]:
    interior, boundary = jnp.asarray(case.interior), jnp.asarray(case.boundary)
    source, offsets = jnp.asarray(case.source), np.cumsum(case.sizes)[:-1]

    def network(theta: Any, points: Any) -> Any:
        parts = zip(jnp.split(theta, offsets), case.shapes, strict=True)
        weights = [part.reshape(shape) for part, shape in parts]
        for kernel, bias in zip(weights[:-2:2], weights[1:-2:2], strict=True):
            points = jnp.tanh(points @ kernel + bias)
        return points @ weights[-2] + weights[-1]

    def second(theta: Any, axis: int) -> Any:
        direction = jnp.zeros_like(interior).at[:, axis].set(1)

        def first(points: Any) -> Any:
            return jax.jvp(lambda p: network(theta, p), (points,), (direction,))[1]

        return jax.jvp(first, (interior,), (direction,))[1]

    def loss(theta: Any) -> Any:
        residual = second(theta, 0) + second(theta, 1) - source
        return jnp.mean(residual**2) + jnp.mean(network(theta, boundary) ** 2)

    return loss


def _ways(
    case: Case, batches: list[int], product: Callable[[Callable[[Any], Any], Any], Any]
) -> dict[str, Way]:
    theta, grad = jnp.asarray(case.theta), jax.grad(_loss(case))
    loops = {"vmap": lambda f, vectors: jax.vmap(f)(vectors), "loop": jax.lax.map}
    ways: dict[str, Way] = {}
    for name, loop in loops.items():

        def rows(theta: Any, indices: Any, loop: Any = loop) -> Any:
            vectors = jax.nn.one_hot(indices, len(theta), dtype=theta.dtype)
            return loop(product(grad, theta), vectors)

        compiled = jax.jit(rows)

        def call(indices: Indices, compiled: Any = compiled) -> Array:
            return np.asarray(compiled(theta, indices))

        for batch in batches_for(case.num_params, batches):
            ways[f"{batch} rows, {name}"] = RowWay(case.num_params, batch, call)
    return ways


def forward_over_reverse(case: Case, batches: list[int]) -> dict[str, Way]:
    """Directional derivatives of the gradient."""

    def product(grad: Callable[[Any], Any], theta: Any) -> Callable[[Any], Any]:
        return lambda vector: jax.jvp(grad, (theta,), (vector,))[1]

    return _ways(case, batches, product)


def reverse_over_reverse(case: Case, batches: list[int]) -> dict[str, Way]:
    """Gradients of the gradient's entries."""

    def product(grad: Callable[[Any], Any], theta: Any) -> Callable[[Any], Any]:
        pull_back = jax.vjp(grad, theta)[1]
        return lambda vector: pull_back(vector)[0]

    return _ways(case, batches, product)

"""JAX as an expert of this very problem writes it: one pass for the Laplacian, layers on their own.

A network's streams at a point are its value, its two first derivatives and its Laplacian,
``[S, k]`` with S = 4, or its value alone, S = 1, on the boundary. A layer maps them by one product,
``Z = A W`` with the bias as the last row of W, whose input is 1 in the value's stream and 0 in the
others.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

# Read when JAX is imported; float64 would silently become float32 otherwise.
os.environ["JAX_ENABLE_X64"] = "1"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
from case import Array, Case, Indices
from ways import RowWay, Way, WholeWay, batches_for

# Points whose tangents are there at a time.
CHUNK = 100
LAPLACIAN = 3
Streams = Any
Block = tuple[int, int]


class Streamed:
    """A case as JAX sees it: matrices of layers, and the loss of its streams.

    Attributes:
        theta: All weights ``[P]``.
        shapes: Of each layer's kernel with its bias as the last row.
    """

    def __init__(self, case: Case) -> None:
        self.theta = jnp.asarray(case.theta)
        self.shapes = [(kernel[0] + 1, kernel[1]) for kernel in case.shapes[::2]]
        self.ends = [int(end) for end in np.cumsum([a * b for a, b in self.shapes])]
        self.interior, self.source = jnp.asarray(case.interior), jnp.asarray(case.source)[:, 0]
        self.boundary = jnp.asarray(case.boundary)

    def layers(self, theta: Any) -> list[Any]:
        """θ as matrices: in C order a bias follows its kernel as one more row."""
        parts = jnp.split(theta, self.ends[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def loss(self, theta: Any) -> Any:
        layers = self.layers(theta)
        inside, outside = _start(self.interior, 4), _start(self.boundary, 1)
        residual = _outputs(layers, inside)[:, LAPLACIAN, 0] - self.source
        return jnp.mean(residual**2) + jnp.mean(_outputs(layers, outside)[:, 0, 0] ** 2)


def _start(points: Any, num_streams: int) -> Streams:
    """Streams ``[N, S, 2]`` of the coordinates themselves."""
    streams = jnp.zeros((len(points), num_streams, 2), points.dtype).at[:, 0].set(points)
    return streams if num_streams == 1 else streams.at[:, 1:3].set(jnp.eye(2, dtype=points.dtype))


def _with_bias(streams: Streams) -> Streams:
    ones = jnp.zeros((*streams.shape[:2], 1), streams.dtype).at[:, 0].set(1)
    return jnp.concatenate([streams, ones], 2)


def _tanh(streams: Streams) -> Streams:
    """(a, a' z_i, a' Δz + a'' Σ z_i²) with a = tanh z, a' = 1 - a² and a'' = -2 a a'."""
    a = jnp.tanh(streams[:, :1])
    if streams.shape[1] == 1:
        return a
    slope, first = (1 - a) * (1 + a), streams[:, 1:3]
    bend = slope * (streams[:, 3:] - 2 * a * jnp.sum(first**2, 1, keepdims=True))
    return jnp.concatenate([a, slope * first, bend], 1)


def _outputs(layers: list[Any], streams: Streams) -> Streams:
    for layer in layers[:-1]:
        streams = _tanh(_with_bias(streams) @ layer)
    return _with_bias(streams) @ layers[-1]


def rows(case: Case, batches: list[int]) -> dict[str, Way]:
    """Hessian-vector products of the streams' loss, with what they share computed once."""
    streamed = Streamed(case)
    product = jax.linearize(jax.grad(streamed.loss), streamed.theta)[1]

    @jax.jit
    def compiled(indices: Any) -> Any:
        return jax.lax.map(
            lambda index: product(jax.nn.one_hot(index, case.num_params, dtype=case.dtype)), indices
        )

    def call(indices: Indices) -> Array:
        return np.asarray(compiled(indices))

    sizes = batches_for(case.num_params, batches)
    return {f"{size} rows, linearized": RowWay(case.num_params, size, call) for size in sizes}


def rows_of_layers(case: Case, batches: list[int]) -> dict[str, Way]:
    """The same for one layer after the other, without what lies left of its diagonal block."""
    streamed = Streamed(case)

    def matrix(theta: Any) -> Any:
        filled, start = jnp.zeros((theta.size, theta.size), theta.dtype), 0
        for end in streamed.ends:
            head, own, rest = theta[:start], theta[start:end], theta[end:]

            def gradient(own: Any, head: Any = head, rest: Any = rest) -> Any:
                def loss(tail: Any) -> Any:
                    return streamed.loss(jnp.concatenate([head, tail]))

                return jax.grad(loss)(jnp.concatenate([own, rest]))

            product = jax.linearize(gradient, own)[1]
            found = jax.lax.map(product, jnp.eye(end - start, dtype=theta.dtype))
            filled = filled.at[start:end, start:].set(found)
            start = end
        return jnp.triu(filled) + jnp.triu(filled, 1).T

    return {"all rows": WholeWay(case.num_params, _compiled(matrix, streamed.theta))}


def kronecker(case: Case, batches: list[int]) -> dict[str, Way]:
    """``JᵀJ`` by one product, and the residuals' curvature from tangents at the layers.

    With a probe E_l added to Z_l, a point's φ = r u_k has the gradient ``A_lᵀ G_l`` for layer l,
    ``G_l = ∂φ/∂E_l``, so that for layers l ≤ m

        ∂²φ / ∂W_l[i, j] ∂W_m[k, p] = Σ_st A_l[s, i] A_m[t, k] ∂G_m[t, p]/∂E_l[s, j]
                                    + Σ_st A_l[s, i] G_m[t, p] ∂A_m[t, k]/∂E_l[s, j].
    """
    streamed = Streamed(case)

    def matrix(theta: Any) -> Any:
        inside = _term(streamed, theta, _start(streamed.interior, 4), streamed.source, LAPLACIAN)
        zero = jnp.zeros(len(streamed.boundary), theta.dtype)
        return inside + _term(streamed, theta, _start(streamed.boundary, 1), zero, 0)

    return {f"{CHUNK} points": WholeWay(case.num_params, _compiled(matrix, streamed.theta))}


def _compiled(matrix: Callable[[Any], Any], theta: Any) -> Callable[[], Array]:
    compiled = jax.jit(matrix)
    return lambda: np.asarray(compiled(theta))


def _term(streamed: Streamed, theta: Any, points: Streams, source: Any, stream: int) -> Any:
    """Of the mean of squares of one stream's residual."""

    def residual(theta: Any, point: Streams, source: Any) -> Any:
        return _outputs(streamed.layers(theta), point[None])[0, stream, 0] - source

    along = (None, 0, 0)
    jacobian = jax.vmap(jax.grad(residual), along)(theta, points, source)
    scaled = 2 / len(points) * jax.vmap(residual, along)(theta, points, source)
    curvature = _curvature(streamed.layers(theta), points, scaled, stream)
    return 2 / len(points) * (jacobian.T @ jacobian) + curvature


# Pairs (s, t) of streams that couple, of 16. φ is linear in the Laplacian's stream and in each of
# the squares of first derivatives' streams, so that ∂G[t]/∂E[s] has nine; and ∂A[t]/∂E[s] has nine,
# as a first derivative depends on the value's stream and its own, the Laplacian on all, the value
# on itself.
BACKWARD = [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (2, 0), (3, 0), (1, 1), (2, 2)]
FORWARD = [(0, 0), (0, 1), (0, 2), (0, 3), (1, 1), (1, 3), (2, 2), (2, 3), (3, 3)]


def _curvature(layers: list[Any], points: Streams, weights: Any, stream: int) -> Any:
    """Σ over points of weight times ∂²u_k/∂θ², by a product of matrices for each pair of layers."""
    shapes, count = [layer.shape for layer in layers], range(len(layers))
    pairs = [(first, second) for first in count for second in count[first:]]
    single = points.shape[1] == 1
    backward, forward = (np.array([(0, 0)] if single else found) for found in (BACKWARD, FORWARD))
    chunks = (points.reshape(-1, CHUNK, *points.shape[1:]), weights.reshape(-1, CHUNK))

    def step(sums: dict[Block, Any], chunk: Any) -> tuple[dict[Block, Any], None]:
        gradients, inputs, tangents = jax.vmap(_tangents(layers, stream))(*chunk)
        added = {}
        for first, second in pairs:
            ours, theirs = inputs[first], inputs[second]
            of_gradient, of_input = tangents[first]
            both = _coupled(ours, theirs, of_gradient[second - first], backward)
            across = sums[first, second][1]
            if second > first:
                moved = of_input[second - first - 1]
                across = across + _coupled(ours, gradients[second], moved, forward)
            added[first, second] = (sums[first, second][0] + both, across)
        return added, None

    def zeros(first: int, second: int) -> tuple[Any, Any]:
        (i, j), (k, p) = shapes[first], shapes[second]
        return jnp.zeros((i * k, j * p), points.dtype), jnp.zeros((i * p, j * k), points.dtype)

    sums = jax.lax.scan(step, {pair: zeros(*pair) for pair in pairs}, chunks)[0]
    blocks = {pair: _ordered(*sums[pair], shapes[pair[0]], shapes[pair[1]]) for pair in pairs}
    whole = [[blocks[a, b] if b >= a else blocks[b, a].T for b in count] for a in count]
    return jnp.block(whole)


def _tangents(layers: list[Any], stream: int) -> Callable[[Any, Any], Any]:
    """A point's G and A of each layer, and their derivatives by the probe of each earlier one."""

    def weighted(probes: list[Any], point: Streams, weight: Any) -> tuple[Any, list[Any]]:
        streams, inputs = point[None], []
        for number, (layer, probe) in enumerate(zip(layers, probes, strict=True)):
            streams = _tanh(streams) if number else streams
            inputs.append(_with_bias(streams)[0])
            streams = inputs[-1][None] @ layer + probe
        return weight * streams[0, stream, 0], inputs

    def one(point: Streams, weight: Any) -> Any:
        zero = [jnp.zeros((len(point), layer.shape[1]), point.dtype) for layer in layers]
        found = jax.grad(weighted, has_aux=True)
        tangents = []
        for number, probe in enumerate(zero):

            def later(moved: Any, number: int = number) -> Any:
                probes = [*zero[:number], moved, *zero[number + 1 :]]
                gradients, inputs = found(probes, point, weight)
                return gradients[number:], inputs[number + 1 :]

            product, units = jax.linearize(later, probe)[1], jnp.eye(probe.size, dtype=point.dtype)
            along = units.reshape(*probe.shape, *probe.shape)
            tangents.append(jax.vmap(jax.vmap(product))(along))
        return *found(zero, point, weight), tangents

    return one


def _coupled(ours: Any, theirs: Any, tangents: Any, pairs: Any) -> Any:
    """Σ over points and pairs of streams of ``(ours ⊗ theirs)ᵀ tangents``, ``[i k, j p]``."""
    source, target = pairs[:, 0], pairs[:, 1]
    left = ours[:, source, :, None] * theirs[:, target, None, :]
    right = tangents.transpose(0, 1, 3, 2, 4)[:, source, target]
    count = len(ours) * len(pairs)
    return left.reshape(count, -1).T @ right.reshape(count, -1)


def _ordered(both: Any, across: Any, first: tuple[int, int], second: tuple[int, int]) -> Any:
    """From [i k, j p] and [i p, j k] to rows (i, j) and columns (k, p)."""
    (i, j), (k, p) = first, second
    block = both.reshape(i, k, j, p).transpose(0, 2, 1, 3)
    block = block + across.reshape(i, p, j, k).transpose(0, 2, 3, 1)
    return block.reshape(i * j, k * p)

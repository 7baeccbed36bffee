"""The products that make up the Hessian, on a GPU.

What :mod:`hessian_tasks.layered.multiply.contract` does in NumPy for the caches of a processor,
without that care: XLA compiles the tangents of a batch of points, one function a probe, and the
large products go to the GPU's own library. A block row stays there until it is complete, and
crosses to the host once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from hessian_tasks.jets import Tensor
from hessian_tasks.layered.expand.expansion import Expansion
from hessian_tasks.layered.expand.network import Array
from hessian_tasks.layered.expand.rows import RowFactors
from hessian_tasks.layered.multiply.pairs import Combinations, SitePair, StreamPair, find_kinds
from hessian_tasks.layered.xla._traced import Stacks, entering_streams, stack_tangents

__all__ = ["CompiledContraction"]

# Bytes of the tangents by all pairs of streams at the widest wire, in one batch of points.
BATCH_BYTES = 512 * 2**20


class CompiledContraction:
    """Adds one term of the loss to entries of the Hessian.

    It does the same as :class:`~hessian_tasks.layered.multiply.contract.Contraction`, on another
    device.
    """

    def __init__(self, expansion: Expansion, device: str) -> None:
        """Take the term to the device.

        Args:
            expansion: The term around θ.
            device: TensorFlow's name of the device, as ``"GPU:0"``.
        """
        self._device = device
        self._kinds = find_kinds(expansion)
        self._network = expansion.network
        self._num_streams = expansion.num_streams
        widest = max(expansion.network.program.widths)
        point_bytes = expansion.num_streams**2 * widest**2 * expansion.network.dtype.itemsize
        number = -(-expansion.num_points // max(1, BATCH_BYTES // point_bytes))
        # All batches have the same shape, so that one function serves them: the last points are
        # zeros, which add nothing.
        self._batch = -(-expansion.num_points // number)
        self._starts = range(0, number * self._batch, self._batch)
        with tf.device(device):
            self._expansion = self._upload(expansion)
            self._cotangents = {
                site: self._pad(_stack(expansion.cotangents[site], expansion, site), 0)
                for site in expansion.inputs
            }
            self._bends = {
                pair: self._upload_bends(kind.separable)
                for pair, kind in self._kinds.items()
                if kind.separable
            }
            self._rows = None if expansion.rows is None else self._upload_rows(expansion.rows)
        self._tangents: dict[int, Callable[[Tensor], dict[int, Stacks]]] = {}

    def add(self, targets: Iterable[tuple[Array, SitePair]], check: Callable[[], None]) -> None:
        """Add the term to entries.

        Args:
            targets: Views ``[i, j, k, p]`` of the Hessian, each with its pair of sites.
            check: Called before each batch of points; may raise.
        """
        with tf.device(self._device):
            chosen = [(entries, pair, _Entries(pair, entries.shape)) for entries, pair in targets]
            for start in self._starts:
                check()
                points = slice(start, start + self._batch)
                stacks = {
                    site: self._find(site)(tf.constant(start))
                    for site in dict.fromkeys(pair.first for _, pair, _ in chosen)
                }
                for _, pair, total in chosen:
                    if self._rows is not None:
                        self._add_rows(total, pair, points, self._rows)
                    self._add_curvature(total, pair, points, stacks[pair.first][pair.second])
            for entries, pair, total in chosen:
                entries += total.value(self._network.kernel(pair.second)).numpy()

    def forget(self) -> None:
        """Nothing is kept between block rows."""

    def _find(self, site: int) -> Callable[[Tensor], dict[int, Stacks]]:
        """The compiled function of a site: from the first point of a batch to its tangents."""
        if site not in self._tangents:

            def find(start: Tensor) -> dict[int, Stacks]:
                return stack_tangents(self._cut(start), site, self._kinds)

            compiled = tf.function(find, autograph=False, jit_compile=True)
            self._tangents[site] = compiled.get_concrete_function(tf.TensorSpec([], tf.int32))
        return self._tangents[site]

    def _add_rows(self, total: _Entries, pair: SitePair, points: slice, rows: RowFactors) -> None:
        left, right = (
            (rows.inputs[site][points], rows.cotangents[site][:, points])
            for site in (pair.first, pair.second)
        )
        signs = rows.signs[:, points, None, None]
        total.add_factors("whole", (left[0], signs * left[1]), right)

    def _add_curvature(
        self, total: _Entries, pair: SitePair, points: slice, stacks: Stacks
    ) -> None:
        kind = self._kinds[pair.first, pair.second]
        left = self._expansion.inputs[pair.first][points]
        inputs = self._expansion.inputs[pair.second][points]
        cotangents = self._cotangents[pair.second][points]
        for name, stacked in stacks.items():
            if name == "separable":
                bends = self._bends[pair.first, pair.second][:, points]
                total.add_factors(name, (left, stacked), (inputs, bends))
            elif name.startswith("bent"):
                coefficients = self._coefficients(kind.bent["diagonal" in name])
                total.add_bent(name, coefficients, (left, inputs), stacked)
            else:
                coefficients = self._coefficients(kind.moved["diagonal" in name])
                total.add_moved(name, coefficients, (left, cotangents), stacked)

    def _coefficients(self, combinations: Combinations) -> Array:
        """How often each tangent belongs to each pair of streams, ``[r, s, t]``."""
        shape = (len(combinations), self._num_streams, self._num_streams)
        found = np.zeros(shape, self._network.dtype)
        for number, pairs in enumerate(combinations.values()):
            for (s, t), coefficient in pairs.items():
                found[number, s, t] = coefficient
        return found

    def _cut(self, start: Tensor) -> Expansion:
        """The expansion at one batch of points."""

        def cut(array: Tensor) -> Tensor:
            begin = [start] + [0] * (array.ndim - 1)
            return tf.slice(array, begin, [self._batch, *array.shape[1:]])

        return _map_points(self._expansion, cut, self._batch)

    def _upload(self, expansion: Expansion) -> Expansion:
        uploaded = _map_points(expansion, lambda a: self._pad(a, 0), self._starts.stop)
        inputs = {site: self._pad(array, 0) for site, array in expansion.inputs.items()}
        return replace(uploaded, inputs=inputs)

    def _upload_bends(self, bends: Mapping[StreamPair, Array]) -> Tensor:
        """The curvature of a separable pair ``[r, N, t, p]``."""
        num_points, width = next(iter(bends.values())).shape
        streams = entering_streams(bends)
        shape = (len(streams), num_points, self._num_streams, width)
        found = np.zeros(shape, self._network.dtype)
        for (between, t), bend in bends.items():
            found[streams.index(between), :, t] = bend
        return self._pad(found, 1)

    def _upload_rows(self, rows: RowFactors) -> RowFactors:
        return RowFactors(
            inputs={site: self._pad(array, 0) for site, array in rows.inputs.items()},
            cotangents={site: self._pad(array, 1) for site, array in rows.cotangents.items()},
            signs=self._pad(rows.signs, 1),
        )

    def _pad(self, array: Array, axis: int) -> Tensor:
        widths = [(0, 0)] * array.ndim
        widths[axis] = (0, self._starts.stop - array.shape[axis])
        return tf.constant(np.pad(array, widths))


class _Entries:
    """Entries of a pair of sites on the device, in the orders in which products make them."""

    def __init__(self, pair: SitePair, shape: tuple[int, ...]) -> None:
        self._first = slice(pair.first_rows.start, pair.first_rows.stop)
        self._second = slice(pair.second_rows.start, pair.second_rows.stop)
        self._shape = shape
        self._sums: dict[str, Tensor] = {}

    def add_factors(
        self, name: str, left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]
    ) -> None:
        """Add ``Σ_rn (Σ_s A_l[i] L[j]) (Σ_t A_m[k] R[p])``, ``[i·j, k·p]``.

        Args:
            name: What it is added to.
            left: Inputs ``[n, S, i]`` and factors ``[r, n, S, j]``.
            right: Likewise with k and p.
        """
        self._add(
            name,
            _times_inputs(left[0][..., self._first], left[1]),
            _times_inputs(right[0][..., self._second], right[1]),
        )

    def add_bent(
        self, name: str, coefficients: Array, factors: tuple[Tensor, Tensor], tangents: Tensor
    ) -> None:
        """Add inputs times inputs times tangents of cotangents, ``[i·k, j·p]`` or ``[i·k, j]``."""
        left, right = factors
        outer = _outer(coefficients, left[..., self._first], right[..., self._second])
        self._add(name, outer, _matrix(tangents))

    def add_moved(
        self, name: str, coefficients: Array, factors: tuple[Tensor, Tensor], tangents: Tensor
    ) -> None:
        """Add inputs times cotangents times tangents of inputs, ``[i·p, j·k]`` or ``[i·p, j]``."""
        left, cotangents = factors
        outer = _outer(coefficients, left[..., self._first], cotangents)
        if tangents.ndim == 4:
            tangents = tangents[..., self._second]
        self._add(name, outer, _matrix(tangents))

    def value(self, kernel: Array) -> Tensor:
        """All of them ``[i, j, k, p]``; ``kernel`` ``[j, p]`` scales those that are separable."""
        num_rows, width, num_columns, other = self._shape
        orders = {
            "whole": lambda x: tf.reshape(x, self._shape),
            "separable": lambda x: tf.reshape(x, self._shape) * kernel[:, None, :],
            "bent": lambda x: tf.transpose(
                tf.reshape(x, [num_rows, num_columns, width, other]), [0, 2, 1, 3]
            ),
            "bent diagonal": lambda x: tf.transpose(
                tf.linalg.diag(tf.reshape(x, [num_rows, num_columns, width])), [0, 2, 1, 3]
            ),
            "moved": lambda x: self._order_moved(tf.reshape(x, [num_rows, other, width, -1])),
            "moved diagonal": lambda x: self._order_moved(
                tf.linalg.diag(tf.reshape(x, [num_rows, other, width]))[..., self._second]
            ),
        }
        total = tf.zeros(self._shape, kernel.dtype)
        for name, product in self._sums.items():
            total += orders[name](product)
        return total

    def _order_moved(self, entries: Tensor) -> Tensor:
        """``[i, j, k, p]`` of ``[i, p, j, k]``; the row of the bias, the last k, is zero."""
        missing = self._shape[2] - entries.shape[3]
        return tf.transpose(tf.pad(entries, [(0, 0)] * 3 + [(0, missing)]), [0, 2, 3, 1])

    def _add(self, name: str, left: Tensor, right: Tensor) -> None:
        product = tf.matmul(left, right, transpose_a=True)
        self._sums[name] = self._sums[name] + product if name in self._sums else product


def _map_points(expansion: Expansion, change: Callable[[Any], Any], num_points: int) -> Expansion:
    """Change all arrays ``[N, ...]`` that tangents depend on."""

    def map_all(arrays: Mapping[Any, Any]) -> dict[Any, Any]:
        return {key: change(array) for key, array in arrays.items()}

    return replace(
        expansion,
        num_points=num_points,
        jacobians={wire: map_all(arrays) for wire, arrays in expansion.jacobians.items()},
        curvatures={wire: map_all(arrays) for wire, arrays in expansion.curvatures.items()},
        output_curvature=map_all(expansion.output_curvature),
    )


def _stack(streams: Mapping[int, Array], expansion: Expansion, site: int) -> Array:
    """All streams of a wire, zeros too, ``[N, S, width]``."""
    shape = (expansion.num_points, expansion.num_streams, expansion.network.program.widths[site])
    found = np.zeros(shape, expansion.network.dtype)
    for stream, values in streams.items():
        found[:, stream] = values
    return found


def _outer(coefficients: Array, left: Tensor, right: Tensor) -> Tensor:
    """``Σ_st c[r,s,t] left[n,s,i] right[n,t,a]`` as a matrix ``[r·n, i·a]``."""
    weighted = tf.einsum("rst,nsi->rnti", coefficients, left)
    return _matrix(tf.einsum("rnti,nta->rnia", weighted, right))


def _times_inputs(inputs: Tensor, factor: Tensor) -> Tensor:
    """``Σ_s A[n,s,i] F[r,n,s,j]`` as a matrix ``[r·n, i·j]``."""
    return _matrix(tf.einsum("nsi,rnsj->rnij", inputs, factor))


def _matrix(stacked: Tensor) -> Tensor:
    """``[r·n, ...]`` of ``[r, n, ...]``, the rest as one axis."""
    return tf.reshape(stacked, [stacked.shape[0] * stacked.shape[1], -1])

"""Pieces of a graph that are linear or bilinear in wires, through tensors of other ranks.

A dot product of two layers may be written as a sum of products, a batched matrix product or an
einsum, and a column as a vector with one more axis. Of such a piece, whatever its operations, it is
enough to know what it makes of unit vectors,

    y[n, o] = Σ_i A[i, o] a[n, i]      or      y[n, o] = Σ_ij C[i, j, o] a[n, i] b[n, j].

That it does nothing else is checked at random values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.jets import Tensor
from hessian_tasks.layered.read._subgraph import make_function, sources

__all__ = ["Contracted", "read_contraction"]

Array: TypeAlias = npt.NDArray[Any]

_OPERATIONS = """
BatchMatMul BatchMatMulV2 Einsum ExpandDims Identity Mean Mul Pack Reshape Shape Squeeze
StridedSlice Sum Transpose
"""
OPERATIONS = frozenset(_OPERATIONS.split())
NUM_SAMPLES = 7
# Numbers of products of two neurons that a piece may have.
MAX_PRODUCTS = 4096


@dataclass(frozen=True, eq=False)
class Contracted:
    """A piece that is linear in one wire, or bilinear in two.

    Attributes:
        factors: The tensors that it starts from ``[N, width]``.
        coefficients: What it makes of unit vectors, ``[width, outputs]`` or
            ``[width, width, outputs]``.
    """

    factors: list[Tensor]
    coefficients: Array


def read_contraction(
    tensor: Tensor, depends: Mapping[str, frozenset[str]], constants: Mapping[str, Array]
) -> Contracted | None:
    """Read the piece of a graph that ends in a tensor, or None if it is not of this kind.

    Args:
        tensor: Tensor ``[N, outputs]`` of the graph.
        depends: What each tensor depends on, by name.
        constants: Values of tensors that the graph captures, by name.
    """
    factors = _find_factors(tensor, depends)
    if factors is None or not 1 <= len(factors) <= 2:
        return None
    widths = [factor.shape[1] for factor in factors]
    if int(np.prod(widths)) > MAX_PRODUCTS:
        return None
    function = make_function(tensor, factors, constants)
    compiled = tf.function(lambda *values: function(*values), autograph=False)

    def evaluate(*values: Array) -> Array:
        # Called as it is, TensorFlow warns of retracing where a network has several of them.
        tensors = [tf.constant(value) for value in values]
        return np.asarray(compiled.get_concrete_function(*tensors)(*tensors).numpy())

    dtype = tensor.dtype.as_numpy_dtype
    units = np.indices(widths).reshape(len(widths), -1)
    given = [np.eye(w, dtype=dtype)[u] for w, u in zip(widths, units, strict=True)]
    coefficients = evaluate(*given)
    if coefficients.shape != (units.shape[1], tensor.shape[1]):
        return None
    found = Contracted(factors, coefficients.reshape(*widths, -1).astype(np.float64))
    return found if _holds(found, evaluate, dtype) else None


def _find_factors(tensor: Tensor, depends: Mapping[str, frozenset[str]]) -> list[Tensor] | None:
    found: dict[str, Tensor] = {}
    waiting, seen = [tensor], {tensor.name}
    while waiting:
        operation = waiting.pop().op
        if operation.type not in OPERATIONS:
            return None
        for source in sources(operation.outputs[0]):
            if not depends[source.name] or source.name in seen:
                continue
            seen.add(source.name)
            if source.shape.rank == 2 and source.shape[1] and source.dtype == tensor.dtype:
                found[source.name] = source
            else:
                waiting.append(source)
    return list(found.values())


def _holds(found: Contracted, evaluate: Callable[..., Array], dtype: Any) -> bool:
    rng = np.random.default_rng(3)
    widths = found.coefficients.shape[:-1]
    values = [rng.normal(size=(NUM_SAMPLES, width)).astype(dtype) for width in widths]
    form = "ni,io->no" if len(values) == 1 else "ni,nj,ijo->no"
    expected = np.einsum(form, *values, found.coefficients)
    result = evaluate(*values)
    tolerance = float(np.sqrt(np.finfo(dtype).eps)) * np.abs(expected).max(initial=1.0)
    return result.shape == expected.shape and bool(np.abs(result - expected).max() <= tolerance)

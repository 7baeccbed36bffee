"""What is linear in the loss, computed for one batch of data after the other.

A :class:`~hessian_tasks.problem.LossTerm` that is declared ``batched`` is a mean over N examples,
so that for batches b of n_b examples each

    loss = Σ_b n_b/N loss_b,

and the same holds of whatever is linear in the loss: its gradient, rows of its matrices, products
of these with vectors. One function is compiled for a batch, whose data are its arguments: no graph
holds them, and a process has them once, as the arrays of the term, however many graphs it compiles.
The examples are cut the same way everywhere, as equally as can be, so that there are at most two
sizes of batches, and two traces.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.jets import Tensor
from hessian_tasks.loss.graphs import forget_gradients
from hessian_tasks.networks.models import dtype_of, inner_layers
from hessian_tasks.networks.trainables import networks_of
from hessian_tasks.problem import LossTerm, Problem, Term
from hessian_tasks.problem.terms import PointTerm, is_batched
from hessian_tasks.shards import MAX_BATCH, cut

__all__ = [
    "Part",
    "SumOverBatches",
    "batch_size",
    "batches",
    "sample",
    "specs_of",
    "term_arrays",
]

# Data of a batch, and outputs of layers: a row of the Hessian takes some of the latter, and loops
# have some rows at once.
BATCH_BYTES = 32 * 2**20


def term_arrays(
    problem: Problem, term: Term | PointTerm, rows: slice | npt.NDArray[np.intp] = slice(None)
) -> dict[str, Tensor]:
    """A term's arrays, or some of their entries, as tensors, real ones in the model's dtype."""
    dtype = dtype_of(problem.model)
    return {
        key: tf.constant(array[rows], dtype=dtype if array.dtype.kind == "f" else None)
        for key, array in term.arrays.items()
    }


def specs_of(arrays: Mapping[str, Tensor]) -> dict[str, tf.TensorSpec]:
    """What a function is to be compiled for, to be given such arrays."""
    return {key: tf.TensorSpec(array.shape, array.dtype) for key, array in arrays.items()}


def batch_size(problem: Problem, term: LossTerm) -> int:
    """Largest number of a batched term's examples that are computed at once.

    Bounded by the bytes of their data and of what the layers of the networks make of each. Layers
    of subclassed models do not say; there it is the data alone.

    Args:
        problem: The problem, its model resolved to a Keras model.
        term: A batched term.

    Example:
        >>> import keras
        >>> images = np.zeros((5000, 64, 64, 3), "float32")
        >>> layers = [keras.layers.Conv2D(16, 3), keras.layers.Flatten(), keras.layers.Dense(1)]
        >>> net = keras.Sequential([keras.Input((64, 64, 3)), *layers])
        >>> term = LossTerm("fit", lambda model, x: ..., data={"x": images}, batched=True)
        >>> batch_size(Problem(net, [term]), term)
        62
    """
    example = sum(array.nbytes // len(array) for array in term.arrays.values())
    networks = networks_of(problem.model).values()
    outputs = sum(_output_bytes(layer) for network in networks for layer in inner_layers(network))
    bytes_each = example + outputs
    return max(1, min(MAX_BATCH, BATCH_BYTES // max(1, bytes_each)))


def _output_bytes(layer: Any) -> int:
    """Bytes of what a layer makes of one example, as far as it says."""
    # Keras raises where a layer has no output, or several, or one without a shape.
    with suppress(AttributeError, ValueError, TypeError):
        sizes = [math.prod(output.shape[1:]) for output in tf.nest.flatten(layer.output)]
        return int(sum(sizes) * np.dtype(layer.compute_dtype).itemsize)
    return 0


def batches(problem: Problem, term: LossTerm) -> list[slice]:
    """The examples of a batched term that are computed at once."""
    (whole,) = cut(term.name, term.num_examples, batch_size(problem, term), 1)
    return [slice(*batch) for batch in whole.batches()]


def sample(problem: Problem, term: LossTerm) -> LossTerm:
    """A batched term on a batch of its examples, from all over its data."""
    size = min(term.num_examples, batch_size(problem, term))
    return term.at(np.linspace(0, term.num_examples - 1, size).astype(np.intp))


@dataclass(frozen=True)
class Part:
    """What of a loss is computed at once: some terms, or a batch of one.

    Attributes:
        terms: The terms.
        arrays: The data of the batch, of the only term; None where terms have all their own.
    """

    terms: tuple[Term, ...]
    arrays: Mapping[str, Tensor] | None


class SumOverBatches:
    """A function that is linear in the loss, compiled and added up.

    Terms that are not batched are computed together, then each batch of the others.

    Example:
        >>> from hessian_tasks.loss.terms import part_loss
        >>> from hessian_tasks.problems.networks import mlp
        >>> x = np.arange(1, 301)
        >>> mean = LossTerm("mean", lambda _, x: tf.reduce_mean(x), data={"x": x / 2}, batched=True)
        >>> problem = Problem(mlp(1, width=1, depth=1), [mean])
        >>> def times(part, factor):
        ...     return factor * part_loss(problem, part)
        >>> total = SumOverBatches(problem, [mean], times, [tf.TensorSpec([])])
        >>> float(total(tf.constant(2.0)))  # of two batches of 150 numbers each
        150.5
    """

    def __init__(
        self,
        problem: Problem,
        terms: Sequence[Term],
        function: Callable[..., Any],
        specs: Sequence[tf.TensorSpec] = (),
    ) -> None:
        """Compile.

        Args:
            problem: The problem, its model resolved to a Keras model.
            terms: The terms whose loss it is, at least one.
            function: ``function(part, *arguments)`` gives tensors, or lists or tuples of them, that
                are those of the whole when they are added up over all parts of the loss.
            specs: What its arguments are.
        """
        self._problem = problem
        self._function = function
        self._specs = specs
        self._calls = list(self._compile(terms))

    def __call__(self, *arguments: Tensor, check: Callable[[], None] = lambda: None) -> Any:
        """The sum.

        Args:
            arguments: Tensors, as the function is given.
            check: Called before each batch; may raise to abandon the rest.
        """

        def evaluate(call: tuple[Callable[..., Any], LossTerm | None, slice]) -> Any:
            check()
            compiled, term, rows = call
            arrays = {} if term is None else term_arrays(self._problem, term, rows)
            return compiled(arrays, *arguments)

        def add(total: Any, found: Any) -> Any:
            return tf.nest.map_structure(tf.add, total, found)

        return reduce(add, map(evaluate, self._calls))

    def _compile(
        self, terms: Sequence[Term]
    ) -> Iterator[tuple[Callable[..., Any], LossTerm | None, slice]]:
        together = tuple(term for term in terms if not is_batched(term))
        if together:
            yield self._trace(together, {}), None, slice(None)
        for term in terms:
            if is_batched(term):
                traced: dict[int, Callable[..., Any]] = {}
                for rows in batches(self._problem, term):
                    size = rows.stop - rows.start
                    if size not in traced:
                        arrays = term_arrays(self._problem, term, rows)
                        traced[size] = self._trace((term,), arrays)
                    yield traced[size], term, rows

    def _trace(self, terms: tuple[Term, ...], arrays: Mapping[str, Tensor]) -> Callable[..., Any]:
        def function(given: Mapping[str, Tensor], *arguments: Tensor) -> Any:
            return self._function(Part(terms, given or None), *arguments)

        traced = tf.function(function, autograph=False)
        concrete = traced.get_concrete_function(specs_of(arrays), *self._specs)
        return forget_gradients(concrete)  # type: ignore[no-any-return]

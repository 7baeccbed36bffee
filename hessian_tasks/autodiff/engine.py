"""The ``autodiff`` engine: rows of the Hessian for any model and any loss.

Row r of H is the gradient of entry r of the gradient, so a block row is a batched
Hessian-matrix product with one-hot tangents:

    H[a:b, :] = E_{a:b} ∂g/∂θ,      g = ∂L/∂θ.

The first-order graph is evaluated once for the whole batch; a loop inside the
compiled graph then runs one reverse pass a row (reverse over reverse). Against
forward over reverse, against vectorising over rows and against XLA this was the
fastest on CPU once every thread computes block rows of its own, and the only one that took
every loss it was tried on; ``docs/concepts/engines.md`` has the figures.

By symmetry a block row only needs the columns from its own start on. Layers
before the one in which it starts are then constants: they need neither tangents nor
gradients, and the compiled graph for that layer leaves them out.

Rows of a batched term are the sum of those of its batches, whose data are arguments of the graphs:
memory is that of one batch, and of the data once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.devices import DevicePool
from hessian_tasks.errors import ProblemError
from hessian_tasks.jets import Tensor, reverse_derivative
from hessian_tasks.loss.batches import Part, SumOverBatches
from hessian_tasks.loss.gradient import flatten, gradient
from hessian_tasks.loss.means import check_means
from hessian_tasks.loss.terms import part_loss
from hessian_tasks.networks.models import dtype_of, parameter_layout, trainable_variables
from hessian_tasks.problem import Problem, Term
from hessian_tasks.spec import BlockRow

__all__ = [
    "AutodiffEngine",
    "apply_compiled",
    "compile_product",
    "hessian_vector_product",
    "pull_back",
    "select_terms",
    "trial_rows",
]


class AutodiffEngine:
    """Computes block rows of the Hessian by automatic differentiation.

    Safe to share between threads. Compiled functions are kept, one for each loss
    term and starting layer; the number of rows is an argument, so that no row
    batch compiles anew.

    Example:
        >>> import keras, numpy as np
        >>> from hessian_tasks import BlockRow, Problem, ResidualTerm
        >>> net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> fit = ResidualTerm("fit", [[1.0], [3.0]], lambda x, u: u.value)
        >>> engine = AutodiffEngine(Problem(net, [fit], coordinates="x"))
        >>> engine.block_row(BlockRow(0, 0, 2))  # mean of 2 (x, 1)ᵀ(x, 1)
        array([[10.,  4.],
               [ 4.,  2.]], dtype=float32)
    """

    name = "autodiff"
    tile_multiple = 1

    def __init__(
        self, problem: Problem, row_batch: int = 64, devices: DevicePool | None = None
    ) -> None:
        """Prepare the engine; no rows are compiled yet.

        Args:
            problem: The problem, its model resolved to a Keras model.
            row_batch: Number of rows computed by one call into TensorFlow. It bounds
                memory and the time to react to an interruption, not the speed.
            devices: The devices to compute on; each block row takes a free one. By default
                TensorFlow chooses.

        Raises:
            ProblemError: If a term is declared batched, and is no mean over its examples.
        """
        self.problem = problem
        self.devices = devices or DevicePool()
        self.layout = parameter_layout(problem.model)
        self.dtype = np.dtype(dtype_of(problem.model))
        self.row_batch = row_batch
        self._variables = trainable_variables(problem.model)
        self._compiled: dict[tuple[str | None, int], SumOverBatches] = {}
        self._lock = threading.Lock()
        check_means(problem)

    def block_row(
        self,
        row: BlockRow,
        term: str | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> npt.NDArray[Any]:
        """Rows ``[start, stop)`` of the Hessian, columns from ``start`` on.

        Args:
            row: The block row.
            term: Name of one loss term, or None for the total loss.
            check: Called before each row batch, and each batch of data; may raise to abandon the
                block row.

        Returns:
            Array ``[rows, P - start]`` in the model's dtype.
        """
        first = self.layout.layer_start(row.start)
        offset = self.layout.variables[first].offset
        compiled = self._compile(term, first)
        block = np.empty((row.num_rows, self.layout.num_params - row.start), self.dtype)
        with self.devices.take() as device, tf.device(device):
            for start in range(row.start, row.stop, self.row_batch):
                stop = min(start + self.row_batch, row.stop)
                span = tf.constant(start - offset), tf.constant(stop - offset)
                rows = compiled(*span, check=check)
                block[start - row.start : stop - row.start] = rows.numpy()[:, row.start - offset :]
        return block

    def trial_rows(self) -> list[BlockRow]:
        """A few rows that are typical of the whole: one to compile, a short and a longer one."""
        return trial_rows(self.layout.num_params, 4, 16)

    def num_graphs(self, per_term: bool) -> int:
        """Number of graphs that a run compiles, each about as large as the first."""
        return len(self.layout.layers()) * (len(self.problem.terms) if per_term else 1)

    def _compile(self, term: str | None, first: int) -> SumOverBatches:
        with self._lock:
            key = (term, first)
            if key not in self._compiled:
                index = tf.TensorSpec([], tf.int32)
                terms = select_terms(self.problem, term)
                rows = self._make_rows(first)
                self._compiled[key] = SumOverBatches(self.problem, terms, rows, [index, index])
            return self._compiled[key]

    def _make_rows(self, first: int) -> Callable[[Part, Tensor, Tensor], Tensor]:
        variables = self._variables[first:]

        def rows(part: Part, start: Tensor, stop: Tensor) -> Tensor:
            with tf.GradientTape(persistent=True) as tape:
                grad = gradient(lambda: part_loss(self.problem, part), variables)

            def row(index: Tensor) -> Tensor:
                one_hot = tf.one_hot(index, tf.size(grad), dtype=grad.dtype)
                return pull_back(tape, grad, variables, one_hot)

            return tf.map_fn(row, tf.range(start, stop), fn_output_signature=grad.dtype)

        return rows


def hessian_vector_product(problem: Problem, vectors: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """``H v`` for the total loss, by a path that shares little with the engines.

    See :func:`compile_product`.

    Args:
        problem: The problem, its model resolved to a Keras model.
        vectors: One vector a row, ``[K, P]``.

    Returns:
        The products, one a row, ``[K, P]`` in the model's dtype.
    """
    return compile_product(problem)(vectors)


def compile_product(
    problem: Problem, term: str | None = None
) -> Callable[[npt.NDArray[Any]], npt.NDArray[Any]]:
    """Compile ``H v``.

    It differentiates the scalar ``⟨∇L(θ), v⟩`` (B. Pearlmutter, 1994), and the jets
    of residual terms by nested reverse passes instead of forward ones.

    Args:
        problem: The problem, its model resolved to a Keras model.
        term: Name of one loss term, or None for the total loss.

    Returns:
        A function of vectors ``[K, P]``, one a row, that gives their products likewise, in the
        model's dtype.

    Example:
        >>> import keras
        >>> from hessian_tasks import Problem, ResidualTerm
        >>> net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> fit = ResidualTerm("fit", [[1.0], [3.0]], lambda x, u: u.value)
        >>> compile_product(Problem(net, [fit], coordinates="x"))(np.eye(2))
        array([[10.,  4.],
               [ 4.,  2.]], dtype=float32)
    """
    variables = trainable_variables(problem.model)

    def product(part: Part, vector: Tensor) -> Tensor:
        with tf.GradientTape() as tape:
            grad = gradient(lambda: part_loss(problem, part, reverse_derivative), variables)
            slope = tf.tensordot(grad, vector, 1)
        return pull_back(tape, slope, variables)

    return apply_compiled(problem, select_terms(problem, term), product)


def apply_compiled(
    problem: Problem, terms: Sequence[Term], product: Callable[[Part, Tensor], Tensor]
) -> Callable[[npt.NDArray[Any]], npt.NDArray[Any]]:
    """Compile a function of a vector ``[P]``, to be applied to each row of an array.

    Args:
        problem: The problem, its model resolved to a Keras model.
        terms: The terms of the loss that it is linear in.
        product: Gives what a part of the loss makes of a vector.
    """
    dtype = dtype_of(problem.model)
    spec = tf.TensorSpec([parameter_layout(problem.model).num_params], dtype)
    compiled = SumOverBatches(problem, terms, product, [spec])
    return lambda vectors: np.stack([compiled(tf.constant(v, dtype)).numpy() for v in vectors])


def trial_rows(num_params: int, few: int, more: int) -> list[BlockRow]:
    """Block rows to try, from the first row on: one to compile, a short and a longer one.

    Example:
        >>> [row.stop for row in trial_rows(10, 4, 16)]
        [10, 4, 10]
    """
    short, long = min(few, num_params), min(more, num_params)
    return [BlockRow(0, 0, stop) for stop in (long, short, long)]


def pull_back(
    tape: tf.GradientTape, y: Tensor, variables: list[Tensor], cotangent: Tensor | None = None
) -> Tensor:
    """``(∂y/∂variables)ᵀ cotangent`` as one vector; the cotangent is 1 by default."""
    zero = tf.UnconnectedGradients.ZERO
    return flatten(
        tape.gradient(y, variables, output_gradients=cotangent, unconnected_gradients=zero)
    )


def select_terms(problem: Problem, name: str | None) -> list[Term]:
    """The terms of that name, or all.

    Raises:
        ProblemError: If there is no such term.
    """
    terms = [term for term in problem.terms if name in (None, term.name)]
    if not terms:
        known = ", ".join(term.name for term in problem.terms)
        raise ProblemError(f"There is no loss term {name!r}; the terms are {known}.")
    return terms

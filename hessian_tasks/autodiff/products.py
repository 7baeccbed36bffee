"""Products of the Hessian, or the Gauss-Newton matrix, with vectors, for a part of the points.

For the points of a shard, a batch at a time, and K vectors v at once:

    H_shard v = ∂⟨∇L_shard(θ), v⟩/∂θ,       G_shard v = 2 w / (N C) J_shardᵀ (J_shard v),

with L_shard the shard's share of the loss: ``w / (N C)`` times the sum of its squared residuals,
where N counts the points of the whole term; G of other terms is in
:mod:`hessian_tasks.autodiff.generalised`. The first-order graph of a batch is evaluated once
for all vectors; a loop inside the compiled graph then runs one reverse pass a vector, as in
:mod:`hessian_tasks.autodiff`. ``docs/howto/matrix_free.md`` has the figures of the other ways.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.autodiff.engine import pull_back, select_terms
from hessian_tasks.autodiff.generalised import KeptLoss, find_kinds
from hessian_tasks.autodiff.linearised import Linearisation
from hessian_tasks.errors import ProblemError
from hessian_tasks.jets import Tensor, forward_derivative
from hessian_tasks.loss.batches import batch_size, specs_of, term_arrays
from hessian_tasks.loss.gradient import gradient
from hessian_tasks.loss.graphs import forget_gradients
from hessian_tasks.loss.terms import View, seen_loss, seen_summands, term_values
from hessian_tasks.networks.models import dtype_of, parameter_layout, trainable_variables
from hessian_tasks.problem import LossTerm, PointTerm, Problem, ResidualTerm, Term
from hessian_tasks.reading import Reading
from hessian_tasks.shards import MAX_BATCH, Shard, cut
from hessian_tasks.spec import HESSIAN, Matrix

__all__ = ["ShardProducts", "cut_points"]

Array = npt.NDArray[Any]
Derivative = Callable[[Tensor, Tensor, int], Tensor]
# The arrays of a batch of B points, one for each of them that counts and zero for padding, ``[B]``,
# and vectors ``[K, P]``.
Compiled = Callable[[dict[str, Tensor], Tensor, Tensor], Tensor]


class ShardProducts:
    """Multiplies vectors with a shard's part of the Hessian or of the Gauss-Newton matrix.

    Safe to share between threads. One function is compiled for each term and batch size, of which a
    batched term may have two, at its first use; the number of vectors is free.

    Attributes:
        num_params: P.
        dtype: The model's, which products are computed in.
        matrix: Which matrix.

    Example:
        >>> import keras, numpy as np
        >>> net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> fit = ResidualTerm("fit", [[1.0], [3.0]], lambda x, u: u.value)
        >>> problem = Problem(net, [fit], coordinates="x")
        >>> products = ShardProducts(problem)
        >>> first, second = cut_points(problem, max_batch=1, num_shards=2)
        >>> products(first, np.eye(2)) + products(second, np.eye(2))  # mean of 2 (x, 1)ᵀ(x, 1)
        array([[10.,  4.],
               [ 4.,  2.]])
    """

    def __init__(
        self,
        problem: Problem,
        matrix: Matrix = HESSIAN,
        derivative: Derivative = forward_derivative,
    ) -> None:
        """Prepare the products; nothing is compiled yet.

        Args:
            problem: The problem, its model resolved to a Keras model.
            matrix: Which matrix.
            derivative: How the jets of residual terms differentiate.

        """
        self.num_params = parameter_layout(problem.model).num_params
        self.matrix = matrix
        self._problem = problem
        self._derivative = derivative
        self.dtype = np.dtype(dtype_of(problem.model))
        self._terms = {term.name: term for term in problem.terms}
        self._variables = trainable_variables(problem.model)
        self._compiled: dict[tuple[str, int], Compiled] = {}
        self._lock = threading.Lock()

    def __call__(self, shard: Shard, vectors: Array) -> Array:
        """The shard's part of the product.

        Args:
            shard: Which points.
            vectors: ``[P, K]``, one vector a column.

        Returns:
            ``[P, K]`` float64: computed in the model's dtype, added up in float64.

        Raises:
            ProblemError: If the term has no such matrix.
        """
        term = self._terms[shard.term]
        rows = tf.constant(np.ascontiguousarray(vectors.T), self.dtype)
        total = np.zeros((vectors.shape[1], self.num_params))
        for start, stop in shard.batches():
            arrays, counts = self._pad(term, start, stop, shard.batch)
            compiled = self._compile(term, arrays, counts)
            total += compiled(arrays, counts, rows).numpy()
        return total.T

    def _pad(
        self, term: Term, start: int, stop: int, batch: int
    ) -> tuple[dict[str, Tensor], Tensor]:
        """A batch, filled up with its first point, where any residual is as finite as it was.

        A loss takes its mean itself, and is given no more examples than there are.
        """
        if isinstance(term, LossTerm):
            arrays = term_arrays(self._problem, term, slice(start, stop)) if term.batched else {}
            return arrays, tf.ones(stop - start, self.dtype)
        counts = np.arange(batch) < stop - start
        rows = np.where(counts, np.arange(start, start + batch), start)
        return term_arrays(self._problem, term, rows), tf.constant(counts, self.dtype)

    def _compile(self, term: Term, arrays: dict[str, Tensor], counts: Tensor) -> Compiled:
        with self._lock:
            key = (term.name, int(counts.shape[0]))
            if key not in self._compiled:
                vectors = tf.TensorSpec((None, self.num_params), self.dtype)
                make = self._hessian if self.matrix == HESSIAN else self._gauss_newton
                function = tf.function(make(term), autograph=False)
                concrete = function.get_concrete_function(
                    specs_of(arrays), tf.TensorSpec(counts.shape, self.dtype), vectors
                )
                self._compiled[key] = forget_gradients(concrete)
            return self._compiled[key]

    def _hessian(self, term: Term) -> Compiled:
        def products(arrays: dict[str, Tensor], counts: Tensor, vectors: Tensor) -> Tensor:
            def loss() -> Tensor:
                view = View.of(self._problem.model, self._derivative)
                return self._loss(term, arrays, counts, view)

            with tf.GradientTape(persistent=True) as tape:
                grad = gradient(loss, self._variables)
            return _for_each(vectors, lambda v: pull_back(tape, grad, self._variables, v))

        return products

    def _loss(self, term: Term, arrays: dict[str, Tensor], counts: Tensor, view: View) -> Tensor:
        """The share of a batch in the loss."""
        if isinstance(term, LossTerm):
            return seen_loss(self._problem, term, view, arrays or None)
        summands = seen_summands(self._problem, term, view, arrays)
        return _share(term, counts) * tf.reduce_mean(summands * counts[:, tf.newaxis])

    def _gauss_newton(self, term: Term) -> Compiled:
        if isinstance(term, ResidualTerm):
            return self._gauss_newton_of_residuals(term)
        reason = find_kinds([Reading(self._problem, term)]).left_out.get(term.name)
        if reason is not None:
            raise ProblemError(
                f"Term {term.name!r} has no Gauss-Newton matrix, because it {reason}. Ask for the "
                "matrix of another term, or for the Hessian."
            )

        def products(arrays: dict[str, Tensor], counts: Tensor, vectors: Tensor) -> Tensor:
            loss = partial(self._loss, term, arrays, counts)
            kept = KeptLoss(self._problem, loss, self._variables, self._derivative)
            return _for_each(vectors, kept.product)

        return products

    def _gauss_newton_of_residuals(self, term: ResidualTerm) -> Compiled:
        def products(arrays: dict[str, Tensor], counts: Tensor, vectors: Tensor) -> Tensor:
            def residual() -> Tensor:
                return term_values(self._problem, term, self._derivative, arrays)

            def product(vector: Tensor) -> Tensor:
                image = tf.reshape(around.push(vector), (counts.shape[0], -1))
                factor = 2 * _share(term, counts) / tf.cast(tf.size(image), image.dtype)
                return around.pull(tf.reshape(factor * counts[:, tf.newaxis] * image, [-1]))

            around = Linearisation(residual, self._variables)
            return _for_each(vectors, product)

        return products


def _share(term: PointTerm, counts: Tensor) -> float:
    """``w B / N``: factor of a mean over a batch of B of the term's N points, in the loss."""
    return term.weight * int(counts.shape[0]) / term.num_points


def _for_each(vectors: Tensor, product: Callable[[Tensor], Tensor]) -> Tensor:
    return tf.map_fn(product, vectors, fn_output_signature=vectors.dtype)


def cut_points(
    problem: Problem,
    *,
    max_batch: int = MAX_BATCH,
    num_shards: int = 1,
    term: str | None = None,
) -> list[Shard]:
    """Cut the terms of a problem into shards.

    A residual that is not a function of its point alone cannot be cut: one that captures an
    array with a row for each point, or takes a mean over them. Where the residuals of
    parts differ from those of the whole, the term goes as one shard, computed at once. A loss is
    cut where it is declared batched.

    Args:
        problem: The problem, its model resolved to a Keras model.
        max_batch: Largest number of points to compute at once; examples may be fewer.
        num_shards: Number of shards of each term, as far as it has as many batches.
        term: Name of the only term to cut, or None for all.

    Raises:
        ProblemError: If there is no such term.
    """
    shards: list[Shard] = []
    for chosen in select_terms(problem, term):
        if isinstance(chosen, LossTerm):
            shards += _cut_loss(problem, chosen, max_batch, num_shards)
            continue
        parts = cut(chosen.name, chosen.num_points, max_batch, num_shards)
        if not _is_pointwise(problem, chosen, parts):
            parts = cut(chosen.name, parts[-1].stop, parts[-1].stop, 1)
        shards += parts
    return shards


def _cut_loss(problem: Problem, term: LossTerm, max_batch: int, num_shards: int) -> list[Shard]:
    if not term.batched:
        return [Shard(term.name, 0, 1, 1)]
    most = min(max_batch, batch_size(problem, term))
    return cut(term.name, term.num_examples, most, num_shards)


def _is_pointwise(problem: Problem, term: PointTerm, shards: list[Shard]) -> bool:
    """Whether a residual at some points is the same, whatever the others are, and without them."""
    batches = [batch for shard in shards for batch in shard.batches()]
    if len(batches) == 1:
        return True

    def at(rows: npt.NDArray[np.intp]) -> Array:
        arrays = term_arrays(problem, term, rows)
        function = tf.function(
            lambda given: term_values(problem, term, arrays=given), autograph=False
        )
        compiled = function.get_concrete_function(specs_of(arrays))
        return np.asarray(compiled(arrays).numpy())

    first, last = (np.arange(*batch) for batch in (batches[0], batches[-1]))
    every = np.arange(term.num_points)
    whole = at(every)
    others = at(np.where(every > first[-1], 0, every))
    try:
        parts = [at(first), at(last)]
    except Exception:  # Whatever user code raises for fewer points than it was written for.
        return False
    # A row of a product of matrices does not depend on the other rows, but its rounding may on
    # how many there are; residuals are small differences of larger numbers.
    eps = float(np.finfo(whole.dtype).eps)
    size = float(np.abs(whole).max())
    return (
        _close(others[first], whole[first], 10 * eps * size)
        and _close(parts[0], whole[first], 1e4 * eps * (1 + size))
        and _close(parts[1], whole[last], 1e4 * eps * (1 + size))
    )


def _close(values: Array, expected: Array, tolerance: float) -> bool:
    return values.shape == expected.shape and bool(np.abs(values - expected).max() <= tolerance)

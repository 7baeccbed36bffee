"""Gauss-Newton matrices of single terms by automatic differentiation, for any network.

A block row needs the columns of J that belong to its rows, and these times J. That is one forward
pass for a column and one reverse pass for its product, ``G e = Jᵀ (J e)`` (N. Schraudolph, 2002),
so that J as a whole is never in memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.autodiff.generalised import KeptLoss
from hessian_tasks.autodiff.linearised import Linearisation
from hessian_tasks.jets import Tensor
from hessian_tasks.loss.batches import Part, SumOverBatches
from hessian_tasks.loss.terms import seen_loss, term_values
from hessian_tasks.networks.models import dtype_of, parameter_layout, trainable_variables
from hessian_tasks.problem import Problem, ResidualTerm, Term
from hessian_tasks.spec import BlockRow, TermResiduals

__all__ = ["AutodiffCurvature", "AutodiffJacobian"]

Array = npt.NDArray[Any]


class _Autodiff:
    """The matrix of one term by automatic differentiation, for any network.

    Safe to share between threads. As in :class:`~hessian_tasks.autodiff.AutodiffEngine`, a loop
    inside a compiled graph does one row after the other, and each layer has a graph of its
    own that leaves out the layers before.
    """

    # One for all terms: they share the network, which one thread at a time is to trace.
    _lock: ClassVar = threading.Lock()

    def __init__(self, problem: Problem, term: Term, row_batch: int) -> None:
        self.term = term.name
        self._problem = problem
        self._layout = parameter_layout(problem.model)
        self._dtype = np.dtype(dtype_of(problem.model))
        self._row_batch = row_batch
        self._term = term
        self._compiled: dict[int, SumOverBatches] = {}

    def refresh(self) -> None:
        """Nothing to do: what is compiled reads the weights where they are."""

    def _rows(
        self, row: BlockRow, check: Callable[[], None]
    ) -> Iterator[tuple[slice, list[Array]]]:
        """Results for a batch of parameters after the other, with their places in the row."""
        first = self._layout.layer_start(row.start)
        offset = self._layout.variables[first].offset
        compiled = self._compile(first)
        for start in range(row.start, row.stop, self._row_batch):
            stop = min(start + self._row_batch, row.stop)
            span = tf.constant(start - offset), tf.constant(stop - offset)
            found = compiled(*span, check=check)
            *others, rows = (tensor.numpy() for tensor in found)
            part = slice(start - row.start, stop - row.start)
            yield part, [*others, rows[:, row.start - offset :]]

    def _compile(self, first: int) -> SumOverBatches:
        with self._lock:
            if first not in self._compiled:
                index = tf.TensorSpec([], tf.int32)
                self._compiled[first] = SumOverBatches(
                    self._problem, [self._term], self._make_rows(first), [index, index]
                )
            return self._compiled[first]

    def _make_rows(self, first: int) -> Callable[[Part, Tensor, Tensor], list[Tensor]]:
        def rows(part: Part, start: Tensor, stop: Tensor) -> list[Tensor]:
            size, products = self._around(part, trainable_variables(self._problem.model)[first:])

            def row(index: Tensor) -> list[Tensor]:
                return products(tf.one_hot(index, size, dtype=self._dtype))

            signature = [tf.TensorSpec([None], self._dtype)] * self._num_results
            found: list[Tensor] = tf.map_fn(
                row, tf.range(start, stop), fn_output_signature=signature
            )
            return found

        return rows

    _num_results: ClassVar[int]

    def _around(
        self, part: Part, variables: list[Tensor]
    ) -> tuple[Tensor, Callable[[Tensor], list[Tensor]]]:
        """The number of parameters, and what is computed of a vector: its product is the last."""
        raise NotImplementedError


class AutodiffJacobian(_Autodiff):
    """J of one term by automatic differentiation, for any network and residual.

    Attributes:
        term: Name of the term.
        residuals: The term's residuals.
    """

    _num_results = 2

    def __init__(self, problem: Problem, term: ResidualTerm, row_batch: int = 64) -> None:
        """Run the residual once, to count its components.

        Args:
            problem: The problem, its model resolved to a Keras model.
            term: One of its terms.
            row_batch: Number of columns computed by one call into TensorFlow.
        """
        super().__init__(problem, term, row_batch)
        self._residual = partial(term_values, problem, term)
        compiled = tf.function(self._residual, autograph=False)
        shape = compiled.get_concrete_function()().shape
        self.residuals = TermResiduals(term.name, shape[0], shape[1], term.weight)

    def block_row(self, row: BlockRow, check: Callable[[], None]) -> tuple[Array, Array]:
        """See :meth:`hessian_tasks.gauss_newton.TermMatrix.block_row`."""
        columns = np.empty((self.residuals.count, row.num_rows), self._dtype)
        products = np.empty((row.num_rows, self._layout.num_params - row.start), self._dtype)
        for part, (images, rows) in self._rows(row, check):
            columns[:, part] = images.T
            products[part] = rows
        return columns, products

    def _around(
        self, part: Part, variables: list[Tensor]
    ) -> tuple[Tensor, Callable[[Tensor], list[Tensor]]]:
        around = Linearisation(self._residual, variables)

        def products(vector: Tensor) -> list[Tensor]:
            image = around.push(vector)
            return [image, around.pull(image)]

        return around.size, products


class AutodiffCurvature(_Autodiff):
    """The matrix of one term that is a loss of the networks' jets, by automatic differentiation.

    Attributes:
        term: Name of the term.
        residuals: None.
    """

    _num_results = 1
    residuals = None

    def __init__(self, problem: Problem, term: Term, row_batch: int = 64) -> None:
        """Prepare; nothing is compiled yet.

        Args:
            problem: The problem, its model resolved to a Keras model.
            term: One of its terms, which is not among those that
                :func:`~hessian_tasks.autodiff.generalised.find_kinds` leaves out.
            row_batch: Number of rows computed by one call into TensorFlow.
        """
        super().__init__(problem, term, row_batch)

    def block_row(self, row: BlockRow, check: Callable[[], None]) -> tuple[None, Array]:
        """See :meth:`hessian_tasks.gauss_newton.TermMatrix.block_row`."""
        found = np.empty((row.num_rows, self._layout.num_params - row.start), self._dtype)
        for part, (rows,) in self._rows(row, check):
            found[part] = rows
        return None, found

    def _around(
        self, part: Part, variables: list[Tensor]
    ) -> tuple[Tensor, Callable[[Tensor], list[Tensor]]]:
        loss = partial(seen_loss, self._problem, self._term, arrays=part.arrays)
        kept = KeptLoss(self._problem, loss, variables)
        return kept.size, lambda vector: [kept.product(vector)]

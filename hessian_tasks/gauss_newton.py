"""The ``ggn`` engine: the Gauss-Newton matrix, which takes first derivatives of residuals alone.

For residual terms ``L_k = w_k mean r_k²`` over N_k points and C_k components,

    H = Σ_k 2 w_k / (N_k C_k) (J_kᵀ J_k + Σ_i r_ki ∂²r_ki/∂θ²),    J_k = ∂r_k/∂θ,

and the Gauss-Newton matrix G is what is left without the second derivatives: H where the
residuals vanish or are linear in θ, and positive semidefinite where no weight is negative
(J. Nocedal, S. Wright, Numerical Optimization, section 10.3).

A block row needs the columns of J_k that belong to its rows, and these times J_k. By automatic
differentiation that is one forward pass for a column and one reverse pass for its product,
``G e = Jᵀ (J e)`` (N. Schraudolph, 2002), so that J as a whole is never in memory;
:mod:`hessian_tasks.layered.gauss_newton` has the faster way for networks of dense layers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.autodiff import select_terms, trial_rows
from hessian_tasks.devices import DevicePool
from hessian_tasks.jets import Tensor
from hessian_tasks.linearised import Linearisation
from hessian_tasks.loss import term_values
from hessian_tasks.models import dtype_of, parameter_layout, trainable_variables
from hessian_tasks.problem import Problem, ResidualTerm
from hessian_tasks.spec import BlockRow, TermResiduals

__all__ = [
    "AutodiffJacobian",
    "GaussNewtonEngine",
    "TermJacobian",
]

Array = npt.NDArray[Any]


class TermJacobian(Protocol):
    """J = ∂r/∂θ of one term, a block row of parameters at a time."""

    residuals: TermResiduals

    def block_row(self, row: BlockRow, check: Callable[[], None]) -> tuple[Array, Array]:
        """Columns of J, and their products with the columns from the first of them on.

        Args:
            row: The block row.
            check: Called now and then; may raise to abandon the block row.

        Returns:
            ``J[:, start:stop]`` ``[N C, rows]`` and ``J[:, start:stop]ᵀ J[:, start:]``
            ``[rows, P - start]``.
        """
        ...


class GaussNewtonEngine:
    """Computes block rows of the Gauss-Newton matrix from the Jacobians of the terms.

    Attributes:
        by_layers: Whether the Jacobians are computed by layers, in NumPy.

    Example:
        >>> import keras
        >>> from hessian_tasks import BlockRow, Problem, ResidualTerm
        >>> net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> fit = ResidualTerm("fit", [[1.0], [3.0]], lambda x, u: u.value)
        >>> problem = Problem(net, [fit], coordinates="x")
        >>> engine = GaussNewtonEngine(problem, [AutodiffJacobian(problem, fit)], by_layers=False)
        >>> engine.block_row(BlockRow(0, 0, 2))  # the residual is linear: this is the Hessian
        array([[10.,  4.],
               [ 4.,  2.]], dtype=float32)
        >>> engine.term_rows(BlockRow(0, 0, 2), "fit")[1]  # ∂r/∂θ, one row a point
        array([[1., 1.],
               [3., 1.]], dtype=float32)
    """

    name = "ggn"
    tile_multiple = 1

    def __init__(
        self,
        problem: Problem,
        jacobians: Sequence[TermJacobian],
        by_layers: bool,
        devices: DevicePool | None = None,
    ) -> None:
        """Prepare the engine.

        Args:
            problem: The problem, its model resolved to a Keras model.
            jacobians: One for every term of the problem.
            by_layers: Whether they are computed by layers.
            devices: The devices to compute on; each block row takes a free one. By default
                TensorFlow chooses. By layers NumPy computes, without them.
        """
        self.problem = problem
        self.devices = devices or DevicePool()
        self.layout = parameter_layout(problem.model)
        self.by_layers = by_layers
        self._jacobians = {jacobian.residuals.term: jacobian for jacobian in jacobians}

    @property
    def residuals(self) -> tuple[TermResiduals, ...]:
        """The residuals of every term."""
        return tuple(jacobian.residuals for jacobian in self._jacobians.values())

    def block_row(
        self,
        row: BlockRow,
        term: str | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> Array:
        """Rows ``[start, stop)`` of the Gauss-Newton matrix, columns from ``start`` on.

        Args:
            row: The block row.
            term: Name of one loss term, or None for the total loss.
            check: Called now and then; may raise to abandon the block row.

        Returns:
            Array ``[rows, P - start]`` in the model's dtype.

        Raises:
            ProblemError: If there is no such term.
        """
        first, *others = (chosen.name for chosen in select_terms(self.problem, term))
        block, _ = self.term_rows(row, first, check)
        for name in others:
            block += self.term_rows(row, name, check)[0]
        return block

    def term_rows(
        self, row: BlockRow, term: str, check: Callable[[], None] = lambda: None
    ) -> tuple[Array, Array]:
        """A block row of one term's matrix, and the columns of its Jacobian.

        Returns:
            ``2 w / (N C) Jᵀ J`` as :meth:`block_row` has it, and ``J[:, start:stop]``
            ``[N C, rows]``.
        """
        jacobian = self._jacobians[term]
        with self.devices.take() as device, tf.device(device):
            columns, product = jacobian.block_row(row, check)
        product *= product.dtype.type(jacobian.residuals.factor)
        return product, columns

    def trial_rows(self) -> list[BlockRow]:
        """A few rows that are typical of the whole: one to compile, a short and a longer one."""
        # A matrix product of few rows takes as long as reading its other factor.
        few, more = (16, 128) if self.by_layers else (4, 16)
        return trial_rows(self.layout.num_params, few, more)

    def num_graphs(self, per_term: bool) -> int:
        """Number of graphs that a run compiles, each about as large as the first."""
        return 1 if self.by_layers else len(self.layout.layers())


class AutodiffJacobian:
    """J of one term by automatic differentiation, for any network and residual.

    Safe to share between threads. As in :class:`~hessian_tasks.autodiff.AutodiffEngine`, a loop
    inside a compiled graph does one column after the other, and each layer has a graph of its
    own that leaves out the layers before.

    Attributes:
        residuals: The term's residuals.
    """

    # One for all terms: they share the network, which one thread at a time is to trace.
    _lock: ClassVar = threading.Lock()

    def __init__(self, problem: Problem, term: ResidualTerm, row_batch: int = 64) -> None:
        """Run the residual once, to count its components.

        Args:
            problem: The problem, its model resolved to a Keras model.
            term: One of its terms.
            row_batch: Number of columns computed by one call into TensorFlow.
        """
        self._problem = problem
        self._term = term
        self._layout = parameter_layout(problem.model)
        self._dtype = np.dtype(dtype_of(problem.model))
        self._row_batch = row_batch
        self._compiled: dict[int, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {}
        compiled = tf.function(lambda: term_values(problem, term), autograph=False)
        shape = compiled.get_concrete_function()().shape
        self.residuals = TermResiduals(term.name, shape[0], shape[1], term.weight)

    def block_row(self, row: BlockRow, check: Callable[[], None]) -> tuple[Array, Array]:
        """See :meth:`TermJacobian.block_row`."""
        first = self._layout.layer_start(row.start)
        offset = self._layout.variables[first].offset
        compiled = self._compile(first)
        columns = np.empty((self.residuals.count, row.num_rows), self._dtype)
        products = np.empty((row.num_rows, self._layout.num_params - row.start), self._dtype)
        for start in range(row.start, row.stop, self._row_batch):
            check()
            stop = min(start + self._row_batch, row.stop)
            part = slice(start - row.start, stop - row.start)
            images, rows = compiled(tf.constant(start - offset), tf.constant(stop - offset))
            columns[:, part] = images.numpy().T
            products[part] = rows.numpy()[:, row.start - offset :]
        return columns, products

    def _compile(self, first: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        with self._lock:
            if first not in self._compiled:
                index = tf.TensorSpec([], tf.int32)
                rows = tf.function(self._make_rows(first), autograph=False)
                self._compiled[first] = rows.get_concrete_function(index, index)
            return self._compiled[first]

    def _make_rows(self, first: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        def rows(start: Tensor, stop: Tensor) -> tuple[Tensor, Tensor]:
            variables = trainable_variables(self._problem.model)[first:]
            around = Linearisation(lambda: term_values(self._problem, self._term), variables)

            def row(index: Tensor) -> tuple[Tensor, Tensor]:
                one_hot = tf.one_hot(index, around.size, dtype=self._dtype)
                image = around.push(one_hot)
                return image, around.pull(image)

            signature = (tf.TensorSpec([None], self._dtype),) * 2
            found: tuple[Tensor, Tensor] = tf.map_fn(
                row, tf.range(start, stop), fn_output_signature=signature
            )
            return found

        return rows

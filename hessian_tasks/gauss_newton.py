"""The ``ggn`` engine: the Gauss-Newton matrix, which takes first derivatives of networks alone.

For residual terms ``L_k = w_k mean r_k²`` over N_k points and C_k components,

    H = Σ_k 2 w_k / (N_k C_k) (J_kᵀ J_k + Σ_i r_ki ∂²r_ki/∂θ²),    J_k = ∂r_k/∂θ,

and the Gauss-Newton matrix G is what is left without the second derivatives: H where the
residuals vanish or are linear in θ, and positive semidefinite where no weight is negative
(J. Nocedal, S. Wright, Numerical Optimization, section 10.3). Of every other term that is a loss ℓ
of the networks' jets, G is what is left without the second derivatives of the networks, see
:mod:`hessian_tasks.autodiff.generalised`.

A block row is the sum of those of the terms, which :mod:`hessian_tasks.autodiff.matrices` computes
by automatic differentiation, and :mod:`hessian_tasks.layered.gauss_newton` faster for networks of
dense layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy.typing as npt
import tensorflow as tf

from hessian_tasks.autodiff.engine import select_terms, trial_rows
from hessian_tasks.devices import DevicePool
from hessian_tasks.errors import NotLayeredError, ProblemError
from hessian_tasks.networks.models import parameter_layout
from hessian_tasks.problem import Problem
from hessian_tasks.spec import BlockRow, TermResiduals

__all__ = ["GaussNewtonEngine"]

Array = npt.NDArray[Any]


class TermMatrix(Protocol):
    """The matrix of one term, a block row of parameters at a time."""

    @property
    def term(self) -> str:
        """Name of the term."""
        ...

    @property
    def residuals(self) -> TermResiduals | None:
        """Its residuals, whose Jacobian J = ∂r/∂θ its matrix is made of, if it has any."""
        ...

    def block_row(self, row: BlockRow, check: Callable[[], None]) -> tuple[Array | None, Array]:
        """Columns of J, and rows of the matrix from the first of them on.

        Args:
            row: The block row.
            check: Called now and then; may raise to abandon the block row.

        Returns:
            ``J[:, start:stop]`` ``[N C, rows]`` and ``J[:, start:stop]ᵀ J[:, start:]``
            ``[rows, P - start]``; or nothing and ``G[start:stop, start:]``.
        """
        ...

    def refresh(self) -> None:
        """Take the weights that the networks have now, without tracing anything anew.

        Raises:
            NotLayeredError: If there the term has no such matrix.
        """
        ...


class GaussNewtonEngine:
    """Computes block rows of the Gauss-Newton matrix from those of the terms.

    Attributes:
        by_layers: Whether they are computed by layers, in NumPy.
        terms: Names of the terms that have such a matrix; the total is their sum.

    Example:
        >>> import keras
        >>> from hessian_tasks import BlockRow, Problem, ResidualTerm
        >>> net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> fit = ResidualTerm("fit", [[1.0], [3.0]], lambda x, u: u.value)
        >>> problem = Problem(net, [fit], coordinates="x")
        >>> from hessian_tasks.autodiff.matrices import AutodiffJacobian
        >>> engine = GaussNewtonEngine(problem, [AutodiffJacobian(problem, fit)], False)
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
        matrices: Sequence[TermMatrix],
        by_layers: bool,
        devices: DevicePool | None = None,
    ) -> None:
        """Prepare the engine.

        Args:
            problem: The problem, its model resolved to a Keras model.
            matrices: One for every term that has such a matrix, at least one.
            by_layers: Whether they are computed by layers.
            devices: The devices to compute on; each block row takes a free one. By default
                TensorFlow chooses. By layers NumPy computes, without them.
        """
        self.problem = problem
        self.devices = devices or DevicePool()
        self.layout = parameter_layout(problem.model)
        self.by_layers = by_layers
        self._matrices = {matrix.term: matrix for matrix in matrices}
        self.terms = tuple(self._matrices)

    @property
    def residuals(self) -> tuple[TermResiduals, ...]:
        """The residuals of every term that has some."""
        found = (matrix.residuals for matrix in self._matrices.values())
        return tuple(residuals for residuals in found if residuals is not None)

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
            ProblemError: If there is no such term, or it has no such matrix.
        """
        first, *others = self.terms if term is None else [term]
        block, _ = self.term_rows(row, first, check)
        for name in others:
            block += self.term_rows(row, name, check)[0]
        return block

    def term_rows(
        self, row: BlockRow, term: str, check: Callable[[], None] = lambda: None
    ) -> tuple[Array, Array | None]:
        """A block row of one term's matrix, and the columns of its Jacobian, if it has one.

        Returns:
            ``2 w / (N C) Jᵀ J`` as :meth:`block_row` has it, and ``J[:, start:stop]``
            ``[N C, rows]``; or ``∂y/∂θᵀ ℓ'' ∂y/∂θ`` and nothing.

        Raises:
            ProblemError: If there is no such term, or it has no such matrix.
        """
        if term not in self._matrices:
            (chosen,) = select_terms(self.problem, term)
            raise ProblemError(f"Term {chosen.name!r} has no Gauss-Newton matrix.")
        matrix = self._matrices[term]
        with self.devices.take() as device, tf.device(device):
            columns, rows = matrix.block_row(row, check)
        if matrix.residuals is not None:
            rows *= rows.dtype.type(matrix.residuals.factor)
        return rows, columns

    def refresh(self) -> None:
        """Take the weights that the networks have now, without tracing anything anew.

        Raises:
            ProblemError: If there a term has no such matrix.
        """
        for name, matrix in self._matrices.items():
            try:
                matrix.refresh()
            except NotLayeredError as error:
                raise ProblemError(
                    f"Term {name!r} has no Gauss-Newton matrix at these weights: it {error}."
                ) from error

    def trial_rows(self) -> list[BlockRow]:
        """A few rows that are typical of the whole: one to compile, a short and a longer one."""
        # A matrix product of few rows takes as long as reading its other factor.
        few, more = (16, 128) if self.by_layers else (4, 16)
        return trial_rows(self.layout.num_params, few, more)

    def num_graphs(self, per_term: bool) -> int:
        """Number of graphs that a run compiles, each about as large as the first."""
        return 1 if self.by_layers else len(self.layout.layers())

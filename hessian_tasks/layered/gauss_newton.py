"""Jacobians of residuals by layers: outer products of cotangents and inputs.

With Z = A W at a site, the residual r of one point and component has

    ∂r/∂W[i,j] = Σ_t A_t[i] · ∂r/∂Z_t[j],

the sum over the streams t. The cotangents ∂r/∂Z of all points and components come from one reverse
pass through the network, so that the rows of J cost little beside their products ``Jᵀ J``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hessian_tasks.errors import NotLayeredError
from hessian_tasks.layered.network import Array, Network
from hessian_tasks.layered.products import slices
from hessian_tasks.layered.reader import read_network
from hessian_tasks.layered.rows import RowFactors, times_inputs
from hessian_tasks.layered.terms import expand_residual
from hessian_tasks.linearised import residual_terms
from hessian_tasks.models import get_theta
from hessian_tasks.problem import Problem, ResidualTerm
from hessian_tasks.spec import BlockRow, TermResiduals

__all__ = ["LayeredJacobian", "layered_jacobians"]

# Bytes of the rows of J that are formed at a time.
BATCH_BYTES = 8 * 2**20


def layered_jacobians(problem: Problem) -> list[LayeredJacobian]:
    """Read the network once for the Jacobians of all residual terms.

    Args:
        problem: The problem, its model resolved to a Keras model.

    Raises:
        NotLayeredError: If the network or a residual is not of the kind that can be taken by
            layers; the message says what it found.
    """
    network = read_network(problem)
    return [LayeredJacobian(problem, network, term) for term in residual_terms(problem)]


class LayeredJacobian:
    """J of one term, a :class:`~hessian_tasks.gauss_newton.TermJacobian` in NumPy alone.

    Attributes:
        residuals: The term's residuals.
    """

    def __init__(self, problem: Problem, network: Network, term: ResidualTerm) -> None:
        """Expand the term around θ.

        Args:
            problem: The problem.
            network: Its network.
            term: The term.

        Raises:
            NotLayeredError: If its residual couples points.
        """
        self._network = network
        try:
            self._residual = expand_residual(problem, network, term)
        except NotLayeredError as error:
            raise NotLayeredError(f"term {term.name!r} {error}") from error
        self._num_params = len(get_theta(problem.model))
        num_points, num_components, _ = self._residual.direct.shape
        self.residuals = TermResiduals(term.name, num_points, num_components, term.weight)
        point_bytes = network.dtype.itemsize * self.residuals.num_components * self._num_params
        self._point_batch = BATCH_BYTES // point_bytes

    def block_row(self, row: BlockRow, check: Callable[[], None]) -> tuple[Array, Array]:
        """See :meth:`hessian_tasks.gauss_newton.TermJacobian.block_row`."""
        num_points, num_components = self.residuals.num_points, self.residuals.num_components
        dtype = self._network.dtype
        columns = np.empty((num_points, num_components, row.num_rows), dtype)
        product = np.zeros((row.num_rows, self._num_params - row.start), dtype)
        for points in slices(num_points, self._point_batch):
            check()
            rows = self._rows(points, row.start)
            own = rows[:, : row.num_rows]
            product += own.T @ rows
            columns[points] = own.reshape(num_components, -1, row.num_rows).swapaxes(0, 1)
        return columns.reshape(-1, row.num_rows), product

    def _rows(self, points: slice, start: int) -> Array:
        """Rows of J, columns from ``start`` on, component by component ``[C n, P - start]``."""
        num_rows = self.residuals.num_components * (points.stop - points.start)
        found = np.zeros((num_rows, self._num_params - start), self._network.dtype)
        if self._residual.factors is not None:
            self._fill(found, self._residual.factors, points, start)
        entries = self._residual.entries
        later = np.flatnonzero(entries >= start)
        direct = self._residual.direct[points].swapaxes(0, 1).reshape(num_rows, -1)
        found[:, entries[later] - start] += direct[:, later]
        return found

    def _fill(self, found: Array, factors: RowFactors, points: slice, start: int) -> None:
        """What comes through the network."""
        program = self._network.program
        for wire in program.sites:
            site = program.site(wire)
            if site.stop <= start:
                continue
            first = max(0, start - site.offset) // site.width
            inputs = factors.inputs[wire][points, :, first:]
            rows = times_inputs(inputs, factors.cotangents[wire][:, points])
            begin = site.offset + first * site.width - start
            found[:, max(0, begin) : site.stop - start] = rows[:, max(0, -begin) :]

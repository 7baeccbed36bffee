"""The Gauss-Newton matrix by layers: outer products of cotangents and inputs.

With Z = A W at a site, the residual r of one point and component has

    ∂r/∂W[i,j] = Σ_t A_t[i] · ∂r/∂Z_t[j],

the sum over the streams t. The cotangents ∂r/∂Z of all points and components come from one reverse
pass through the network, so that the rows of J cost little beside their products ``Jᵀ J``. A loss
of another kind has in their place the rows q of a square root of ℓ'', ``ℓ'' = Σ ± q qᵀ``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from hessian_tasks.errors import NotLayeredError
from hessian_tasks.layered.expand.network import Array, Network
from hessian_tasks.layered.expand.rows import RowFactors, slices, times_inputs
from hessian_tasks.layered.expand.terms import expand_curvature, expand_residual
from hessian_tasks.layered.read.program import Program
from hessian_tasks.networks.models import parameter_layout
from hessian_tasks.problem import ResidualTerm
from hessian_tasks.reading import Reading
from hessian_tasks.spec import BlockRow, TermResiduals

__all__ = ["layered_matrices"]

# Bytes of the rows that are formed at a time.
BATCH_BYTES = 8 * 2**20


def layered_matrices(
    readings: Sequence[Reading], network: Network | None = None
) -> list[LayeredJacobian | LayeredCurvature]:
    """Read the network once for the Gauss-Newton matrices of terms.

    Args:
        readings: Terms of one problem, at least one.
        network: Its networks, if they are read already.

    Raises:
        NotLayeredError: If the network or a term is not of the kind that can be taken by
            layers; the message says what it found.
    """
    network = network or Network.of(readings[0].problem)
    return [
        LayeredJacobian(network, reading, reading.term)
        if isinstance(reading.term, ResidualTerm)
        else LayeredCurvature(network, reading)
        for reading in readings
    ]


class LayeredJacobian:
    """J of one term, a :class:`~hessian_tasks.gauss_newton.TermMatrix` in NumPy alone.

    Attributes:
        term: Name of the term.
        residuals: The term's residuals.
    """

    def __init__(self, network: Network, reading: Reading, term: ResidualTerm) -> None:
        """Expand the term around θ.

        Args:
            network: The problem's network.
            reading: What is known of the term.
            term: The term.

        Raises:
            NotLayeredError: If its residual couples points.
        """
        self.term = term.name
        self._network = network
        self._reading = reading
        try:
            self._residual = expand_residual(network, reading)
        except NotLayeredError as error:
            raise NotLayeredError(f"term {term.name!r} {error}") from error
        self._num_params = parameter_layout(reading.problem.model).num_params
        num_points, num_components, _ = self._residual.direct.shape
        self.residuals = TermResiduals(term.name, num_points, num_components, term.weight)

    def block_row(self, row: BlockRow, check: Callable[[], None]) -> tuple[Array, Array]:
        """See :meth:`hessian_tasks.gauss_newton.TermMatrix.block_row`."""
        num_points, num_components = self.residuals.num_points, self.residuals.num_components
        dtype = self._network.dtype
        columns = np.empty((num_points, num_components, row.num_rows), dtype)
        product = np.zeros((row.num_rows, self._num_params - row.start), dtype)
        for points in slices(
            num_points, _point_batch(self._network, num_components, self._num_params)
        ):
            check()
            rows = self._rows(points, row.start)
            own = rows[:, : row.num_rows]
            product += own.T @ rows
            columns[points] = own.reshape(num_components, -1, row.num_rows).swapaxes(0, 1)
        return columns.reshape(-1, row.num_rows), product

    def refresh(self) -> None:
        """See :meth:`hessian_tasks.gauss_newton.TermMatrix.refresh`."""
        self._network = self._network.again(self._reading.problem)
        self._reading = self._reading.again()
        self._residual = expand_residual(self._network, self._reading)

    def _rows(self, points: slice, start: int) -> Array:
        """Rows of J, columns from ``start`` on, component by component ``[C n, P - start]``."""
        num_rows = self.residuals.num_components * (points.stop - points.start)
        found = np.zeros((num_rows, self._num_params - start), self._network.dtype)
        if self._residual.factors is not None:
            _fill(found, self._network.program, self._residual.factors, points, start)
        entries = self._residual.entries
        later = np.flatnonzero(entries >= start)
        direct = self._residual.direct[points].swapaxes(0, 1).reshape(num_rows, -1)
        found[:, entries[later] - start] += direct[:, later]
        return found


class LayeredCurvature:
    """The matrix of a term that is a loss of jets, in NumPy alone.

    A :class:`~hessian_tasks.gauss_newton.TermMatrix` without Jacobian.

    Attributes:
        term: Name of the term.
        residuals: None.
    """

    residuals = None

    def __init__(self, network: Network, reading: Reading) -> None:
        """Expand the term around θ.

        Args:
            network: The problem's network.
            reading: The term.

        Raises:
            NotLayeredError: If it is no function of jets at fixed points, or couples points.
        """
        self.term = reading.term.name
        self._network = network
        self._reading = reading
        self._curvature = expand_curvature(network, reading)
        self._num_params = parameter_layout(reading.problem.model).num_params

    def block_row(self, row: BlockRow, check: Callable[[], None]) -> tuple[None, Array]:
        """See :meth:`hessian_tasks.gauss_newton.TermMatrix.block_row`."""
        found = np.zeros((row.num_rows, self._num_params - row.start), self._network.dtype)
        for factors in self._curvature.rows:
            number, num_points = factors.signs.shape
            for points in slices(num_points, _point_batch(self._network, number, self._num_params)):
                check()
                signs = factors.signs[:, points].reshape(-1, 1)
                rows = np.zeros((len(signs), found.shape[1]), found.dtype)
                _fill(rows, self._network.program, factors, points, row.start)
                found += (signs * rows[:, : row.num_rows]).T @ rows
        if self._curvature.border is not None:
            self._curvature.border.add_to(found, row)
        return None, found

    def refresh(self) -> None:
        """See :meth:`hessian_tasks.gauss_newton.TermMatrix.refresh`."""
        self._network = self._network.again(self._reading.problem)
        self._reading = self._reading.again()
        self._curvature = expand_curvature(self._network, self._reading)


def _point_batch(network: Network, rows_per_point: int, num_params: int) -> int:
    return BATCH_BYTES // (network.dtype.itemsize * max(1, rows_per_point) * num_params)


def _fill(found: Array, program: Program, factors: RowFactors, points: slice, start: int) -> None:
    """Rows of a Jacobian at some points, as far as they come through the network.

    Args:
        found: The rows, ρ by ρ of every point, columns from ``start`` on ``[ρ n, P - start]``.
        program: The network.
        factors: The rows in factors.
        points: Which points.
        start: First column.
    """
    for wire in program.sites:
        site = program.site(wire)
        if site.stop <= start:
            continue
        first = max(0, start - site.offset) // site.width
        inputs = factors.inputs[wire][points, :, first:]
        rows = times_inputs(inputs, factors.cotangents[wire][:, points])
        begin = site.offset + first * site.width - start
        found[:, max(0, begin) : site.stop - start] = rows[:, max(0, -begin) :]

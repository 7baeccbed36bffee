"""Losses that see the network at several points at once.

The n-th points of C evaluations of the network are coupled with each other only. With u_n the
jets at all of them, those of the c-th being u_n^c,

    H = Σ_n (∂u_n/∂θ)ᵀ ℓ''_n (∂u_n/∂θ) + Σ_c Σ_n ∂ℓ/∂u_n^c · ∂²u_n^c/∂θ²:

rows that are sums over the evaluations, and one expansion for each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hessian_tasks.layered.expansion import Expansion, expand, output_jets, square_root
from hessian_tasks.layered.linearise import Linearised, linearise
from hessian_tasks.layered.network import Array, Network
from hessian_tasks.layered.quadratic import QuadraticModel, expand_residual
from hessian_tasks.layered.rows import RowFactors, join
from hessian_tasks.layered.streams import Streams, closure
from hessian_tasks.loss import required_indices
from hessian_tasks.problem import Problem, ResidualTerm

__all__ = ["Calls", "expand_coupled", "read_coupled"]


@dataclass(frozen=True, eq=False)
class Calls:
    """C evaluations of a network, each at N points.

    Attributes:
        evaluations: The evaluations, with the same streams.
        positions: The R streams that the loss depends on.
    """

    evaluations: Sequence[Linearised]
    positions: Sequence[int]

    def expand(
        self, slope: npt.NDArray[np.float64], bend: npt.NDArray[np.float64]
    ) -> list[Expansion]:
        """Expand the loss: one expansion for each evaluation, the first with the rows of all.

        Args:
            slope: ``∂ℓ/∂u`` ``[N, C R, outputs]``.
            bend: ``∂²ℓ/∂u∂u`` ``[N, C R, outputs, C R, outputs]``.
        """
        rows = self.pull_back_rows(*square_root(bend, self.evaluations[0].network.dtype))
        slopes = np.split(slope, len(self.evaluations), axis=1)
        return [
            expand(at, slopes[c], self.positions, {}, rows if c == 0 else None)
            for c, at in enumerate(self.evaluations)
        ]

    def pull_back_rows(self, seeds: Array, signs: Array) -> RowFactors:
        """Rows of a Jacobian, each a sum over the evaluations.

        Args:
            seeds: Rows of the derivative with respect to the jets ``[ρ, N, C R, outputs]``.
            signs: Signs of the rows ``[ρ, N]``.
        """
        parts = np.split(seeds, len(self.evaluations), axis=2)
        return join(
            [
                at.pull_back_rows(part, self.positions, signs)
                for at, part in zip(self.evaluations, parts, strict=True)
            ]
        )


def expand_coupled(
    problem: Problem, network: Network, term: ResidualTerm, elsewhere: Sequence[Array]
) -> list[Expansion]:
    """Expand a residual term that uses the network also elsewhere than at its points.

    Args:
        problem: The problem, its model resolved to a Keras model.
        network: The network.
        term: The term.
        elsewhere: The other points.

    Raises:
        NotLayeredError: If points are coupled in another way than the n-th with the n-th.
    """
    calls, model = read_coupled(problem, network, term, elsewhere)
    return calls.expand(model.slope, model.curvature)


def read_coupled(
    problem: Problem, network: Network, term: ResidualTerm, elsewhere: Sequence[Array]
) -> tuple[Calls, QuadraticModel]:
    """Evaluate the network at all points, and find the term's derivatives by the jets there.

    Raises:
        NotLayeredError: As :func:`expand_coupled` does.
    """
    indices = sorted(required_indices(problem, term))
    streams = Streams(tuple(closure(indices)))
    points = [np.asarray(term.points), *elsewhere]
    evaluations = [linearise(network, p, streams) for p in points]
    jets = [output_jets(network, at.wires, at.num_points, streams, indices) for at in evaluations]
    model = expand_residual(term, problem.coordinates, indices, np.concatenate(jets, axis=1))
    return Calls(evaluations, [streams.plain.index(index) for index in indices]), model

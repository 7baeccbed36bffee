"""Which eigenvector of one matrix continues which of another, as at two checkpoints of a training.

Overlaps ``|⟨v_i, w_j⟩|²`` tell it, and the assignment with the largest sum of them. An eigenvector
of several close eigenvalues is no one vector: from a residual r it is known up to an angle of sine
``‖r‖ / gap`` (C. Davis, W. Kahan, 1970). Such eigenvalues are taken together, and what is compared
then is the space that their vectors span, by principal angles: a rotation inside it is no change.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.optimize

from pipeline.analysis.subspaces import overlap, principal_angles

__all__ = ["CONTINUES", "Continued", "KnownPairs", "continuations"]

Array = npt.NDArray[np.float64]

# Squared cosine from which on a vector continues another: that of 60°. Random ones have 1/P.
CONTINUES = 0.25
# A gap of so many errors leaves a vector an angle of sine 1/10, and an overlap 1 % of doubt.
GAP = 10.0


@dataclass(frozen=True)
class KnownPairs:
    """Some eigenpairs of a matrix, ascending.

    Attributes:
        values: ``[K]``.
        errors: Bounds on their errors ``[K]``.
        vectors: Orthonormal columns ``[P, K]``.
    """

    values: Array
    errors: Array
    vectors: Array

    def resolved(self) -> KnownPairs:
        """Those that can be told from zero: what is flat has no vector to be followed."""
        chosen = np.abs(self.values) > self.errors
        return KnownPairs(self.values[chosen], self.errors[chosen], self.vectors[:, chosen])

    def groups(self) -> list[range]:
        """Positions of eigenvalues too close for their vectors to be told apart.

        Example:
            >>> values = np.array([1.0, 2.0, 2.05, 3.0])
            >>> KnownPairs(values, np.full(4, 0.01), np.eye(4)).groups()
            [range(0, 1), range(1, 3), range(3, 4)]
        """
        if not len(self.values):
            return []
        apart = np.diff(self.values) > GAP * (self.errors[1:] + self.errors[:-1])
        edges = [0, *(np.flatnonzero(apart) + 1).tolist(), len(self.values)]
        return [range(*ends) for ends in itertools.pairwise(edges)]

    def space(self, group: range) -> Array:
        """The vectors of a group ``[P, k]``."""
        return self.vectors[:, _cut(group)]

    def dimensions(self) -> list[int]:
        """The number of vectors in the group of each ``[K]``."""
        return [len(group) for group in self.groups() for _ in group]


@dataclass(frozen=True)
class Continued:
    """An eigenvector before, and the one after that it turned into.

    Attributes:
        before: Position of the first, or None for a new one.
        after: Position of the second, or None where it is gone.
        overlap: ``cos²`` of the angle between the two, or of a principal angle between the spaces
            of close eigenvalues that they belong to. Of a vector without another the largest mean
            of these with any space.
        dimensions: Dimensions of these spaces: 1 for a single vector, 0 for none.
    """

    before: int | None
    after: int | None
    overlap: float
    dimensions: tuple[int, int]


def continuations(first: KnownPairs, second: KnownPairs) -> list[Continued]:
    """Which eigenvector of the second matrix continues which of the first.

    Two vectors of spaces U ``[P, k]`` and W ``[P, m]`` count for the mean squared cosine of these,
    ``‖UᵀW‖_F² / min(k, m)``, so that members of a space are as good as each other; of all
    one-to-one assignments the one with the largest sum is taken. The n members of one space that
    are assigned to another have the n smallest principal angles between the two.

    Args:
        first: Eigenpairs before.
        second: Eigenpairs after, of a matrix of the same shape.

    Returns:
        First those that go on or are gone, by the largest eigenvalue before, then the new ones.

    Example:
        >>> angle = np.radians(30)
        >>> turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        >>> before = KnownPairs(np.array([1.0, 2.0]), np.zeros(2), np.eye(2))
        >>> after = KnownPairs(np.array([1.0, 3.0]), np.zeros(2), turned)
        >>> [(c.before, c.after, round(c.overlap, 3)) for c in continuations(before, after)]
        [(1, 1, 0.75), (0, 0, 0.75)]
    """
    shared = _mean_squares(first, second)
    found = [pair for pair in _assigned(first, second, shared) if pair.overlap >= CONTINUES]
    gone = set(range(len(first.values))) - {pair.before for pair in found}
    new = set(range(len(second.values))) - {pair.after for pair in found}
    most = shared.max(axis=1, initial=0.0), shared.max(axis=0, initial=0.0)
    sizes = first.dimensions(), second.dimensions()
    found += [Continued(i, None, float(most[0][i]), (sizes[0][i], 0)) for i in gone]
    found += [Continued(None, j, float(most[1][j]), (0, sizes[1][j])) for j in new]
    # Positions ascend with eigenvalues.
    return sorted(
        found, key=lambda pair: (pair.before is None, -(pair.before or 0), -(pair.after or 0))
    )


def _mean_squares(first: KnownPairs, second: KnownPairs) -> Array:
    """Mean squared cosines of the spaces of every two vectors ``[K, L]``."""
    shared = np.zeros((len(first.values), len(second.values)))
    for one, other in itertools.product(first.groups(), second.groups()):
        shared[_cut(one), _cut(other)] = overlap(first.space(one), second.space(other))
    return shared


def _assigned(first: KnownPairs, second: KnownPairs, shared: Array) -> Iterator[Continued]:
    """All vectors of the shorter side with one of the other, however little they overlap."""
    rows, columns = scipy.optimize.linear_sum_assignment(shared, maximize=True)
    everyone = list(zip(rows.tolist(), columns.tolist(), strict=True))
    for one, other in itertools.product(first.groups(), second.groups()):
        pairs = [(i, j) for i, j in everyone if i in one and j in other]
        if pairs:
            angles = principal_angles(first.space(one), second.space(other))
            sizes = len(one), len(other)
            for (i, j), angle in zip(pairs[::-1], angles, strict=False):
                yield Continued(i, j, float(np.cos(angle) ** 2), sizes)


def _cut(group: range) -> slice:
    return slice(group.start, group.stop)

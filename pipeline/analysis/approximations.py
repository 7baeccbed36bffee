"""How far the usual approximations of a curvature matrix are from the exact one.

Of an approximation B of A ``[P, P]``: its error ``‖A - B‖_F / ‖A‖_F``; how far it moves the
spectrum, ``max_i |λ_i(A) - λ_i(B)| / ‖A‖₂``, both in ascending order; and what its step is worth.
The quadratic model ``m(p) = gᵀp + ½ pᵀ(A + μI) p`` falls the most, by ``½ gᵀ(A + μI)⁻¹ g``, over
``p* = -(A + μI)⁻¹ g``; the share of that over ``p = -(B + μI)⁻¹ g``, and the cosine between p and
p*, are 1 for ``B = A``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import psutil

from hessian_tasks.layered.kronecker import TermFactors
from pipeline.analysis._dense import dense_bytes, read_symmetric
from pipeline.analysis._kronecker import factored
from pipeline.analysis._structured import (
    LAYERS,
    Blocks,
    LowRank,
    Structured,
    structured,
    symmetric_size,
)
from pipeline.analysis._tiles import complete_matrix
from pipeline.analysis.operator import noise_floor, relative_error
from pipeline.analysis.parts import has_pair, open_pair
from pipeline.analysis.steps import Eigenbasis, predicted_decrease
from pipeline.errors import DoesNotFitError, StoreMismatchError
from pipeline.store.agreement import differences
from pipeline.store.places import Place
from pipeline.store.store import HessianStore
from pipeline.units import format_bytes

__all__ = ["Approximations", "KroneckerFactors", "compare_approximations"]

Array: TypeAlias = npt.NDArray[Any]

# A, its eigenvectors with LAPACK's workspace, and a second matrix.
NUM_MATRICES = 5
# The damping, where none is given: of the largest eigenvalue, above the most negative one.
DAMPING = 1e-3


@dataclass(frozen=True)
class Approximation:
    """How good an approximation B is.

    Attributes:
        name: What it is.
        numbers: How many numbers it stores.
        error: ``‖A - B‖_F / ‖A‖_F``.
        spectrum: ``max_i |λ_i(A) - λ_i(B)| / ‖A‖₂``.
        decrease: Share of the largest decrease of the damped quadratic model that its step makes;
            negative where the model rises, None where B + μI is not positive definite.
        cosine: Of the angle between its step and the best one, or None.
    """

    name: str
    numbers: int
    error: float
    spectrum: float
    decrease: float | None
    cosine: float | None

    @property
    def lost(self) -> float | None:
        """Share of the largest decrease that its step does not make."""
        return None if self.decrease is None else 1 - self.decrease


@dataclass(frozen=True)
class Approximations:
    """Approximations of a stored matrix against it.

    Attributes:
        title: What the matrix is.
        damping: μ.
        relative_error: Estimate of the stored matrix's own ``‖E‖_F / ‖A‖_F``: no smaller error of
            an approximation can be told.
        found: The approximations.
    """

    title: str
    damping: float
    relative_error: float
    found: tuple[Approximation, ...]

    @property
    def outside(self) -> float:
        """Φ, the share of ``‖A‖²_F`` outside of the layers' diagonal blocks."""
        return next(one.error for one in self.found if one.name == LAYERS) ** 2

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {**asdict(self), "outside": self.outside}


@dataclass(frozen=True, eq=False)
class KroneckerFactors:
    """K-FAC and EKFAC of the loss of a store; :func:`pipeline.kronecker_factors` computes them.

    Attributes:
        terms: Their factors by loss term, of all terms that the stored matrix is made of.
        fingerprint: Of the inputs.
    """

    terms: tuple[TermFactors, ...]
    fingerprint: Mapping[str, str]


def compare_approximations(
    store: HessianStore | Place,
    ggn: HessianStore | Place | None = None,
    *,
    ranks: Sequence[int] = (10, 100),
    damping: float | None = None,
    factors: KroneckerFactors | None = None,
) -> Approximations:
    """Hold approximations against a stored matrix: diagonals, blocks, factors, low ranks, G.

    *Kronecker factors* are the nearest ones of each kernel's block in the Frobenius norm (C. Van
    Loan, N. Pitsianis, 1993), with biases exact: no other single product is nearer to that block.

    Args:
        store: A complete store of the Hessian, or of the Gauss-Newton matrix.
        ggn: A complete store of the Gauss-Newton matrix of the same inputs, as one of them; by
            default the store itself, if it holds both.
        ranks: Ranks of low-rank approximations.
        damping: μ; by default a thousandth of the largest eigenvalue above the most negative one.
        factors: K-FAC and EKFAC of the same loss, from :func:`pipeline.kronecker_factors`.

    Raises:
        DoesNotFitError: If the memory that is free does not hold five such matrices.
        StoreMismatchError: If the stores, or the factors, do not belong together.
        StoreError: If block rows are missing or damaged.

    Example:
        >>> import tempfile
        >>> from pipeline import compute_hessian, load_problem
        >>> small = load_problem("regression", width=4, depth=1, num_samples=9, dtype="float64")
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     _ = compute_hessian(small, f"{directory}/h.zarr")
        ...     found = compare_approximations(f"{directory}/h.zarr", ranks=[13])
        >>> [one.name for one in found.found]
        ['diagonal', 'Kronecker factors', 'variables', 'layers', 'rank 13']
        >>> found.found[-1].error, round(found.found[-1].decrease, 6)
        (0.0, 1.0)
    """
    opened = store if isinstance(store, HessianStore) else HessianStore(store)
    second = open_pair(opened, ggn)[1] if has_pair(opened, ggn) else None
    if factors is not None:
        _check_factors(opened, factors)
    needed, free = NUM_MATRICES * dense_bytes(opened.num_params), psutil.virtual_memory().available
    if needed > free:
        raise DoesNotFitError(
            f"Approximations of a matrix of {opened.num_params:,} parameters are compared in "
            f"memory, in {format_bytes(needed)}, but {format_bytes(free)} are free."
        )
    exact = read_symmetric(complete_matrix(opened, None)[1])
    norm, error = float(np.linalg.norm(exact)), relative_error(opened)
    basis = Eigenbasis.of(exact.copy(), noise_floor(len(exact), error, norm))
    comparison = _Comparison(basis, norm, opened.read("gradient").astype(np.float64), damping)
    found = [comparison(one) for one in structured(opened.layout, exact)]
    if factors is not None:
        found += [comparison(one) for one in factored(exact, factors.terms)]
    known = [rank for rank in dict.fromkeys(ranks) if rank <= len(exact)]
    found += [comparison(LowRank(basis, rank)) for rank in known]
    if second is not None:
        whole = [(np.arange(len(exact)), read_symmetric(complete_matrix(second, None)[1]))]
        found.append(comparison(Blocks("Gauss-Newton", exact, whole, symmetric_size(len(exact)))))
    return Approximations(opened.matrix.title, comparison.damping, error, tuple(found))


def _check_factors(store: HessianStore, factors: KroneckerFactors) -> None:
    differing = differences(store.attributes["fingerprint"], factors.fingerprint)
    terms = [term["name"] for term in store.attributes["terms"]]
    of_matrix = [term for term in terms if term not in store.left_out]
    if not differing and (of_factors := [one.term for one in factors.terms]) != of_matrix:
        differing = f"they are of {', '.join(of_factors)}, it is of {', '.join(of_matrix)}"
    if differing:
        raise StoreMismatchError(
            f"The Kronecker factors are not of the loss of {store.location}: {differing}. "
            "Compute them from that store: kronecker_factors."
        )


class _Comparison:
    """Holds approximations against a matrix, of which all eigenpairs are known."""

    def __init__(
        self, basis: Eigenbasis, norm: float, gradient: Array, damping: float | None
    ) -> None:
        self._basis, self._norm, self._gradient = basis, norm, gradient
        values = basis.eigenvalues
        self._largest = float(np.abs(values).max())
        lowest = min(0.0, float(values[0]))
        self.damping = DAMPING * self._largest - lowest if damping is None else damping
        # Without a minimum of the model no step is the best.
        bounded = self.damping > -lowest
        self._best = basis.step(gradient, self.damping) if bounded else np.zeros_like(gradient)
        self._most = self._decrease(self._best)

    def __call__(self, matrix: Structured) -> Approximation:
        moved = np.abs(self._basis.eigenvalues - matrix.eigenvalues()).max()
        decrease, cosine = self._worth(matrix)
        return Approximation(
            matrix.name,
            matrix.numbers,
            float(np.sqrt(matrix.squared_error())) / (self._norm or 1.0),
            float(moved) / (self._largest or 1.0),
            decrease,
            cosine,
        )

    def _worth(self, matrix: Structured) -> tuple[float | None, float | None]:
        solved = matrix.solve(self._gradient, self.damping) if self._most > 0 else None
        if solved is None:
            return None, None
        lengths = float(np.linalg.norm(solved) * np.linalg.norm(self._best))
        return self._decrease(-solved) / self._most, float(-solved @ self._best) / lengths

    def _decrease(self, step: Array) -> float:
        basis = self._basis
        image = basis.vectors @ ((basis.eigenvalues + self.damping) * (basis.vectors.T @ step))
        return predicted_decrease(self._gradient, step, image)

"""What each loss term, and Gauss-Newton and the rest of it, contribute to a Hessian."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import scipy.sparse.linalg

from pipeline.analysis._dense import dense_bytes, dense_eigenpairs
from pipeline.analysis.eigenpairs import extreme_eigenpairs
from pipeline.analysis.layers import Participation, participation
from pipeline.analysis.operator import HessianOperator
from pipeline.analysis.parts import Part, inner_products, open_parts
from pipeline.analysis.spectrum import Spectrum
from pipeline.analysis.subspaces import Subspace, cosines, overlap
from pipeline.errors import StoreError
from pipeline.store.places import Place
from pipeline.store.store import HessianStore

__all__ = ["TermAnalysis", "analyse_terms"]

Array = npt.NDArray[np.float64]

NUM_EXTREME = 20
"""Eigenvalues at each end, where they are not all computed."""


@dataclass(frozen=True)
class TermAnalysis:
    """A Hessian and its n parts, the whole first.

    Attributes:
        parts: What they are.
        traces: ``tr A_i``, ``[n]``.
        products: ``⟨A_i, A_j⟩_F``, ``[n, n]``.
        spectra: Eigenvalues of each; all of them, or some at both ends.
        dominant: The eigenpairs of largest magnitude of each.
        curvatures: ``v_mᵀA_i v_m`` along the dominant eigenvectors v_m of the whole, ``[k, n]``.
    """

    parts: tuple[Part, ...]
    traces: Array
    products: Array
    spectra: tuple[Spectrum, ...]
    dominant: tuple[Subspace, ...]
    curvatures: Array

    @property
    def norms(self) -> Array:
        """``‖A_i‖_F``, ``[n]``."""
        norms: Array = np.sqrt(np.diag(self.products))
        return norms

    @property
    def trace_shares(self) -> Array:
        """``tr A_i / tr H``; of the terms they add up to 1, and so do G's and H - G's.

        NaN if H has no trace.
        """
        return _shares(self.traces, self.traces[0])

    @property
    def norm_shares(self) -> Array:
        """``⟨A_i, H⟩_F / ‖H‖_F²``: negative where a part works against H; they add up to 1, too."""
        return _shares(self.products[0], self.products[0, 0])

    @property
    def cosines(self) -> Array:
        """``⟨A_i, A_j⟩_F / (‖A_i‖_F ‖A_j‖_F)``, ``[n, n]``; NaN for a part that is zero."""
        return cosines(self.products)

    @property
    def overlaps(self) -> Array:
        """Mean squared cosine between the dominant subspaces, ``[n, n]``."""
        vectors = [subspace.vectors for subspace in self.dominant]
        return np.array([[overlap(first, second) for second in vectors] for first in vectors])

    @property
    def layers(self) -> Participation:
        """The weight of the dominant eigenvectors of H in each layer."""
        return participation(self.dominant[0].vectors, self.parts[0].layout)

    @property
    def conflicts(self) -> npt.NDArray[np.bool_]:
        """Along which dominant eigenvectors of H the terms' curvatures have both signs, ``[k]``.

        A curvature within the noise floor of its part has no sign.
        """
        of_terms = [i for i, p in enumerate(self.parts) if p.term and p.kind == "hessian"]
        floors = np.array([spectrum.noise_floor for spectrum in self.spectra])
        curvatures, floors = self.curvatures[:, of_terms], floors[of_terms]
        up, down = (curvatures > floors).any(axis=1), (curvatures < -floors).any(axis=1)
        return np.asarray(up & down)

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        numbers = {
            "trace": self.traces,
            "trace_share": self.trace_shares,
            "frobenius_norm": self.norms,
            "norm_share": self.norm_shares,
        }
        parts = [
            {"term": part.term, "kind": part.kind, "spectrum": self.spectra[i].to_json()}
            | {name: _number(values[i]) for name, values in numbers.items()}
            for i, part in enumerate(self.parts)
        ]
        return {
            "parts": parts,
            "cosines": [[_number(value) for value in row] for row in self.cosines],
            "overlaps": self.overlaps.tolist(),
            "dominant_eigenvalues": self.dominant[0].eigenvalues.tolist(),
            "curvatures": self.curvatures.tolist(),
            "conflicts": self.conflicts.tolist(),
            "participation": self.layers.to_json(),
        }


def _shares(values: Array, whole: float) -> Array:
    return values / whole if whole else np.full_like(values, np.nan)


def _number(value: float) -> float | None:
    # JSON has no NaN.
    return None if np.isnan(value) else float(value)


def analyse_terms(
    hessian: HessianStore | Place,
    ggn: HessianStore | Place | None = None,
    num_dominant: int = 10,
    *,
    whole: Spectrum | None = None,
) -> TermAnalysis:
    """Compare a Hessian with the parts of which it is the sum.

    Traces and inner products take one pass over the tiles. Eigenvalues are all computed, in
    float64, one matrix at a time, where it fits into memory twice; else 20 at each end, from the
    tiles.

    Args:
        hessian: A complete store of the Hessian, by ``--per-term`` for its terms.
        ggn: A complete store of the Gauss-Newton matrix of the same inputs; by default the store
            itself, if it holds that, too. Parts of a term are those that are stored of it.
        num_dominant: How many eigenpairs of each part span its dominant subspace.
        whole: The spectrum of the Hessian itself, if it is known already.

    Raises:
        StoreError: If there is nothing to compare, block rows are missing, or eigenvalues do not
            converge.
        StoreMismatchError: If the stores do not belong together.

    Example:
        >>> import tempfile
        >>> from pipeline import RunOptions, compute_hessian, load_problem
        >>> small = load_problem("poisson", width=4, depth=1, num_interior=6, num_boundary=2)
        >>> options = RunOptions(per_term=True)
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     _ = compute_hessian(small, f"{directory}/h.zarr", options=options)
        ...     found = analyse_terms(f"{directory}/h.zarr", num_dominant=3)
        >>> [part.label for part in found.parts], round(float(found.trace_shares[1:].sum()), 3)
        (['H', 'H pde', 'H dirichlet'], 1.0)
    """
    parts = open_parts(hessian, ggn)
    if len(parts) == 1:
        raise StoreError(
            f"{parts[0].stores[0].location} holds the total Hessian alone, which has no parts. "
            "Compute it by: hessian run --per-term, or --with-ggn, or give a store of engine ggn "
            "with --ggn."
        )
    traces, products = inner_products(parts)
    spectra: list[Spectrum] = []
    dominant, curvatures = [], []
    for part, trace, square in zip(parts, traces, np.diag(products), strict=True):
        norm = float(np.sqrt(square))
        matrix = part.dense() if _fits(part) else None
        operator = part.operator(norm)
        if matrix is None:
            dominant.append(_dominant_by_tiles(operator, num_dominant))
        else:
            dominant.append(_dominant_in_memory(matrix, num_dominant))
        known = whole if not spectra else None
        spectra.append(known or _spectrum(operator, matrix, float(trace)))
        along = dominant[0].vectors
        images = (operator if matrix is None else matrix) @ along
        curvatures.append(np.einsum("pk,pk->k", along, images))
    return TermAnalysis(
        tuple(parts), traces, products, tuple(spectra), tuple(dominant), np.array(curvatures).T
    )


def _fits(part: Part) -> bool:
    # The matrix twice, since LAPACK overwrites it.
    needed = 2 * dense_bytes(part.layout.num_params)
    return needed < psutil.virtual_memory().available


def _spectrum(operator: HessianOperator, matrix: Array | None, trace: float) -> Spectrum:
    norm, floor = operator.norm or 0.0, operator.noise_floor or 0.0
    if matrix is not None:
        values, _ = dense_eigenpairs(matrix.copy())
        return Spectrum(values, True, floor, trace, norm)
    pairs = extreme_eigenpairs(operator, NUM_EXTREME)
    complete = len(pairs.values) == operator.shape[0]
    return Spectrum(pairs.values, complete, floor, trace, norm, pairs=pairs)


def _dominant_in_memory(matrix: Array, number: int) -> Subspace:
    # Products are cheap in memory, so that single vectors do, which ARPACK multiplies; it wants
    # room, and a matrix that is not zero.
    if len(matrix) <= 4 * number or not matrix.any():
        values, vectors = np.linalg.eigh(matrix)
    else:
        start = np.random.default_rng(0).standard_normal(len(matrix))
        values, vectors = _arpack(matrix, number, start)
    chosen = np.argsort(-np.abs(values))[:number]
    return Subspace(values[chosen], vectors[:, chosen])


def _arpack(matrix: Array, number: int, start: Array) -> tuple[Array, Array]:
    try:
        values, vectors = scipy.sparse.linalg.eigsh(matrix, number, which="LM", v0=start)
    except scipy.sparse.linalg.ArpackNoConvergence as error:
        raise StoreError(f"The dominant eigenvectors did not converge: {error}") from error
    return values, vectors


def _dominant_by_tiles(operator: HessianOperator, number: int) -> Subspace:
    pairs = extreme_eigenpairs(operator, number)
    chosen = np.argsort(-np.abs(pairs.values))[:number]
    if not pairs.converged[chosen].all():
        raise StoreError(
            f"The {number} dominant eigenvectors of {operator.title} did not converge: residuals "
            f"{pairs.residuals[chosen].max():.1e}, expected {pairs.tolerance:.1e}. Ask for fewer."
        )
    return Subspace(pairs.values[chosen], pairs.vectors[:, chosen])

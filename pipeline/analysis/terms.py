"""What each loss term, and Gauss-Newton and the rest of it, contribute to a Hessian."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import scipy.linalg
import scipy.sparse.linalg

from pipeline.analysis.operator import noise_floor
from pipeline.analysis.parts import Part, inner_products, open_parts
from pipeline.analysis.spectrum import Spectrum
from pipeline.analysis.subspaces import Subspace, cosines, overlap
from pipeline.errors import StoreError
from pipeline.store import HessianStore

__all__ = ["TermAnalysis", "analyse_terms"]

Array = npt.NDArray[np.float64]


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
        }


def _shares(values: Array, whole: float) -> Array:
    return values / whole if whole else np.full_like(values, np.nan)


def _number(value: float) -> float | None:
    # JSON has no NaN.
    return None if np.isnan(value) else float(value)


def analyse_terms(
    hessian: HessianStore | str | Path,
    ggn: HessianStore | str | Path | None = None,
    num_dominant: int = 10,
) -> TermAnalysis:
    """Compare a Hessian with the parts of which it is the sum.

    Traces and inner products take one pass over the tiles. Eigenvalues are all computed, in
    float64, one matrix at a time, where three times 8 P² bytes are free; else those of largest
    magnitude at both ends, by Lanczos from the tiles.

    Args:
        hessian: A complete store of the Hessian, by ``--per-term`` for its terms.
        ggn: A complete store of the Gauss-Newton matrix of the same inputs, with the same terms.
        num_dominant: How many eigenpairs of each part span its dominant subspace.

    Raises:
        StoreError: If there is nothing to compare, block rows are missing, or eigenvalues do not
            converge.
        StoreMismatchError: If the stores do not belong together.

    Example:
        >>> import tempfile
        >>> from pipeline import RunOptions, compute_hessian
        >>> from hessian_tasks.problems.poisson import problem
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     options = RunOptions(per_term=True)
        ...     _ = compute_hessian(problem(width=4), f"{directory}/h.zarr", options=options)
        ...     found = analyse_terms(f"{directory}/h.zarr", num_dominant=3)
        >>> [part.label for part in found.parts], round(float(found.trace_shares[1:].sum()), 6)
        (['H', 'H pde', 'H dirichlet'], 1.0)
    """
    parts = open_parts(hessian, ggn)
    if len(parts) == 1:
        raise StoreError(
            f"{parts[0].stores[0].path} holds the total Hessian alone, which has no parts. Compute "
            "it by: hessian run --per-term, or give a store made by --engine ggn with --ggn."
        )
    traces, products = inner_products(parts)
    # No more than half the eigenpairs, so that Lanczos has room.
    number = min(num_dominant, parts[0].layout.num_params // 2)
    spectra, dominant, curvatures = [], [], []
    for part, trace, square in zip(parts, traces, np.diag(products), strict=True):
        matrix = _matrix(part, float(np.sqrt(square)))
        spectra.append(_spectrum(part, matrix, float(trace), float(np.sqrt(square))))
        dominant.append(_dominant(matrix, number))
        along = dominant[0].vectors
        curvatures.append(np.einsum("pk,pk->k", along, matrix @ along))
    return TermAnalysis(
        tuple(parts), traces, products, tuple(spectra), tuple(dominant), np.array(curvatures).T
    )


def _matrix(part: Part, norm: float) -> Any:
    needed = 3 * 8 * part.layout.num_params**2
    return part.dense() if needed < psutil.virtual_memory().available else part.operator(norm)


def _spectrum(part: Part, matrix: Any, trace: float, norm: float) -> Spectrum:
    complete = isinstance(matrix, np.ndarray)
    if complete:
        values = scipy.linalg.eigh(matrix, eigvals_only=True, check_finite=False)
    else:
        values = _eigsh(matrix, min(40, part.layout.num_params - 1), "BE")[0]
    relative = part.error / norm if norm else 0.0
    floor = noise_floor(part.layout.num_params, relative, norm)
    return Spectrum(np.sort(values), complete, floor, trace, norm)


def _dominant(matrix: Any, number: int) -> Subspace:
    values, vectors = _eigsh(matrix, number, "LM")
    order = np.argsort(-np.abs(values))
    return Subspace(values[order], vectors[:, order])


def _eigsh(matrix: Any, number: int, which: str) -> tuple[Array, Array]:
    start = np.random.default_rng(0).standard_normal(matrix.shape[0])
    try:
        values, vectors = scipy.sparse.linalg.eigsh(matrix, number, which=which, v0=start)
    except scipy.sparse.linalg.ArpackNoConvergence as error:
        raise StoreError(f"Extreme eigenvalues did not converge: {error}") from error
    return values, vectors

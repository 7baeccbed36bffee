"""What a report shows, how it calls things, and by which command there is more."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hessian_tasks.spec import GAUSS_NEWTON
from pipeline.analysis.ends import end_ranks
from pipeline.analysis.spectrum import Spectrum
from pipeline.curvature.landscape import Directions
from pipeline.store.opened import HoldsInputs
from pipeline.store.store import HessianStore

__all__ = [
    "NUM_BOTTOM",
    "NUM_TOP",
    "asked_by",
    "both_ends",
    "chosen_directions",
    "problem_name",
    "too_large",
]

Array = npt.NDArray[np.float64]

NUM_TOP, NUM_BOTTOM = 5, 3
# All eigenpairs of more parameters would take longer than the rest of a page.
MAX_PARAMS = 2_000


def problem_name(source: HoldsInputs) -> str:
    """The problem in a heading."""
    # A file's directories are in the provenance.
    return Path(str(source.attributes["source"]["reference"])).name


def both_ends(found: Spectrum) -> tuple[Array, Array]:
    """The largest and the smallest eigenvalues, in that order, and eigenvectors ``[K, P]``."""
    assert found.vectors is not None, "asked for"
    ranks = end_ranks(len(found.eigenvalues), NUM_TOP, NUM_BOTTOM)
    return found.eigenvalues[ranks], found.vectors.T[ranks]


def chosen_directions(values: Array, vectors: Array) -> tuple[Array, Directions]:
    """The two stiffest eigenvectors and the one that leads most steeply downhill.

    Args:
        values: Eigenvalues, the largest first, ``[K]``; the last is the smallest of all.
        vectors: Their eigenvectors ``[K, P]``.

    Returns:
        Their eigenvalues, and themselves.

    Example:
        >>> values, directions = chosen_directions(np.array([3.0, 2.0, 1.0, -1.0]), np.eye(4))
        >>> values.tolist(), directions.labels
        ([3.0, 2.0, -1.0], ['v1 (λ = 3)', 'v2 (λ = 2)', 'v4 (λ = -1)'])
    """
    chosen = sorted({0, min(1, len(values) - 1), len(values) - 1})
    ranks = [*[1, 2][: len(chosen) - 1], vectors.shape[1]]
    labels = [f"v{rank} (λ = {values[k]:.3g})" for rank, k in zip(ranks, chosen, strict=True)]
    return values[chosen], Directions(labels, vectors[chosen])


def asked_by(command: str, store: HessianStore) -> str:
    """What to type for more than a page has."""
    chosen = " --matrix ggn" if store.matrix == GAUSS_NEWTON else ""
    return f"hessian {command} {shlex.quote(str(store.location))}{chosen}"


def too_large(store: HessianStore) -> str:
    """Why what takes all eigenpairs is left out, to be followed by a command; if it is."""
    if store.num_params <= MAX_PARAMS:
        return ""
    return (
        f"it may take all eigenpairs, which a page has of up to {MAX_PARAMS:,} parameters, and "
        f"there are {store.num_params:,}. Ask for it with:"
    )

"""K-FAC and EKFAC of the loss of a store."""

from __future__ import annotations

from pathlib import Path

from hessian_tasks.errors import NotLayeredError
from hessian_tasks.problem import Problem
from pipeline.analysis.approximations import KroneckerFactors
from pipeline.api import rebuild_problem
from pipeline.store.places import Place
from pipeline.store.store import HessianStore

__all__ = ["kronecker_factors"]


def kronecker_factors(
    store: HessianStore | Place, problem: Problem | str | Path | None = None
) -> KroneckerFactors:
    """K-FAC and EKFAC of the loss of a store, at its θ, as they are computed to train PINNs.

    The block of a dense layer in a term's Gauss-Newton matrix is taken for A ⊗ B, with the means
    A of z zᵀ and the sums B of g gᵀ over points and streams, the network's value and the
    derivatives that the term depends on: z what the layer multiplies, g the slopes of the residual,
    times ``(2 w / (N C))^½``, by what it makes (F. Dangel, J. Müller, M. Zeinhofer,
    "Kronecker-Factored Approximate Curvature for Physics-Informed Neural Networks", NeurIPS 2024).
    Blocks of layers are the sums of those of the terms. EKFAC has the diagonal in the eigenvectors
    of A and B that is nearest to each term's block (T. George et al., 2018).

    What terms read themselves, the problem's parameters or a penalty of weights, is kept as it is.

    Args:
        store: A store of the Hessian, or of the Gauss-Newton matrix, complete or not.
        problem: The problem, if the store was made from a live object or its file has moved.

    Returns:
        The factors of every layer in every term; :func:`compare_approximations` takes them.

    Raises:
        NotLayeredError: If the network is not of dense layers, or a term couples points: the
            message says what was found.
        ReproductionError: If the problem is not the one that the store was made from.

    Example:
        >>> import tempfile
        >>> from pipeline import compare_approximations, compute_hessian, load_problem
        >>> size = {"width": 4, "depth": 1, "num_interior": 6, "num_boundary": 2}
        >>> small = load_problem("poisson", **size, dtype="float64")
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     _ = compute_hessian(small, f"{directory}/h.zarr")
        ...     factors = kronecker_factors(f"{directory}/h.zarr", small)
        ...     found = compare_approximations(f"{directory}/h.zarr", factors=factors)
        >>> [one.name for one in found.found if "FAC" in one.name]
        ['K-FAC', 'EKFAC']
        >>> [(one.term, len(one.layers), one.layers[0].factors[0].shape) for one in factors.terms]
        [('pde', 2, (3, 3)), ('dirichlet', 2, (3, 3))]
    """
    from hessian_tasks.layered import kfac
    from hessian_tasks.reading import read_terms

    opened = store if isinstance(store, HessianStore) else HessianStore(store)
    rebuilt = rebuild_problem(opened, problem)
    readings = [one for one in read_terms(rebuilt) if one.term.name not in opened.left_out]
    try:
        terms = kfac.kronecker_factors(readings)
    except NotLayeredError as error:
        raise NotLayeredError(
            f"K-FAC and EKFAC are of losses that take dense layers point by point, but {error}."
        ) from error
    return KroneckerFactors(tuple(terms), opened.attributes["fingerprint"])

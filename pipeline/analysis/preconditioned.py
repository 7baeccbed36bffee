"""The Hessian as L-BFGS sees it: preconditioned by the inverse that it builds from its steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.analysis._dense import dense_eigenpairs
from pipeline.analysis.lbfgs import InverseHessianFactor, LbfgsHistory
from pipeline.analysis.operator import HessianOperator, noise_floor
from pipeline.analysis.parts import Part
from pipeline.analysis.spectrum import Spectrum
from pipeline.errors import StoreMismatchError
from pipeline.store.store import HessianStore

__all__ = ["precondition", "preconditioned_spectra", "preconditioned_spectrum"]

Array = npt.NDArray[np.float64]


def precondition(operator: HessianOperator, history: LbfgsHistory) -> HessianOperator:
    """``LᵀH L`` as products, with ``L Lᵀ`` the inverse Hessian of L-BFGS.

    Each product costs one with H, and 4 m P multiply-adds for m pairs. Its norm is not known.

    Args:
        operator: H, or one term's.
        history: The pairs, as recorded by ``hessian train --history``.

    Raises:
        StoreMismatchError: If it has another number of parameters.
    """
    factor = _factor(history, operator.shape[0])
    return HessianOperator(
        lambda vectors: factor.rmatmat(operator @ factor.matmat(vectors)),
        operator.layout,
        relative_error=operator.relative_error,
        title=f"{operator.title} preconditioned by L-BFGS",
    )


def preconditioned_spectrum(
    matrix: Array, history: LbfgsHistory, relative_error: float
) -> Spectrum:
    """All eigenvalues of ``LᵀH L``, which are those of the preconditioned Hessian ``L Lᵀ H``.

    P. Rathore, W. Lei, Z. Frangella, L. Lu, M. Udell, "Challenges in training PINNs: a loss
    landscape perspective", ICML 2024, estimate their density; here they are exact. Dense: two more
    matrices ``[P, P]``.

    Args:
        matrix: H ``[P, P]``, or one term's, in float64.
        history: The pairs.
        relative_error: ``‖E‖_F / ‖H‖_F`` of the error of H. That of ``LᵀH L`` is ``LᵀE L``, and if
            the entries of E are symmetric, independent and of one size, then the mean square of its
            norm is ``‖E‖_F² ((tr M)² + ‖M‖_F²) / (P² + P)``, M = L Lᵀ. The noise floor is the
            root of that: an estimate, no bound.

    Raises:
        StoreMismatchError: If it has another number of parameters.
    """
    factor = _factor(history, len(matrix))
    product = factor.rmatmat(factor.rmatmat(matrix).T)
    product = (product + product.T) / 2
    norm = float(np.linalg.norm(product))
    error = relative_error * float(np.linalg.norm(matrix)) * _gain(factor)
    floor = noise_floor(len(matrix), error / norm if norm else 0.0, norm)
    trace = float(np.trace(product))
    return Spectrum(dense_eigenpairs(product)[0], True, floor, trace, norm)


def preconditioned_spectra(parts: Sequence[Part], history: LbfgsHistory) -> list[Spectrum]:
    """All eigenvalues of ``LᵀA L`` for each part A of a Hessian; dense, one part at a time.

    L Lᵀ is the inverse Hessian of L-BFGS, see :func:`preconditioned_spectrum`.

    Args:
        parts: H and its parts, as :func:`~pipeline.analysis.parts.open_parts` gives them.
        history: The pairs of the training that led to the stored θ.

    Raises:
        StoreMismatchError: If it led elsewhere.
        StoreError: If block rows are missing or damaged.
        PlanError: If three matrices do not fit into memory.

    Example:
        >>> import tempfile
        >>> from pipeline import RunOptions, analyse_terms, compute_hessian, load_problem, train
        >>> small = load_problem("poisson", width=2, depth=1, num_interior=6, num_boundary=2)
        >>> trained = train(small, adam_steps=0, lbfgs_steps=3)
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     options = RunOptions(per_term=True)
        ...     _ = compute_hessian(trained.problem, f"{directory}/h.zarr", options=options)
        ...     parts = analyse_terms(f"{directory}/h.zarr").parts
        ...     found = preconditioned_spectra(parts, trained.history)
        >>> [len(spectrum.eigenvalues) for spectrum in found]
        [9, 9, 9]
    """
    _check_end(parts[0].stores[0], history)
    spectra = []
    for part in parts:
        matrix = part.dense(3)
        norm = float(np.linalg.norm(matrix))
        relative = part.error / norm if norm else 0.0
        spectra.append(preconditioned_spectrum(matrix, history, relative))
    return spectra


def _check_end(store: HessianStore, history: LbfgsHistory) -> None:
    theta = store.read("theta").astype(np.float64)
    # The history has θ in float64, the network in its own dtype.
    close = 4 * np.finfo(store.dtype).eps * np.abs(theta).max()
    if theta.shape != history.theta.shape or np.abs(theta - history.theta).max() > close:
        raise StoreMismatchError(
            f"This history of L-BFGS did not lead to the weights of {store.location}. Use weights "
            "and history of the same: hessian train --out WEIGHTS --history FILE"
        )


def _gain(factor: InverseHessianFactor) -> float:
    # Root mean square of ‖LᵀE L‖_F / ‖E‖_F for symmetric noise E, 1 for L = I.
    trace, squares = factor.moments()
    return float(np.sqrt((trace**2 + squares) / (factor.num_params * (factor.num_params + 1))))


def _factor(history: LbfgsHistory, num_params: int) -> InverseHessianFactor:
    if len(history.theta) != num_params:
        raise StoreMismatchError(
            f"The history of L-BFGS has {len(history.theta):,} parameters, the matrix "
            f"{num_params:,}. Record it with the training that the weights come from."
        )
    return InverseHessianFactor(history)

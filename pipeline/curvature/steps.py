"""What needs the loss itself beside its stored curvature: gradients of terms, and steps tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hessian_tasks.problem import Problem
from pipeline.analysis.operator import noise_floor
from pipeline.analysis.parts import Part, open_parts
from pipeline.analysis.steps import (
    Eigenbasis,
    Method,
    TriedStep,
    effective_dimension,
    predicted_decrease,
)
from pipeline.api import rebuild_problem
from pipeline.store.places import Place
from pipeline.store.store import HessianStore

__all__ = ["term_gradients", "try_steps"]

Array = npt.NDArray[np.float64]

DAMPINGS = (1e-2, 1e-4, 1e-6)
"""Of the largest eigenvalue's magnitude: from a cautious step to nearly the pure one."""


def term_gradients(
    store: HessianStore | Place, problem: Problem | str | Path | None = None
) -> dict[str, Array]:
    """The gradient of each weighted loss term at the stored θ; they add up to ``gradient``.

    Args:
        store: A store, complete or not.
        problem: The problem, if the store was made from a live object or its file has moved.

    Raises:
        ReproductionError: If the problem is not the one that the store was made from.
        StoreError: If the store cannot be read.

    Example:
        >>> import tempfile
        >>> from pipeline import compute_hessian, load_problem
        >>> size = {"width": 4, "depth": 1, "num_interior": 6, "num_boundary": 2}
        >>> small = load_problem("poisson", **size, dtype="float64")
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     stored = compute_hessian(small, f"{directory}/h.zarr").gradient.to_numpy()
        ...     found = term_gradients(f"{directory}/h.zarr", small)
        >>> list(found), np.allclose(sum(found.values()), stored)
        (['pde', 'dirichlet'], True)
    """
    from hessian_tasks.loss import losses_and_gradient

    rebuilt = rebuild_problem(store, problem)
    return {
        term.name: losses_and_gradient(replace(rebuilt, terms=[term]))[1].astype(np.float64)
        for term in rebuilt.terms
    }


def try_steps(
    hessian: HessianStore | Place,
    ggn: HessianStore | Place | None = None,
    *,
    dampings: Sequence[float] = (),
    problem: Problem | str | Path | None = None,
) -> list[TriedStep]:
    """Take Newton, saddle-free and, where G is stored, Gauss-Newton steps, and look at the loss.

    Dense: needs all eigenvectors, 4 times 8 P² bytes. Eigenvalues within the noise floor count as
    zero.

    Args:
        hessian: A complete store of the Hessian.
        ggn: A complete store of the Gauss-Newton matrix of the same inputs; by default the store
            itself, if it holds that, too.
        dampings: Values μ; by default 1e-2, 1e-4 and 1e-6 times the largest magnitude of an
            eigenvalue of the method's matrix.
        problem: The problem, if the store was made from a live object or its file has moved.

    Raises:
        StoreError: If block rows are missing.
        StoreMismatchError: If the stores do not belong together.
        PlanError: If the eigenvectors do not fit into memory.
        ReproductionError: If the problem is not the one that the store was made from.

    Example:
        >>> import tempfile
        >>> from pipeline import compute_hessian, load_problem
        >>> small = load_problem("regression", width=4, depth=1, num_samples=10)
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     _ = compute_hessian(small, f"{directory}/h.zarr")
        ...     found = try_steps(f"{directory}/h.zarr", problem=small, dampings=[1e3])
        >>> [tried.method for tried in found], all(0.9 < tried.ratio < 1.1 for tried in found)
        (['newton', 'saddle_free'], True)
    """
    parts = [part for part in open_parts(hessian, ggn) if part.term is None]
    store = parts[0].stores[0]
    theta, gradient = (store.read(name).astype(np.float64) for name in ("theta", "gradient"))
    loss_at = _compile_loss(rebuild_problem(store, problem))
    before = loss_at(theta)
    tried = []
    for part in parts:
        if part.kind != "residual_curvature":
            basis = _eigenbasis(part)
            for method, damping, step in _steps(part, basis, gradient, dampings):
                image = basis.vectors @ (basis.eigenvalues * (basis.vectors.T @ step))
                promised = predicted_decrease(gradient, step, image)
                dimension = _effective_dimension(basis, damping)
                length = float(np.linalg.norm(step))
                after = loss_at(theta + step)
                tried.append(TriedStep(method, damping, length, promised, before, after, dimension))
    return tried


def _eigenbasis(part: Part) -> Eigenbasis:
    matrix = part.dense(4)
    norm = float(np.linalg.norm(matrix))
    relative = part.error / norm if norm else 0.0
    return Eigenbasis.of(matrix, noise_floor(len(matrix), relative, norm))


def _effective_dimension(basis: Eigenbasis, damping: float) -> float:
    # Its limit without damping is the rank.
    rank = float(np.count_nonzero(basis.eigenvalues))
    return effective_dimension(basis.eigenvalues, damping) if damping else rank


def _steps(
    part: Part, basis: Eigenbasis, gradient: Array, dampings: Sequence[float]
) -> Iterator[tuple[Method, float, Array]]:
    largest = float(np.abs(basis.eigenvalues).max())
    for damping in dampings or [share * largest for share in DAMPINGS]:
        if part.kind == "ggn":
            yield "gauss_newton", damping, basis.step(gradient, damping)
        else:
            yield "newton", damping, basis.step(gradient, damping)
            yield "saddle_free", damping, basis.step(gradient, damping, magnitudes=True)


def _compile_loss(problem: Problem) -> Callable[[Array], float]:
    from hessian_tasks.loss import compile_losses_and_gradient
    from hessian_tasks.networks.models import dtype_of, kept_weights, set_theta

    evaluate = compile_losses_and_gradient(problem)
    dtype = dtype_of(problem.model)

    def loss_at(theta: Array) -> float:
        # The network may be the user's own.
        with kept_weights(problem.model):
            set_theta(problem.model, theta.astype(dtype))
            return float(evaluate()[0].numpy().astype(np.float64).sum())

    return loss_at

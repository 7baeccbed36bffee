"""The loss around θ: its slices along eigenvectors, and what these do to the solution.

Both evaluate the problem, which is rebuilt from the inputs that a store or kept estimates hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.analysis.fields import Fields, cut_through
from pipeline.analysis.operator import open_operator
from pipeline.analysis.slices import Axis, QuadraticModel, Slice, reach, take_slices
from pipeline.store.places import Place
from pipeline.store.store import HessianStore

if TYPE_CHECKING:
    from hessian_tasks.autodiff.directions import LossesAlong
    from hessian_tasks.problem import Problem

__all__ = ["Directions", "loss_slices", "solution_changes", "stored_curvatures"]

Array = npt.NDArray[np.float64]

LINE_STEPS, PLANE_STEPS = 41, 25
GRID_POINTS = 60


@dataclass(frozen=True)
class Directions:
    """Where to go from θ: eigenvectors, or others.

    Attributes:
        labels: Their names in pictures and tables.
        vectors: One a row, of length 1, ``[K, P]``, float64.

    Example:
        >>> gradient = np.array([3.0, 4.0])
        >>> downhill = Directions(["downhill"], -gradient[None] / np.linalg.norm(gradient))
        >>> downhill.vectors
        array([[-0.6, -0.8]])
    """

    labels: Sequence[str]
    vectors: Array


def loss_slices(
    problem: Problem,
    directions: Directions,
    curvatures: Mapping[str | None, Array],
    change: float = 2.0,
) -> list[Slice]:
    """The loss and its terms along each direction, and on the plane of the first and the last.

    A slice ends where the loss itself, on either side, has changed by ``change · |L|``, or at
    ``‖θ‖``; so it shows as much of a direction of next to no curvature, or of negative one, as of
    a stiff one.

    Args:
        problem: The problem, from :func:`~pipeline.api.rebuild_problem`.
        directions: Where to go.
        curvatures: ``v_dᵀ H v_e`` ``[K, K]`` of the total, under None, and of those terms that are
            to have a quadratic model too; :func:`stored_curvatures` gives those of a store.
        change: How far, as a multiple of the loss.

    Returns:
        A slice for each direction, and one of two directions if there are as many.

    Example:
        >>> from pipeline import load_problem
        >>> small = load_problem("regression", width=2, depth=1, num_samples=5)
        >>> first = Directions(["first parameter"], np.eye(1, 7))
        >>> (line,) = loss_slices(small, first, {None: np.array([[1.0]])})
        >>> line.actual[None].shape, line.predicted[None].shape
        ((41,), (41,))
    """
    from hessian_tasks.autodiff.directions import LossesAlong
    from hessian_tasks.networks.models import get_theta

    along = LossesAlong(problem, directions.vectors)
    models = _quadratic_models(along, [term.name for term in problem.terms], curvatures)
    limit = float(np.linalg.norm(get_theta(problem.model).astype(np.float64))) or 1.0
    ends = reach(along, len(directions.labels), change, limit)

    def axis(number: int, num_steps: int) -> Axis:
        steps = np.linspace(-ends[number], ends[number], num_steps)
        return Axis(number, directions.labels[number], steps)

    cuts: list[tuple[Axis, ...]] = [(axis(d, LINE_STEPS),) for d in range(len(ends))]
    if len(ends) > 1:
        cuts.append((axis(0, PLANE_STEPS), axis(len(ends) - 1, PLANE_STEPS)))
    return take_slices(along, models, [term.name for term in problem.terms], cuts)


def _quadratic_models(
    along: LossesAlong, terms: Sequence[str], curvatures: Mapping[str | None, Array]
) -> dict[str | None, QuadraticModel]:
    slopes = along.slopes()
    (losses,) = along(np.zeros((1, slopes.shape[1])))
    models = {}
    for term, matrix in curvatures.items():
        chosen = slice(None) if term is None else [terms.index(term)]
        models[term] = QuadraticModel(
            float(losses[chosen].sum()), slopes[chosen].sum(axis=0), matrix
        )
    return models


def stored_curvatures(
    store: HessianStore | Place, directions: Directions
) -> dict[str | None, Array]:
    """``v_dᵀ H v_e`` ``[K, K]`` by a store's matrices, of the total (None) and of single terms.

    Args:
        store: A complete store, or where it is.
        directions: The v.

    Raises:
        StoreError: If block rows are missing or damaged.

    Example:
        >>> import tempfile
        >>> from pipeline import compute_hessian, load_problem
        >>> small = load_problem("regression", width=2, depth=1, num_samples=5, dtype="float64")
        >>> first = Directions(["first parameter"], np.eye(1, 7))
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     hessian = compute_hessian(small, f"{directory}/h.zarr").hessian.to_numpy()
        ...     found = stored_curvatures(f"{directory}/h.zarr", first)
        >>> np.allclose(found[None], hessian[0, 0])
        True
    """
    opened = store if isinstance(store, HessianStore) else HessianStore(store)
    vectors = directions.vectors
    return {term: vectors @ (open_operator(opened, term) @ vectors.T) for term in opened.arrays}


def solution_changes(problem: Problem, directions: Directions) -> Fields | None:
    """How the solution and the residuals change, to first order, along each direction.

    Args:
        problem: From :func:`~pipeline.api.rebuild_problem`.
        directions: The directions.

    Returns:
        The changes for a step of length 1; None if no term has collocation points.

    Example:
        >>> from pipeline import load_problem
        >>> small = load_problem("poisson", width=2, depth=1, num_interior=6, num_boundary=2)
        >>> found = solution_changes(small, Directions(["first parameter"], np.eye(1, 9)))
        >>> found.changes.shape  # directions, outputs, grid
        (1, 1, 60, 60)
    """
    from hessian_tasks.autodiff.linearised import jacobian_vector_product, residual_terms, residuals
    from hessian_tasks.problem import ResidualTerm

    terms = residual_terms(problem)
    if not terms:
        return None
    points = {term.name: np.asarray(term.points, np.float64) for term in terms}
    cut = cut_through(list(points.values()), problem.coordinates, GRID_POINTS)
    # The network itself is a residual like any other, under a name that no term has.
    shown = "u" + "".join(points)
    solution = ResidualTerm(shown, cut.points, lambda x, u: u.value)
    problem = replace(problem, terms=[solution, *terms])
    values = residuals(problem)
    changes = jacobian_vector_product(problem, directions.vectors)
    num_directions = len(directions.vectors)
    by_output = changes[shown].reshape(num_directions, len(cut.points), -1)
    return Fields(
        cut=cut,
        labels=directions.labels,
        solution=values[shown].T.reshape(-1, *cut.shape).astype(np.float64),
        changes=np.moveaxis(by_output, 2, 1)
        .reshape(num_directions, -1, *cut.shape)
        .astype(np.float64),
        points=points,
        residual_changes={
            name: changes[name].reshape(num_directions, len(where), -1).astype(np.float64)
            for name, where in points.items()
        },
    )

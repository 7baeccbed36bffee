"""The loss along eigenvectors, and the changes of the solution that belong to them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import LogNorm

from hessian_tasks.autodiff import AutodiffEngine
from hessian_tasks.autodiff.directions import LossesAlong
from hessian_tasks.autodiff.linearised import jacobian_vector_product, residuals
from hessian_tasks.loss import losses_and_gradient
from hessian_tasks.networks.models import get_theta, set_theta
from hessian_tasks.problem import Problem, ResidualTerm
from hessian_tasks.spec import BlockRow
from pipeline.analysis.fields import Fields, cut_through
from pipeline.analysis.pictures import encode, line_picture, plane_picture
from pipeline.analysis.slices import Axis, QuadraticModel, Slice, reach, take_slices
from pipeline.curvature.landscape import Directions, loss_slices

Array = Any


def dense_hessian(problem: Problem, term: str | None = None) -> Array:
    engine = AutodiffEngine(problem)
    return engine.block_row(BlockRow(0, 0, engine.layout.num_params), term)


def quadratic_models(problem: Problem, vectors: Array) -> dict[str | None, QuadraticModel]:
    losses, _ = losses_and_gradient(problem)
    slopes = dict(zip(losses, LossesAlong(problem, vectors).slopes(), strict=True))
    models: dict[str | None, QuadraticModel] = {
        name: QuadraticModel(loss, slopes[name], vectors @ dense_hessian(problem, name) @ vectors.T)
        for name, loss in losses.items()
    }
    curvatures = vectors @ dense_hessian(problem) @ vectors.T
    models[None] = QuadraticModel(sum(losses.values()), sum(slopes.values()), curvatures)
    return models


def linear_problem() -> Problem:
    """Two terms that are quadratic in θ: a network without hidden layers."""
    import keras

    rng = np.random.default_rng(1)
    model = keras.Sequential(
        [keras.Input((3,), dtype="float64"), keras.layers.Dense(2, dtype="float64")]
    )
    terms = [
        ResidualTerm("fit", rng.normal(size=(9, 3)), lambda x, u: u.value - x[:, :2], weight=0.7),
        ResidualTerm("slope", rng.normal(size=(4, 3)), lambda x, u: u[0].d("x") - 2),
    ]
    return Problem(model, terms, coordinates="xyz")


def planes(size: int = 5, length: float = 3.0) -> list[tuple[Axis, ...]]:
    axes = [Axis(d, f"v{d}", np.linspace(-length, length, size)) for d in range(3)]
    return [(axes[0],), (axes[2],), (axes[1], axes[2])]


def test_a_quadratic_loss_is_its_quadratic_model() -> None:
    problem = linear_problem()
    vectors = np.linalg.eigh(dense_hessian(problem))[1].T[[-1, -2, 0]]
    models = quadratic_models(problem, vectors)
    for found in take_slices(LossesAlong(problem, vectors), models, ["fit", "slope"], planes()):
        assert list(found.actual) == [None, "fit", "slope"]
        for term, predicted in found.predicted.items():
            scale = np.abs(found.actual[term]).max()
            np.testing.assert_allclose(found.actual[term], predicted, atol=1e-12 * scale)


def test_losses_along_directions_are_those_at_moved_weights(tiny_problem: Any) -> None:
    problem = tiny_problem()
    theta = get_theta(problem.model)
    vectors = np.random.default_rng(2).standard_normal((2, len(theta)))
    steps = np.array([[0.0, 0.0], [0.3, -0.1], [-0.2, 0.5]])
    found = LossesAlong(problem, vectors)(steps)
    np.testing.assert_array_equal(get_theta(problem.model), theta)
    for step, losses in zip(steps, found, strict=True):
        set_theta(problem.model, theta + step @ vectors)
        expected = list(losses_and_gradient(problem)[0].values())
        np.testing.assert_allclose(losses, expected, rtol=1e-12)
    set_theta(problem.model, theta)


def test_curvature_of_a_slice_is_the_eigenvalue(tiny_problem: Any) -> None:
    problem = tiny_problem()
    values, vectors = np.linalg.eigh(dense_hessian(problem))
    chosen = [-1, -2, 0]
    along = LossesAlong(problem, vectors.T[chosen])
    # Central differences err by O(h⁴) of sixth derivatives, and by rounding, ε L / h².
    h = 3e-3
    stencil = np.array([-1, 16, -30, 16, -1]) / (12 * h**2)
    for d, k in enumerate(chosen):
        steps = np.outer(h * np.arange(-2, 3), np.eye(3)[d])
        second = stencil @ along(steps).sum(axis=1)
        np.testing.assert_allclose(second, values[k], rtol=1e-6, atol=1e-6 * values[-1])


def test_slopes_are_finite_differences_of_every_term(tiny_problem: Any) -> None:
    problem = tiny_problem()
    size = len(get_theta(problem.model))
    along = LossesAlong(problem, np.random.default_rng(3).standard_normal((2, size)))
    h = 1e-5
    for d in range(2):
        ahead, behind = along(np.outer([h, -h], np.eye(2)[d]))
        # O(h²) of third derivatives, and rounding ε L / h.
        np.testing.assert_allclose((ahead - behind) / (2 * h), along.slopes()[:, d], rtol=1e-6)


def test_slice_as_a_table() -> None:
    bowl = QuadraticModel(1.0, np.zeros(3), np.eye(3))
    _, _, plane = take_slices(
        lambda steps: 1 + 0.5 * np.sum(steps**2, axis=1, keepdims=True),
        {None: bowl},
        ["fit"],
        planes(3, 1.0),
    )
    table = plane.columns()
    assert list(table) == [
        "step along v1", "step along v2", "actual total", "actual fit", "predicted total",
    ]  # fmt: skip
    squares = table["step along v1"] ** 2 + table["step along v2"] ** 2
    np.testing.assert_allclose(table["actual total"], 1 + squares / 2)
    np.testing.assert_allclose(table["predicted total"], 1 + squares / 2)


def ends(loss: Callable[[Array], Array], change: float = 2.0, limit: float = 1e3) -> float:
    """How far a slice of one direction goes; at most so many losses are evaluated."""
    num_evaluated = 0

    def evaluate(steps: Array) -> Array:
        nonlocal num_evaluated
        num_evaluated += len(steps)
        return loss(steps)

    (end,) = reach(evaluate, 1, change, limit)
    assert num_evaluated <= 59
    return float(end)


@given(st.floats(1e-8, 1e8), st.floats(-8, 2), st.floats(1, 8), st.sampled_from([-1, 1]))
def test_reach_is_where_a_power_law_has_changed_so_much(
    loss: float, decades: float, power: float, sign: int
) -> None:
    end = 10**decades
    found = ends(lambda steps: loss * (1 + sign * 2 * np.abs(steps / end) ** power))
    # Rounding of the loss, over the smallest change that is looked at, 2 / 4**8.
    np.testing.assert_allclose(found, end, rtol=1e-9)


@pytest.mark.parametrize(
    ("loss", "end"),
    [
        # A curvature far below any noise floor: the fourth order ends the slice.
        (lambda a: 1 + 1e-12 * a**2 + a**4, 2**0.25),
        # Negative curvature: the loss falls to zero at ±1, and then rises to three times itself.
        (lambda a: (1 - a**2) ** 2, np.sqrt(1 + np.sqrt(3))),
        # A loss that has no lower bound.
        (lambda a: 1 - 0.5 * a**2, 2.0),
        # One side rises.
        (lambda a: np.exp(np.minimum(a, 9)), np.log(3)),
        # A negative loss.
        (lambda a: -1 + a**2, np.sqrt(2)),
    ],
)
def test_reach_is_where_the_loss_itself_has_changed(loss: Any, end: float) -> None:
    # Two steps that are looked at are a factor of 4^(1/8) apart, between which the law is not one
    # power.
    np.testing.assert_allclose(ends(loss), end, rtol=0.02)


def test_reach_is_where_a_loss_ends_to_be_a_number() -> None:
    found = ends(lambda a: np.where(np.abs(a) < 5, 1 + 1e-6 * a**2, np.nan))
    assert 5 / 4 ** (1 / 8) <= found < 5


def test_each_direction_has_its_own_reach() -> None:
    found = reach(lambda a: 1 + a**2 @ [[2.0], [2e-8], [0.0]], 3, 2.0, 1e6)
    np.testing.assert_allclose(found, [1.0, 1e4, 1e6], rtol=1e-6)


@pytest.mark.parametrize("loss", [lambda a: a**2, lambda a: np.ones_like(a), lambda a: a + np.nan])
def test_reach_is_the_limit_where_nothing_bounds_it(loss: Any) -> None:
    assert ends(loss, 1.0, 7.0) == 7.0


def test_slices_show_where_the_loss_changes(tiny_problem: Any) -> None:
    problem = tiny_problem()
    values, vectors = np.linalg.eigh(dense_hessian(problem))
    assert values[0] < 0
    flattest = int(np.argmin(np.abs(values)))
    directions = Directions(["stiff", "flat", "down"], vectors.T[[-1, flattest, 0]])
    curvatures = {None: directions.vectors @ dense_hessian(problem) @ directions.vectors.T}
    *lines, plane = loss_slices(problem, directions, curvatures)
    limit = np.linalg.norm(get_theta(problem.model))
    for line in lines:
        (axis,), losses = line.axes, line.actual[None]
        here = losses[len(losses) // 2]
        changes = np.abs(losses - here) / here
        if axis.steps[-1] < limit:
            np.testing.assert_allclose(changes[[0, -1]].max(), 2.0, rtol=0.1)
        # Next to θ it has changed little: the loss is not a few points at the minimum.
        assert changes[len(losses) // 2 + 1] < 0.5
    assert [axis.steps[-1] for axis in plane.axes] == [lines[k].axes[0].steps[-1] for k in (0, 2)]


def sliced(loss: Any, num_axes: int) -> Slice:
    """A slice of a loss with one term, its quadratic model as if it had negative curvature."""
    axes = tuple(Axis(d, f"v{d}", np.linspace(-2, 2, 9)) for d in range(num_axes))
    model = QuadraticModel(1.0, np.zeros(num_axes), -5 * np.eye(num_axes))
    (found,) = take_slices(lambda a: loss(a)[:, np.newaxis], {None: model}, ["fit"], [axes])
    return found


@pytest.mark.parametrize(
    ("loss", "logarithmic"),
    [(lambda a: 1e-3 + np.sum(a**4, axis=1), True), (lambda a: 5 + np.sum(a**2, axis=1), False)],
)
def test_pictures_show_no_negative_loss_where_there_is_none(loss: Any, logarithmic: bool) -> None:
    (axes,) = line_picture(sliced(loss, 1), "H").axes
    assert axes.get_yscale() == ("log" if logarithmic else "linear")
    actual = sliced(loss, 1).actual[None]
    low, high = axes.get_ylim()
    assert 0 <= low <= actual.min()
    assert high >= actual.max()
    plane, bar = plane_picture(sliced(loss, 2), "H").axes
    filled = plane.collections[0]
    assert isinstance(filled.norm, LogNorm) == logarithmic
    losses = sliced(loss, 2).actual[None]
    np.testing.assert_allclose([filled.norm.vmin, filled.norm.vmax], [losses.min(), losses.max()])
    assert bar.get_ylim()[0] > 0


def test_flat_losses_and_losses_that_are_no_numbers_are_drawn() -> None:
    for loss in (lambda a: np.ones(len(a)), lambda a: np.where(a[:, 0] > 1, np.inf, 1 + a[:, 0])):
        assert encode(line_picture(sliced(loss, 1), "H"), "svg")
        assert encode(plane_picture(sliced(loss, 2), "H"), "svg")


def test_changes_of_the_solution_are_finite_differences(tiny_problem: Any) -> None:
    problem = tiny_problem()
    theta = get_theta(problem.model)
    cut = cut_through([t.points for t in problem.terms], problem.coordinates, 4)
    shown = Problem(
        problem.model,
        [ResidualTerm("solution", cut.points, lambda x, u: u.value), *problem.terms],
        problem.coordinates,
    )
    vectors = np.random.default_rng(4).standard_normal((2, len(theta)))
    found = jacobian_vector_product(shown, vectors)
    assert found["solution"].shape == (2, 16)
    h = 1e-6
    for k, vector in enumerate(vectors):
        sides = []
        for sign in (1, -1):
            set_theta(problem.model, theta + sign * h * vector)
            sides.append(residuals(shown))
        set_theta(problem.model, theta)
        for name, change in found.items():
            difference = (sides[0][name] - sides[1][name]).reshape(-1) / (2 * h)
            # O(h²), and rounding ε r / h.
            scale = np.abs(difference).max()
            np.testing.assert_allclose(change[k], difference, atol=1e-7 * scale)


@pytest.mark.parametrize(
    ("low", "high", "names", "fixed"),
    [
        ([0.0], [2.0], ("a",), {}),
        ([0.0, -1.0], [2.0, 1.0], ("a", "b"), {}),
        ([0.0, -1.0, 4.0], [2.0, 1.0, 6.0], ("a", "b"), {"c": 5.0}),
        ([3.0, -1.0], [3.0, 1.0], ("b",), {"a": 3.0}),
        ([3.0], [3.0], ("a",), {}),
    ],
)
def test_cut_through_the_box_of_the_points(
    low: list[float], high: list[float], names: tuple[str, ...], fixed: dict[str, float]
) -> None:
    cut = cut_through([np.array([low]), np.array([high])], "abc"[: len(low)], 5)
    assert (cut.names, dict(cut.fixed)) == (names, fixed)
    size = 5 if len(names) == 2 else 20
    assert cut.points.shape == (size ** len(names), len(low))
    np.testing.assert_array_equal(cut.points.min(axis=0) >= low, True)
    np.testing.assert_array_equal(cut.points.max(axis=0) <= high, True)
    assert cut.shape == (size,) * len(names)


def test_fields_as_tables() -> None:
    cut = cut_through([np.array([[0.0, 0.0], [1.0, 2.0]])], "xy", 2)
    fields = Fields(
        cut, ["first"], np.arange(4.0).reshape(1, 2, 2), np.ones((1, 1, 2, 2)),
        {"pde": np.array([[0.5, 1.0]])}, {"pde": np.array([[[7.0, 8.0]]])},
    )  # fmt: skip
    table = fields.columns()
    assert list(table) == ["x", "y", "u[0]", "change of u[0] along first"]
    np.testing.assert_array_equal(np.stack([table["x"], table["y"]], axis=1), cut.points)
    np.testing.assert_array_equal(table["u[0]"], [0, 1, 2, 3])
    beside = fields.residual_columns("pde", "xy")
    assert {name: values.tolist() for name, values in beside.items()} == {
        "x": [0.5],
        "y": [1.0],
        "change of r[0] along first": [7.0],
        "change of r[1] along first": [8.0],
    }

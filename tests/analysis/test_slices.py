"""The loss along eigenvectors, and the changes of the solution that belong to them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hessian_tasks.autodiff import AutodiffEngine
from hessian_tasks.autodiff.directions import LossesAlong
from hessian_tasks.autodiff.linearised import jacobian_vector_product, residuals
from hessian_tasks.loss import losses_and_gradient
from hessian_tasks.networks.models import get_theta, set_theta
from hessian_tasks.problem import Problem, ResidualTerm
from hessian_tasks.spec import BlockRow
from pipeline.analysis.fields import Fields, cut_through
from pipeline.analysis.slices import Axis, QuadraticModel, reach, take_slices

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


MAGNITUDES = st.floats(1e-8, 1e8)


@given(MAGNITUDES, st.floats(-1e8, 1e8), st.floats(-1e8, 1e8), st.floats(0.1, 10))
@example(1.0, 2.2250738585e-313, 0.0, 1.0)
def test_reach_is_where_the_model_has_changed_so_much(
    loss: float, slope: float, curvature: float, change: float
) -> None:
    step = reach(loss, slope, curvature, change, limit=1e3)
    moved = abs(slope) * step + abs(curvature) * step**2 / 2
    assert 0 < step <= 1e3
    if step < 1e3:
        np.testing.assert_allclose(moved, change * loss, rtol=1e-9)
    else:
        assert moved <= change * loss * (1 + 1e-9)


@pytest.mark.parametrize(("loss", "slope", "curvature"), [(0.0, 1.0, 1.0), (1.0, 0.0, 0.0)])
def test_reach_is_the_limit_where_nothing_bounds_it(
    loss: float, slope: float, curvature: float
) -> None:
    assert reach(loss, slope, curvature, 1.0, 7.0) == 7.0


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

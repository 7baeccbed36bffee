"""The Gauss-Newton matrix: its engines, its store with the Jacobians, and what is asked of both."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from hessian_tasks.autodiff import AutodiffEngine
from hessian_tasks.gauss_newton import AutodiffJacobian, GaussNewtonEngine
from hessian_tasks.jets import reverse_derivative
from hessian_tasks.layered.gauss_newton import layered_jacobians
from hessian_tasks.linearised import gauss_newton_vector_product, jacobian_vector_product
from hessian_tasks.loss import term_residual
from hessian_tasks.models import get_theta, resolve_model, set_theta, trainable_variables
from hessian_tasks.problem import Problem, ResidualTerm
from hessian_tasks.problems import burgers, kovasznay, poisson
from hessian_tasks.problems.networks import mlp
from hessian_tasks.spec import BlockRow

Array = npt.NDArray[Any]
WEIGHTS = (0.7, -2.0, 0.0)


@dataclass(frozen=True)
class Case:
    """A problem, the dense Jacobians of its terms, and both engines."""

    problem: Problem
    dense: dict[str, Array]
    layered: GaussNewtonEngine
    autodiff: GaussNewtonEngine


def of(problem: Problem) -> Problem:
    """The problem at shifted parameters, its terms of positive, negative and zero weight."""
    model = resolve_model(problem.model)
    theta = get_theta(model)
    set_theta(model, theta + np.random.default_rng(3).normal(0.0, 0.3, theta.shape))
    terms = [replace(t, weight=w) for t, w in zip(problem.terms, WEIGHTS, strict=False)]
    return replace(problem, model=model, terms=terms)


def dense_jacobian(problem: Problem, term: Any) -> Array:
    """∂r/∂θ by one reverse pass a residual, with jets by nested reverse passes."""

    def rows() -> Any:
        with tf.GradientTape() as tape:
            residual = tf.reshape(term_residual(problem, term, reverse_derivative), [-1])
        zero = tf.UnconnectedGradients.ZERO
        variables = trainable_variables(problem.model)
        found = tape.jacobian(
            residual, variables, unconnected_gradients=zero, experimental_use_pfor=False
        )
        return tf.concat([tf.reshape(part, [residual.shape[0], -1]) for part in found], axis=1)

    compiled = tf.function(rows, autograph=False)
    return np.asarray(compiled.get_concrete_function()())


def by_layers(problem: Problem) -> GaussNewtonEngine:
    return GaussNewtonEngine(problem, layered_jacobians(problem), by_layers=True)


def by_autodiff(problem: Problem) -> GaussNewtonEngine:
    jacobians = [AutodiffJacobian(problem, term) for term in problem.terms]
    return GaussNewtonEngine(problem, jacobians, by_layers=False)


def whole(engine: Any, term: str | None = None) -> Array:
    return np.asarray(engine.block_row(BlockRow(0, 0, engine.layout.num_params), term))


def assert_equal_to_rounding(actual: Any, expected: Array, scale: float | None = None) -> None:
    scale = float(np.abs(expected).max()) if scale is None else scale
    assert np.abs(np.asarray(actual) - expected).max() <= 1e-12 * scale


@pytest.fixture(
    scope="module",
    params=[poisson, burgers, kovasznay],
    ids=lambda m: m.__name__.rpartition(".")[2],
)
def case(request: pytest.FixtureRequest) -> Case:
    problem = of(request.param.problem(3, 2, 7, 5, dtype="float64"))
    dense = {term.name: dense_jacobian(problem, term) for term in problem.terms}
    return Case(problem, dense, by_layers(problem), by_autodiff(problem))


@pytest.mark.parametrize("way", ["layered", "autodiff"])
def test_equals_the_dense_jacobians_and_their_products(way: str, case: Case) -> None:
    engine: GaussNewtonEngine = getattr(case, way)
    total = np.zeros((engine.layout.num_params,) * 2)
    for term in case.problem.terms:
        jacobian = case.dense[term.name]
        expected = 2 * term.weight / len(jacobian) * jacobian.T @ jacobian
        product, columns = engine.term_rows(BlockRow(0, 0, len(total)), term.name)
        assert_equal_to_rounding(columns, jacobian)
        assert_equal_to_rounding(product, expected)
        assert_equal_to_rounding(whole(engine, term.name), expected)
        total += expected
    assert_equal_to_rounding(whole(engine), total)


@pytest.mark.parametrize(("way", "length"), [("layered", 1), ("layered", 4), ("autodiff", 9)])
def test_any_cut_gives_the_same_rows(way: str, length: int, case: Case) -> None:
    engine: GaussNewtonEngine = getattr(case, way)
    expected, size = whole(case.layered), engine.layout.num_params
    for index, start in enumerate(range(0, size, length)):
        row = BlockRow(index, start, min(start + length, size))
        part, scale = expected[start : row.stop, start:], float(np.abs(expected).max())
        assert_equal_to_rounding(engine.block_row(row), part, scale)


def test_products_with_vectors_are_those_of_the_dense_matrices(case: Case) -> None:
    problem, dense = case.problem, case.dense
    vectors = np.random.default_rng(0).standard_normal((2, len(get_theta(problem.model))))
    images = jacobian_vector_product(problem, vectors)
    total = np.zeros_like(vectors)
    for term in problem.terms:
        expected = vectors @ dense[term.name].T
        assert_equal_to_rounding(images[term.name], expected)
        total += 2 * term.weight / expected.shape[1] * expected @ dense[term.name]
    assert_equal_to_rounding(gauss_newton_vector_product(problem, vectors), total)


def fit(depth: int, target: Any) -> Problem:
    """A nonlinear network, or a linear one without hidden layers, at 9 points of the line."""
    network = mlp(1, width=4, depth=depth, dtype="float64")
    points = np.linspace(-1, 1, 9)[:, np.newaxis]
    problem = Problem(network, [ResidualTerm("fit", points, lambda x, u: u.value)], "x")
    model = of(problem).model
    values = target(tf.constant(points), model)
    term = ResidualTerm("fit", points, lambda x, u: u.value - values)
    return Problem(model, [term], "x")


@pytest.mark.parametrize(
    ("depth", "target"),
    [(0, lambda x, model: tf.sin(3 * x)), (2, lambda x, model: model(x).numpy())],
    ids=["linear in the parameters", "zero residual"],
)
def test_is_the_hessian_where_second_derivatives_do_not_count(depth: int, target: Any) -> None:
    problem = fit(depth, target)
    assert_equal_to_rounding(whole(by_layers(problem)), whole(AutodiffEngine(problem)))


def test_is_not_the_hessian_elsewhere() -> None:
    problem = fit(2, lambda x, model: tf.sin(3 * x))
    matrix, hessian = whole(by_layers(problem)), whole(AutodiffEngine(problem))
    assert np.abs(matrix - hessian).max() > 1e-2 * np.abs(hessian).max()
    assert np.linalg.eigvalsh(matrix).min() > -1e-12 * np.abs(matrix).max()

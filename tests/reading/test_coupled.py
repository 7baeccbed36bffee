"""Residuals that use the network at several points, on every path that computes with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from hessian_tasks.autodiff import AutodiffEngine, hessian_vector_product
from hessian_tasks.autodiff.generalised import gauss_newton_vector_product
from hessian_tasks.autodiff.matrices import AutodiffJacobian
from hessian_tasks.autodiff.products import ShardProducts, cut_points
from hessian_tasks.errors import ProblemError
from hessian_tasks.gauss_newton import GaussNewtonEngine
from hessian_tasks.layered.engine import LayeredEngine
from hessian_tasks.layered.gauss_newton import layered_matrices
from hessian_tasks.loss import losses_and_gradient
from hessian_tasks.networks.models import get_theta, resolve_model, set_theta
from hessian_tasks.problem import Problem, ResidualTerm
from hessian_tasks.problems import convection, reaction
from hessian_tasks.problems.networks import mlp
from hessian_tasks.reading import read_terms
from hessian_tasks.spec import GAUSS_NEWTON, HESSIAN, BlockRow
from tests.helpers.chosen import some_slow

Array = npt.NDArray[Any]

POINTS = np.random.default_rng(5).uniform(-1, 1, (7, 2))
STEP = [1.5, -0.5]


def periodic(x: Any, u: Any) -> Any:
    return u.value - u.at(x + STEP).value


def smooth(x: Any, u: Any) -> Any:
    """Periodic with its slope, which is another component."""
    across = u[1].at(x + STEP)
    return [u[1].value - across.value, u[1].d("x") - across.d("x")]


def delayed(x: Any, u: Any) -> Any:
    return u[0].d("y") + tf.sin(u[1].value) * u.at(0.5 * x)[1].d("xx") - x[:, 0:1]


def chained(x: Any, u: Any) -> Any:
    """Three points, one of them by way of another, and one in another row."""
    return u.at(x[::-1])[0].value * u.at(x + STEP).at(0.5 * x + STEP)[1].value ** 2


def forgetful(x: Any, u: Any) -> Any:
    return u.at(x * x).d("xy")


RESIDUALS = [periodic, smooth, delayed, chained, forgetful]


def shifted(problem: Problem) -> Problem:
    """The problem with random biases: at zero ones tanh'' = 0 hides much."""
    model = resolve_model(problem.model)
    theta = get_theta(model)
    set_theta(model, theta + np.random.default_rng(3).normal(0.0, 0.3, theta.shape))
    return replace(problem, model=model)


def with_residual(residual: Callable[[Any, Any], Any]) -> Problem:
    terms = [
        ResidualTerm("coupled", POINTS, residual, weight=-0.7),
        ResidualTerm("alone", POINTS[:3], lambda x, u: u[0].d("x") - u[1].value),
    ]
    model = mlp(2, 2, width=4, depth=2, dtype="float64")
    return shifted(Problem(model, terms, coordinates="xy"))


@pytest.fixture(
    scope="module",
    params=some_slow([*RESIDUALS, convection, reaction], [delayed]),
    ids=lambda p: p.__name__.rpartition(".")[2],
)
def problem(request: pytest.FixtureRequest) -> Problem:
    if request.param in RESIDUALS:
        return with_residual(request.param)
    return shifted(request.param.problem(4, 2, 9, 7, dtype="float64"))


def whole(engine: Any) -> Array:
    return np.asarray(engine.block_row(BlockRow(0, 0, engine.layout.num_params)))


def assert_close(found: Array, expected: Array) -> None:
    # A few hundred additions in another order, in float64.
    assert np.abs(found - expected).max() <= 1e-11 * np.abs(expected).max()


def test_engines_and_products_agree(problem: Problem) -> None:
    layered = LayeredEngine(problem)
    assert layered.left_out == {}
    size = layered.layout.num_params
    # By the other path, with jets by reverse passes.
    expected = hessian_vector_product(problem, np.eye(size))
    assert_close(whole(layered), expected)
    assert_close(whole(AutodiffEngine(problem)), expected)
    products = ShardProducts(problem, HESSIAN)
    shards = cut_points(problem, max_batch=3, num_shards=2)
    assert_close(sum(products(shard, np.eye(size)) for shard in shards), expected)


def test_gauss_newton_matrices_agree(problem: Problem) -> None:
    size = len(get_theta(problem.model))
    expected = gauss_newton_vector_product(problem, np.eye(size))
    jacobians = [AutodiffJacobian(problem, term) for term in problem.terms]
    by_layers, by_autodiff = layered_matrices(read_terms(problem)), jacobians
    assert_close(whole(GaussNewtonEngine(problem, by_layers, by_layers=True)), expected)
    assert_close(whole(GaussNewtonEngine(problem, by_autodiff, by_layers=False)), expected)
    products = ShardProducts(problem, GAUSS_NEWTON)
    shards = cut_points(problem, max_batch=3, num_shards=2)
    assert_close(sum(products(shard, np.eye(size)) for shard in shards), expected)


def test_is_the_loss_of_a_formula() -> None:
    problem = with_residual(periodic)
    model = problem.model
    jumps = (model(POINTS) - model(POINTS + STEP)).numpy()
    loss = losses_and_gradient(problem)[0]["coupled"]
    assert loss == pytest.approx(-0.7 * float(np.mean(jumps**2)), rel=1e-13)
    _, others = read_terms(problem)[0].dependence.evaluations
    np.testing.assert_allclose(others.points, POINTS + STEP, rtol=0, atol=1e-15)


def test_coupling_of_other_rows_is_left_to_autodiff() -> None:
    problem = with_residual(lambda x, u: u.value - tf.reduce_mean(u.at(x + STEP).value))
    engine = LayeredEngine(problem)
    assert engine.left_out == {"coupled": "couples its points"}
    assert_close(whole(engine), whole(AutodiffEngine(problem)))


@pytest.mark.parametrize("points", [POINTS[:3], POINTS[:, :1]], ids=["too few", "one column"])
def test_other_points_have_the_shape_of_the_points(points: Array) -> None:
    problem = with_residual(lambda x, u: u.value - u.at(points).value)
    with pytest.raises(ProblemError, match=r"at points of shape \(.*\); expected \(7, 2\), one"):
        losses_and_gradient(problem)

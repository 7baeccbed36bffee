"""Products of shards: together they are the matrix, however the points are cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from hessian_tasks.autodiff import AutodiffEngine
from hessian_tasks.autodiff.generalised import gauss_newton_vector_product
from hessian_tasks.autodiff.products import ShardProducts, cut_points
from hessian_tasks.errors import ProblemError
from hessian_tasks.jets import reverse_derivative
from hessian_tasks.networks.models import get_theta, set_theta
from hessian_tasks.problem import LossTerm, Problem, ResidualTerm
from hessian_tasks.problems import poisson
from hessian_tasks.shards import cut
from hessian_tasks.spec import GAUSS_NEWTON, HESSIAN, BlockRow, Matrix
from tests.helpers.chosen import some_slow
from tests.helpers.networks import draw_problem

Array = npt.NDArray[Any]
Make = Callable[..., Problem]


def dense(problem: Problem, term: str | None = None) -> Array:
    engine = AutodiffEngine(problem)
    return engine.block_row(BlockRow(0, 0, engine.layout.num_params), term)


def whole(
    problem: Problem, matrix: Matrix = HESSIAN, term: str | None = None, **cuts: Any
) -> Array:
    """The matrix from products of all shards with all unit vectors."""
    products = ShardProducts(problem, matrix)
    unit = np.eye(products.num_params)
    total: Array = sum(products(shard, unit) for shard in cut_points(problem, term=term, **cuts))
    return total


def assert_same(found: Array, expected: Array) -> None:
    # Both are exact but for rounding, which sums over some dozen points make a few ulp.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@given(st.integers(1, 500), st.integers(1, 60), st.integers(1, 20))
def test_every_point_is_in_one_shard(num_points: int, max_batch: int, num_shards: int) -> None:
    shards = cut("pde", num_points, max_batch, num_shards)
    batches = [batch for shard in shards for batch in shard.batches()]
    assert [n for start, stop in batches for n in range(start, stop)] == list(range(num_points))
    assert 1 <= len(shards) <= num_shards
    assert len({shard.batch for shard in shards}) == 1  # compiled once
    assert len(batches) == -(-num_points // max_batch)  # no more work than need be
    assert all(stop - start <= max_batch for start, stop in batches)


@pytest.mark.parametrize(
    ("max_batch", "num_shards"), some_slow([(100, 1), (5, 2), (1, 12), (7, 3)], [5])
)
def test_shards_add_up_to_the_hessian(tiny_problem: Make, max_batch: int, num_shards: int) -> None:
    problem = tiny_problem()
    assert_same(whole(problem, max_batch=max_batch, num_shards=num_shards), dense(problem))


@pytest.mark.parametrize("seed", some_slow([0, 2, 3], [0]))
def test_any_problem(seed: int) -> None:
    problem = draw_problem(np.random.default_rng(seed), "float64")
    assert_same(whole(problem, max_batch=4), dense(problem))
    found = whole(problem, GAUSS_NEWTON, max_batch=4)
    assert_same(found, gauss_newton_vector_product(problem, np.eye(len(found))).T)


def test_one_term(tiny_problem: Make) -> None:
    problem = tiny_problem()
    assert_same(whole(problem, term="pde", max_batch=5), dense(problem, "pde"))
    with pytest.raises(ProblemError, match="no loss term 'heat'; the terms are pde, dirichlet"):
        cut_points(problem, term="heat")


def test_a_loss_without_points_is_one_shard(tiny_problem: Make) -> None:
    other = tiny_problem()
    loss = LossTerm("norm", lambda model: tf.exp(tf.reduce_mean(model.weights[0] ** 2)), weight=3.0)
    problem = Problem(other.model, [*other.terms, loss], other.coordinates)
    assert [str(shard) for shard in cut_points(problem, num_shards=4)][-1].endswith("'norm'")
    assert_same(whole(problem, max_batch=5), dense(problem))
    found = whole(problem, GAUSS_NEWTON, max_batch=5)
    assert_same(found, gauss_newton_vector_product(problem, np.eye(len(found))).T)


def test_a_loss_that_couples_points_has_no_gauss_newton_matrix(tiny_problem: Make) -> None:
    other = tiny_problem()
    points = tf.constant(other.terms[0].arrays["points"])
    loss = LossTerm("mean", lambda model: tf.reduce_mean(model(points)) ** 2)
    problem = Problem(other.model, [*other.terms, loss], other.coordinates)
    with pytest.raises(ProblemError, match="because it couples its points"):
        whole(problem, GAUSS_NEWTON)
    whole(problem, GAUSS_NEWTON, term="pde")


def captured(x: Any, u: Any) -> Any:
    return u.value - tf.constant(np.linspace(0, 1, 12)[:, None])


def sliced(x: Any, u: Any) -> Any:
    return u.value - tf.constant(np.linspace(0, 1, 12)[: x.shape[0], None])


def centred(x: Any, u: Any) -> Any:
    return u.value - tf.reduce_mean(u.value)


def causal(x: Any, u: Any) -> Any:
    earlier = tf.cumsum(tf.square(u.value), axis=0, exclusive=True)
    return tf.exp(-tf.stop_gradient(earlier)) * u.d("xx")


@pytest.mark.parametrize("residual", [captured, sliced, centred, causal])
def test_residuals_that_cannot_be_cut_are_not(tiny_problem: Make, residual: Any) -> None:
    other = tiny_problem()
    points = np.random.default_rng(0).uniform(-1, 1, (12, 2))
    problem = Problem(other.model, [ResidualTerm("data", points, residual)], other.coordinates)
    (shard,) = cut_points(problem, max_batch=4, num_shards=3)
    assert shard.batches() == [(0, 12)]
    assert_same(whole(problem, max_batch=4), dense(problem))


def test_nothing_is_compiled_twice(tiny_problem: Make) -> None:
    problem, traces = tiny_problem(), []

    def residual(x: Any, u: Any) -> Any:
        traces.append(x.shape)
        return u.d("xx") + u.value

    term = ResidualTerm("pde", np.random.default_rng(0).uniform(-1, 1, (12, 2)), residual)
    problem = Problem(problem.model, [term], problem.coordinates)
    products, shards = ShardProducts(problem), cut_points(problem, max_batch=5, num_shards=3)
    traces.clear()
    for num_vectors in (1, 3, 8):
        for shard in shards:
            products(shard, np.ones((products.num_params, num_vectors)))
    assert [tuple(shape) for shape in traces] == [(4, 2)]


def test_another_path_to_the_derivatives_of_the_network(tiny_problem: Make) -> None:
    problem = tiny_problem()
    vectors = np.random.default_rng(0).standard_normal((ShardProducts(problem).num_params, 2))
    (pde, _) = cut_points(problem)
    forward = ShardProducts(problem)(pde, vectors)
    assert_same(ShardProducts(problem, HESSIAN, reverse_derivative)(pde, vectors), forward)


@pytest.mark.slow
@pytest.mark.parametrize("matrix", [HESSIAN, GAUSS_NEWTON])
def test_float32_is_as_good_as_its_digits(matrix: Matrix) -> None:
    single, double = (poisson.problem(8, 2, 60, 60, dtype=d) for d in ("float32", "float64"))
    set_theta(double.model, get_theta(single.model))
    terms = [
        replace(term, points=np.asarray(term.points, np.float32).astype(np.float64))
        for term in double.terms
    ]
    exact = whole(replace(double, terms=terms), matrix, max_batch=16)
    found = whole(single, matrix, max_batch=16)
    assert np.linalg.norm(found - exact) < 20 * np.finfo(np.float32).eps * np.linalg.norm(exact)

"""Kronecker factors against loops over points, probes under nested autodiff, and full matrices."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from hessian_tasks import DensityTerm, LossTerm, Problem, ResidualTerm
from hessian_tasks.autodiff.generalised import gauss_newton_vector_product
from hessian_tasks.errors import NotLayeredError
from hessian_tasks.layered.kfac import _layer, kronecker_factors
from hessian_tasks.layered.kronecker import TermFactors
from hessian_tasks.networks.models import get_theta, set_theta
from hessian_tasks.networks.trainables import resolve
from hessian_tasks.problem.terms import Term
from hessian_tasks.problems import classification
from hessian_tasks.problems.networks import mlp
from hessian_tasks.reading import read_terms

Array = npt.NDArray[Any]
POINTS = np.random.default_rng(0).uniform(-1, 1, (7, 3))


def dense(widths: list[int], num_inputs: int = 3, activation: Any = None, **options: Any) -> Any:
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Dense(w, activation, dtype="float64", **options) for w in widths]
    return keras.Sequential([keras.Input((num_inputs,), dtype="float64"), *layers])


def shifted(problem: Problem) -> Problem:
    """The problem at parameters where no bias is zero."""
    problem = resolve(problem)
    theta = get_theta(problem.model)
    set_theta(problem.model, theta + np.random.default_rng(3).normal(0.0, 0.3, theta.shape))
    return problem


def factors_of(problem: Problem) -> list[TermFactors]:
    return kronecker_factors(read_terms(problem))


def matrix_of(problem: Problem, term: str) -> Array:
    """The term's Gauss-Newton matrix, by automatic differentiation."""
    size = get_theta(problem.model).size
    return gauss_newton_vector_product(problem, np.eye(size), [term])


def test_of_a_linear_layer_at_one_point_they_are_exact() -> None:
    fit = ResidualTerm("fit", POINTS[:1], lambda x, u: u.value * [1.0, 2.0], weight=0.7)
    problem = shifted(Problem(dense([2]), [fit], coordinates="xyz"))
    (term,) = factors_of(problem)
    z = np.append(POINTS[0], 1.0)
    expected = 2 * 0.7 / 2 * np.kron(np.outer(z, z), np.diag([1.0, 4.0]))
    np.testing.assert_allclose(expected, matrix_of(problem, "fit"), atol=1e-14)
    for found in (term.layers[0].product(), term.layers[0].refitted()):
        np.testing.assert_allclose(found, expected, atol=1e-14)


def test_of_a_linear_network_they_are_means_over_points() -> None:
    targets = np.random.default_rng(1).normal(size=(7, 2))
    fit = ResidualTerm("fit", POINTS, lambda x, u, y: u.value - y, data={"y": targets}, weight=0.7)
    problem = shifted(Problem(dense([4, 2]), [fit], coordinates="xyz"))
    (term,) = factors_of(problem)
    kernel, bias, last, _ = (weight.numpy() for weight in problem.model.trainable_weights)
    inputs, slopes = [np.zeros((4, 4)), np.zeros((5, 5))], [np.zeros((4, 4)), np.zeros((2, 2))]
    for x in POINTS:
        for layer, z in enumerate([x, x @ kernel + bias]):
            augmented = np.append(z, 1.0)
            inputs[layer] += np.outer(augmented, augmented) / 7
        for residual in np.eye(2):
            for layer, g in enumerate([last @ residual, residual]):
                slopes[layer] += 2 * 0.7 / (7 * 2) * np.outer(g, g)
    assert [layer.offset for layer in term.layers] == [0, 16]
    for layer, first, second in zip(term.layers, inputs, slopes, strict=True):
        np.testing.assert_allclose(layer.factors[0], first, atol=1e-14)
        np.testing.assert_allclose(layer.factors[1], second, atol=1e-14)


# Of a function of (t, x, y), at the points: itself, its three slopes, and its Laplacian in space.
def streams(function: Any) -> Any:
    points, zero = tf.constant(POINTS), tf.UnconnectedGradients.ZERO
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(points)
        with tf.GradientTape(persistent=True) as inner:
            inner.watch(points)
            value = function(points)
            columns = tf.unstack(value, axis=1)
        slopes = [inner.gradient(column, points) for column in columns]
        along = [[slope[:, i] for i in range(3)] for slope in slopes]
    second = [
        sum(outer.gradient(one[i], points, unconnected_gradients=zero)[:, i] for i in (1, 2))
        for one in along
    ]
    first = tf.transpose(tf.stack(slopes, axis=2), [1, 0, 2])
    return tf.concat([[value], first, [tf.stack(second, axis=1)]], axis=0)


def residual_of(u: Any) -> Any:
    return u[1] + u[0] * u[2] - 0.3 * u[4]


def test_streams_are_those_of_nested_autodiff() -> None:
    """The paper's streams of u_t + u u_x - 0.3 Δu, of every layer's inputs and of probes at it.

    A probe adds to what a layer makes a polynomial about each point, whose coefficients are the
    derivatives there: the slopes of the residual by them are those by the streams.
    """
    term = ResidualTerm(
        "pde", POINTS, lambda x, u: u.d("t") + u.value * u.d("x") - 0.3 * (u.d("xx") + u.d("yy"))
    )
    problem = shifted(Problem(dense([4, 3, 1], 3, "tanh"), [term], coordinates="txy"))
    (found,) = factors_of(problem)
    layers = problem.model.layers
    probes = [tf.zeros((5, 7, layer.units), tf.float64) for layer in layers]

    def run(points: Any, stop: int) -> Any:
        """The inputs of a layer, or the output."""
        away = points - POINTS
        monomials = tf.stack(
            [tf.ones(7, tf.float64), *tf.unstack(away, axis=1), away[:, 1] ** 2 / 2]
        )
        z = points
        for layer, probe in zip(layers[:stop], probes[:stop], strict=True):
            made = z @ layer.kernel + layer.bias
            z = tf.tanh(made + tf.einsum("sn,snw->nw", monomials, probe))
        return z

    with tf.GradientTape() as tape:
        tape.watch(probes)
        residual = residual_of(streams(lambda points: run(points, 3)))
    slopes = tape.gradient(residual, probes)
    for number, layer in enumerate(found.layers):
        inputs = streams(lambda points, number=number: run(points, number)).numpy()
        ones = np.zeros((5, 7, 1))
        ones[0] = 1
        z = np.concatenate([inputs, ones], axis=2)
        g = slopes[number].numpy()
        np.testing.assert_allclose(
            layer.factors[0], np.einsum("sni,snj->ij", z, z) / 35, rtol=0, atol=1e-12
        )
        expected = 2 / 7 * np.einsum("sni,snj->ij", g, g)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(layer.factors[1], expected, rtol=0, atol=1e-12 * scale)


@given(st.integers(0, 2**31), *(st.integers(1, most) for most in (2, 6, 3, 4, 3)), st.booleans())
def test_a_fitted_diagonal_is_never_worse(
    seed: int, rank: int, points: int, count: int, rows: int, width: int, signed: bool
) -> None:
    draw = np.random.default_rng(seed)
    inputs = draw.normal(size=(points, count, rows))
    slopes = draw.normal(size=(rank, points, count, width))
    scales = draw.normal(size=(rank, points)) if signed else draw.uniform(size=(rank, points))
    exact = np.zeros((rows * width, rows * width))
    for q in range(rank):
        for n in range(points):
            row = sum(np.outer(inputs[n, s], slopes[q, n, s]) for s in range(count)).ravel()
            exact += scales[q, n] * np.outer(row, row)
    layer = _layer(0, inputs, slopes, scales)
    basis = np.kron(*layer.bases)
    size = float(np.sum(inputs**2) * np.sum(slopes**2))
    expected = np.diag(basis.T @ exact @ basis)
    np.testing.assert_allclose(layer.diagonal.ravel(), expected, rtol=0, atol=1e-12 * size)
    better, worse = layer.refitted() - exact, layer.product() - exact
    assert np.linalg.norm(better) <= np.linalg.norm(worse) + 1e-12 * size
    if points == count == 1:
        assert np.linalg.norm(worse) <= 1e-12 * size


def log_cosh(x: Any, u: Any, a: Any) -> Any:
    return tf.math.log(tf.cosh(u.d("xx") - a * u.value))


def cases() -> list[Problem]:
    net = mlp(2, 1, width=3, depth=2, dtype="float64")
    points = POINTS[:, :2]
    terms: list[Term] = [
        DensityTerm("density", points, log_cosh, weight=0.7),
        ResidualTerm("pair", points, lambda x, u, a: a * u.value - u.at(x + 1.0).value),
        ResidualTerm("equation", points, lambda x, u, a: u.d("xx") + u.d("yy") + a, weight=-0.3),
        LossTerm("decay", lambda model: tf.reduce_sum(model.trainable_weights[0] ** 2)),
    ]
    both = Problem(net, terms, "xy", parameters={"a": 0.4})
    return [both, classification.problem(4, 2, 14, 3, dtype="float64")]


@pytest.mark.parametrize("number", range(2))
def test_terms_of_all_kinds_keep_their_traces(number: int) -> None:
    """EKFAC has the exact trace of a term's matrix, and what is read directly is exact."""
    problem = shifted(cases()[number])
    for term in factors_of(problem):
        exact = matrix_of(problem, term.term)
        trace = sum(float(layer.diagonal.sum()) for layer in term.layers) + np.trace(term.corner)
        assert trace == pytest.approx(np.trace(exact), rel=1e-10)
        own = exact[np.ix_(term.entries, term.entries)]
        np.testing.assert_allclose(term.corner, own, rtol=0, atol=1e-12)
        for layer in term.layers:
            rows = slice(layer.offset, layer.stop)
            basis = np.kron(*layer.bases)
            if sum(other.offset == layer.offset for other in term.layers) == 1:
                fitted = np.diag(basis.T @ exact[rows, rows] @ basis)
                scale = np.abs(exact).max()
                found = layer.diagonal.ravel()
                np.testing.assert_allclose(found, fitted, rtol=0, atol=1e-12 * scale)


def test_parameters_inside_of_a_network_are_no_dense_layer() -> None:
    net = keras.Sequential(
        [
            keras.Input((3,), dtype="float64"),
            keras.layers.Dense(2, dtype="float64"),
            keras.layers.PReLU(dtype="float64"),
        ]
    )
    fit = ResidualTerm("fit", POINTS, lambda x, u: u.value)
    with pytest.raises(NotLayeredError, match=r"re_lu.*alpha\[0\] belongs to no dense layer"):
        factors_of(resolve(Problem(net, [fit], coordinates="xyz")))

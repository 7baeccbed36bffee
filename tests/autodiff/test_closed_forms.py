"""The engine against Hessians in closed form, and against identities that hold exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from hessian_tasks.autodiff import AutodiffEngine
from hessian_tasks.networks.models import get_theta, resolve_model, set_theta, trainable_variables
from hessian_tasks.problem import LossTerm, Problem, ResidualTerm
from hessian_tasks.problems.networks import mlp
from hessian_tasks.spec import BlockRow
from tests.helpers.chosen import some_slow
from tests.helpers.closed_forms import (
    least_squares,
    sine_eigenvalues,
    softmax_regression,
    tanh_poisson,
)

Array = npt.NDArray[Any]

# Both sides sum fewer than 100 float64 terms each of relative error 1e-15 or so, which
# cancel by less than four digits.
TOLERANCE = 1e-10


def whole(problem: Problem, term: str | None = None) -> Array:
    engine = AutodiffEngine(problem)
    return engine.block_row(BlockRow(0, 0, engine.layout.num_params), term)


def assert_close(actual: Array, expected: Array) -> None:
    assert actual.shape == expected.shape
    assert np.abs(expected).max() > 1e-3, "the comparison would be with rounding alone"
    assert np.abs(actual - expected).max() < TOLERANCE * np.abs(expected).max()


def randomise(model: Any, seed: int = 0) -> Any:
    """Weights of order one: Keras' zero biases would hide half of the second derivatives."""
    theta = get_theta(model)
    set_theta(model, np.random.default_rng(seed).normal(0.0, 0.8, theta.shape))
    return model


def dense(num_inputs: int, num_outputs: int) -> Any:
    # An Input of Keras' default dtype would round the points to float32.
    inputs = keras.Input((num_inputs,), dtype="float64")
    return randomise(keras.Sequential([inputs, keras.layers.Dense(num_outputs, dtype="float64")]))


def network(depth: int, width: int = 3) -> Any:
    return randomise(mlp(2, width=width, depth=depth, dtype="float64"))


def square(num_points: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).uniform(-1.0, 1.0, (num_points, 2))


def laplacian(x: Any, u: Any) -> Any:
    return u.d("xx") + u.d("yy") - tf.sin(3 * x[:, 0:1]) * x[:, 1:2]


def poisson(model: Any, points: Array) -> Problem:
    """A Poisson PINN with two unlike terms, so that a mix-up of weights would show."""
    boundary = ResidualTerm("boundary", np.sign(points), lambda x, u: u.value - x[:, 0:1], 0.3)
    return Problem(model, [ResidualTerm("pde", points, laplacian), boundary], "xy")


@pytest.mark.parametrize("num_outputs", [1, 3])
def test_linear_least_squares(num_outputs: int) -> None:
    points = square(9)
    target = np.random.default_rng(2).normal(size=(9, num_outputs))
    fit = ResidualTerm("fit", points, lambda x, u: u.value - target)
    hessian = whole(Problem(dense(2, num_outputs), [fit], "xy"))
    assert_close(hessian, least_squares(points, num_outputs))


def test_softmax_regression() -> None:
    points, labels = square(11), np.arange(11) % 4
    model = dense(2, 4)

    def cross_entropy(model: Any, points: Any, labels: Any) -> Any:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, model(points))
        return tf.reduce_mean(losses)

    term = LossTerm("fit", cross_entropy, data={"points": points, "labels": labels})
    hessian = whole(Problem(model, [term]))
    assert_close(hessian, softmax_regression(points, model(points).numpy()))


@pytest.mark.parametrize("width", [1, 5])
def test_poisson_of_one_hidden_layer(width: int) -> None:
    points, model = square(13), network(depth=1, width=width)
    source = np.sin(3 * points[:, 0]) * points[:, 1]
    hessian = whole(poisson(model, points), "pde")
    weights = [weight.numpy() for weight in model.trainable_weights]
    assert_close(hessian, tanh_poisson(points, weights, source))


class SineSeries(keras.Model):
    """Σ c_kl sin(kπx) sin(lπy), the coefficients its weights."""

    def __init__(self, order: int) -> None:
        super().__init__(dtype="float64")
        self.order = order
        self.coefficients = self.add_weight(shape=(order, order), name="coefficients")

    def call(self, points: Any) -> Any:
        frequencies = np.pi * np.arange(1, self.order + 1)
        along_x = tf.sin(points[:, 0:1] * frequencies)
        along_y = tf.sin(points[:, 1:2] * frequencies)
        return tf.einsum("nk,nl,kl->n", along_x, along_y, self.coefficients.value)[:, tf.newaxis]


def test_sine_series_has_a_diagonal_hessian() -> None:
    order, cells = 4, 6
    midpoints = (np.arange(cells) + 0.5) / cells
    points = np.stack(np.meshgrid(midpoints, midpoints), axis=-1).reshape(-1, 2)

    def build() -> Any:
        model = SineSeries(order)
        model(points)
        return randomise(model)

    problem = Problem(build, [ResidualTerm("pde", points, laplacian)], "xy")
    model = resolve_model(problem.model)
    hessian = whole(Problem(model, problem.terms, "xy"))
    assert_close(hessian, np.diag(sine_eigenvalues(order)))


def test_shards_of_the_points_add_up() -> None:
    model, points = network(depth=1), square(12)
    sizes = [5, 4, 3]
    shards = np.split(points, np.cumsum(sizes)[:-1])
    total = whole(poisson(model, points))
    parts = [whole(poisson(model, shard)) for shard in shards]
    assert_close(np.average(parts, axis=0, weights=sizes), total)


def residual_jacobian(model: Any, points: Array) -> tuple[Array, Array]:
    """Δu ``[N]`` and its Jacobian ``[N, P]``, by tapes of the test's own."""
    variables = trainable_variables(model)
    with tf.GradientTape(persistent=True) as outer:
        columns = [tf.constant(points[:, axis]) for axis in (0, 1)]
        value = 0.0
        for column in columns:
            with tf.GradientTape() as second:
                second.watch(column)
                with tf.GradientTape() as first:
                    first.watch(column)
                    u = model(tf.stack(columns, axis=1))
                slope = first.gradient(u, column)
            value += second.gradient(slope, column)
    zero = tf.UnconnectedGradients.ZERO
    parts = outer.jacobian(value, variables, zero, experimental_use_pfor=False)
    flat = [tf.reshape(part, [len(points), -1]).numpy() for part in parts]
    return value.numpy(), np.concatenate(flat, axis=1)


def test_gauss_newton_at_zero_residual() -> None:
    model, points = network(depth=2), square(10)
    value, jacobian = residual_jacobian(model, points)
    # With Δu itself as right-hand side the residual vanishes, and with it its curvature.
    target = value[:, np.newaxis]
    term = ResidualTerm("pde", points, lambda x, u: u.d("xx") + u.d("yy") - target)
    hessian = whole(Problem(model, [term], "xy"))
    assert_close(hessian, 2 / len(points) * jacobian.T @ jacobian)
    # Ten points constrain ten directions at most; all others are flat.
    assert np.linalg.matrix_rank(hessian, tol=1e-9 * np.abs(hessian).max()) <= len(points)


def permute(order: Sequence[int], signs: Sequence[int], width: int) -> Callable[[Array], Array]:
    """What reordering and flipping the first hidden layer's units does to θ (depth 2)."""

    def transform(theta: Array) -> Array:
        moved = theta.copy()
        kernel, bias, after = np.split(theta[: 3 * width + width**2], [2 * width, 3 * width])
        moved[: 2 * width] = (kernel.reshape(2, width)[:, order] * signs).reshape(-1)
        moved[2 * width : 3 * width] = bias[order] * signs
        after = after.reshape(width, width)[order] * np.array(signs)[:, np.newaxis]
        moved[3 * width : 3 * width + width**2] = after.reshape(-1)
        return moved

    return transform


# tanh is odd, so that these leave u as it was: L(Qθ) = L(θ), and twice differentiated that is
# Qᵀ H(Qθ) Q = H(θ).
@pytest.mark.parametrize(
    ("order", "signs"),
    some_slow(
        [([2, 0, 1], [1, 1, 1]), ([0, 1, 2], [1, -1, 1]), ([1, 0, 2], [-1, 1, -1])], [[1, 0, 2]]
    ),
    ids=["permuted", "flipped", "both"],
)
def test_symmetries_of_tanh_units(order: list[int], signs: list[int]) -> None:
    model = network(depth=2, width=3)
    engine = AutodiffEngine(poisson(model, square(10)))
    everything = BlockRow(0, 0, engine.layout.num_params)
    before, theta = engine.block_row(everything), get_theta(model)
    transform = permute(order, signs, width=3)
    q = np.stack([transform(unit) for unit in np.eye(len(theta))], axis=1)
    set_theta(model, q @ theta)
    after = engine.block_row(everything)
    assert np.abs(after - before).max() > 0.01 * np.abs(before).max()
    assert_close(after, q @ before @ q.T)


def test_laplacian_does_not_see_the_output_bias() -> None:
    problem = poisson(network(depth=2), square(10))
    interior, boundary = whole(problem, "pde"), whole(problem, "boundary")
    assert not interior[-1].any()
    assert not interior[:, -1].any()
    # ∂u/∂c = 1: the last entry of the boundary's Hessian is twice its weight.
    assert boundary[-1, -1] == pytest.approx(2 * 0.3, rel=TOLERANCE)

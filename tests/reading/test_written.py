"""Losses as users write them, on the layered engine, against dense automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

import hessian_tasks.reading._read
from hessian_tasks.autodiff import hessian_vector_product
from hessian_tasks.autodiff.generalised import gauss_newton_vector_product
from hessian_tasks.errors import NotLayeredError
from hessian_tasks.gauss_newton import GaussNewtonEngine
from hessian_tasks.layered.engine import LayeredEngine
from hessian_tasks.layered.gauss_newton import layered_matrices
from hessian_tasks.loss import losses_and_gradient
from hessian_tasks.networks.models import get_theta, set_theta
from hessian_tasks.problem import DensityTerm, LossTerm, Problem, ResidualTerm, Term
from hessian_tasks.problems.networks import mlp
from hessian_tasks.reading import Dependence, read_terms
from hessian_tasks.reading._evaluations import find_dependence
from hessian_tasks.spec import BlockRow, EngineName
from pipeline import RunOptions, compute_hessian
from tests.helpers.chosen import some_slow

Array = npt.NDArray[Any]
Loss = Callable[..., Any]

rng = np.random.default_rng(11)
X = rng.uniform(-1, 1, (7, 2))
B = rng.uniform(-1, 1, (5, 2))
mse = keras.losses.MeanSquaredError(dtype="float64")


def network(num_outputs: int = 1, seed: int = 3) -> Any:
    """2-4-4-outputs tanh with random biases: at zero ones tanh'' = 0 hides much."""
    return randomised(mlp(2, num_outputs, width=4, depth=2, dtype="float64"), seed)


def randomised(model: Any, seed: int = 3) -> Any:
    theta = get_theta(model)
    set_theta(model, theta + np.random.default_rng(seed).normal(0.0, 0.3, theta.shape))
    return model


def whole(engine: Any) -> Array:
    return np.asarray(engine.block_row(BlockRow(0, 0, engine.layout.num_params)))


def dense(problem: Problem) -> Array:
    return hessian_vector_product(problem, np.eye(len(get_theta(problem.model))))


def assert_close(found: Array, expected: Array) -> None:
    # A few hundred additions in another order, in float64.
    assert np.abs(found - expected).max() <= 1e-11 * np.abs(expected).max()


def gradients(model: Any) -> Any:
    """A notebook's loss: slices of the points, tf.gradients, Keras losses, two sizes of points."""
    points = tf.constant(X)
    x, y = points[:, 0:1], points[:, 1:2]
    u = model(tf.concat([x, y], axis=1))
    u_x, u_y = tf.gradients(u, x)[0], tf.gradients(u, y)[0]
    residual = tf.gradients(u_x, x)[0] + tf.gradients(u_y, y)[0] + tf.sin(x * y)
    return mse(0.0, residual) + mse(0.0, model(B))


def tapes(model: Any) -> Any:
    points = tf.constant(X)
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(points)
        with tf.GradientTape() as inner:
            inner.watch(points)
            u = model(points, training=False)
        slope = inner.gradient(u, points)
        u_x, u_y = slope[:, 0:1], slope[:, 1:2]
    u_xx, u_yy = outer.gradient(u_x, points)[:, 0:1], outer.gradient(u_y, points)[:, 1:2]
    return tf.reduce_mean((u_xx + 0.1 * u_yy + u * u_x) ** 2)


def batch_jacobian(model: Any) -> Any:
    points = tf.constant(X)
    with tf.GradientTape() as outer:
        outer.watch(points)
        with tf.GradientTape() as inner:
            inner.watch(points)
            u = model(points)
        slope = inner.batch_jacobian(u, points)[:, 0]
    bend = outer.batch_jacobian(slope, points)
    return tf.reduce_mean((tf.linalg.trace(bend) + slope[:, 0] ** 2) ** 2)


def jacobian(model: Any) -> Any:
    points = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(points)
        u = model(points)
    full = tape.jacobian(u, points)[:, 0]
    own = tf.stack([full[n, n] for n in range(len(X))])
    return tf.reduce_mean(tf.reduce_sum(own**2, axis=1) * u[:, 0])


def hessians(model: Any) -> Any:
    points = tf.constant(X)
    total = tf.reduce_sum(model(points))
    bend = tf.hessians(total, points)[0]
    own = tf.stack([bend[n, :, n] for n in range(len(X))])
    return tf.reduce_mean((own[:, 0, 0] * own[:, 1, 1] - own[:, 0, 1] ** 2) ** 2)


def causal(model: Any) -> Any:
    """Weights of later points from the residuals of earlier ones, held fixed."""
    points = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(points)
        u = model(points)
    squares = (tape.gradient(u, points)[:, 0:1] + u) ** 2
    weights = tf.stop_gradient(tf.exp(-tf.cumsum(squares, exclusive=True)))
    return tf.reduce_mean(weights * squares)


def branches(model: Any) -> Any:
    u = model(X)
    size = tf.reduce_mean(u**2)
    return tf.cond(tf.constant(2.0) > 1.0, lambda: size + tf.reduce_mean(u**4), lambda: size)


def loops(model: Any) -> Any:
    """Time steps in a Python loop, and a loop of TensorFlow over the powers."""
    total = tf.constant(0.0, tf.float64)
    for step in range(3):
        total += tf.reduce_mean((model(X + 0.1 * step) - model(X + 0.2)) ** 2)
    u = model(B)
    powers = tf.while_loop(lambda k, s: k < 3, lambda k, s: (k + 1, s * u), (0, u))[1]
    return total + tf.reduce_mean(powers)


def columns(model: Any) -> Any:
    """Points made inside the loss from columns of which one is differentiated."""
    t = tf.constant(X[:, :1])
    with tf.GradientTape() as tape:
        tape.watch(t)
        u = model(tf.concat([t, tf.zeros_like(t)], axis=1))
    return tf.reduce_mean((tape.gradient(u, t) - 2.0 * u) ** 2)


@tf.function
def decorated(model: Any) -> Any:
    u = model(tf.constant(X))
    return tf.reduce_mean(tf.math.log(tf.cosh(u - 0.3)))


def high_order(model: Any) -> Any:
    x = tf.constant(X)
    u = model(x)
    for _ in range(5):
        u = tf.gradients(u, x)[0][:, 0:1]
    return 1e-2 * tf.reduce_mean(u**2)


def leftovers(model: Any) -> Any:
    """Derivatives that are computed on the way, and not used."""
    points = tf.constant(X)
    with tf.GradientTape() as third:
        third.watch(points)
        with tf.GradientTape() as second:
            second.watch(points)
            with tf.GradientTape() as first:
                first.watch(points)
                u = model(points)
            slope = first.gradient(u, points)
            u_x = slope[:, 0:1]
        u_xx = second.gradient(u_x, points)[:, 0:1]
    _ = 2.0 * third.gradient(u_xx, points)[:, 1:2] + u_xx
    return tf.reduce_mean((u * slope[:, 1:2]) ** 2)


LOSSES = [
    gradients, leftovers, tapes, batch_jacobian, jacobian, hessians, causal, branches, loops,
    columns, decorated, high_order,
]  # fmt: skip

# Traced longest; Jacobians of batches are beside them.
LARGE = (high_order, hessians, leftovers, jacobian)


@pytest.mark.parametrize(
    "loss",
    some_slow(LOSSES, [loss for loss in LOSSES if loss not in LARGE]),
    ids=lambda loss: getattr(loss, "__name__", "decorated"),
)
def test_a_users_loss_goes_by_layers(loss: Loss) -> None:
    problem = Problem(network(), [LossTerm("own", loss, weight=0.7)])
    engine = LayeredEngine(problem)
    assert engine.left_out == {}
    assert_close(whole(engine), dense(problem))


def test_only_the_derivatives_that_matter_travel() -> None:
    """The notebook's loss asks for u_xy on the way; its Laplacian is one stream with u_x, u_y."""
    problem = Problem(network(), [LossTerm("own", gradients)])
    (asked, _) = read_terms(problem)[0].dependence.evaluations
    assert (0, 1) in asked.indices
    declared = Problem(
        problem.model,
        [
            ResidualTerm(
                "pde", X, lambda x, u: u.d("xx") + u.d("yy") + tf.sin(x[:, :1] * x[:, 1:])
            ),
            ResidualTerm("boundary", B, lambda x, u: u.value),
        ],
        coordinates="xy",
    )
    # The same streams give the same operations, to the last bit.
    assert np.array_equal(whole(LayeredEngine(problem)), whole(LayeredEngine(declared)))


def free_boundary(x: Any, u: Any) -> Any:
    moved = tf.concat([u[1].value, x[:, 1:2]], axis=1)
    return u[0].at(moved).value


def test_points_that_depend_on_the_weights_are_never_frozen() -> None:
    term = ResidualTerm("front", X, free_boundary)
    problem = Problem(network(2), [term], coordinates="xy")
    with pytest.raises(NotLayeredError, match="points that depend on the weights"):
        LayeredEngine(problem)
    with pytest.raises(NotLayeredError, match="points that depend on the weights"):
        layered_matrices(read_terms(problem))


class Coefficient(keras.layers.Layer):
    """The points, and a coefficient of the equation beside them."""

    def build(self, shape: Any) -> None:
        self.lam = self.add_weight(shape=(2,), initializer="ones", name="lam")

    def call(self, x: Any) -> Any:
        return x


def inverse_problem() -> Problem:
    """``r = u_y - λ₀ u_xx + λ₁²`` with λ from a layer that the network does not use."""
    coefficient = Coefficient(dtype="float64")
    x = keras.Input((2,), dtype="float64")
    h = keras.layers.Dense(4, "tanh", dtype="float64")(coefficient(x))
    model = randomised(keras.Model(x, keras.layers.Dense(1, dtype="float64")(h)))

    def residual(x: Any, u: Any) -> Any:
        lam = coefficient.lam.value
        return [u.d("y") - lam[0] * u.d("xx"), lam[1] ** 2 * u.value + lam[0]]

    terms = [
        ResidualTerm("pde", X, residual, weight=0.3),
        ResidualTerm("data", B, lambda x, u: u.value - 1),
    ]
    return Problem(model, terms, coordinates="xy")


def test_a_weight_that_a_residual_reads_has_its_row() -> None:
    problem = inverse_problem()
    engine = LayeredEngine(problem)
    expected = dense(problem)
    assert engine.left_out == {}
    assert np.abs(expected[:2]).max() > 0.1
    assert_close(whole(engine), expected)
    size = engine.layout.num_params
    for start, stop in [(0, 1), (1, 5), (5, size)]:
        block = engine.block_row(BlockRow(0, start, stop))
        np.testing.assert_allclose(block, expected[start:stop, start:], rtol=0, atol=1e-11)
    # ∂²L/∂λ₀² = w (2 mean u_xx² + 2) / 2 with two components, by finite differences of the gradient
    theta, step = get_theta(problem.model), 1e-5
    slopes = []
    for sign in (1, -1):
        set_theta(problem.model, theta + sign * step * np.eye(size)[0])
        slopes.append(losses_and_gradient(problem)[1][0])
    set_theta(problem.model, theta)
    assert (slopes[0] - slopes[1]) / (2 * step) == pytest.approx(expected[0, 0], rel=1e-7)


def test_a_weight_that_a_residual_reads_is_in_the_gauss_newton_matrix() -> None:
    problem = inverse_problem()
    engine = GaussNewtonEngine(problem, layered_matrices(read_terms(problem)), by_layers=True)
    size = engine.layout.num_params
    assert_close(whole(engine), gauss_newton_vector_product(problem, np.eye(size)))


def test_a_residual_without_the_network_has_a_zero_matrix() -> None:
    term = ResidualTerm("constant", X, lambda x, u: x[:, 0:1] * 0.0)
    problem = Problem(network(), [term], coordinates="xy")
    assert not whole(LayeredEngine(problem)).any()


def shifted(model: Any) -> Any:
    return tf.reduce_mean(model(X + tf.stop_gradient(model(X))) ** 2)


def hardest(model: Any) -> Any:
    """The points of the largest values, chosen by the loss."""
    worst = tf.argsort(model(X)[:, 0] ** 2)[:4]
    return tf.reduce_mean(model(tf.gather(X, worst)) ** 2)


def balanced(model: Any) -> Any:
    """A weight from gradients by the weights (S. Wang, Y. Teng and P. Perdikaris, 2021)."""
    fit, rest = tf.reduce_mean(model(X) ** 2), tf.reduce_mean(model(B) ** 4)
    variables = [weight.value for weight in model.trainable_weights]
    sizes = [tf.zeros((), tf.float64)] * 2
    for number, part in enumerate((fit, rest)):
        for slope in tf.gradients(part, variables):
            if slope is not None:
                sizes[number] += tf.reduce_sum(slope**2)
    return fit + tf.stop_gradient(1 + sizes[0] + sizes[1]) * rest


def forwards(model: Any) -> Any:
    x = tf.constant(X)
    with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
        u = model(x)
    slope = accumulator.jvp(u, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return tf.reduce_mean((slope + u) ** 2)


def one_by_one(model: Any) -> Any:
    squares = tf.vectorized_map(lambda x: model(x[tf.newaxis])[0, 0] ** 4, tf.constant(X))
    return tf.reduce_mean(squares)


HIDDEN: list[tuple[Loss, str]] = [
    (shifted, "points that depend on the weights"),
    (hardest, "points that depend on the weights"),
    (balanced, "no function of the network's jets alone"),
    (forwards, "no function of the network's jets alone"),
    (one_by_one, "no function of the network's jets alone"),
]


@pytest.mark.parametrize(
    ("loss", "message"), HIDDEN, ids=lambda value: getattr(value, "__name__", "")
)
def test_what_a_stand_in_hides_is_left_to_autodiff(loss: Loss, message: str) -> None:
    problem = Problem(network(), [LossTerm("own", loss), LossTerm("plain", decorated)])
    engine = LayeredEngine(problem)
    assert message in engine.left_out["own"]
    assert_close(whole(engine), dense(problem))


def test_a_loss_that_is_zero_but_for_rounding_goes_by_layers() -> None:
    """Data of the network's own: what is left differs by the order of additions alone."""
    model = network()
    data = {"y": model(X).numpy()}
    term = ResidualTerm("fit", X, lambda x, u, y: u.value - y, data=data)
    problem = Problem(model, [term], coordinates="xy")
    assert_close(whole(LayeredEngine(problem)), dense(problem))


def test_residuals_of_other_points_have_no_rows_by_layers() -> None:
    """The loss does not tell: its Hessian goes by layers, its Jacobian does not."""
    term = ResidualTerm("mirrored", X, lambda x, u: u.value[::-1] - x[:, 0:1])
    problem = Problem(network(), [term], coordinates="xy")
    assert_close(whole(LayeredEngine(problem)), dense(problem))
    with pytest.raises(NotLayeredError, match="depend on other points than their own"):
        layered_matrices(read_terms(problem))


def test_a_condition_that_is_trained_to_rounding_goes_by_layers() -> None:
    """Where u_x = 0 but for the rounding of its sum, what is left tells nothing of the code."""
    model = mlp(1, 1, width=8, depth=2)
    theta = get_theta(model)
    start = len(theta) - 9
    term = ResidualTerm("slope", [[0.0]], lambda x, u: u.d("x"))
    problem = Problem(model, [term], coordinates="x")
    # u_x is linear in the last kernel: take out of it what u_x is the product with.
    columns = []
    for unit in np.eye(8):
        set_theta(model, np.concatenate([theta[:start], unit, [0.0]]).astype(np.float32))
        columns.append(losses_and_gradient(problem)[0]["slope"] ** 0.5)
    slopes = np.array(columns)
    kernel = theta[start:-1] * np.sign(slopes)
    kernel -= slopes * (kernel @ slopes) / (slopes @ slopes)
    set_theta(model, np.concatenate([theta[:start], kernel, [0.0]]).astype(np.float32))
    engine = LayeredEngine(problem)
    assert engine.left_out == {}
    expected = dense(problem)
    # Both round, in float32.
    assert np.abs(whole(engine) - expected).max() <= 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize("engine", some_slow(["auto", "ggn"], ["auto"]))
def test_a_run_reads_every_term_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, engine: EngineName
) -> None:
    read = []

    def find(problem: Problem, term: Term) -> Dependence:
        read.append(term.name)
        return find_dependence(problem, term)

    monkeypatch.setattr(hessian_tasks.reading._read, "find_dependence", find)
    terms = [
        DensityTerm("energy", X, lambda x, u: tf.exp(u.d("x"))),
        ResidualTerm("pde", X, lambda x, u: u.d("xx")),
        LossTerm("own", tapes),
    ]
    problem = Problem(network(), terms, "xy")
    compute_hessian(problem, tmp_path / "h.zarr", options=RunOptions(engine=engine, per_term=True))
    assert sorted(read) == sorted(term.name for term in problem.terms)

"""Networks with several inputs, and several networks with different ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from keras import layers, ops

from hessian_tasks import BlockRow, DensityTerm, LossTerm, Problem, ResidualTerm
from hessian_tasks.autodiff import AutodiffEngine, hessian_vector_product
from hessian_tasks.autodiff.generalised import gauss_newton_vector_product
from hessian_tasks.errors import NotLayeredError, ProblemError
from hessian_tasks.layered.engine import LayeredEngine
from hessian_tasks.layered.gauss_newton import layered_matrices
from hessian_tasks.loss import losses_and_gradient
from hessian_tasks.networks.models import parameter_layout, trainable_variables
from hessian_tasks.networks.trainables import resolve
from hessian_tasks.reading import read_terms
from pipeline import compute_hessian, verify_hessian
from pipeline.training import train
from tests.helpers.chosen import some_slow
from tests.helpers.oracles import dense_hessian

Array = npt.NDArray[Any]
Tensor = Any
F64 = {"dtype": "float64"}

rng = np.random.default_rng(4)
N, M = 8, 6
X, V, F = rng.normal(size=(N, 2)), rng.normal(size=(N, M)), rng.normal(size=(N, 1))


def dense(width: int, activation: str | None = None) -> Any:
    return layers.Dense(width, activation, **F64)


PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum of products": lambda a, b: ops.sum(a * b, axis=1, keepdims=True),
    "vector": lambda a, b: ops.expand_dims(ops.sum(a * b, axis=-1), -1),
    "Dot": lambda a, b: layers.Dot(axes=1, **F64)([a, b]),
    "einsum": lambda a, b: ops.expand_dims(ops.einsum("ni,ni->n", a, b), 1),
    "matmul": lambda a, b: ops.squeeze(
        ops.matmul(ops.expand_dims(a, 1), ops.expand_dims(b, 2)), axis=1
    ),
    "outer": lambda a, b: dense(1)(ops.reshape(ops.einsum("ni,nj->nij", a, b), (-1, 9))),
}


def deeponet(product: str = "sum of products", packed: str = "list") -> Any:
    keras.utils.set_random_seed(3)
    branch, trunk = keras.Input((M,), name="branch", **F64), keras.Input((2,), name="trunk", **F64)
    a, b = dense(3)(dense(4, "tanh")(branch)), dense(3, "tanh")(dense(4, "tanh")(trunk))
    inputs = {"branch": branch, "trunk": trunk} if packed == "dict" else [branch, trunk]
    return keras.Model(inputs, PRODUCTS[product](a, b))


def pde(x: Tensor, u: Any, f: Tensor) -> Tensor:
    return u.d("t") - 0.3 * u.d("xx") + u.value**2 - f


def own_loss(model: Any, packed: str = "list") -> Tensor:
    """The mean square of :func:`pde`, as a notebook has it."""
    x, t = tf.constant(X[:, :1]), tf.constant(X[:, 1:])
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape(persistent=True) as inner:
            inner.watch([x, t])
            points = tf.concat([x, t], axis=1)
            given = {"branch": tf.constant(V), "trunk": points}
            u = model(given if packed == "dict" else list(given.values()))
        u_x, u_t = inner.gradient(u, x), inner.gradient(u, t)
    return tf.reduce_mean((u_t - 0.3 * outer.gradient(u_x, x) + u**2 - F) ** 2)


def assert_close(found: Array, expected: Array) -> None:
    # Sums of a few hundred products in float64, in another order.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def read_by_layers(problem: Problem, expected: Array) -> str:
    """Layers alone give the matrix; what they read of the first term."""
    layered = LayeredEngine(resolve(problem))
    assert not layered.left_out
    assert_close(layered.block_row(BlockRow(0, 0, len(expected))), expected)
    return layered.readings[problem.terms[0].name]


@pytest.mark.parametrize("product", some_slow(PRODUCTS, ["outer"]))
def test_the_branch_takes_data_by_its_name_and_the_trunk_the_points(product: str) -> None:
    net = deeponet(product)
    expected = dense_hessian(trainable_variables(net), lambda: own_loss(net))
    term = ResidualTerm("pde", X, pde, data={"branch": V, "f": F})
    reading = read_by_layers(Problem(net, [term], "xt"), expected)
    assert reading.startswith(f"u, u.t, u.xx at {N} points")


def test_automatic_differentiation_of_a_deeponet() -> None:
    net = deeponet()
    expected = dense_hessian(trainable_variables(net), lambda: own_loss(net))
    term = ResidualTerm("pde", X, pde, data={"branch": V, "f": F})
    problem = Problem(net, [term], "xt")
    assert_close(AutodiffEngine(problem).block_row(BlockRow(0, 0, len(expected))), expected)
    assert_close(hessian_vector_product(problem, np.eye(len(expected))[:3]), expected[:3])


@pytest.mark.parametrize("packed", some_slow(["list", "dict"], ["dict"]))
def test_a_loss_calls_the_network_with_all_of_its_inputs(packed: str) -> None:
    net = deeponet(packed=packed)
    expected = dense_hessian(trainable_variables(net), lambda: own_loss(net, packed))
    term = LossTerm("own", lambda model: own_loss(model, packed))
    reading = read_by_layers(Problem(net, [term]), expected)
    # By the branch's six columns the loss is not differentiated.
    assert reading.startswith(f"u, u.trunk1, u.trunk0trunk0 at {N} points")


@pytest.mark.slow
def test_the_gauss_newton_matrix_of_a_deeponet() -> None:
    net = deeponet()
    terms = [
        ResidualTerm("pde", X, pde, weight=0.7, data={"branch": V, "f": F}),
        DensityTerm("energy", X, lambda x, u: tf.exp(u.d("x")) + u.value**2, data={"branch": V}),
        LossTerm("own", own_loss),
    ]
    problem = resolve(Problem(net, terms, "xt"))
    num_params = parameter_layout(problem.model).num_params
    whole = BlockRow(0, 0, num_params)
    jacobian, *others = layered_matrices(read_terms(problem))
    found = 2 * 0.7 / N * jacobian.block_row(whole, lambda: None)[1]
    found = found + sum(matrix.block_row(whole, lambda: None)[1] for matrix in others)
    assert_close(found, gauss_newton_vector_product(problem, np.eye(num_params)))


def two_inputs(names: tuple[str | None, str | None] = (None, None)) -> Any:
    keras.utils.set_random_seed(5)
    inputs = [keras.Input((1,), name=name, **F64) for name in names]
    hidden = dense(4, "tanh")(layers.Concatenate(**F64)(inputs))
    return keras.Model(inputs, dense(1)(hidden))


class Subclassed(keras.Model):
    """Takes a list, and does not say so."""

    def __init__(self) -> None:
        super().__init__(dtype="float64")
        self.hidden, self.last = dense(4, "tanh"), dense(1)

    def call(self, inputs: Any) -> Any:
        x, t = inputs
        return self.last(self.hidden(tf.concat([x, t], axis=1)))


def subclassed() -> Any:
    keras.utils.set_random_seed(6)
    model = Subclassed()
    model([X[:, :1], X[:, 1:]])
    return model


def reversed_inputs() -> Any:
    return two_inputs(("t", "x"))


def decay(x: Tensor, u: Any) -> Tensor:
    return u.d("t") - 0.3 * u.d("xx")


@pytest.mark.parametrize(
    "make", some_slow([two_inputs, reversed_inputs, subclassed], [reversed_inputs])
)
def test_inputs_of_one_column_are_coordinates(make: Callable[[], Any]) -> None:
    net = make()

    def loss(model: Any) -> Tensor:
        x, t = tf.constant(X[:, :1]), tf.constant(X[:, 1:])
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape(persistent=True) as inner:
                inner.watch([x, t])
                u = model([t, x] if make is reversed_inputs else [x, t])
            u_x = inner.gradient(u, x)
        return tf.reduce_mean((inner.gradient(u, t) - 0.3 * outer.gradient(u_x, x)) ** 2)

    expected = dense_hessian(trainable_variables(net), lambda: loss(net))
    read_by_layers(Problem(net, [ResidualTerm("decay", X, decay)], "xt"), expected)
    read_by_layers(Problem(net, [LossTerm("own", loss)]), expected)


def small(num_inputs: int, num_outputs: int) -> Any:
    entry = keras.Input((num_inputs,), **F64)
    return keras.Sequential([entry, dense(4, "tanh"), dense(num_outputs)])


def test_networks_that_are_called_with_different_inputs() -> None:
    branch, trunk = small(M, 3), small(2, 3)

    def loss(branch: Any, trunk: Any) -> Tensor:
        x = tf.constant(X)
        with tf.GradientTape() as tape:
            tape.watch(x)
            u = tf.reduce_sum(branch(tf.constant(V)) * trunk(x), axis=1)
        return tf.reduce_mean((tape.gradient(u, x)[:, 0] - u + F[:, 0]) ** 2)

    variables = trainable_variables(branch) + trainable_variables(trunk)
    expected = dense_hessian(variables, lambda: loss(branch, trunk))
    problem = Problem({"branch": branch, "trunk": trunk}, [LossTerm("own", loss)])
    reading = read_by_layers(problem, expected)
    assert reading == f"branch, trunk, trunk.x0 at {N} points, adds up point by point"


def test_networks_at_different_points_of_different_widths() -> None:
    u, k = small(2, 1), small(1, 1)
    more = np.linspace(0, 1, 5)[:, np.newaxis]

    def loss(u: Any, k: Any) -> Tensor:
        first = tf.reduce_mean((u(tf.constant(X)) * k(tf.constant(X[:, :1])) - F) ** 2)
        return first + tf.reduce_mean(tf.exp(k(tf.constant(more))))

    expected = dense_hessian(trainable_variables(u) + trainable_variables(k), lambda: loss(u, k))
    read_by_layers(Problem({"u": u, "k": k}, [LossTerm("own", loss)], "xt"), expected)


def test_an_input_that_nothing_belongs_to_is_named() -> None:
    term = ResidualTerm("pde", X, lambda x, u: u.value)
    message = r"what the network's inputs are \(branch \[N, 6\], trunk \[N, 2\]\)"
    with pytest.raises(ProblemError, match=message):
        AutodiffEngine(resolve(Problem(deeponet(), [term], "xt"))).block_row(BlockRow(0, 0, 1))


def test_data_with_the_name_of_a_coordinate_that_is_an_input_are_refused() -> None:
    """Labels y, which would be taken for the coordinate y."""
    fit = ResidualTerm("fit", X, lambda x, u, y: u.value - y, data={"y": F})
    problem = Problem(two_inputs(("x", "y")), [fit], "xy")
    with pytest.raises(ProblemError, match=r"'y' is a coordinate, an input .* and data of term"):
        losses_and_gradient(problem)
    # Of one input no part has a name.
    losses_and_gradient(Problem(small(2, 1), [fit], "xy"))


def test_inputs_that_are_not_paired_point_by_point_are_left_to_autodiff() -> None:
    """All pairs of three functions and eight points, as one matrix product."""
    keras.utils.set_random_seed(7)
    branch, trunk = keras.Input((M,), **F64), keras.Input((2,), **F64)
    pairs = ops.matmul(dense(3)(branch), ops.transpose(dense(3, "tanh")(trunk)))
    net = keras.Model([branch, trunk], pairs)

    def loss(model: Any) -> Tensor:
        return tf.reduce_mean(model([tf.constant(V[:3]), tf.constant(X)]) ** 2)

    problem = resolve(Problem(net, [LossTerm("all", loss)]))
    with pytest.raises(NotLayeredError):
        LayeredEngine(problem)
    expected = dense_hessian(trainable_variables(net), lambda: loss(net))
    assert_close(AutodiffEngine(problem).block_row(BlockRow(0, 0, len(expected))), expected)


def test_images_are_inputs_of_as_many_columns_as_pixels() -> None:
    """The Fisher matrix of a convolutional classifier, Σ Jᵀ (diag p - p pᵀ) J / N."""
    keras.utils.set_random_seed(8)
    images, labels = rng.normal(size=(5, 4, 4, 1)), np.array([0, 2, 1, 1, 0])
    convolution = layers.Conv2D(2, 3, activation="tanh", **F64)
    entry = keras.Input((4, 4, 1), **F64)
    net = keras.Sequential([entry, convolution, layers.Flatten(**F64), dense(3)])

    def loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
        found = tf.nn.sparse_softmax_cross_entropy_with_logits(y, model(x))
        return tf.reduce_mean(found)

    term = LossTerm("fit", loss, data={"x": images, "y": labels})
    variables = trainable_variables(net)
    with tf.GradientTape() as tape:
        logits = net(images)
    parts = tape.jacobian(logits, variables)
    jacobian = np.concatenate([part.numpy().reshape(5, 3, -1) for part in parts], axis=2)
    p = tf.nn.softmax(logits).numpy()
    bend = np.einsum("nc,cd->ncd", p, np.eye(3)) - np.einsum("nc,nd->ncd", p, p)
    expected = np.einsum("nci,ncd,ndj->ij", jacobian, bend, jacobian) / 5
    found = gauss_newton_vector_product(Problem(net, [term]), np.eye(len(expected)))
    assert_close(found, expected)
    with pytest.raises(NotLayeredError, match="neither a product with one kernel"):
        LayeredEngine(Problem(net, [term]))


def test_a_derivative_by_one_of_very_many_columns_is_left_to_autodiff() -> None:
    branch = keras.Input((300,), **F64)
    net = keras.Model(branch, dense(1)(dense(2, "tanh")(branch)))

    def loss(model: Any) -> Tensor:
        x = tf.constant(np.linspace(0, 1, 600).reshape(2, 300))
        with tf.GradientTape() as tape:
            tape.watch(x)
            u = model(x)
        return tf.reduce_mean(tape.gradient(u, x) ** 2)

    problem = Problem(net, [LossTerm("own", loss)])
    with pytest.raises(NotLayeredError, match="differentiates the network by more than 256"):
        LayeredEngine(problem)


def operator_problem() -> Problem:
    some = {"branch": V[:3], "y": F[:3]}
    terms = [
        ResidualTerm("pde", X, pde, data={"branch": V, "f": F}),
        ResidualTerm("fit", X[:3], lambda x, u, y: u.value - y, data=some),
    ]
    return Problem(deeponet, terms, "xt", exact_solution=lambda x: np.ones((len(x), 1)))


def test_a_deeponet_is_trained_stored_and_verified(tmp_path: Path) -> None:
    problem = operator_problem()
    error = train(problem, adam_steps=3, lbfgs_steps=2).error
    assert error is not None
    assert np.isfinite(error)
    found = compute_hessian(problem, tmp_path / "h.zarr")
    assert found.attrs["engine"] == "layered"
    assert verify_hessian(tmp_path / "h.zarr", problem).passed

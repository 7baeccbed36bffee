"""What the autodiff engine takes, and that any cut of block rows gives the same Hessian."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from hessian_tasks.autodiff import AutodiffEngine, hessian_vector_product
from hessian_tasks.errors import ProblemError
from hessian_tasks.networks.models import get_theta, resolve_model, set_theta
from hessian_tasks.problem import LossTerm, Problem, ResidualTerm
from hessian_tasks.problems.networks import mlp
from hessian_tasks.spec import BlockRow
from tests.helpers.chosen import some_slow
from tests.helpers.oracles import finite_difference_hessian

Array = npt.NDArray[Any]
layers = keras.layers

POINTS = np.random.default_rng(0).uniform(-1.0, 1.0, (7, 2))


def whole(problem: Problem, term: str | None = None) -> Array:
    engine = AutodiffEngine(problem)
    return engine.block_row(BlockRow(0, 0, engine.layout.num_params), term)


def randomise(model: Any) -> Any:
    """Weights of order one: Keras' zero biases would hide half of the second derivatives."""
    theta = get_theta(model)
    set_theta(model, np.random.default_rng(1).normal(0.0, 0.6, theta.shape))
    return model


def network(dtype: str = "float64", outputs: int = 1) -> Any:
    return randomise(mlp(2, outputs, width=3, depth=1, dtype=dtype))


def of_loss(loss: Callable[..., Any], model: Any = None, **data: Array) -> Problem:
    return Problem(model or network(), [LossTerm("loss", loss, data=data or {"x": POINTS})])


def of_value(model: Any) -> Problem:
    """A loss whose derivative by the network's output is not linear in it."""
    return of_loss(lambda model, x: tf.reduce_mean(tf.exp(tf.sin(model(x)))), model)


# Losses. All are functions of the same network; what differs is how they are written.


def nested_tapes(model: Any, x: Any) -> Any:
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            u = model(x)
        slope = inner.gradient(u, x)[:, 0]
    return tf.reduce_mean(tf.square(outer.gradient(slope, x)))


def symbolic_gradients(model: Any, x: Any) -> Any:
    u = model(x)
    slope = tf.gradients(u, x)[0][:, 0]
    return tf.reduce_mean(tf.square(tf.gradients(slope, x)[0] + u))


def forward_accumulator(model: Any, x: Any) -> Any:
    with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
        u = model(x)
    return tf.reduce_mean(tf.square(accumulator.jvp(u) - u))


def while_loop(model: Any, x: Any) -> Any:
    """Three steps of Newton's kind, the network as the slope."""
    start = (tf.constant(0), x)
    step = tf.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, y - 0.3 * model(y)), start)
    return tf.reduce_mean(tf.square(step[1]))


def cond(model: Any, x: Any) -> Any:
    u = model(x)
    return tf.cond(tf.reduce_sum(x) > 100, lambda: tf.reduce_sum(u), lambda: tf.reduce_mean(u**3))


def map_fn(model: Any, x: Any) -> Any:
    return tf.reduce_mean(tf.map_fn(lambda point: tf.sin(model(point[tf.newaxis])[0, 0]), x))


def scan(model: Any, x: Any) -> Any:
    def follow(state: Any, point: Any) -> Any:
        return tf.tanh(state + model(point[tf.newaxis])[0, 0])

    return tf.reduce_mean(tf.scan(follow, x, initializer=tf.zeros([], x.dtype)))


def inner_function(model: Any, x: Any) -> Any:
    # Python's own for and if on tensors, which autograph turns into graph control flow.
    @tf.function
    def bent(u: Any) -> Any:
        total = tf.zeros_like(u)
        for power in tf.range(3):
            if power > 0:
                total = tf.sin(total + u)
        return total

    return tf.reduce_mean(bent(model(x)))


def gathered(model: Any, x: Any) -> Any:
    """Rows of a kernel picked by hand, one twice: its gradient is a sparse IndexedSlices."""
    kernel = model.trainable_weights[0].value
    rows = tf.gather(kernel, tf.constant([0, 1, 0]))
    return tf.reduce_sum(tf.square(tf.square(rows))) + tf.reduce_mean(model(x))


# Models.


def batch_normalised() -> Any:
    model = keras.Sequential(
        [
            keras.Input((2,), dtype="float64"),
            layers.Dense(3, activation="tanh", dtype="float64"),
            layers.BatchNormalization(dtype="float64"),
            layers.Dense(1, dtype="float64"),
        ]
    )
    # Moving mean and variance: taken for their initial 0 and 1, or for those of the batch,
    # the network would be another function.
    set_theta(model, np.array([0.5, -1.0, 2.0, 0.3, 1.7, 4.0]), trainable=False)
    return randomise(model)


def frozen_layer() -> Any:
    model = mlp(2, width=3, depth=2, dtype="float64")
    set_theta(model, np.random.default_rng(2).normal(0.0, 0.6, model.count_params()))
    model.get_layer("hidden_2").trainable = False
    return model


def shared_layer() -> Any:
    inputs = keras.Input((2,), dtype="float64")
    shared = layers.Dense(2, activation="tanh", dtype="float64")
    return randomise(keras.Model(inputs, layers.Dense(1, dtype="float64")(shared(shared(inputs)))))


class Residual(keras.Model):
    """A subclassed model with weights of its own besides those of its layers."""

    def __init__(self) -> None:
        super().__init__(dtype="float64")
        self.hidden = layers.Dense(3, activation="tanh", dtype="float64")
        self.last = layers.Dense(1, dtype="float64")
        self.gain = self.add_weight(shape=(), name="gain")

    def call(self, x: Any) -> Any:
        return self.last(self.hidden(x)) * tf.exp(self.gain.value) + x[:, 0:1]


def subclassed() -> Any:
    model = Residual()
    model(POINTS)
    return randomise(model)


def embedding() -> Problem:
    inputs = keras.Input((2,), dtype="int64")
    vectors = layers.Flatten(dtype="float64")(layers.Embedding(4, 2, dtype="float64")(inputs))
    model = randomise(keras.Model(inputs, layers.Dense(1, dtype="float64")(vectors)))
    words = np.array([[0, 1], [2, 2], [1, 0]])
    return of_loss(lambda model, x: tf.reduce_mean(tf.exp(model(x))), model, x=words)


def residual_of_two_outputs() -> Problem:
    def residual(x: Any, u: Any) -> list[Any]:
        return [u[0].d("x") * u[1].value, u[1].d("xy") - x[:, 0:1], u.value]

    model = network(outputs=2)
    return Problem(model, [ResidualTerm("pde", POINTS, residual, weight=2.5)], "xy")


CASES: dict[str, Callable[[], Problem]] = {
    "nested tapes": lambda: of_loss(nested_tapes),
    "tf.gradients": lambda: of_loss(symbolic_gradients),
    "ForwardAccumulator": lambda: of_loss(forward_accumulator),
    "tf.while_loop": lambda: of_loss(
        while_loop, randomise(mlp(2, 2, width=3, depth=1, dtype="float64"))
    ),
    "tf.cond": lambda: of_loss(cond),
    "tf.map_fn": lambda: of_loss(map_fn),
    "tf.scan": lambda: of_loss(scan),
    "tf.function inside": lambda: of_loss(inner_function),
    "tf.gather of a weight": lambda: of_loss(gathered),
    "batch normalisation": lambda: of_value(batch_normalised()),
    "frozen layer": lambda: of_value(frozen_layer()),
    "shared layer": lambda: of_value(shared_layer()),
    "subclassed model": lambda: of_value(resolve_model(subclassed)),
    "Embedding": embedding,
    "two outputs": residual_of_two_outputs,
}


@pytest.mark.parametrize(
    "case",
    some_slow(CASES, set(CASES) - {"tf.gradients", "ForwardAccumulator", "tf.map_fn", "tf.scan"}),
)
def test_hessian_is_the_derivative_of_the_gradient(case: str) -> None:
    problem = CASES[case]()
    hessian = whole(problem)
    # h = 1e-3: the stencil errs by h⁴ = 1e-12 times the fifth derivative of the loss, which
    # is up to 1e3 times the second, and the gradient's rounding by ε/h = 1e-13.
    expected = finite_difference_hessian(problem, step=1e-3)
    scale = np.abs(expected).max()
    assert scale > 1e-2
    assert np.abs(hessian - expected).max() < 1e-8 * scale
    assert np.abs(hessian - hessian.T).max() < 1e-12 * scale


def test_frozen_layers_have_no_rows() -> None:
    problem = of_value(frozen_layer())
    layout = AutodiffEngine(problem).layout
    assert layout.layers() == ["hidden_1", "output"]
    assert layout.num_params == problem.model.count_params() - (3 * 3 + 3)


def test_parameters_that_a_term_does_not_touch_have_zero_rows() -> None:
    inputs = keras.Input((2,), dtype="float64")
    heads = [layers.Dense(1, dtype="float64", name=name)(inputs) for name in ("left", "right")]
    model = randomise(keras.Model(inputs, layers.Concatenate(dtype="float64")(heads)))
    left = LossTerm(
        "left", lambda model, x: tf.reduce_mean(model(x)[:, 0] ** 2), data={"x": POINTS}
    )
    right = LossTerm("right", lambda model: tf.reduce_sum(model.trainable_weights[2].value ** 4))
    problem = Problem(model, [left, right])
    # "right" is a function of the kernel of that head alone; its bias, the last of the six
    # parameters, is in no term.
    used_by_left = whole(problem, "left").any(axis=1)
    used_by_right = whole(problem, "right").any(axis=1)
    assert used_by_left.tolist() == [True, True, True, False, False, False]
    assert used_by_right.tolist() == [False, False, False, True, True, False]
    assert np.array_equal(whole(problem), whole(problem, "left") + whole(problem, "right"))


def poisson(model: Any) -> Problem:
    pde = ResidualTerm("pde", POINTS, lambda x, u: u.d("xx") + u.d("yy") - x[:, 0:1])
    boundary = ResidualTerm("boundary", np.sign(POINTS), lambda x, u: u.value, 0.3)
    return Problem(model, [pde, boundary], "xy")


def test_float32_agrees_with_float64() -> None:
    single, double = network("float32"), network("float64")
    set_theta(double, get_theta(single).astype(np.float64))
    rounded = [
        ResidualTerm(t.name, t.points.astype(np.float32), t.residual, t.weight)
        for t in poisson(double).terms
    ]
    hessian = whole(poisson(single))
    expected = whole(Problem(double, rounded, "xy"))
    assert hessian.dtype == np.float32
    assert expected.dtype == np.float64
    # Some hundred operations an entry, each with relative error 6e-8, partly cancelling; but
    # for the float32 in between, both have the very same weights and points.
    error = np.abs(hessian - expected).max() / np.abs(expected).max()
    assert 1e-9 < error < 1e-5


@pytest.mark.parametrize("row_batch", some_slow([1, 4, 64], [4]))
def test_any_cut_gives_the_same_rows(row_batch: int) -> None:
    problem = poisson(randomise(mlp(2, width=2, depth=2, dtype="float64")))
    engine = AutodiffEngine(problem, row_batch)
    size = engine.layout.num_params
    hessian = engine.block_row(BlockRow(0, 0, size))
    # All lengths, all starts: cuts inside a layer, at its ends and across.
    for length in (1, 3, 7, size):
        for start in range(0, size, length):
            stop = min(start + length, size)
            row = engine.block_row(BlockRow(start // length, start, stop))
            expected = hessian[start:stop, start:]
            assert row.shape == expected.shape
            # Later layers' graphs leave out what they do not need, so sums may be reordered.
            assert np.abs(row - expected).max() < 1e-13 * np.abs(hessian).max()


@pytest.mark.parametrize("case", ["nested tapes", "batch normalisation", "Embedding"])
def test_product_with_vectors_of_loss_terms(case: str) -> None:
    problem = CASES[case]()
    hessian = whole(problem)
    vectors = np.random.default_rng(3).normal(size=(2, len(hessian)))
    products = hessian_vector_product(problem, vectors)
    assert np.abs(products - vectors @ hessian).max() < 1e-12 * np.abs(products).max()


def test_product_with_vectors_of_residual_terms() -> None:
    problem = poisson(randomise(mlp(2, width=3, depth=2, dtype="float64")))
    hessian = whole(problem)
    vectors = np.random.default_rng(3).normal(size=(3, len(hessian)))
    products = hessian_vector_product(problem, vectors)
    assert products.shape == vectors.shape
    # Jets are differentiated backwards here and forwards there: rounding differs more.
    assert np.abs(products - vectors @ hessian).max() < 1e-11 * np.abs(products).max()


def test_block_rows_of_a_layer_are_traced_once() -> None:
    traces = []

    def loss(model: Any, x: Any) -> Any:
        traces.append(len(traces))
        return tf.reduce_mean(model(x) ** 2)

    engine = AutodiffEngine(of_loss(loss), row_batch=2)
    first_layer, num_params = 2 * 3 + 3, engine.layout.num_params
    for start, stop in [(0, 1), (1, 4), (4, 7), (5, 6), (0, num_params)]:
        engine.block_row(BlockRow(0, start, stop))
    assert len(traces) == 1
    for start in range(first_layer, num_params):
        engine.block_row(BlockRow(0, start, num_params))
    assert len(traces) == 2
    # New weights are new values of the same variables.
    before = engine.block_row(BlockRow(0, 0, 3))
    set_theta(engine.problem.model, 2 * get_theta(engine.problem.model))
    assert not np.allclose(engine.block_row(BlockRow(0, 0, 3)), before)
    assert len(traces) == 2


def test_check_is_called_before_each_batch_and_may_abandon() -> None:
    engine = AutodiffEngine(of_loss(cond), row_batch=2)
    calls: list[int] = []

    def check() -> None:
        calls.append(len(calls))
        if len(calls) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        engine.block_row(BlockRow(0, 0, 9), check=check)
    assert len(calls) == 3


def test_unknown_term_is_refused() -> None:
    engine = AutodiffEngine(of_loss(cond))
    with pytest.raises(ProblemError, match="no loss term 'los'; the terms are loss"):
        engine.block_row(BlockRow(0, 0, 1), term="los")


# In a process of its own, where TensorFlow starts anew, as in a run.
SIDE_BY_SIDE = """
from hessian_tasks.process import configure_tensorflow
configure_tensorflow(2)
from concurrent.futures import ThreadPoolExecutor
from hessian_tasks.autodiff import AutodiffEngine
from hessian_tasks.problems.poisson import problem
from hessian_tasks.spec import BlockRow
engine = AutodiffEngine(problem(8, 2, num_interior=20_000, dtype="float64"))
with ThreadPoolExecutor(2) as pool:
    first, *others = pool.map(engine.block_row, [BlockRow(0, 0, 3)] * 6)
assert all((first == other).all() for other in others)
"""


def test_threads_share_a_graph_of_many_points() -> None:
    subprocess.run([sys.executable, "-c", SIDE_BY_SIDE], check=True)

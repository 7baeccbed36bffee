"""The layered engine against the autodiff engine, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from hessian_tasks.autodiff import AutodiffEngine
from hessian_tasks.errors import NotLayeredError
from hessian_tasks.layered.engine import SMALL_WIDTHS, LayeredEngine
from hessian_tasks.networks.models import get_theta, resolve_model, set_theta
from hessian_tasks.problem import LossTerm, Problem, ResidualTerm
from hessian_tasks.problems import (
    burgers,
    classification,
    kdv,
    kovasznay,
    poisson,
    reaction,
    regression,
    wave,
)
from hessian_tasks.spec import BlockRow
from pipeline.errors import PlanError
from pipeline.run.engines import choose_engine
from tests.helpers.chosen import some_slow

layers = keras.layers


def of(problem: Problem) -> Problem:
    """The problem with its model built and all weights shifted: biases of 0 would hide much."""
    model = resolve_model(problem.model)
    theta = get_theta(model)
    shift = np.random.default_rng(3).normal(0.0, 0.3, theta.shape).astype(theta.dtype)
    set_theta(model, theta + shift)
    return replace(problem, model=model)


def whole(engine: AutodiffEngine | LayeredEngine, term: str | None = None) -> Any:
    return engine.block_row(BlockRow(0, 0, engine.layout.num_params), term)


def assert_equal(problem: Problem, tolerance: float) -> None:
    found, expected = whole(LayeredEngine(problem)), whole(AutodiffEngine(problem))
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize(
    ("build", "depth"),
    some_slow(
        [(burgers, 3), (kdv, 2), (kovasznay, 2), (poisson, 3), (reaction, 2), (wave, 2)], [kdv]
    ),
    ids=lambda value: getattr(value, "__name__", None),
)
def test_equals_autodiff_on_built_in_problems(build: Any, depth: int) -> None:
    # 1e-11: a few hundred additions in another order, in float64.
    assert_equal(of(build.problem(4, depth, 9, 7, dtype="float64")), 1e-11)


@pytest.mark.parametrize("build", [classification, regression], ids=lambda m: m.__name__)
def test_equals_autodiff_on_losses_of_values(build: Any) -> None:
    problem = of(build.problem(4, 2, 12, dtype="float64"))
    assert LayeredEngine(problem).left_out == {}
    assert_equal(problem, 1e-11)


@pytest.mark.parametrize("build", [burgers, kovasznay, classification], ids=lambda m: m.__name__)
def test_matrices_of_points_may_lie_either_way(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = (4, 2, 12) if build is classification else (4, 3, 9, 7)
    problem = of(build.problem(*sizes, dtype="float64"))
    first = LayeredEngine(problem)
    monkeypatch.setitem(SMALL_WIDTHS, 8, 12)
    last = LayeredEngine(problem)
    assert (last.points_last, first.points_last) == (True, False)
    found, expected = whole(last), whole(first)
    assert np.abs(found - expected).max() <= 1e-12 * np.abs(expected).max()


def test_equals_autodiff_in_float32() -> None:
    # Both round; some hundred ulp of the largest entry.
    assert_equal(of(poisson.problem(6, 2, 40, 30)), 2e-5)


class Slope(layers.Layer):  # type: ignore[misc]
    def build(self, shape: Any) -> None:
        self.slope = self.add_weight(shape=(), initializer="ones", name="slope")

    def call(self, z: Any) -> Any:
        return tf.tanh(2.0 * self.slope * z)


def dense(width: int, activation: Any = None, **options: Any) -> Any:
    return layers.Dense(width, activation=activation, dtype="float64", **options)


def skips() -> Any:
    x = keras.Input((2,), dtype="float64")
    h = dense(3, "tanh")(layers.Rescaling(0.5, dtype="float64")(x))
    h = layers.Add(dtype="float64")([h, dense(3, "softplus", use_bias=False)(h)])
    h = layers.Concatenate(dtype="float64")([h, x])
    return keras.Model(x, x[:, 0:1] * (1 - x[:, 0:1]) * dense(1)(h))


def gates(rounds: int = 1) -> Any:
    x = keras.Input((2,), dtype="float64")
    u, v, h = dense(3, "tanh")(x), dense(3, "sigmoid")(x), dense(3, "tanh")(x)
    for _ in range(rounds):
        z = dense(3, "gelu")(h)
        h = (1 - z) * u + z * v
    return keras.Model(x, dense(2)(h))


def gates_twice() -> Any:
    return gates(2)


def slopes() -> Any:
    x = keras.Input((2,), dtype="float64")
    h = Slope(dtype="float64")(dense(3)(x))
    return keras.Model(x, dense(1)(layers.PReLU(dtype="float64")(dense(3)(h))))


@tf.custom_gradient
def sine(z: Any) -> Any:
    return tf.sin(z), lambda upstream: upstream * tf.cos(z)


def custom_gradients() -> Any:
    x = keras.Input((2,), dtype="float64")
    h = dense(3, "silu")(layers.Activation("swish", dtype="float64")(x))
    z = dense(3, lambda z: sine(keras.activations.silu(z) * z))(h)
    return keras.Model(x, dense(2, "swish")(z * h))


@pytest.mark.parametrize(
    "build",
    some_slow([skips, gates, gates_twice, slopes, custom_gradients], [skips, gates, slopes]),
    ids=lambda f: f.__name__,
)
def test_equals_autodiff_on_networks_that_are_no_chains(build: Callable[[], Any]) -> None:
    points = np.random.default_rng(0).uniform(-1, 1, (11, 2))
    residual = lambda x, u: u.d("xx") * u.value + x[:, 0:1] * u.d("xy") + u.d("y")  # noqa: E731
    terms = [
        ResidualTerm("pde", points, residual, weight=0.7),
        ResidualTerm("data", points[:5], lambda x, u: u.value - 1, weight=-2.0),
    ]
    assert_equal(of(Problem(build(), terms, ("x", "y"))), 1e-11)


def bent(z: Any) -> Any:
    return tf.sin(z) + 0.1 * z**2


compiled_by_xla = tf.function(bent, jit_compile=True)


@tf.function
def calls_compiled(z: Any) -> Any:
    return compiled_by_xla(z)


@pytest.mark.parametrize(
    "activation",
    some_slow([tf.function(bent), compiled_by_xla, calls_compiled], [calls_compiled]),
)
def test_takes_activations_that_are_functions_by_layers(activation: Any) -> None:
    points = np.random.default_rng(0).uniform(-1, 1, (9, 2))
    term = ResidualTerm("pde", points, lambda x, u: u.d("xx") + u.value**2)

    def engine(inner: Any) -> LayeredEngine:
        x = keras.Input((2,), dtype="float64")
        model = keras.Model(x, dense(1)(dense(4, inner)(dense(4, inner)(x))))
        set_theta(model, np.random.default_rng(1).normal(0.0, 0.7, model.count_params()))
        return LayeredEngine(Problem(model, [term], ("x", "y")))

    # The same operations, found in another way.
    assert np.array_equal(whole(engine(activation)), whole(engine(bent)))


def test_takes_swish_by_layers() -> None:
    x = keras.Input((2,), dtype="float64")
    model = keras.Model(x, dense(1)(dense(4, "silu")(dense(4, "swish")(x))))
    points = np.random.default_rng(0).uniform(-1, 1, (9, 2))
    term = ResidualTerm("pde", points, lambda x, u: u.d("xx") + u.d("yy") + u.value)
    problem = of(Problem(model, [term], ("x", "y")))
    assert choose_engine(problem, "auto")[1].name == "layered"
    assert_equal(problem, 1e-11)


def test_takes_networks_whose_neurons_are_all_dead() -> None:
    x = keras.Input((1,), dtype="float64")
    h = dense(3, "relu", bias_initializer=keras.initializers.Constant(-9.0))(x)
    h = dense(3, "relu", use_bias=False)(h)
    term = ResidualTerm("fit", [[0.1], [0.4]], lambda x, u: u.value + u.d("x") - 1.0)
    for bias in (False, True):
        model = keras.Model(x, dense(1, use_bias=bias)(h))
        assert_equal(of(Problem(model, [term], "x")), 1e-11)


@pytest.fixture(scope="module")
def engine() -> LayeredEngine:
    return LayeredEngine(of(poisson.problem(5, 3, 20, 10, dtype="float64")))


@pytest.mark.parametrize("length", [1, 3, 7, 16, 40])
def test_any_cut_gives_the_same_rows(engine: LayeredEngine, length: int) -> None:
    hessian, size = whole(engine), engine.layout.num_params
    for index, start in enumerate(range(0, size, length)):
        stop = min(start + length, size)
        block = engine.block_row(BlockRow(index, start, stop))
        np.testing.assert_allclose(block, hessian[start:stop, start:], rtol=0, atol=1e-12)


def test_terms_add_up(engine: LayeredEngine) -> None:
    parts = [whole(engine, term.name) for term in engine.problem.terms]
    np.testing.assert_allclose(sum(parts), whole(engine), rtol=0, atol=1e-12)


def test_losses_of_many_weights_are_left_to_autodiff() -> None:
    problem = of(poisson.problem(24, 2, 9, 7, dtype="float64"))
    norm = LossTerm("norm", lambda model: tf.add_n([tf.nn.l2_loss(w) for w in model.weights]))
    problem = replace(problem, terms=[*problem.terms, norm])
    assert_equal(problem, 1e-11)
    reason = choose_engine(problem, "auto")[1].reason
    assert reason == (
        "but by autodiff: norm reads hidden_1/kernel, hidden_1/bias, hidden_2/kernel, … other than "
        "through the network"
    )


POINTS = np.random.default_rng(5).uniform(-1, 1, (4, 2))


def conflicting(model: Any) -> Any:
    """Three calls, coupled point by point; a tape around all of it."""
    with tf.GradientTape():
        u, v = model(POINTS), model(POINTS[::-1], training=False)
        return tf.reduce_mean((u - v) ** 2 * tf.exp(model(0.5 * POINTS)))


def slope_of(model: Any) -> Any:
    points = tf.constant(POINTS)
    with tf.GradientTape() as tape:
        tape.watch(points)
        u = model(points)
    slope = tape.gradient(u, points, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return tf.reduce_mean(slope**2)


def decayed(model: Any) -> Any:
    return tf.reduce_mean(model(POINTS) ** 2) + tf.nn.l2_loss(model.trainable_weights[0])


def spread(model: Any) -> Any:
    u = model(POINTS)
    return tf.reduce_mean((u - tf.reduce_mean(u)) ** 2)


def unequal(model: Any) -> Any:
    return tf.reduce_mean(model(POINTS) ** 2) + tf.reduce_mean(model(POINTS[:2]) ** 3)


def twice(model: Any) -> Any:
    u = model(POINTS)
    return tf.reduce_mean(model(tf.concat([u, u], axis=1)) ** 2)


@pytest.mark.parametrize(
    ("loss", "reason"),
    some_slow(
        [
            (conflicting, None),
            (slope_of, None),
            (decayed, None),
            (spread, "couples its points"),
            (unequal, None),
            (twice, "evaluates the network at points that depend on the weights"),
        ],
        [decayed, twice],
    ),
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_takes_losses_that_see_the_network_point_by_point(loss: Any, reason: str | None) -> None:
    problem = of(poisson.problem(3, 2, 6, 5, dtype="float64"))
    problem = replace(problem, terms=[problem.terms[1], LossTerm("other", loss, weight=-0.7)])
    assert LayeredEngine(problem).left_out.get("other") == reason
    assert_equal(problem, 1e-11)


def normalised() -> Any:
    return keras.Sequential(
        [keras.Input((2,), dtype="float64"), dense(3), layers.LayerNormalization(dtype="float64")]
    )


def shared() -> Any:
    x, twice = keras.Input((2,), dtype="float64"), dense(2, "tanh")
    return keras.Model(x, twice(twice(x)))


def with_gradient(function: Any, gradient: Any) -> Callable[[], Any]:
    """A network whose activation has a custom gradient."""

    @tf.custom_gradient
    def activation(z: Any) -> Any:
        return function(z), lambda upstream: gradient(z, upstream)

    def build() -> Any:
        return keras.Sequential(
            [keras.Input((2,), dtype="float64"), dense(3, activation), dense(1)]
        )

    return build


straight_through = with_gradient(tf.sign, lambda z, upstream: upstream)
doubled = with_gradient(tf.tanh, lambda z, upstream: 2.0 * upstream / tf.cosh(z) ** 2)
reversed_sign = with_gradient(lambda z: z, lambda z, upstream: -upstream)
clipped = with_gradient(tf.identity, lambda z, upstream: tf.clip_by_value(upstream, -9.0, 9.0))
stopped = with_gradient(tf.sin, lambda z, upstream: upstream * tf.stop_gradient(tf.cos(z)))
raising = with_gradient(tf.sin, lambda z, upstream: 1 / 0)


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (normalised, "neither a product"),
        (shared, "is used 2 times"),
        (straight_through, "a custom gradient that is not its derivative"),
        (doubled, "a custom gradient that is not its derivative"),
        (reversed_sign, "a custom gradient that is not its derivative"),
        (clipped, "a custom gradient that is not its derivative"),
        (stopped, "a custom gradient that is not its derivative"),
        (raising, "cannot be replayed .ZeroDivisionError."),
    ],
)
def test_refuses_other_networks_with_the_reason(build: Callable[[], Any], reason: str) -> None:
    term = ResidualTerm("data", [[0.1, 0.2], [0.3, 0.5]], lambda x, u: u.value)
    problem = of(Problem(build(), [term], ("x", "y")))
    with pytest.raises(NotLayeredError, match=reason):
        LayeredEngine(problem)
    assert choose_engine(problem, "auto")[1].name == "autodiff"
    with pytest.raises(PlanError, match=reason):
        choose_engine(problem, "layered")


def test_refuses_residuals_that_couple_points() -> None:
    problem = poisson.problem(3, 1, 5, 5, dtype="float64")
    coupled = ResidualTerm(
        "mean", problem.terms[0].points, lambda x, u: u.value - tf.reduce_mean(u.value)
    )
    with pytest.raises(NotLayeredError, match="term 'mean' couples its points"):
        LayeredEngine(of(replace(problem, terms=[coupled])))

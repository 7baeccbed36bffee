"""What a declaration takes, what it refuses and why; likewise its losses."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas
import pytest
import tensorflow as tf

from hessian_tasks.autodiff import AutodiffEngine
from hessian_tasks.errors import ModelError, ProblemError
from hessian_tasks.loss import losses_and_gradient
from hessian_tasks.networks.models import (
    set_theta,
)
from hessian_tasks.problem import LossTerm, Problem, ResidualTerm
from hessian_tasks.problems.networks import mlp
from hessian_tasks.reading import read_terms

layers = keras.layers

POINTS = np.random.default_rng(0).uniform(-1.0, 1.0, (5, 2))


def fit(name: str = "fit", points: Any = POINTS, **options: Any) -> ResidualTerm:
    return ResidualTerm(name, points, lambda x, u: u.value, **options)


def loss(name: str = "loss", **options: Any) -> LossTerm:
    return LossTerm(name, lambda model: tf.constant(0.0), **options)


def network(width: int = 3, depth: int = 1, outputs: int = 1, dtype: str = "float64") -> Any:
    return mlp(2, outputs, width=width, depth=depth, dtype=dtype)


DECLARATIONS: dict[str, tuple[Callable[[], Any], str]] = {
    "no terms": (lambda: Problem(None, []), "no loss terms; expected at least one"),
    "duplicate names": (
        lambda: Problem(None, [fit("a"), loss("a")], "xy"),
        r"Two loss terms share a name: \['a', 'a'\]",
    ),
    "duplicate coordinates": (
        lambda: Problem(None, [fit()], "xx"),
        r"Two coordinates share a name: \['x', 'x'\]",
    ),
    "too few columns": (
        lambda: Problem(None, [fit()], "xyt"),
        "'fit' have 2 columns, but the problem has 3 coordinates: x, y, t",
    ),
    "no coordinates": (lambda: Problem(None, [fit()]), "has 0 coordinates: none"),
    "empty name": (lambda: fit(""), "'' cannot name the loss term"),
    "path as a name": (lambda: fit("../a"), "'../a' cannot name the loss term"),
    "digit first": (lambda: loss("2nd"), "'2nd' cannot name the loss term"),
    "name of an array": (
        lambda: loss(data={"a b": [1.0]}),
        "'a b' cannot name the array of term 'loss'",
    ),
    "flat points": (lambda: fit(points=[1.0, 2.0]), r"shape \(2,\); expected \[N, d\]"),
    "no points": (lambda: fit(points=np.zeros((0, 2))), r"shape \(0, 2\); expected"),
    "NaN point": (
        lambda: fit(points=[[0.0, np.nan]]),
        "NaN or infinite values in the points of term 'fit'",
    ),
    "infinite data": (
        lambda: loss(data={"y": [np.inf]}),
        "NaN or infinite values in 'y' of term 'loss'",
    ),
    "single term": (lambda: Problem(None, fit(), "xy"), r"a single term; expected a list: \[Res"),
    "no term": (lambda: Problem(None, [fit(), 3.0], "xy"), "is a float; expected a list"),
    "None for terms": (lambda: Problem(None, None), "is a NoneType; expected a list"),  # type: ignore[arg-type]
    "arrays of one name": (
        lambda: Problem(None, [fit("a_b"), loss("a", data={"b_points": [1.0]})], "xy"),
        "Terms 'a_b' and 'a' both have an array .* as 'a_b_points'",
    ),
    "infinite weight": (lambda: fit(weight=np.inf), "weight of term 'fit' is inf"),
    "NaN weight": (lambda: loss(weight=float("nan")), "weight of term 'loss' is nan"),
}


@pytest.mark.parametrize("case", DECLARATIONS)
def test_declaration_is_refused(case: str) -> None:
    declare, message = DECLARATIONS[case]
    with pytest.raises(ProblemError, match=message):
        declare()


# As functions: what TensorFlow makes starts it.
WEIGHTS: dict[str, Callable[[], Any]] = {
    "integer": lambda: 2,
    "float32": lambda: np.float32(2),
    "array": lambda: np.array(2),
    "tensor": lambda: tf.constant(2.0),
    "variable": lambda: tf.Variable(2.0, dtype="float64"),
    "Keras variable": lambda: keras.Variable(2.0),
    "fraction": lambda: Fraction(4, 2),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_a_weight_is_a_number_of_whatever_kind(kind: str) -> None:
    for declare in (fit, loss):
        weight = declare(weight=WEIGHTS[kind]()).weight
        assert type(weight) is float
        assert weight == 2.0


NO_WEIGHTS: dict[str, Callable[[], Any]] = {
    "truth": lambda: True,
    "truth of NumPy": lambda: np.True_,
    "array of a truth": lambda: np.array(True),
    "tensor of a truth": lambda: tf.constant(True),
    "text": lambda: "2",
    "array of a text": lambda: np.array("2"),
    "nothing": lambda: None,
    "list": lambda: [2.0],
    "array": lambda: np.ones(1),
    "tensor": lambda: tf.constant([1.0, 2.0]),
    "complex": lambda: 2j,
    "array of a complex": lambda: np.array(2j),
    "too large": lambda: 10**400,
    "without a value": lambda: keras.Input(()),
}


@pytest.mark.parametrize("kind", NO_WEIGHTS)
def test_a_weight_that_is_no_number_is_refused(kind: str) -> None:
    for declare in (fit, loss):
        with pytest.raises(ProblemError, match=r"weight of term '\w+' is .*; expected one finite"):
            declare(weight=NO_WEIGHTS[kind]())


def test_columns_with_names_are_taken_by_them() -> None:
    frame = pandas.DataFrame({"y": POINTS[:, 1], "x": POINTS[:, 0]})
    (term,) = Problem(None, [fit(points=frame)], "xy").terms
    assert np.array_equal(term.arrays["points"], POINTS)
    # Numbers are no names.
    (term,) = Problem(None, [fit(points=pandas.DataFrame(POINTS))], "xy").terms
    assert np.array_equal(term.arrays["points"], POINTS)


@pytest.mark.parametrize("columns", [["x", "t"], ["x", 1], ["x", "x"]])
def test_columns_with_other_names_are_refused(columns: list[Any]) -> None:
    frame = pandas.DataFrame(POINTS, columns=columns)
    with pytest.raises(ProblemError, match=r"have the columns \['x', .*coordinates are \['x', 'y'"):
        Problem(None, [fit(points=frame)], "xy")


def of_residual(residual: Callable[[Any, Any], Any]) -> Callable[[], Problem]:
    return lambda: Problem(network(outputs=2), [ResidualTerm("pde", POINTS, residual)], "xy")


def of_loss(function: Callable[..., Any], **data: Any) -> Callable[[], Problem]:
    return lambda: Problem(network(), [LossTerm("mse", function, data=data)])


LOSSES: dict[str, tuple[Callable[[], Problem], str]] = {
    # [N] minus [N, 1] is [N, N] in NumPy's and TensorFlow's rules, and its mean is a number.
    "broadcast": (
        of_residual(lambda x, u: u[0].value - x[:, 0]),
        r"'pde' has shape \(5, 5\) at 5 points; expected .* take columns .* as x\[:, 0:1\]",
    ),
    "reduced residual": (of_residual(lambda x, u: tf.reduce_mean(u.value)), r"has shape \(\) at 5"),
    "rank three": (of_residual(lambda x, u: u.value[..., None]), r"has shape \(5, 2, 1\) at 5"),
    "unknown coordinate": (
        of_residual(lambda x, u: u.d("xz")),
        r"'z' is not a coordinate; the coordinates are \['x', 'y'\]",
    ),
    "unknown output": (of_residual(lambda x, u: u[2].value), "output 2 of a network with 2"),
    "unknown output from the end": (of_residual(lambda x, u: u[-3].value), "output -3 of a"),
    "mistake inside": (
        of_residual(lambda x, u: u.vale),
        "Term 'pde' failed: AttributeError: 'Jet' object has no attribute 'vale'",
    ),
    "NumPy inside": (
        of_residual(lambda x, u: u.value.numpy()),
        "Term 'pde' failed: AttributeError",
    ),
    "NaN residual": (
        of_residual(lambda x, u: tf.math.log(-tf.square(u.value))),
        "loss of term 'pde' is nan",
    ),
    "vector loss": (
        of_loss(lambda model, x: tf.square(model(x)), x=POINTS),
        r"loss of term 'mse' has shape \(5, 1\); expected a scalar",
    ),
    "no loss": (of_loss(lambda model: None), "Term 'mse' failed: ValueError"),
    "other arguments": (of_loss(lambda model, y: y, x=POINTS), "'mse' failed: TypeError"),
    "infinite loss": (
        of_loss(lambda model: tf.math.log(tf.zeros([], "float64"))),
        "'mse' is -inf at the given weights",
    ),
    "NaN gradient": (
        of_loss(lambda model: tf.norm(0 * model.trainable_weights[0].value)),
        "gradient of the loss holds NaN or infinity",
    ),
}


@pytest.mark.parametrize("case", LOSSES)
def test_loss_is_refused(case: str) -> None:
    make, message = LOSSES[case]
    problem = make()
    with pytest.raises(ProblemError, match=message):
        losses_and_gradient(problem)


def test_network_without_rows_of_outputs_is_refused() -> None:
    model = keras.Sequential(
        [keras.Input((2,)), layers.Dense(1), layers.Flatten(), layers.Reshape(())]
    )
    with pytest.raises(ProblemError, match=r"returns shape \(5,\) .*; expected \[N, outputs\]"):
        losses_and_gradient(Problem(model, [fit()], "xy"))


def test_a_residual_of_a_network_with_two_outputs_is_refused() -> None:
    x = keras.Input((2,))
    model = keras.Model(x, [layers.Dense(1)(x), layers.Dense(1)(x)])
    with pytest.raises(ProblemError, match=r"returns 2 outputs; .*layers\.Concatenate"):
        losses_and_gradient(Problem(model, [fit()], "xy"))


def test_what_keras_says_comes_without_codes_for_terminals() -> None:
    wide = Problem(mlp(3, width=3, depth=1, dtype="float64"), [fit()], "xy")
    with pytest.raises(ProblemError, match="expected axis -1 of input shape to have value") as said:
        losses_and_gradient(wide)
    assert str(said.value).isprintable()


def of_dtypes(*dtypes: str) -> Any:
    dense = [layers.Dense(2, dtype=dtype) for dtype in dtypes]
    return keras.Sequential([keras.Input((2,)), *dense])


def frozen_network() -> Any:
    model = network()
    model.trainable = False
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (frozen_network, "no trainable weights, so it has no Hessian"),
        (lambda: of_dtypes("float32", "float64"), r"dtypes \['float32', 'float64'\]"),
        (lambda: of_dtypes("float16"), r"dtypes \['float16'\]; expected all float32 or all"),
    ],
    ids=["frozen", "mixed dtypes", "half"],
)
def test_engine_refuses_weights(model: Callable[[], Any], message: str) -> None:
    problem = Problem(model(), [fit()], "xy")
    with pytest.raises(ModelError, match=message):
        AutodiffEngine(problem)


def residual_problem(residual: Callable[[Any, Any], Any], num_outputs: int = 1) -> Problem:
    model = mlp(2, num_outputs, width=3, depth=1, dtype="float64")
    return Problem(model, [ResidualTerm("pde", POINTS, residual)], coordinates="xy")


def test_singular_second_derivative_is_named_not_stored(tmp_path: Path) -> None:
    from pipeline import compute_hessian
    from pipeline.errors import BlockRowError

    # d²/dθ² of |θ|^1.5 is infinite at θ = 0, its first derivative is 0.
    model = mlp(1, width=2, depth=1, dtype="float64")

    def loss(model: Any) -> Any:
        return tf.reduce_sum(tf.abs(model.trainable_weights[1].value) ** 1.5)

    with pytest.raises(BlockRowError, match=r"Block row 0 .*NaN or infinite.*hidden_1/bias\[0\]"):
        compute_hessian(Problem(model, [LossTerm("power", loss)]), tmp_path / "h.zarr")


def test_derivatives_are_found_by_running_the_residual() -> None:
    problem = residual_problem(lambda x, u: u.value * u[0].d("x") + u.d("yyx") + u.d("x", "x"))
    (evaluation,) = read_terms(problem)[0].dependence.evaluations
    assert evaluation.indices == ((), (0,), (0, 0), (0, 1, 1))


def test_components_of_a_residual_are_averaged() -> None:
    listed = residual_problem(lambda x, u: [u[0].value, u[1].d("x")], num_outputs=2)
    joined = residual_problem(
        lambda x, u: tf.concat([u[0].value, u[1].d("x")], axis=1), num_outputs=2
    )
    assert losses_and_gradient(listed)[0] == losses_and_gradient(joined)[0]


def test_integer_points_have_derivatives() -> None:
    # TensorFlow's derivative with respect to an integer is zero, and no error.
    def slope(points: Any) -> Problem:
        return Problem(model, [ResidualTerm("pde", points, lambda x, u: u.d("x"))], "xy")

    model = network()
    set_theta(model, np.linspace(-1.0, 1.0, 13))
    points = np.arange(-3, 3).reshape(3, 2)
    losses, gradient = losses_and_gradient(slope(points))
    expected_losses, expected_gradient = losses_and_gradient(slope(points.astype(float)))
    assert losses["pde"] > 1e-3
    assert losses == expected_losses
    assert np.array_equal(gradient, expected_gradient)


def test_less_precision_than_the_weights_is_refused() -> None:
    def half_digits(model: Any) -> Any:
        return keras.losses.MeanSquaredError()(tf.zeros([5, 1]), model(tf.constant(POINTS)))

    problem = Problem(mlp(2, width=3, depth=1, dtype="float64"), [LossTerm("fit", half_digits)])
    with pytest.raises(ProblemError, match=r"loss of term 'fit' has dtype float32, but .* float64"):
        losses_and_gradient(problem)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, dtype="float64")])
    term = ResidualTerm("pde", POINTS, lambda x, u: u.value)
    with pytest.raises(ProblemError, match=r"network's input has dtype float32, but .* float64"):
        losses_and_gradient(Problem(model, [term], coordinates="xy"))


@pytest.mark.parametrize("points", [[[1.0, 2.0], [3.0]], [["a", "b"]], [[1j, 2.0]]])
def test_points_must_be_an_array_of_numbers(points: Any) -> None:
    with pytest.raises(ProblemError, match=r"Expected .* the points of term 'pde'"):
        ResidualTerm("pde", points, lambda x, u: u.value)

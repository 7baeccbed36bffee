"""What a declaration refuses and why; loading weights; which parameter a row belongs to."""

from __future__ import annotations

import itertools
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
from hessian_tasks.networks.architecture import model_config, model_from_config
from hessian_tasks.networks.models import (
    dtype_of,
    get_theta,
    parameter_layout,
    resolve_model,
    set_theta,
)
from hessian_tasks.networks.weights import load_weights_file, take_network_file
from hessian_tasks.parameters import ParameterLayout
from hessian_tasks.problem import LossTerm, Problem, ResidualTerm
from hessian_tasks.problems.networks import mlp
from hessian_tasks.reading import read_terms
from hessian_tasks.source import ProblemSource

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


MODELS: dict[str, tuple[Any, str]] = {
    "number": (3, "Problem.model is a int; expected a Keras model"),
    "factory of nothing": (lambda: None, "factory returned a NoneType, no Keras model"),
    "failing factory": (lambda: 1 / 0, "builds the network, failed: ZeroDivisionError: division"),
    "unbuilt": (lambda: keras.Sequential([layers.Dense(1)], name="late"), "'late' is not built"),
}


@pytest.mark.parametrize("case", MODELS)
def test_model_is_refused(case: str) -> None:
    model, message = MODELS[case]
    with pytest.raises(ModelError, match=message):
        resolve_model(model)


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


def random_network(**options: Any) -> Any:
    model = network(**options)
    set_theta(model, np.random.default_rng(1).normal(size=model.count_params()))
    return model


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("ending", [".keras", ".weights.h5"])
def test_weights_file_gives_back_theta(tmp_path: Path, ending: str, dtype: str) -> None:
    saved = random_network(dtype=dtype)
    path = tmp_path / f"net{ending}"
    (saved.save if ending == ".keras" else saved.save_weights)(path)
    fresh = network(dtype=dtype)
    assert not np.array_equal(get_theta(fresh), get_theta(saved))
    loaded = load_weights_file(path, fresh)
    assert dtype_of(loaded) == dtype
    assert np.array_equal(get_theta(loaded), get_theta(saved))


def test_weights_file_is_loaded_into_what_a_factory_makes(tmp_path: Path) -> None:
    saved = random_network()
    saved.save_weights(tmp_path / "net.weights.h5")
    loaded = load_weights_file(tmp_path / "net.weights.h5", network)
    assert np.array_equal(get_theta(loaded), get_theta(saved))


def test_architecture_comes_from_a_keras_file_if_that_is_wanted(tmp_path: Path) -> None:
    saved = random_network(width=4, depth=2)
    saved.save(tmp_path / "net.keras")
    loaded = take_network_file(tmp_path / "net.keras")
    assert parameter_layout(loaded) == parameter_layout(saved)


def doubling() -> Any:
    model = keras.Sequential([keras.Input((2,)), layers.Lambda(lambda x: 2 * x), layers.Dense(1)])
    return model


def test_keras_file_with_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lambda.keras"
    doubling().save(path)
    with pytest.raises(ModelError, match=r"lambda.keras cannot be loaded .*Lambda"):
        load_weights_file(path, network())


@pytest.mark.parametrize("ending", [".keras", ".weights.h5"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_damaged_weights_file_is_refused(tmp_path: Path, ending: str, share: float) -> None:
    path = tmp_path / f"net{ending}"
    model = random_network()
    (model.save if ending == ".keras" else model.save_weights)(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ModelError, match=f"net{ending} cannot be loaded"):
        load_weights_file(path, network())


@pytest.mark.parametrize("other", [{"width": 4}, {"depth": 2}, {"outputs": 2}])
def test_weights_of_another_architecture_are_refused(tmp_path: Path, other: dict[str, int]) -> None:
    path = tmp_path / "net.weights.h5"
    random_network().save_weights(path)
    with pytest.raises(ModelError, match="cannot be loaded into this problem's network"):
        load_weights_file(path, network(**other))


@pytest.mark.parametrize("name", ["net.h5", "net.npz", "net"])
def test_unknown_ending_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(ModelError, match=r"unknown ending; expected .keras or .weights.h5"):
        load_weights_file(tmp_path / name, network())


def test_missing_weights_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none.keras does not exist"):
        load_weights_file(tmp_path / "none.keras", network())


def test_theta_of_another_length_is_refused() -> None:
    with pytest.raises(ModelError, match="has 13 trainable parameters, but 12 were given"):
        set_theta(network(), np.zeros(12))


def test_model_is_rebuilt_from_its_config() -> None:
    model = random_network(depth=2)
    config = model_config(model)
    assert config is not None
    rebuilt = model_from_config(config)
    set_theta(rebuilt, get_theta(model))
    assert parameter_layout(rebuilt) == parameter_layout(model)
    assert np.array_equal(rebuilt(POINTS).numpy(), model(POINTS).numpy())


def test_model_with_code_has_no_config() -> None:
    assert model_config(doubling()) is None


SHAPES = [("a/kernel", (2, 3)), ("a/bias", (3,)), ("gain", ()), ("b/c/kernel", (2, 1, 2))]


def test_labels_number_every_entry() -> None:
    labels = ParameterLayout.of(SHAPES).labels()
    layer_of = [0, 0, 1, 2]
    rows = [
        (layer_of[variable], variable, index)
        for variable, (_, shape) in enumerate(SHAPES)
        for index, _ in enumerate(itertools.product(*map(range, shape)))
    ]
    for column, name in enumerate(("layer", "variable", "index")):
        assert labels[name].dtype == np.int32
        assert labels[name].tolist() == [row[column] for row in rows]


def test_description_names_the_weight_that_an_entry_moves() -> None:
    model = network(depth=2)
    layout = parameter_layout(model)
    for row, unit in enumerate(np.eye(layout.num_params)):
        set_theta(model, unit)
        for weight in model.trainable_weights:
            for index in np.argwhere(weight.numpy()):
                path = weight.path.removeprefix("mlp/")
                assert layout.describe(row) == f"{path}{index.tolist()}"


def test_layers_are_in_the_order_of_theta() -> None:
    layout = ParameterLayout.of(SHAPES)
    assert layout.layers() == ["a", "", "b/c"]
    assert [layout.layer_start(row) for row in range(layout.num_params)] == [0] * 9 + [2] + [3] * 4
    assert ParameterLayout.from_json(layout.to_json()) == layout


@pytest.mark.parametrize("shapes", [[], [("a/kernel", (0, 3))]])
def test_layout_without_entries_is_refused(shapes: list[Any]) -> None:
    with pytest.raises(ModelError, match="no trainable weights"):
        ParameterLayout.of(shapes)


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", r"has no 'problem'"),
        ("problem = 3", r"gives a int, no Problem"),
        ("import nowhere_at_all", r"failed at line 1: ModuleNotFoundError"),
        ("def problem():\n    return 1 / 0", r"Building the problem of .* failed: ZeroDivision"),
        ("problem = (", r"SyntaxError"),
    ],
)
def test_mistakes_in_a_problem_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ProblemError, match=message):
        ProblemSource(str(tmp_path / "mine.py")).load()


def test_sources_that_are_not_there() -> None:
    with pytest.raises(ProblemError, match=r"no built-in problem 'pois'.*one of: biharmonic"):
        ProblemSource("pois").check()
    with pytest.raises(ProblemError, match=r"none.py cannot be read"):
        ProblemSource("none.py").check()
    with pytest.raises(ProblemError, match=r"has no option 'widt'; its options are width"):
        ProblemSource("poisson", {"widt": 3}).load()


def test_integer_points_have_derivatives() -> None:
    # TensorFlow's derivative with respect to an integer is zero, and no error.
    def slope(points: Any) -> Problem:
        return Problem(model, [ResidualTerm("pde", points, lambda x, u: u.d("x"))], "xy")

    model = random_network()
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

"""What a problem may be, and what is said of one that may not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from hessian_tasks import BlockRow, LossTerm, ParameterLayout, Problem, ProblemError, ResidualTerm
from hessian_tasks.autodiff import AutodiffEngine
from hessian_tasks.errors import ModelError
from hessian_tasks.loss import losses_and_gradient, required_derivatives
from hessian_tasks.models import (
    dtype_of,
    get_theta,
    load_weights_file,
    model_config,
    parameter_layout,
    resolve_model,
)
from hessian_tasks.problems.networks import mlp
from hessian_tasks.source import ProblemSource

POINTS = np.linspace(-1, 1, 10).reshape(5, 2)


def residual_problem(residual: Callable[[Any, Any], Any], num_outputs: int = 1) -> Problem:
    model = mlp(2, num_outputs, width=3, depth=1, dtype="float64")
    return Problem(model, [ResidualTerm("pde", POINTS, residual)], coordinates="xy")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Problem(None, []), r"no loss terms"),
        (lambda: ResidualTerm("a-b", POINTS, len), r"'a-b' cannot name the loss term"),
        (lambda: ResidualTerm("a", [[np.nan]], len), r"NaN or infinite values in the points.*'a'"),
        (lambda: ResidualTerm("a", [1.0, 2.0], len), r"shape \(2,\); expected \[N, d\]"),
        (lambda: ResidualTerm("a", np.zeros((0, 2)), len), r"shape \(0, 2\); expected"),
        (lambda: ResidualTerm("a", POINTS, len, weight=np.inf), r"weight of term 'a' is inf"),
        (lambda: LossTerm("a", len, data={"b c": POINTS}), r"'b c' cannot name the array of term"),
        (lambda: LossTerm("a", len, data={"b": [np.inf]}), r"in 'b' of term 'a'"),
        (lambda: Problem(None, [LossTerm("a", len)] * 2), r"share a name: \['a', 'a'\]"),
        (lambda: Problem(None, [LossTerm("a", len)], "xx"), r"coordinates share a name"),
        (
            lambda: Problem(None, [ResidualTerm("a", POINTS, len)], "xyz"),
            r"have 2 columns, but the problem has 3 coordinates: x, y, z",
        ),
    ],
)
def test_mistakes_in_a_declaration(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        make()


@pytest.mark.parametrize(
    ("residual", "message"),
    [
        (lambda x, u: u.d("z"), r"'z' is not a coordinate; the coordinates are \['x', 'y'\]"),
        (lambda x, u: u.d("xxxxx"), r"order 5; derivatives up to order 4"),
        (lambda x, u: u[1].value, r"output 1 of a network with 1"),
        (lambda x, u: u.value - x[:, 0], r"shape \(5, 5\) at 5 points.*x\[:, 0:1\]"),
        (lambda x, u: tf.reduce_sum(u.value), r"shape \(\) at 5 points"),
        (lambda x, u: u.value.numpy(), r"Term 'pde' failed: AttributeError"),
        (lambda x, u: tf.math.log(-tf.square(u.value)), r"loss of term 'pde' is nan"),
    ],
)
def test_mistakes_in_a_residual(residual: Callable[[Any, Any], Any], message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        losses_and_gradient(residual_problem(residual))


def test_loss_must_be_a_scalar() -> None:
    model = mlp(2, width=3, depth=1)
    problem = Problem(model, [LossTerm("fit", lambda m: m(tf.constant(POINTS, "float32")))])
    with pytest.raises(ProblemError, match=r"loss of term 'fit' has shape \(5, 1\); expected"):
        losses_and_gradient(problem)


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
    term = problem.terms[0]
    assert isinstance(term, ResidualTerm)
    assert required_derivatives(problem, term) == ["", "x", "xx", "xyy"]


def test_components_of_a_residual_are_averaged() -> None:
    listed = residual_problem(lambda x, u: [u[0].value, u[1].d("x")], num_outputs=2)
    joined = residual_problem(
        lambda x, u: tf.concat([u[0].value, u[1].d("x")], axis=1), num_outputs=2
    )
    assert losses_and_gradient(listed)[0] == losses_and_gradient(joined)[0]


def test_unknown_term_is_refused() -> None:
    engine = AutodiffEngine(residual_problem(lambda x, u: u.value))
    with pytest.raises(ProblemError, match=r"no loss term 'bc'; the terms are pde"):
        engine.block_row(BlockRow(0, 0, 4), term="bc")


def test_models_that_cannot_be_used() -> None:
    frozen = mlp(2, width=2)
    frozen.trainable = False
    mixed = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(2, dtype="float64"), keras.layers.Dense(1)]
    )
    half = mlp(2, width=2, dtype="float16")
    with pytest.raises(ModelError, match=r"no trainable weights"):
        parameter_layout(frozen)
    with pytest.raises(ModelError, match=r"dtypes \['float32', 'float64'\]"):
        dtype_of(mixed)
    with pytest.raises(ModelError, match=r"dtypes \['float16'\]; expected all float32"):
        dtype_of(half)
    with pytest.raises(ModelError, match=r"is not built"):
        resolve_model(keras.Sequential([keras.layers.Dense(1)]))
    with pytest.raises(ModelError, match=r"is a int; expected a Keras model"):
        resolve_model(3)
    with pytest.raises(ModelError, match=r"factory returned a str"):
        resolve_model(lambda: "model")


@pytest.mark.parametrize("ending", [".keras", ".weights.h5"])
def test_saved_weights_come_back(tmp_path: Path, ending: str) -> None:
    trained, fresh = mlp(2, width=3, seed=1), mlp(2, width=3, seed=2)
    path = tmp_path / f"trained{ending}"
    trained.save(path) if ending == ".keras" else trained.save_weights(path)
    loaded = load_weights_file(path, lambda: fresh)
    np.testing.assert_array_equal(get_theta(loaded), get_theta(trained))
    assert parameter_layout(loaded) == parameter_layout(trained)


def test_weights_files_that_cannot_be_loaded(tmp_path: Path) -> None:
    lambda_layer = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: 2 * x)])
    lambda_layer.save(tmp_path / "lambda.keras")
    mlp(2, width=5).save_weights(tmp_path / "wide.weights.h5")
    (tmp_path / "damaged.keras").write_bytes(b"PK no archive")
    (tmp_path / "weights.npz").write_bytes(b"")
    for name, message in [
        ("lambda.keras", r"lambda.keras cannot be loaded"),
        ("wide.weights.h5", r"wide.weights.h5 cannot be loaded into this problem's network"),
        ("damaged.keras", r"damaged.keras cannot be loaded"),
        ("weights.npz", r"unknown ending; expected .keras or .weights.h5"),
        ("missing.keras", r"missing.keras does not exist"),
    ]:
        with pytest.raises(ModelError, match=message):
            load_weights_file(tmp_path / name, mlp(2, width=3))


def test_models_without_a_safe_config_are_left_to_their_factory() -> None:
    lambda_layer = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(1), keras.layers.Lambda(lambda x: 2 * x)]
    )
    assert model_config(lambda_layer) is None
    assert model_config(mlp(2, width=3)) is not None


def test_labels_name_every_parameter() -> None:
    model = mlp(2, width=3, depth=1)
    layout = parameter_layout(model)
    labels, row = layout.labels(), 0
    for position, weight in enumerate(model.trainable_weights):
        for index in range(int(np.prod(weight.shape))):
            assert layout.layers()[labels["layer"][row]] == weight.path.split("/")[1]
            assert (labels["variable"][row], labels["index"][row]) == (position, index)
            inside = ", ".join(str(i) for i in np.unravel_index(index, weight.shape))
            assert layout.describe(row) == f"{'/'.join(weight.path.split('/')[1:])}[{inside}]"
            row += 1
    assert row == layout.num_params
    assert ParameterLayout.from_json(layout.to_json()) == layout


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

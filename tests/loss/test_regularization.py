"""Regularisers of the network are a term of the loss, seen by everything that sees the loss."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from hessian_tasks import LossTerm, Problem, ResidualTerm
from hessian_tasks.errors import ProblemError
from hessian_tasks.loss import losses_and_gradient
from hessian_tasks.loss.regularization import with_regularization
from hessian_tasks.rebuild import freeze, rebuild
from hessian_tasks.source import LIVE, ProblemSource
from pipeline import RunOptions, compute_hessian, open_store, verify_hessian
from pipeline.training import train
from tests.helpers.chosen import some_slow
from tests.helpers.runs import Cli

POINTS = np.random.default_rng(0).uniform(-1, 1, (6, 2))
KERNEL, BIAS = 8, 4  # weights of the regularised layer


def network(regularizer: Any, **options: Any) -> Any:
    keras.utils.set_random_seed(3)
    dense = keras.layers.Dense
    return keras.Sequential(
        [
            keras.Input((2,), dtype="float64"),
            dense(4, "tanh", kernel_regularizer=regularizer, dtype="float64", **options),
            dense(1, dtype="float64"),
        ]
    )


def pde() -> ResidualTerm:
    return ResidualTerm("pde", POINTS, lambda x, u: u.d("xx") + u.d("y") - 1)


def problem(regularizer: Any, *terms: LossTerm, **options: Any) -> Problem:
    return Problem(network(regularizer, **options), [pde(), *terms], coordinates="xy")


def square(model: Any) -> Any:
    return tf.reduce_mean(tf.square(model(tf.constant(POINTS))))


@pytest.mark.parametrize(
    ("regularizer", "curvature"),
    some_slow([("L2", 1.5), ("L1", 0.0)], ["L2"]),
    ids=["L2", "L1"],
)
def test_the_term_has_its_hessian(tmp_path: Path, regularizer: str, curvature: float) -> None:
    """Of λ Σ w² it is 2 λ I on the kernel, of λ Σ |w| it is 0: both exactly."""
    declared = problem(getattr(keras.regularizers, regularizer)(0.75))
    found = compute_hessian(declared, tmp_path / "h.zarr", options=RunOptions(per_term=True))
    size = found.sizes["row"]
    expected = np.zeros((size, size))
    expected[range(KERNEL), range(KERNEL)] = curvature
    np.testing.assert_array_equal(found.hessian_regularization, expected)
    plain = compute_hessian(problem(None), tmp_path / "p.zarr")
    # Sums of the same numbers in another order.
    np.testing.assert_allclose(found.hessian, plain.hessian + expected, rtol=0, atol=1e-13)
    slope = np.zeros(size)
    kernel = declared.model.layers[0].kernel.numpy().reshape(-1)
    slope[:KERNEL] = 1.5 * kernel if curvature else 0.75 * np.sign(kernel)
    np.testing.assert_allclose(found.gradient, plain.gradient + slope, rtol=0, atol=1e-13)
    assert verify_hessian(tmp_path / "h.zarr", declared).passed


def test_the_loss_is_that_of_keras() -> None:
    declared = with_regularization(
        problem(keras.regularizers.L1L2(0.1, 0.2), bias_regularizer="l2")
    )
    losses, _ = losses_and_gradient(declared)
    expected = sum(float(loss) for loss in declared.model.losses)
    assert losses["regularization"] == pytest.approx(expected, rel=1e-15)
    # Doing it twice, as after training, adds nothing.
    assert with_regularization(declared) is declared


def test_a_frozen_layer_has_none() -> None:
    declared = problem("l2")
    declared.model.layers[0].trainable = False
    assert declared.model.losses == []
    assert with_regularization(declared) is declared


def own_losses(model: Any) -> Any:
    return square(model) + sum(model.losses)


def own_call(model: Any) -> Any:
    layer = model.layers[0]
    return square(model) + layer.kernel_regularizer(layer.kernel)


@pytest.mark.parametrize("loss", [own_losses, own_call])
def test_what_a_term_adds_itself_counts_once(loss: Callable[[Any], Any]) -> None:
    declared = problem("l2", LossTerm("own", loss))
    regularizer = declared.model.layers[0].kernel_regularizer
    assert [term.name for term in with_regularization(declared).terms] == ["pde", "own"]
    # Nothing stays of what has watched.
    assert declared.model.layers[0].kernel_regularizer is regularizer
    assert declared.model.layers[0].kernel.regularizer is regularizer
    losses, _ = losses_and_gradient(with_regularization(declared))
    assert losses["own"] == pytest.approx(float(own_losses(declared.model)), rel=1e-14)


def test_what_is_half_counted_or_ambiguous_is_refused() -> None:
    half = problem("l2", LossTerm("own", own_call), bias_regularizer="l2")
    with pytest.raises(ProblemError, match=r"not those of .*bias"):
        with_regularization(half)
    named = problem("l2", LossTerm("regularization", square))
    with pytest.raises(ProblemError, match="has another term of that name"):
        with_regularization(named)


@keras.saving.register_keras_serializable("test_regularization")
class Penalised(keras.layers.Layer):
    def call(self, inputs: Any) -> Any:
        self.add_loss(tf.reduce_mean(tf.square(inputs)))
        return inputs


def test_losses_at_points_are_refused_by_the_layer_or_counted_by_a_term(tmp_path: Path) -> None:
    active = network(None, activity_regularizer="l2", name="active")
    added = keras.Sequential([*network(None).layers, Penalised(dtype="float64", name="penalised")])
    added.build((None, 2))
    for model, layer in ((active, "active"), (added, "penalised")):
        for terms in ([pde()], [LossTerm("fit", square)]):
            with pytest.raises(ProblemError, match=rf"Layer '{layer}' adds a loss of its own"):
                compute_hessian(Problem(model, terms, "xy"), tmp_path / "h.zarr")
    losses, _ = losses_and_gradient(Problem(active, [LossTerm("own", own_losses)]))
    assert losses["own"] == pytest.approx(float(own_losses(active)), rel=1e-14)
    assert losses["own"] > float(square(active))


def test_gauss_newton_has_the_second_derivatives_of_the_regularisers(tmp_path: Path) -> None:
    parts = []
    for regularizer in (None, keras.regularizers.L2(0.125)):
        options = RunOptions(engine="ggn")
        path = tmp_path / f"{len(parts)}.zarr"
        parts.append(compute_hessian(problem(regularizer), path, options=options).ggn.to_numpy())
    expected = np.zeros(len(parts[0]))
    expected[:KERNEL] = 0.25
    scale = np.abs(parts[1]).max()
    np.testing.assert_allclose(parts[1] - parts[0], np.diag(expected), rtol=0, atol=1e-14 * scale)


def test_training_and_rebuilding_see_it() -> None:
    declared = problem(keras.regularizers.L2(0.125))
    frozen = freeze(declared, ProblemSource(LIVE, live=declared))
    assert [term.name for term in rebuild(frozen).terms] == ["pde", "regularization"]
    result = train(declared, adam_steps=20, lbfgs_steps=20)
    assert result.loss < frozen.loss
    penalty = 0.125 * float(np.sum(np.square(declared.model.layers[0].kernel.numpy())))
    assert result.losses["regularization"] == pytest.approx(penalty, rel=1e-12)
    _, gradient = losses_and_gradient(result.problem)
    _, part = losses_and_gradient(Problem(declared.model, [pde()], "xy"))
    slope = 0.25 * declared.model.layers[0].kernel.numpy().reshape(-1)
    np.testing.assert_allclose((gradient - part)[:KERNEL], slope, rtol=0, atol=1e-14)


FILE = """
import keras, numpy as np
from hessian_tasks import Problem, ResidualTerm

def problem(strength=1.0):
    keras.utils.set_random_seed(0)
    net = keras.Sequential([
        keras.Input((1,), dtype="float64"),
        keras.layers.Dense(3, "tanh", dtype="float64", name="hidden",
                           kernel_regularizer=keras.regularizers.L2(strength)),
        keras.layers.Dense(1, dtype="float64", name="output"),
    ])
    x = np.linspace(-1, 1, 9)[:, None]
    return Problem(net, [ResidualTerm("fit", x, lambda x, u: u.value - x)], coordinates="x")
"""


def test_the_commands_see_it(tmp_path: Path, hessian: Cli) -> None:
    file, store = tmp_path / "own.py", tmp_path / "h.zarr"
    file.write_text(FILE)
    assert hessian("run", file, "--store", store, "--per-term")[0] == 0
    np.testing.assert_array_equal(
        open_store(store).hessian_regularization, np.diag([2.0] * 3 + [0.0] * 7)
    )
    code, output, errors = hessian("verify", store)
    assert code == 0, errors
    code, output, errors = hessian("run", file, "-o", "strength=2.0", "--store", store)
    assert code == 1
    assert "other inputs: problem options, what term regularization reads differ" in errors
    out = tmp_path / "trained.keras"
    code, output, errors = hessian("train", file, "--adam", 5, "--lbfgs", 5, "--out", out)
    assert code == 0, errors
    assert "regularization " in output

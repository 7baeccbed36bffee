"""Layers that keep or draw something beside weights: computed, read from files, or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from hessian_tasks import LossTerm, Problem, ProblemError
from pipeline import compute_hessian
from pipeline.store.store import HessianStore
from tests.helpers.runs import Cli

layers = keras.layers
F64 = {"dtype": "float64"}
NUMBERS = np.random.default_rng(0).uniform(0.0, 1.0, (6, 2))
KEYS = np.array([[3, 5], [9, 7], [1, 3], [5, 5], [7, 2], [3, 3]])
TARGETS = np.random.default_rng(1).uniform(0.0, 1.0, (6, 1))


def squares(model: Any, x: Any, y: Any) -> Any:
    return tf.reduce_mean((model(x) - y) ** 2)


def random_by_default(model: Any, x: Any) -> Any:
    return tf.reduce_mean(model(x) ** 2)


def inference(model: Any, x: Any) -> Any:
    return tf.reduce_mean(model(x, training=False) ** 2)


class Watched(layers.Layer):
    """Passes on what it gets, and keeps the mean of it in a metric."""

    def __init__(self) -> None:
        super().__init__(**F64)
        self.mean = keras.metrics.Mean()

    def call(self, inputs: Any) -> Any:
        self.mean.update_state(inputs)
        return inputs


def compiled() -> Any:
    network = keras.Sequential([
        keras.Input((2,), **F64), layers.Dense(2, "tanh", **F64), layers.Dense(1, **F64),
    ])  # fmt: skip
    metrics = ["mae", keras.metrics.RootMeanSquaredError()]
    network.compile("adam", "mse", metrics=metrics)
    network.fit(NUMBERS, TARGETS, verbose=0)
    return network


def watched() -> Any:
    rest = [layers.Dense(2, "tanh", **F64), Watched(), layers.Dense(1, **F64)]
    return keras.Sequential([keras.Input((2,), **F64), *rest])


def embedding(keys: Any) -> Any:
    inputs = keras.Input((2,), dtype="int64")
    found = layers.Flatten(**F64)(layers.Embedding(5, 1, **F64)(keys(inputs)))
    return keras.Model(inputs, layers.Dense(1, **F64)(found))


NETWORKS: dict[str, tuple[Callable[[], Any], Any]] = {
    "compiled": (compiled, NUMBERS),
    "metric in a layer": (watched, NUMBERS),
    "hashing": (lambda: embedding(layers.Hashing(4)), KEYS),
    "lookup": (lambda: embedding(layers.IntegerLookup(vocabulary=[3, 5, 7])), KEYS),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_hessian_is_that_of_nested_tapes(kind: str, tmp_path: Path) -> None:
    make, x = NETWORKS[kind]
    network = make()
    variables = [weight.value for weight in network.trainable_weights]
    with tf.GradientTape(persistent=True) as outer:
        with tf.GradientTape() as inner:
            loss = squares(network, x, TARGETS)
        slopes = [tf.convert_to_tensor(g) for g in inner.gradient(loss, variables)]
        gradient = tf.concat([tf.reshape(slope, [-1]) for slope in slopes], 0)
    zero = tf.UnconnectedGradients.ZERO
    rows = outer.jacobian(
        gradient, variables, unconnected_gradients=zero, experimental_use_pfor=False
    )
    expected = np.hstack([np.reshape(row, (len(gradient), -1)) for row in rows])
    problem = Problem(network, [LossTerm("fit", squares, data={"x": x, "y": TARGETS})])
    found = compute_hessian(problem, tmp_path / "h.zarr").hessian.to_numpy()
    # Sums of fewer than 100 terms of order one in float64.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def flipping(loss: Any) -> Problem:
    """Of an image whose flips are all the same, so that no two evaluations differ."""
    network = keras.Sequential([
        keras.Input((2, 2, 1), **F64), layers.RandomFlip(name="flip", **F64),
        layers.Flatten(**F64), layers.Dense(1, **F64),
    ])  # fmt: skip
    return Problem(network, [LossTerm("size", loss, data={"x": np.ones((1, 2, 2, 1))})])


def test_a_layer_that_draws_random_numbers_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match=r"loss is random: layer flip \(RandomFlip\) .* draws"):
        compute_hessian(flipping(random_by_default), tmp_path / "h.zarr")
    assert list(tmp_path.iterdir()) == []


def test_a_layer_that_does_not_draw_is_computed(tmp_path: Path) -> None:
    found = compute_hessian(flipping(inference), tmp_path / "h.zarr").hessian.to_numpy()
    # The loss is the square of the sum of all weights.
    np.testing.assert_allclose(found, np.full((5, 5), 2.0), rtol=1e-12)


def test_text_is_asked_for_as_integers() -> None:
    with pytest.raises(ProblemError, match=r"'x' of term 'fit', got dtype <U1\. Give text as int"):
        LossTerm("fit", squares, data={"x": np.array([["a"], ["b"]])})


FILE = """
import keras, numpy as np, tensorflow as tf
from hessian_tasks import LossTerm, Problem

def problem():
    x = np.random.default_rng(0).uniform(0.0, 1.0, (6, 2)).astype("float32")
    bins = keras.layers.Discretization(num_bins=3, output_mode="one_hot")
    bins.adapt(x)
    dense = keras.layers.SpectralNormalization(keras.layers.Dense(2, "tanh"))
    net = keras.Sequential([
        keras.Input((2,)), bins, keras.layers.Flatten(), dense, keras.layers.Dense(1)
    ])
    loss = lambda model, x: tf.reduce_mean((model(x) - 1.0) ** 2)
    return Problem(net, [LossTerm("fit", loss, data={"x": x})])
"""


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_trained_weights_come_back_with_their_state(
    suffix: str, tmp_path: Path, hessian: Cli
) -> None:
    file, weights, store = tmp_path / "p.py", tmp_path / f"w{suffix}", tmp_path / "h.zarr"
    file.write_text(FILE)
    code, output, errors = hessian("train", file, "--adam", "2", "--lbfgs", "1", "--out", weights)
    assert code == 0, errors
    loss = float(output.split("loss ")[-1].split()[0])
    code, output, errors = hessian("run", file, "--weights", weights, "--store", store)
    assert code == 0, errors
    opened = HessianStore(store)
    assert opened.attributes["loss"] == pytest.approx(loss, rel=1e-3)  # it prints four digits
    assert list(opened.attributes["fixed"]["weights"].values()) == [2]

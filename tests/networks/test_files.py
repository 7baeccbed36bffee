"""Networks given, from factories, and from files: what comes back, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from hessian_tasks.errors import ModelError
from hessian_tasks.networks._keras_files import load_weights_file, take_network_file
from hessian_tasks.networks.architecture import model_config, model_from_config
from hessian_tasks.networks.models import (
    dtype_of,
    get_theta,
    parameter_layout,
    resolve_model,
    set_theta,
)
from hessian_tasks.problems.networks import mlp

layers = keras.layers

POINTS = np.random.default_rng(0).uniform(-1.0, 1.0, (5, 2))


def network(width: int = 3, depth: int = 1, outputs: int = 1, dtype: str = "float64") -> Any:
    return mlp(2, outputs, width=width, depth=depth, dtype=dtype)


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

"""Weights from files: the problem says network, dtype and trainable, the file brings values."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from hessian_tasks.errors import ModelError, ProblemError, WeightsWarning
from hessian_tasks.networks._keras_files import load_weights_file, take_network_file
from hessian_tasks.networks.models import dtype_of, get_theta
from hessian_tasks.networks.trainables import resolve
from hessian_tasks.networks.weights import save_values
from hessian_tasks.problem import Problem, ResidualTerm
from hessian_tasks.source import ProblemSource
from pipeline import compute_hessian, matrix_free_operator, open_store, verify_hessian
from pipeline.run.inputs import freeze_source
from tests.helpers.chosen import some_slow
from tests.helpers.runs import Cli
from tests.networks.architectures import F64, MAKES, POINTS, dense, sequential, subclassed

layers = keras.layers

PROBLEM = """
import keras, tensorflow as tf
from hessian_tasks import Problem, ResidualTerm
from hessian_tasks.problems.sampling import *

class Own(keras.Model):
    def __init__(self, dtype="float64"):
        super().__init__(dtype=dtype)
        self.hidden = [keras.layers.Dense(3, "tanh", dtype=dtype) for _ in range(2)]
        self.out = keras.layers.Dense(1, dtype=dtype)

    def call(self, x):
        for layer in self.hidden:
            x = layer(x)
        return self.out(x)

def problem(make="sequential", width=3, activation="tanh", dtype="float64", trainable=True):
    def sequential():
        first = keras.layers.Dense(width, activation, dtype=dtype, trainable=trainable)
        return keras.Sequential(
            [keras.Input((2,), dtype=dtype), first, keras.layers.Dense(1, dtype=dtype)]
        )

    def subclassed():
        model = Own(dtype=dtype)
        model(tf.zeros((1, 2), dtype))
        return model

    points = [[0.1, 0.2], [0.3, -0.5], [-0.7, 0.4]]
    fit = ResidualTerm("fit", points, lambda x, u: u.value - x[:, :1] * x[:, 1:])
    return Problem(sequential if make == "sequential" else subclassed, [fit], "xy")
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    file = tmp_path / "own.py"
    file.write_text(PROBLEM)
    return file


@pytest.mark.parametrize("ending", some_slow(["keras", "weights.h5"], ["keras"]))
@pytest.mark.parametrize("make", ["sequential", "subclassed"])
def test_what_train_writes_a_run_reads(make: str, ending: str, own: Path, hessian: Cli) -> None:
    out, store = own.with_name(f"net.{ending}"), own.with_name("h.zarr")
    code, output, errors = hessian(
        "train", own, "-o", f"make={make}", "--out", out, "--adam", 5, "--lbfgs", 5
    )
    assert (code, errors) == (0, "")
    assert f"saved {out}" in output
    code, _, errors = hessian("run", own, "-o", f"make={make}", "--weights", out, "--store", store)
    assert (code, errors) == (0, "")
    loaded = ProblemSource(str(own), {"make": make}).load().model()
    loaded.load_weights(out)
    assert np.array_equal(open_store(store).theta, get_theta(loaded))
    assert verify_hessian(store).passed


def test_what_train_cannot_read_back_is_not_called_saved(
    own: Path, hessian: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, saved = keras.Model.save_weights, []

    def damage(model: Any, path: Path) -> None:
        save(model, path)
        saved.append(path)
        # Not the first one, which is tried before the training.
        if len(saved) > 1:
            Path(path).write_bytes(b"nothing")

    monkeypatch.setattr(keras.Model, "save_weights", damage)
    out = own.with_name("net.weights.h5")
    code, output, errors = hessian("train", own, "--out", out, "--adam", 1, "--lbfgs", 0)
    assert code == 1
    assert "saved" not in output
    assert f"{out.name} cannot be loaded into this problem's network" in errors
    (kept,) = re.findall(r"The trained weights are kept: --weights (\S+)", errors)
    assert hessian("loss", own, "--weights", kept)[0] == 0


def test_what_keras_cannot_save_is_said_before_training(own: Path, hessian: Cli) -> None:
    own.write_text(PROBLEM.replace('dtype="float64"):\n        super', "dtype):\n        super"))
    out = own.with_name("net.keras")
    code, output, errors = hessian("train", own, "-o", "make=subclassed", "--out", out)
    assert code != 0
    assert "Keras cannot save this network as .keras" in errors
    assert "--out net.weights.h5" in errors
    assert output == ""
    assert not out.exists()


@pytest.mark.parametrize("make", ["sequential", "subclassed"])
@pytest.mark.parametrize("ending", ["keras", "weights.h5"])
def test_dtype_and_trainable_are_the_problems(make: str, ending: str, own: Path) -> None:
    def made(**options: Any) -> Any:
        return ProblemSource(str(own), {"make": make, **options}).load().model()

    saved, path = made(dtype="float32"), own.with_name(f"net.{ending}")
    (saved.save if ending == "keras" else saved.save_weights)(path)
    options = {} if make == "subclassed" else {"trainable": False}
    wanted = made(**options)
    loaded = load_weights_file(path, wanted, 2)
    assert loaded is wanted
    assert dtype_of(loaded) == "float64"
    for weight, value in zip(loaded.weights, saved.weights, strict=True):
        assert np.array_equal(weight.numpy(), value.numpy())
    if options:
        assert len(get_theta(loaded)) == 4  # the output layer alone
        assert len(get_theta(take_network_file(path))) == 13 if ending == "keras" else True


@pytest.mark.parametrize("ending", ["keras", "weights.h5"])
@pytest.mark.parametrize("make", MAKES)
def test_every_make_is_read_again(make: str, ending: str, tmp_path: Path) -> None:
    """Values and what follows from them, such as the scales of a Normalization."""
    saved, path = MAKES[make](), tmp_path / f"net.{ending}"
    for weight in saved.trainable_weights:
        weight.assign(weight + 0.25)
    (saved.save if ending == "keras" else saved.save_weights)(path)
    fresh = MAKES[make]()
    if make == "forgetful config" and ending == "keras":
        with pytest.raises(ModelError, match="computes something else"):
            load_weights_file(path, fresh, 2)
        return
    if make == "Normalization":
        fresh = sequential(layers.Normalization(**F64))
    loaded = load_weights_file(path, fresh, 2)
    assert np.array_equal(get_theta(loaded), get_theta(saved))
    for found, expected in zip(
        keras.tree.flatten(loaded(POINTS)), keras.tree.flatten(saved(POINTS)), strict=True
    ):
        assert np.array_equal(found, expected)


CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "width": ({"width": 4}, r"has dense\w*/kernel \[2, 3\] where .* has dense\w*/kernel \[2, 4\]"),
    "activation": (
        {"activation": "relu"},
        r"computes something else: dense\w* is Dense with tanh there, dense\w* is Dense with relu",
    ),
    "make": ({"make": "subclassed"}, r"has dense\w*/kernel \[3, 1\] where .*/kernel \[3, 3\]"),
}


@pytest.mark.parametrize("case", some_slow(CONTRADICTIONS, ["activation"]))
def test_another_network_is_refused_or_taken_on_purpose(case: str, own: Path, hessian: Cli) -> None:
    options, message = CONTRADICTIONS[case]
    path, store = own.with_name("net.keras"), own.with_name("h.zarr")
    source = ProblemSource(str(own), options)
    saved = ProblemSource(str(own)).load().model()
    saved.save(path)
    wanted = source.load().model()
    before = get_theta(wanted)
    with pytest.raises(ModelError, match=f"{message}.*--take-network"):
        load_weights_file(path, wanted, 2)
    assert np.array_equal(get_theta(wanted), before)
    flags = [f"-o{key}={value}" for key, value in options.items()]
    command = ["run", own, *flags, "--weights", path, "--store", store]
    assert hessian(*command)[0] == 1
    code, _, errors = hessian(*command, "--take-network")
    assert (code, errors) == (0, "")
    taken = compute_hessian(str(own), store.with_name("t.zarr"), weights=path).hessian.to_numpy()
    np.testing.assert_allclose(open_store(store).hessian, taken, rtol=0, atol=1e-12)
    assert verify_hessian(store).passed


def test_a_network_to_take_has_to_be_there(tmp_path: Path) -> None:
    source = ProblemSource("poisson", {"width": 3, "depth": 1})
    with pytest.raises(ProblemError, match=r"give the \.keras file as weights, too"):
        freeze_source(source, take_network=True)
    sequential().save_weights(tmp_path / "net.weights.h5")
    with pytest.raises(ModelError, match="holds no network to take"):
        freeze_source(source, tmp_path / "net.weights.h5", take_network=True)
    subclassed().save(tmp_path / "net.keras")
    with pytest.raises(
        ModelError, match=r"cannot build the network of .* \(Could not locate class"
    ):
        freeze_source(source, tmp_path / "net.keras", take_network=True)


def test_operators_take_networks_too(tmp_path: Path) -> None:
    sequential(dense(5)).save(tmp_path / "net.keras")
    term = ResidualTerm("fit", POINTS, lambda x, u: u.value)
    problem = Problem(sequential(), [term], "xy")
    operator = matrix_free_operator(problem, weights=tmp_path / "net.keras", take_network=True)
    assert operator.shape[0] == 2 * 5 + 5 + 5 * 3 + 3 + 3 + 1


DIFFERENT: dict[str, tuple[Callable[[], Any], Callable[[], Any], str]] = {
    "width": (
        lambda: sequential(dense(4)),
        lambda: sequential(dense(5)),
        r"tensor layers/dense/vars/0 is \[2, 4\] in the file, \[2, 5\] in the network",
    ),
    "depth": (
        lambda: sequential(dense(2)),
        sequential,
        r"tensor layers/dense/vars/0 is \[2, 2\] in the file, \[2, 3\] in the network",
    ),
    "kind": (
        subclassed,
        lambda: sequential(dense(2)),
        r"tensor layers/dense/vars/0 is absent in the file, \[2, 2\] in the network",
    ),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_a_file_that_does_not_fit_says_where(case: str, tmp_path: Path) -> None:
    saved, wanted, message = DIFFERENT[case]
    saved().save_weights(tmp_path / "net.weights.h5")
    with pytest.raises(ModelError, match=message) as caught:
        load_weights_file(tmp_path / "net.weights.h5", wanted())
    assert "\n" not in str(caught.value)


INVERSE = """
import tensorflow as tf
from hessian_tasks import LossTerm, Problem, mlp

def problem(nu=0.3):
    def size(model, nu, source):
        return nu**2 + source[0] + model(tf.ones((1, 1)))[0, 0] ** 2

    parameters = {"nu": nu, "source": [1.0, 2.0]}
    terms = [LossTerm("size", size)]
    return Problem(lambda: mlp(1, width=2, depth=1), terms, parameters=parameters)
"""
STAYING = r"no value of the parameters nu = 0\.3, source = \[1\., 2\.\], which stay .*--out trained"


@pytest.mark.parametrize("take", some_slow([False, True], [True]))
def test_parameters_that_no_value_was_given_of_are_named(
    take: bool, own: Path, hessian: Cli
) -> None:
    own.write_text(INVERSE)
    net = ProblemSource(str(own)).load().model()
    weights, store = own.with_name("net.keras"), own.with_name("h.zarr")
    net.save(weights)
    flags = ["--weights", weights, *(["--take-network"] if take else [])]
    code, _, errors = hessian("run", own, *flags, "--store", store)
    assert code == 0
    assert re.fullmatch(rf"hessian: {re.escape(str(weights))} has {STAYING}.*\n", errors)
    assert np.array_equal(open_store(store).theta[-3:], np.float32([0.3, 1.0, 2.0]))
    with pytest.warns(WeightsWarning, match=STAYING):
        operator = matrix_free_operator(str(own), weights=weights, take_network=take)
    assert operator.shape == (10, 10)


def test_a_file_with_values_of_parameters_needs_no_word(own: Path, hessian: Cli) -> None:
    own.write_text(INVERSE)
    out, store = own.with_name("all.npz"), own.with_name("h.zarr")
    moved = ProblemSource(str(own), {"nu": 0.25}).load()
    save_values(out, resolve(moved).model)
    code, _, errors = hessian("run", own, "--weights", out, "--store", store)
    assert (code, errors) == (0, "")
    assert open_store(store).theta[-3] == 0.25

"""What a loss reads beside what it declares is refused, or told from another time's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from hessian_tasks import LossTerm, Problem, ResidualTerm
from hessian_tasks.errors import ProblemError
from hessian_tasks.loss import compile_losses_and_gradient, losses_and_gradient
from hessian_tasks.problems import burgers
from hessian_tasks.rebuild import freeze
from hessian_tasks.source import LIVE, ProblemSource
from pipeline import compute_hessian
from pipeline.errors import StoreMismatchError
from pipeline.estimates.journal import Journal
from pipeline.store.agreement import differing_inputs
from pipeline.store.store import HessianStore
from tests.helpers.chosen import some_slow
from tests.helpers.forged import forge, make_old
from tests.helpers.runs import Cli, snapshot

POINTS = np.random.default_rng(0).uniform(-1, 1, (6, 2))


def network(dtype: str = "float64") -> Any:
    keras.utils.set_random_seed(3)
    dense = keras.layers.Dense
    hidden = dense(4, "tanh", dtype=dtype, name="hidden")
    last = dense(1, dtype=dtype, name="output")
    return keras.Sequential([keras.Input((2,), dtype=dtype), hidden, last])


def pde(nu: Any, dtype: str = "float64", points: Any = POINTS, weight: float = 1.0) -> Problem:
    def residual(x: Any, u: Any) -> Any:
        return u.d("y") - nu * u.d("xx")

    return Problem(
        network(dtype), [ResidualTerm("pde", points, residual, weight)], coordinates="xy"
    )


def digest(problem: Problem) -> str:
    return compile_losses_and_gradient(problem).digests()[problem.terms[0].name]


# ---- trainable variables ------------------------------------------------------------------------


def by_a_function(nu: Any) -> Any:
    return tf.function(lambda u: nu * u)


def by_a_loop(nu: Any) -> Any:
    def scale(u: Any) -> Any:
        start = (tf.constant(0), u)
        return tf.while_loop(
            lambda i, _: i < 2, lambda i, v: (i + 1, tf.reduce_sum(nu * v)), start
        )[1]

    return scale


def by_a_branch(nu: Any) -> Any:
    return lambda u: tf.cond(u > 0, lambda: tf.reduce_sum(nu * u), lambda: u)


READERS: dict[str, Callable[[Any], Any]] = {
    "residual": lambda nu: lambda u: nu * u,
    "function": by_a_function,
    "loop": by_a_loop,
    "branch": by_a_branch,
}


@pytest.mark.parametrize("reader", some_slow(READERS, ["residual", "loop"]))
@pytest.mark.parametrize("kind", ["tensorflow", "keras", "network"])
def test_a_trainable_variable_beside_the_network_is_refused(
    tmp_path: Path, kind: str, reader: str
) -> None:
    variable: Any
    if kind == "tensorflow":
        variable, name, shape = tf.Variable(0.5, name="nu", dtype=tf.float64), "nu", "()"
    elif kind == "keras":
        variable, name, shape = keras.Variable([0.5], name="nu", dtype="float64"), "nu", "(1,)"
    else:
        variable = network().layers[0].kernel
        name, shape = variable.path, "(2, 4)"
    scale = READERS[reader](variable)
    loss = LossTerm("fit", lambda model: tf.reduce_sum(scale(tf.reduce_sum(model(POINTS)))))
    with pytest.raises(ProblemError) as caught:
        compute_hessian(Problem(network(), [loss]), tmp_path / "h.zarr")
    message = str(caught.value)
    assert f"Term 'fit' reads the trainable variable '{name}' of shape {shape}" in message
    assert "trainable=False, or a number" in message
    assert not (tmp_path / "h.zarr").exists()


def test_what_is_held_fixed_is_taken(tmp_path: Path) -> None:
    """A frozen network beside this one, a fixed variable, and a frozen layer of its own."""
    other = network()
    other.trainable = False
    nu = tf.Variable(0.5, trainable=False, dtype=tf.float64)
    own = network()
    own.layers[0].trainable = False
    declared = Problem(
        own,
        [ResidualTerm("pde", POINTS, lambda x, u: u.value - nu * other(x))],
        coordinates="xy",
    )
    found = compute_hessian(declared, tmp_path / "h.zarr")
    features = np.c_[np.tanh(POINTS @ own.layers[0].kernel.numpy()), np.ones(len(POINTS))]
    expected = 2 * features.T @ features / len(POINTS)
    np.testing.assert_allclose(found.hessian, expected, rtol=1e-13)
    # Both are inputs all the same.
    for variable in (nu, other.layers[1].bias):
        before = digest(declared)
        variable.assign(variable + 0.25)
        assert digest(declared) != before


# ---- digests ------------------------------------------------------------------------------------


def test_digests_tell_values_and_not_traces() -> None:
    assert digest(pde(0.01)) == digest(pde(0.01))
    assert digest(pde(0.01, "float32")) != digest(pde(0.0100001, "float32"))
    captured = np.linspace(0.0, 1.0, 600).reshape(6, 100)
    for values in (captured, tf.constant(captured), tf.Variable(captured, trainable=False)):
        fit = LossTerm("fit", lambda model, y=values: tf.reduce_sum(y * model(POINTS)))
        # However it is captured, it is the same array.
        assert digest(Problem(network(), [fit])) == digest_of(captured)
        assert digest(Problem(network(), [fit])) != digest_of(captured + np.eye(6, 100))


@pytest.mark.parametrize("nu", [0.5, np.float64(0.5)])
def test_a_captured_number_is_the_same_as_a_tensor(nu: Any) -> None:
    assert digest(pde(nu)) == digest(pde(tf.constant(0.5, tf.float64)))


def digest_of(captured: Any) -> str:
    fit = LossTerm("fit", lambda model: tf.reduce_sum(captured * model(POINTS)))
    return digest(Problem(network(), [fit]))


@pytest.mark.parametrize("reader", ["function", "loop", "branch"])
def test_digests_see_into_functions(reader: str) -> None:
    def found(nu: float) -> str:
        scale = READERS[reader](nu)
        return digest(
            Problem(network(), [LossTerm("fit", lambda m: scale(tf.reduce_sum(m(POINTS))))])
        )

    assert found(0.5) == found(0.5)
    assert found(0.5) != found(0.25)


def test_labels_are_seen_and_declared_arrays_and_weights_are_not() -> None:
    def found(labels: Any) -> str:
        indices = tf.constant(labels)
        fit = LossTerm("fit", lambda model: tf.reduce_sum(tf.gather(model(POINTS), indices)))
        return digest(Problem(network(), [fit]))

    classes = np.arange(12) % 3
    assert found(classes) != found(classes[::-1].copy())
    # These have labels of their own in a fingerprint.
    assert digest(pde(0.5)) == digest(pde(0.5, points=POINTS[::-1], weight=3.0))


SCRIPT = """
import sys
from hessian_tasks.process import configure_tensorflow
configure_tensorflow(int(sys.argv[1]))
from hessian_tasks.problems import burgers
from hessian_tasks.loss import compile_losses_and_gradient
problem = burgers.problem(width=4, depth=2)
print(sorted(compile_losses_and_gradient(problem).digests().items()))
"""


def test_digests_agree_between_processes_and_threads() -> None:
    """This process has two threads, and another seed for the order of sets."""
    command = [sys.executable, "-c", SCRIPT, "1"]
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    here = compile_losses_and_gradient(burgers.problem(width=4, depth=2)).digests()
    assert done.stdout.strip() == str(sorted(here.items()))
    assert len(here) > 1


# ---- stores -------------------------------------------------------------------------------------


def test_a_complete_store_refuses_another_problem(tmp_path: Path) -> None:
    store = tmp_path / "h.zarr"
    compute_hessian(pde(0.01), store)
    before = snapshot(store)
    with pytest.raises(StoreMismatchError, match=r"what term pde reads differs.*left as it was"):
        compute_hessian(pde(1.0), store)
    compute_hessian(pde(0.01), store)
    assert snapshot(store) == before


def forget_reads(group: Path) -> None:
    """As if it had been made before anything was recorded of what terms read."""

    def edit(attributes: dict[str, Any]) -> None:
        prints = attributes["fingerprint"].items()
        kept = {label: value for label, value in prints if not label.startswith("what term")}
        attributes["fingerprint"] = kept

    forge(group, edit)
    make_old(group)


def test_an_older_store_is_held_against_losses_and_gradient(tmp_path: Path) -> None:
    store = tmp_path / "h.zarr"
    compute_hessian(pde(0.01), store)
    forget_reads(store)
    compute_hessian(pde(0.01), store)
    with pytest.raises(StoreMismatchError, match=r"loss term 'pde' is .* was recorded.*left as"):
        compute_hessian(pde(1.0), store)


def test_a_gradient_alone_tells_two_problems_apart(tmp_path: Path) -> None:
    """The same losses and constants, but one of them holds a part of the network fixed."""

    def fit(held: bool) -> Problem:
        def loss(model: Any) -> Any:
            values = model(POINTS)
            return tf.reduce_sum(values * (tf.stop_gradient(values) if held else values))

        return Problem(network(), [LossTerm("fit", loss)])

    store = tmp_path / "h.zarr"
    compute_hessian(fit(False), store)
    with pytest.raises(StoreMismatchError, match="the gradient of the loss has norm"):
        compute_hessian(fit(True), store)


def test_rounding_is_no_difference(tmp_path: Path) -> None:
    store = tmp_path / "h.zarr"
    compute_hessian(pde(0.01), store)
    declared = pde(0.01)
    frozen = freeze(declared, ProblemSource(LIVE, live=declared))
    assert differing_inputs(HessianStore(store), frozen) == ""
    object.__setattr__(frozen, "gradient", frozen.gradient * (1 + 1e-14))
    assert differing_inputs(HessianStore(store), frozen) == ""
    object.__setattr__(frozen, "gradient", frozen.gradient * (1 + 1e-9))
    assert "gradient" in differing_inputs(HessianStore(store), frozen)


def test_a_journal_is_held_against_losses_and_gradient(tmp_path: Path) -> None:
    def journal(nu: float) -> Journal:
        declared = pde(nu)
        frozen = freeze(declared, ProblemSource(LIVE, live=declared))
        return Journal(tmp_path / "e.zarr", {"theta": "1f"}, {}, "xtrace", frozen.evaluated)

    journal(0.01).recording(lambda vectors: vectors)(np.ones((3, 1)))
    assert journal(0.01).recording(lambda vectors: 2 * vectors)(np.ones((3, 1)))[0, 0] == 1
    with pytest.raises(StoreMismatchError, match="other inputs: loss term 'pde' is"):
        journal(1.0)


# ---- problem files ------------------------------------------------------------------------------

FILE = """
from pathlib import Path
import keras, numpy as np
from hessian_tasks import Problem, ResidualTerm
import helper
from tools.scaling import scale

def problem():
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense
    net = keras.Sequential([keras.Input((1,)), dense(3, "tanh", name="h"), dense(1, name="o")])
    y = np.load(Path(__file__).with_name("measured.npy")).astype("float32")
    x = np.linspace(-1, 1, 9)[:, None]
    residual = lambda x, u: helper.NU * u.d("xx") - scale(y)
    return Problem(net, [ResidualTerm("pde", x, residual)], coordinates="x")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tools").mkdir()
    (tmp_path / "own.py").write_text(FILE)
    (tmp_path / "helper.py").write_text("import unused\nNU = 0.50\n")
    (tmp_path / "unused.py").write_text("")
    (tmp_path / "other.py").write_text("")
    (tmp_path / "tools" / "__init__.py").write_text("")
    (tmp_path / "tools" / "scaling.py").write_text("from .factors import F\nscale = lambda y: F*y")
    (tmp_path / "tools" / "factors.py").write_text("F = 2.0\n")
    np.save(tmp_path / "measured.npy", np.linspace(0, 1, 9)[:, None])
    return tmp_path


def test_imported_files_are_found(folder: Path) -> None:
    source = ProblemSource(str(folder / "own.py"))
    expected = ["helper", "tools", "tools.factors", "tools.scaling", "unused"]
    assert list(source.imports) == expected


CHANGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "helper": (lambda f: (f / "helper.py").write_text("NU = 0.25\n"), "imported file helper"),
    "package": (
        lambda f: (f / "tools" / "factors.py").write_text("F = 3.0\n"),
        "imported file tools.factors",
    ),
    "data": (
        lambda f: np.save(f / "measured.npy", np.linspace(0, 2, 9)[:, None]),
        "what term pde reads differs",
    ),
}


@pytest.mark.parametrize("change", some_slow(CHANGES, ["data"]))
def test_what_a_problem_file_reads_is_an_input(folder: Path, hessian: Cli, change: str) -> None:
    file, store = folder / "own.py", folder / "h.zarr"
    estimates = folder / "e.zarr"
    assert hessian("run", file, "--store", store)[0] == 0
    assert hessian("estimate", file, "--pairs", 1, "--store", estimates)[0] == 0
    assert hessian("run", file, "--store", store)[0] == 0
    assert hessian("verify", store)[0] == 0
    before = snapshot(store)
    alter, said = CHANGES[change]
    alter(folder)
    for command in (["run", file, "--store", store], ["estimate", file, "--store", estimates]):
        code, _, errors = hessian(*command)
        assert (code, errors.count("\n")) == (1, 1), errors
        assert said in errors
    # By the store's own word for its problem as well.
    code, _, errors = hessian("run", "--store", store)
    assert code == 1
    assert snapshot(store) == before
    # What is run now is what the files say now.
    second = folder / "second.zarr"
    assert hessian("run", file, "--store", second)[0] == 0
    done = subprocess.run(
        [sys.executable, "-c", "from pipeline.cli import main; main()", "verify", str(second)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_changed_helper_has_to_be_named_again(folder: Path, hessian: Cli) -> None:
    file, store = folder / "own.py", folder / "h.zarr"
    assert hessian("run", file, "--store", store)[0] == 0
    (folder / "helper.py").write_text("NU = 0.50  # the same value\n")
    code, _, errors = hessian("verify", store)
    assert code == 1
    assert "has changed since you last named it" in errors
    assert hessian("verify", store, "--problem", file)[0] == 0


def test_each_folder_has_its_own_helper(folder: Path, tmp_path_factory: Any) -> None:
    """Also in one process, one after the other, where modules are kept by name."""
    other = tmp_path_factory.mktemp("other") / "own"
    shutil.copytree(folder, other)
    (other / "helper.py").write_text("NU = 2.0\n")
    first, second = (ProblemSource(str(place / "own.py")) for place in (folder, other))
    losses = [losses_and_gradient(s.load())[0]["pde"] for s in (first, second, first)]
    assert losses[0] == losses[2] != losses[1]


def test_a_module_of_that_name_from_elsewhere_is_left_alone(folder: Path) -> None:
    (folder / "json.py").write_text("raise ImportError('shadowed')\n")
    (folder / "own.py").write_text(FILE + "import json\n")
    before = sys.modules["json"]
    ProblemSource(str(folder / "own.py")).load()
    assert sys.modules["json"] is before


def test_a_network_that_is_built_again_is_the_same(tmp_path: Path) -> None:
    """Keras calls the second one's layers dense_2 and dense_3; the rest is the same."""

    def build() -> Problem:
        keras.utils.set_random_seed(1)
        dense = [
            keras.layers.Dense(2, "tanh", dtype="float64"),
            keras.layers.Dense(1, dtype="float64"),
        ]
        model = keras.Sequential([keras.Input((1,), dtype="float64"), *dense])
        return Problem(model, [ResidualTerm("fit", [[0.1], [0.5]], lambda x, u: u.d("x"))], "x")

    first = compute_hessian(build(), tmp_path / "h.zarr").hessian.to_numpy()
    events: list[Any] = []
    again = compute_hessian(build(), tmp_path / "h.zarr", callbacks=[events.append])
    assert np.array_equal(again.hessian.to_numpy(), first)
    assert events[-1].num_computed == 0

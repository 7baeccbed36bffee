"""The Hessian with respect to some of the weights: a part of the whole one, by another path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from hessian_tasks.autodiff import AutodiffEngine, hessian_vector_product
from hessian_tasks.autodiff.generalised import gauss_newton_vector_product
from hessian_tasks.autodiff.linearised import jacobian_vector_product
from hessian_tasks.autodiff.matrices import AutodiffJacobian
from hessian_tasks.autodiff.products import ShardProducts, cut_points
from hessian_tasks.errors import ProblemError
from hessian_tasks.gauss_newton import GaussNewtonEngine
from hessian_tasks.layered.engine import LayeredEngine
from hessian_tasks.layered.gauss_newton import layered_matrices
from hessian_tasks.loss import losses_and_gradient
from hessian_tasks.loss.regularization import with_regularization
from hessian_tasks.networks.models import get_theta, parameter_layout, set_theta
from hessian_tasks.networks.trainables import every_weight, resolve
from hessian_tasks.networks.weights import save_values
from hessian_tasks.problem import LossTerm, Problem, ResidualTerm
from hessian_tasks.problems.networks import mlp
from hessian_tasks.reading import read_terms
from hessian_tasks.source import ProblemSource
from hessian_tasks.spec import GAUSS_NEWTON, HESSIAN, BlockRow
from pipeline import compute_hessian, matrix_free_operator, open_store, verify_hessian
from pipeline.errors import StoreMismatchError
from pipeline.run.cluster.workers import Workers
from pipeline.run.engines import choose_engine
from pipeline.run.inputs import freeze_source
from pipeline.run.options import RunOptions
from pipeline.store.store import HessianStore
from tests.helpers.chosen import some_slow
from tests.helpers.networks import randomise
from tests.helpers.runs import Cli, Run

Array = npt.NDArray[Any]
layers = keras.layers
F64: dict[str, Any] = {"dtype": "float64"}

rng = np.random.default_rng(4)
X = rng.uniform(-1, 1, (7, 2))
Y = rng.normal(size=(7, 1))


def network(width: int = 4, depth: int = 2, seed: int = 3) -> Any:
    return randomise(mlp(2, 1, width=width, depth=depth, **F64), np.random.default_rng(seed))


def inverse(model: Any = None) -> Problem:
    """One network, two parameters, of which a loss term reads one; two residuals."""

    def pde(x: Any, u: Any, nu: Any, source: Any) -> Any:
        return u.d("y") * u.value - nu * u.d("xx") - source[0] * tf.sin(source[1] * x[:, 0:1])

    return Problem(
        network() if model is None else model,
        [
            ResidualTerm("pde", X, pde, weight=0.8),
            ResidualTerm("data", X, lambda x, u, y: u.value - y, data={"y": Y}),
            LossTerm("prior", lambda model, nu: (nu - 0.5) ** 4, weight=0.1),
        ],
        coordinates="xy",
        parameters={"nu": 0.3, "source": [1.0, 2.0]},
    )


def several() -> Problem:
    """Two networks and a parameter; a loss term calls both networks."""

    def pde(x: Any, u: Any, k: Any, scale: Any) -> Any:
        return scale * (k.value * u.d("xx") + k.d("x") * u.d("x")) - tf.sin(x[:, :1])

    def positive(model: Any, k: Any) -> Any:
        return tf.reduce_mean(tf.nn.softplus(-k(X)) * model(X) ** 2)

    return Problem(
        {"u": network(), "k": network(3, 1, 8)},
        [ResidualTerm("pde", X, pde), LossTerm("positive", positive, weight=0.3)],
        coordinates="xy",
        parameters={"scale": 0.7},
    )


def whole(engine: Any) -> Array:
    return np.asarray(engine.block_row(BlockRow(0, 0, engine.layout.num_params)))


def assert_close(found: Array, expected: Array) -> None:
    # A few hundred additions in another order, in float64.
    size = max(np.abs(expected).max(), 1e-3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 * size)


def places(full: Problem, part: Problem) -> Array:
    """Where θ of a part is in θ of the whole problem."""
    names = [variable.path for variable in parameter_layout(part.model).variables]
    table = [v for v in parameter_layout(full.model).variables if v.path in names]
    return np.concatenate([np.arange(v.offset, v.stop) for v in table])


# A layer, a bias behind a frozen kernel, a kernel before a frozen bias, several, parameters.
CHOICES: list[tuple[Callable[[], Problem], Sequence[str] | str, list[str]]] = [
    (inverse, "output", ["output/kernel", "output/bias"]),
    (inverse, "hidden_1", ["hidden_1/kernel", "hidden_1/bias"]),
    (inverse, ["hidden_2/bias"], ["hidden_2/bias"]),
    (
        inverse,
        ["nu", "hidden_2/bias", "hidden_1/kernel", "nu"],
        ["hidden_1/kernel", "hidden_2/bias", "parameters/nu"],
    ),
    (inverse, "parameters", ["parameters/nu", "parameters/source"]),
    (
        several,
        "k",
        ["k/hidden_1/kernel", "k/hidden_1/bias", "k/output/kernel", "k/output/bias"],
    ),
    (
        several,
        ("scale", "u/output", "k/hidden_1/kernel"),
        ["u/output/kernel", "u/output/bias", "k/hidden_1/kernel", "parameters/scale"],
    ),
]

TWO_CHOICES = [choice[:2] for choice in CHOICES[-4::3]]


@cache
def whole_problem(build: Callable[[], Problem]) -> tuple[Problem, Array]:
    """The problem with all of its weights in θ, and its Hessian."""
    full = resolve(build())
    return full, hessian_vector_product(full, np.eye(len(get_theta(full.model))))


@cache
def whole_gauss_newton(build: Callable[[], Problem]) -> tuple[Problem, Array]:
    """Likewise the Gauss-Newton matrix, of the residuals."""
    full = of_residuals(resolve(build()))
    return full, gauss_newton_vector_product(full, np.eye(len(get_theta(full.model))))


def of_residuals(problem: Problem) -> Problem:
    return replace(problem, terms=[t for t in problem.terms if isinstance(t, ResidualTerm)])


@pytest.mark.parametrize(
    ("build", "only", "names"),
    [
        *(pytest.param(*choice, marks=pytest.mark.slow) for choice in CHOICES[:-1]),
        CHOICES[-1],
    ],
)
def test_a_hessian_is_a_part_of_the_whole(
    build: Callable[[], Problem], only: Any, names: list[str]
) -> None:
    (full, matrix), part = whole_problem(build), resolve(replace(build(), only=only))
    assert [v.path for v in parameter_layout(part.model).variables] == names
    at = places(full, part)
    expected = matrix[np.ix_(at, at)]
    layered = LayeredEngine(part)
    assert layered.left_out == {}
    assert_close(whole(layered), expected)
    for row in layered.trial_rows():
        assert_close(layered.block_row(row), expected[row.start : row.stop, row.start :])
    assert_close(whole(AutodiffEngine(part)), expected)


@pytest.mark.parametrize(("build", "only"), some_slow(TWO_CHOICES, [inverse]))
def test_products_and_loss_are_those_of_a_part(build: Callable[[], Problem], only: Any) -> None:
    (full, matrix), part = whole_problem(build), resolve(replace(build(), only=only))
    at = places(full, part)
    products, shards = ShardProducts(part, HESSIAN), cut_points(part, max_batch=3, num_shards=2)
    found = sum(products(shard, np.eye(len(at))) for shard in shards)
    assert_close(found, matrix[np.ix_(at, at)])
    (losses, gradient), (expected, of_all) = map(losses_and_gradient, (part, full))
    assert losses == expected
    assert_close(gradient, of_all[at])


@pytest.mark.parametrize(("build", "only"), some_slow(TWO_CHOICES, [inverse]))
def test_a_gauss_newton_matrix_is_a_part_of_the_whole(
    build: Callable[[], Problem], only: Any
) -> None:
    full, matrix = whole_gauss_newton(build)
    part = of_residuals(resolve(replace(build(), only=only)))
    at = places(full, part)
    expected = matrix[np.ix_(at, at)]
    by_layers = layered_matrices(read_terms(part))
    assert_close(whole(GaussNewtonEngine(part, by_layers, by_layers=True)), expected)
    jacobians = [AutodiffJacobian(part, term) for term in part.terms]
    assert_close(whole(GaussNewtonEngine(part, jacobians, by_layers=False)), expected)
    products, shards = ShardProducts(part, GAUSS_NEWTON), cut_points(part, max_batch=3)
    assert_close(sum(products(shard, np.eye(len(at))) for shard in shards), expected)


def test_a_last_layer_has_a_gram_matrix() -> None:
    """Of mean (φᵀw + b - y)² by (w, b) it is 2 mean (φ, 1)(φ, 1)ᵀ, φ the layer's inputs."""
    model = network()
    term = ResidualTerm("data", X, lambda x, u, y: u.value - y, data={"y": Y})
    features = keras.Model(model.inputs[0], model.get_layer("hidden_2").output)(X).numpy()
    columns = np.hstack([features, np.ones((7, 1))])
    part = resolve(Problem(model, [term], "xy", only="output"))
    assert_close(whole(LayeredEngine(part)), 2 * columns.T @ columns / 7)


class Own(keras.Model):
    """A network of the user's, of which Keras knows no graph."""

    def __init__(self) -> None:
        super().__init__(**F64)
        self.hidden = layers.Dense(3, "tanh", name="hidden", **F64)
        self.last = layers.Dense(1, name="last", **F64)

    def build(self, shape: Any) -> None:
        self.slope = self.add_weight(shape=(), initializer="ones", name="slope")
        super().build(shape)

    def call(self, x: Any) -> Any:
        return self.last(self.hidden(self.slope.value * x))


def subclassed() -> Any:
    model = Own()
    model(tf.constant(X))
    return randomise(model, np.random.default_rng(9))


@pytest.mark.parametrize(
    "only", some_slow(["slope", "hidden", ["last/kernel", "slope"]], [["last/kernel", "slope"]])
)
def test_of_a_subclassed_network_by_plain_tapes(only: Any) -> None:
    model = subclassed()
    loss = LossTerm("fit", lambda net: tf.reduce_mean((net(tf.constant(X)) - Y) ** 4))
    part = resolve(Problem(model, [loss], "xy", only=only))
    variables = [w.value for w in part.model.trainable_weights]
    with tf.GradientTape(persistent=True) as outer:
        with tf.GradientTape() as inner:
            value = tf.reduce_mean((model(tf.constant(X)) - Y) ** 4)
        slopes = [tf.reshape(g, [-1]) for g in inner.gradient(value, variables)]
    blocks = [
        [np.reshape(outer.jacobian(slope, v), (slope.shape[0], -1)) for v in variables]
        for slope in slopes
    ]
    assert_close(whole(LayeredEngine(part)), np.block(blocks))
    assert_close(whole(AutodiffEngine(part)), np.block(blocks))
    assert [v.path for v in parameter_layout(part.model).variables] == {
        "slope": ["slope"],
        "hidden": ["hidden/kernel", "hidden/bias"],
    }.get(str(only), ["slope", "last/kernel"])


class Attention(layers.Layer):
    def build(self, shape: Any) -> None:
        self.attention = layers.MultiHeadAttention(2, 2, **F64)
        self.attention.build(shape, shape)

    def call(self, x: Any) -> Any:
        return self.attention(x, x)


# What the layered engine does not take where it is trained.
FEATURES: dict[str, Callable[[], list[Any]]] = {
    "softmax": lambda: [layers.Dense(3, "softmax", **F64)],
    "normalisation": lambda: [layers.LayerNormalization(**F64)],
    "convolution": lambda: [
        layers.Reshape((6, 1), **F64), layers.Conv1D(2, 3, **F64), layers.Flatten(**F64)
    ],
    "attention": lambda: [
        layers.Reshape((3, 2), **F64), Attention(**F64), layers.Flatten(**F64)
    ],
}  # fmt: skip


def behind(*features: Any) -> Problem:
    layer = partial(layers.Dense, activation="tanh", **F64)
    head = layers.Dense(1, name="head", **F64)
    body = [layer(6), *features, layer(3, name="neck"), head]
    model = keras.Sequential([keras.Input((2,), **F64), *body])
    pde = ResidualTerm("pde", X, lambda x, u: u.d("xx") + u.value * u.d("y") - x[:, :1])
    return Problem(randomise(model, np.random.default_rng(1)), [pde], "xy", only=["neck", "head"])


@pytest.mark.parametrize(
    "features",
    some_slow(FEATURES.values(), [FEATURES["softmax"], FEATURES["convolution"]]),
    ids=FEATURES,
)
def test_what_is_held_fixed_is_a_feature_of_any_kind(features: Callable[[], list[Any]]) -> None:
    part = behind(*features())
    full, part = resolve(replace(part, only=None)), resolve(part)
    assert choose_engine(full, "auto")[1].name == "autodiff"
    at = places(full, part)
    everything = np.eye(parameter_layout(full.model).num_params)
    expected = hessian_vector_product(full, everything[at])[:, at]
    assert_close(whole(LayeredEngine(part)), expected)


def test_weights_inside_of_a_loop_are_left_to_autodiff() -> None:
    problem = behind(layers.Reshape((3, 2), **F64), layers.GRU(2, **F64))
    value = ResidualTerm("value", X, lambda x, u: u.value**2)
    part = resolve(replace(problem, terms=[value]))
    engine, choice = choose_engine(part, "auto")
    assert (choice.name, "reads weights inside of it" in choice.reason) == ("autodiff", True)
    assert_close(whole(engine), hessian_vector_product(part, np.eye(13)))


def test_regularisers_of_what_is_held_fixed_are_constants() -> None:
    """L2(c) of the layer in θ adds 2 c; the loss has those of all layers."""
    first, head = (
        layers.Dense(width, name=name, kernel_regularizer=keras.regularizers.L2(c), **F64)
        for name, width, c in (("first", 3, 9), ("head", 1, 0.25))
    )
    model = keras.Sequential([keras.Input((2,), **F64), first, head])
    term = ResidualTerm("data", X, lambda x, u: u.value - 1)
    full, part = (
        with_regularization(resolve(Problem(model, [term], "xy", only=only)))
        for only in (None, "head")
    )
    norms = [float(np.sum(model.get_layer(n).kernel.numpy() ** 2)) for n in ("first", "head")]
    losses = losses_and_gradient(part)[0]
    assert losses == losses_and_gradient(full)[0]
    assert losses["regularization"] == pytest.approx(9 * norms[0] + 0.25 * norms[1], rel=1e-14)
    for engine in (LayeredEngine(part), AutodiffEngine(part)):
        found = engine.block_row(BlockRow(0, 0, 4), "regularization")
        assert_close(found, np.diag([0.5, 0.5, 0.5, 0.0]))


def test_a_network_has_the_layers_that_it_shares() -> None:
    """The trunk is named after the first network, and belongs to the second as well."""
    x = keras.Input((2,), **F64)
    trunk = layers.Dense(4, "tanh", name="trunk", **F64)(x)
    heads = [layers.Dense(1, name=name, **F64)(trunk) for name in ("left", "right")]
    networks = {name: keras.Model(x, head) for name, head in zip("uk", heads, strict=True)}
    term = ResidualTerm("pde", X, lambda x, u, k: k.value * u.d("xx") - 1)
    part = resolve(Problem(networks, [term], "xy", only="k"))
    assert parameter_layout(part.model).layers() == ["u/trunk", "k/right"]


REFUSED: dict[str, tuple[Any, str]] = {
    "unknown": ("ouput", "names 'ouput', but what is trained is hidden_1, hidden_2, output, "
                "parameters, nu, source, or a variable of these, as hidden_1/kernel"),
    "part of a name": ("hidden", "names 'hidden', but what is trained is hidden_1"),
    "one of two": (["output", "k"], "names 'k', but"),
    "empty": ([], "only is empty"),
    "no name": ([3], "only has a int; expected names"),
    "not a list": (3, "only has a int; expected names"),
}  # fmt: skip


@pytest.mark.parametrize(("only", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_there_is_refused(only: Any, message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        resolve(replace(inverse(), only=only))


def test_a_frozen_layer_cannot_be_chosen() -> None:
    model = network()
    model.get_layer("hidden_1").trainable = False
    with pytest.raises(ProblemError, match="names 'hidden_1', but what is trained is hidden_2"):
        resolve(replace(inverse(model), only="hidden_1"))


def test_one_name_of_two_things_is_refused() -> None:
    model = keras.Sequential([keras.Input((2,), **F64), layers.Dense(1, name="nu", **F64)])
    problem = replace(inverse(model), only="nu")
    with pytest.raises(ProblemError, match=r"parameters/nu as well as what has nu/kernel\. Say"):
        resolve(problem)
    chosen = resolve(replace(problem, only="parameters/nu"))
    assert parameter_layout(chosen.model).layers() == ["parameters"]


def test_names_that_keras_counts_on_are_pointed_out() -> None:
    def make() -> Any:
        return keras.Sequential([keras.Input((2,), **F64), layers.Dense(1, **F64)])

    first = make().layers[0].name
    with pytest.raises(ProblemError, match=r"Keras counts .* give them names of your own"):
        resolve(replace(inverse(make), only=first))


def test_variables_that_are_held_fixed_need_not_be_in_theta() -> None:
    """They are declared, and constants; another variable is refused as ever."""
    nu, other = (tf.Variable(value, dtype=tf.float64) for value in (0.3, 0.4))

    def problem(read: Any) -> Problem:
        term = ResidualTerm("pde", X, lambda x, u: u.d("y") - read * u.d("xx"))
        return Problem(network(), [term], "xy", parameters={"nu": nu}, only="output")

    fixed = resolve(replace(problem(0.3), parameters={}))
    expected = hessian_vector_product(fixed, np.eye(5))
    assert_close(whole(LayeredEngine(resolve(problem(nu)))), expected)
    losses_and_gradient(resolve(problem(nu)))
    with pytest.raises(ProblemError, match="reads the trainable variable"):
        losses_and_gradient(resolve(problem(other)))


def test_a_store_holds_a_part(tmp_path: Path) -> None:
    """A term that no weight of θ moves has zeros; the run, and then verify, check all."""
    store, problem = tmp_path / "h.zarr", replace(inverse(), only=["nu", "output"])
    options = RunOptions(per_term=True, tile=2, num_threads=2)
    found = compute_hessian(problem, store, options=options)
    full, matrix = whole_problem(inverse)
    at = places(full, resolve(problem))
    expected = matrix[np.ix_(at, at)]
    assert_close(found.hessian.to_numpy(), expected)
    assert_close(found.hessian.sel(row_layer="parameters").to_numpy(), expected[-1:])
    corner = np.zeros((6, 6))
    corner[-1, -1] = 0.1 * 12 * (0.3 - 0.5) ** 2
    assert_close(found.hessian_prior.to_numpy(), corner)
    assert verify_hessian(store, problem).passed
    held = HessianStore(store).layout.held
    assert [variable.position for variable in held] == [0, 1, 2, 3, 7]
    assert [variable.path for variable in held[::4]] == ["hidden_1/kernel", "parameters/source"]
    assert HessianStore(store).layout.count == "6 of 40"


def test_another_part_does_not_resume(tmp_path: Path) -> None:
    """Not even one of the same shape and values."""
    model = network()
    for name in ("hidden_1", "hidden_2"):
        model.get_layer(name).bias.assign(np.zeros(4))
    one, other = (replace(inverse(model), only=f"hidden_{i}/bias") for i in (1, 2))
    first = compute_hessian(one, tmp_path / "h.zarr").hessian.to_numpy()
    with pytest.raises(StoreMismatchError, match="what only leaves out"):
        compute_hessian(other, tmp_path / "h.zarr")
    with pytest.raises(StoreMismatchError, match="what only leaves out"):
        compute_hessian(replace(one, only=None), tmp_path / "h.zarr")
    again = compute_hessian(replace(one, only=["hidden_1/bias"]), tmp_path / "h.zarr")
    assert np.array_equal(again.hessian.to_numpy(), first)


def test_a_parameter_that_is_held_has_the_value_that_was_read(tmp_path: Path) -> None:
    """Of a problem object whose network is the user's; the file has all weights, in one order."""
    donor = resolve(inverse())
    for position, weight in enumerate(every_weight(donor.model)):
        shape = weight.shape
        weight.assign(np.random.default_rng(position).normal(0.0, 0.7, shape))
    save_values(tmp_path / "all.npz", donor.model)
    part = replace(inverse(), only=["output", "nu"])
    found = compute_hessian(part, tmp_path / "h.zarr", weights=tmp_path / "all.npz")
    at = places(donor, resolve(part))
    expected = hessian_vector_product(donor, np.eye(40)[at])[:, at]
    assert_close(found.hessian.to_numpy(), expected)


@pytest.mark.slow
def test_a_gauss_newton_store_and_products(tmp_path: Path) -> None:
    problem = replace(several(), only=["k", "scale"])
    options = RunOptions(engine="ggn")
    found = compute_hessian(problem, tmp_path / "g.zarr", options=options)
    full, matrix = whole_problem(several)
    at = places(full, resolve(problem))
    everything = np.eye(len(matrix))
    expected = gauss_newton_vector_product(full, everything[at])[:, at]
    assert_close(found.ggn.to_numpy(), expected)
    columns = jacobian_vector_product(full, everything[at])["pde"].T
    assert_close(found.jacobian_pde.to_numpy(), columns)
    assert verify_hessian(tmp_path / "g.zarr", problem).passed
    assert_close(matrix_free_operator(problem) @ np.eye(len(at)), matrix[np.ix_(at, at)])


FILE = """
import keras, numpy as np, tensorflow as tf
from hessian_tasks import Problem, ResidualTerm
x = np.linspace(0, 1, 9)[:, None]
F64 = {"dtype": "float64"}

class Own(keras.Model):
    def __init__(self):
        super().__init__(**F64)
        self.first = keras.layers.Dense(4, "tanh", **F64)
        self.last = keras.layers.Dense(1, name="last", **F64)

    def call(self, x):
        return self.last(tf.sin(self.first(x)))

def make():
    keras.utils.set_random_seed(0)
    net = Own()
    net(tf.constant(x))
    return net

def problem(only="last"):
    term = ResidualTerm("ode", x, lambda x, u: u.d("x") - u.value ** 2 - 1)
    return Problem(make, [term], coordinates="x", only=only or None)
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    file = tmp_path / "own.py"
    file.write_text(FILE)
    return file


@pytest.mark.slow
def test_workers_rebuild_a_part(tmp_path: Path, own: Path, workers: Workers, run: Run) -> None:
    full = resolve(ProblemSource(str(own), {"only": ""}).load())
    expected = hessian_vector_product(full, np.eye(13))[-5:, -5:]
    frozen = freeze_source(ProblemSource(str(own)))
    run(tmp_path / "h.zarr", frozen, workers=workers, tile=2)
    assert_close(HessianStore(tmp_path / "h.zarr").read_part(slice(5), slice(5)), expected)
    assert verify_hessian(tmp_path / "h.zarr").passed


def test_training_moves_a_part_and_keeps_the_whole(tmp_path: Path, own: Path, hessian: Cli) -> None:
    """What is held fixed comes from the file, too."""
    start = tmp_path / "start.weights.h5"
    begun = ProblemSource(str(own)).load().model()
    set_theta(begun, np.random.default_rng(5).normal(0.0, 0.5, 13))
    begun.save_weights(start)
    before = compute_hessian(own, tmp_path / "before.zarr", weights=start)
    assert_close(before.theta.to_numpy(), get_theta(begun)[-5:])
    expected = hessian_vector_product(Problem(begun, ProblemSource(str(own)).load().terms, "x"),
                                      np.eye(13))[-5:, -5:]  # fmt: skip
    assert_close(before.hessian.to_numpy(), expected)

    out, store = tmp_path / "out.weights.h5", tmp_path / "h.zarr"
    code, _, errors = hessian("train", own, "--out", out, "--adam", 3, "--lbfgs", 30)
    assert (code, errors) == (0, "")
    fresh, trained = (ProblemSource(str(own)).load().model() for _ in range(2))
    trained.load_weights(out)
    moved = get_theta(trained) != get_theta(fresh)
    assert not moved[:8].any()
    assert moved[8:].all()
    code, output, errors = hessian("run", own, "--weights", out, "--store", store)
    assert (code, errors, "5 of 13 trainable" in output) == (0, "", True)
    assert hessian("verify", store)[0] == 0
    _, output, _ = hessian("info", store)
    assert "5 of 13 trainable, float64" in output
    code, output, _ = hessian("plan", own)
    assert output.splitlines()[0].split(maxsplit=1) == ["parameters", "5 of 13"]


def test_the_command_chooses_of_any_problem(tmp_path: Path, hessian: Cli) -> None:
    options = ["regression", "-owidth=3", "-odepth=2", "-onum_samples=6", "-odtype=float64"]
    whole, part, listed = (tmp_path / name for name in ("whole.zarr", "part.zarr", "listed.zarr"))
    names = ["--only", "hidden_2, output/bias"]
    assert hessian("run", *options, "--store", whole)[0] == 0
    code, output, errors = hessian("run", *options, *names, "--store", part)
    assert (code, errors, "13 of 22 trainable" in output) == (0, "", True)
    rows = [*range(6, 18), 21]
    expected = open_store(whole).hessian.to_numpy()[np.ix_(rows, rows)]
    assert_close(open_store(part).hessian.to_numpy(), expected)
    assert hessian("verify", part)[0] == 0
    # The same in a file of settings, resumed.
    (tmp_path / "settings.yaml").write_text("only: [hidden_2, output/bias]")
    code, output, _ = hessian(
        "run", *options, "--config", tmp_path / "settings.yaml", "--store", part
    )
    assert (code, "computed 0 of" in output) == (0, True)
    code, _, errors = hessian("run", *options, "--store", part)
    assert code != 0
    assert "what only leaves out" in errors
    code, _, errors = hessian("run", *options, "--only", "hidden_3", "--store", listed)
    assert code != 0
    assert "what is trained is hidden_1, hidden_2, output" in errors
    assert not listed.exists()


@pytest.mark.parametrize("ending", some_slow(["npz", "npy"], ["npz"]))
def test_the_command_chooses_of_a_problem_with_weights_from_a_file(
    ending: str, tmp_path: Path, hessian: Cli
) -> None:
    """Both kinds come back with networks and parameters put together."""
    file, trained = tmp_path / "own.py", tmp_path / f"trained.{ending}"
    file.write_text(
        "from hessian_tasks import Problem, ResidualTerm, mlp\n"
        "def problem():\n"
        "    net = mlp(1, width=3, depth=1, dtype='float64')\n"
        "    term = ResidualTerm('p', [[0.1], [0.7]], lambda x, u, nu: u.d('x') - nu * u.value)\n"
        "    return Problem(net, [term], 'x', parameters={'nu': 0.3})\n"
    )
    theta = np.random.default_rng(2).normal(size=11)
    if ending == "npy":
        np.save(trained, theta)
    else:
        model = resolve(ProblemSource(str(file)).load()).model
        set_theta(model, theta)
        save_values(trained, model)
    whole = compute_hessian(file, tmp_path / "whole.zarr", weights=trained).hessian.to_numpy()
    command = ["run", file, "--weights", trained, "--only", "output,nu", "--store"]
    assert hessian(*command, tmp_path / "part.zarr")[0] == 0
    found = open_store(tmp_path / "part.zarr")
    assert np.array_equal(found.theta.to_numpy(), theta[6:])
    assert_close(found.hessian.to_numpy(), whole[6:, 6:])


@pytest.mark.slow
def test_a_network_that_has_been_trained_on_is_left_alone(tmp_path: Path) -> None:
    """Keras builds the recorded one again."""
    model = network()
    problem = replace(inverse(model), only=["hidden_2", "nu"])
    compute_hessian(problem, tmp_path / "h.zarr")
    theta = get_theta(model) + 1
    set_theta(model, theta)
    assert verify_hessian(tmp_path / "h.zarr", problem).passed
    assert np.array_equal(get_theta(model), theta)


def test_what_is_rebuilt_is_told_by_its_place(tmp_path: Path) -> None:
    """The name that is chosen is that of the next network; a run builds more of them."""

    def make() -> Any:
        first = layers.Dense(2, "tanh", **F64)
        return keras.Sequential([keras.Input((2,), **F64), first, layers.Dense(1, **F64)])

    last = int(make().layers[1].name.partition("_")[2])
    problem = replace(inverse(make), only=[f"dense_{last + 2}", "nu"])
    found = compute_hessian(problem, tmp_path / "h.zarr").hessian
    assert found.shape == (4, 4)
    assert verify_hessian(tmp_path / "h.zarr", problem).passed

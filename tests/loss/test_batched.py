"""Losses that are means over examples, computed batch by batch: the numbers, and what is refused.

What is computed for batches is compared with the same loss over all examples at once, by plain
tapes. Both are sums of the same float64 numbers in another order, off by some 1e-16 of the largest.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from hessian_tasks import BlockRow, LossTerm, Problem, ResidualTerm
from hessian_tasks.autodiff import AutodiffEngine, hessian_vector_product
from hessian_tasks.autodiff.directions import LossesAlong
from hessian_tasks.autodiff.generalised import find_kinds, gauss_newton_vector_product
from hessian_tasks.autodiff.matrices import AutodiffCurvature
from hessian_tasks.autodiff.products import ShardProducts, cut_points
from hessian_tasks.errors import ProblemError
from hessian_tasks.frozen import NAMES
from hessian_tasks.loss import batches, losses_and_gradient
from hessian_tasks.loss.means import check_means
from hessian_tasks.loss.regularization import REGULARIZATION, with_regularization
from hessian_tasks.networks.models import dtype_of, get_theta, set_theta, trainable_variables
from hessian_tasks.problems.networks import mlp
from hessian_tasks.reading import read_terms
from hessian_tasks.rebuild import freeze
from hessian_tasks.source import LIVE, ProblemSource
from hessian_tasks.spec import GAUSS_NEWTON
from pipeline.api import open_hessian, verify_hessian
from pipeline.errors import StoppedError
from pipeline.estimates.operator import operator_of
from pipeline.run.engines import choose_engine
from pipeline.run.events import BlockRowStored
from pipeline.training import train
from tests.helpers.chosen import some_slow
from tests.helpers.runs import Run

Array = npt.NDArray[Any]

# Batches of 151 and of 150.
NUM = 301
CLOSE = 1e-12


def data(num: int = NUM) -> dict[str, Array]:
    """Images in single precision, integer labels, and a weight for each example."""
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(size=(num, 16)).astype("float32"),
        "y": rng.integers(0, 3, num),
        "w": rng.uniform(0.5, 1.5, num),
    }


def cross_entropy(model: Any, x: Any, y: Any, w: Any) -> Any:
    logits = model(x)
    return tf.reduce_mean(w * tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))


def convolutional(dtype: str = "float64") -> Any:
    """A network of 47 parameters for images of 4 x 4, handed over as rows of 16."""
    keras.utils.set_random_seed(4)
    layers = [
        keras.layers.Reshape((4, 4, 1), dtype=dtype),
        keras.layers.Conv2D(2, 3, activation="tanh", bias_initializer="normal", dtype=dtype),
        keras.layers.Flatten(dtype=dtype),
        keras.layers.Dense(3, bias_initializer="normal", dtype=dtype),
    ]
    return keras.Sequential([keras.Input((16,), dtype=dtype), *layers])


def dense() -> Any:
    keras.utils.set_random_seed(4)
    return mlp(16, 3, width=3, depth=2, dtype="float64")


def decay(model: Any) -> Any:
    return tf.add_n([tf.reduce_sum(v**4) for v in model.trainable_weights])


def classifier(network: Callable[[], Any] = convolutional, batched: bool = True) -> Problem:
    fit = LossTerm("fit", cross_entropy, weight=0.7, data=data(), batched=batched)
    return Problem(network(), [LossTerm("decay", decay, weight=0.01), fit])


def terms_of(problem: Problem) -> dict[str, Callable[[], Any]]:
    """The losses, over all examples at once."""
    dtype = dtype_of(problem.model)
    given = {k: tf.constant(a, dtype if a.dtype.kind == "f" else None) for k, a in data().items()}
    return {
        "decay": lambda: 0.01 * decay(problem.model),
        "fit": lambda: 0.7 * cross_entropy(problem.model, **given),
    }


def derivatives(problem: Problem, loss: Callable[[], Any]) -> tuple[float, Array, Array]:
    """A loss, its gradient and its Hessian, by plain tapes."""
    variables = trainable_variables(problem.model)
    zero = tf.UnconnectedGradients.ZERO
    with tf.GradientTape(persistent=True) as outer:
        with tf.GradientTape() as inner:
            value = loss()
        grads = inner.gradient(value, variables, unconnected_gradients=zero)
        flat = tf.concat([tf.reshape(g, [-1]) for g in grads], axis=0)
    columns = outer.jacobian(
        flat, variables, unconnected_gradients=zero, experimental_use_pfor=False
    )
    hessian = np.concatenate([c.numpy().reshape(len(flat), -1) for c in columns], axis=1)
    return float(value), flat.numpy(), hessian


def whole(engine: Any, term: str | None = None, length: int = 20) -> Array:
    """The matrix, from block rows of some length."""
    size = engine.layout.num_params
    found = np.zeros((size, size))
    for index, start in enumerate(range(0, size, length)):
        row = BlockRow(index, start, min(start + length, size))
        found[start : row.stop, start:] = engine.block_row(row, term)
    return np.triu(found) + np.triu(found, 1).T


def assert_close(found: Array, expected: Array) -> None:
    assert np.abs(found - expected).max() <= CLOSE * np.abs(expected).max()


@pytest.fixture(scope="module")
def expected() -> dict[str | None, tuple[float, Array, Array]]:
    problem = classifier()
    found: dict[str | None, Any] = {
        n: derivatives(problem, f) for n, f in terms_of(problem).items()
    }
    return found | {None: tuple(a + b for a, b in zip(*found.values(), strict=True))}


def test_batches_are_of_two_sizes_that_hold_all_examples() -> None:
    problem = classifier()
    found = batches.batches(problem, problem.terms[1])
    assert [(rows.start, rows.stop) for rows in found] == [(0, 151), (151, 301)]


def test_batches_are_fewer_examples_where_layers_make_much_of_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two images in float64 and what follows: 16 + 16 + 8 + 8 + 3 numbers, and the term's data."""
    problem = classifier()
    each = 8 * (16 + 8 + 8 + 3) + (4 * 16 + 8 + 8)
    monkeypatch.setattr(batches, "BATCH_BYTES", 10 * each + each // 2)
    assert batches.batch_size(problem, problem.terms[1]) == 10
    monkeypatch.setattr(batches, "BATCH_BYTES", 1)
    assert batches.batch_size(problem, problem.terms[1]) == 1


def test_losses_and_gradient(expected: Mapping[Any, Any]) -> None:
    losses, gradient = losses_and_gradient(classifier())
    assert losses == pytest.approx({n: expected[n][0] for n in ("decay", "fit")}, rel=CLOSE)
    assert_close(gradient, expected[None][1])


@pytest.mark.parametrize("term", some_slow([None, "fit", "decay"], [None]))
def test_rows(expected: Mapping[Any, Any], term: str | None) -> None:
    assert_close(whole(AutodiffEngine(classifier()), term), expected[term][2])


def test_products(expected: Mapping[Any, Any]) -> None:
    problem = classifier()
    products, unit = ShardProducts(problem), np.eye(47)
    assert_close(hessian_vector_product(problem, unit), expected[None][2])
    for max_batch, num_shards in [(256, 1), (40, 3)]:
        shards = cut_points(problem, max_batch=max_batch, num_shards=num_shards)
        assert len([shard for shard in shards if shard.term == "fit"]) == num_shards
        found = sum((products(shard, unit) for shard in shards), np.zeros_like(unit))
        assert_close(found, expected[None][2])


@pytest.mark.slow
def test_estimates(expected: Mapping[Any, Any]) -> None:
    problem = classifier()
    operator = operator_of(freeze(problem, ProblemSource(LIVE, live=problem)), num_threads=2)
    assert_close(operator @ np.eye(47), expected[None][2])


def test_losses_along_directions(expected: Mapping[Any, Any]) -> None:
    problem = classifier()
    directions = np.random.default_rng(1).normal(size=(2, 47))
    along, theta = LossesAlong(problem, directions), get_theta(problem.model)
    slopes = np.array([expected[name][1] @ directions.T for name in ("decay", "fit")])
    assert_close(along.slopes(), slopes)
    found = along([[0.0, 0.0], [0.2, -0.1]])
    set_theta(problem.model, theta + 0.2 * directions[0] - 0.1 * directions[1])
    there = [float(loss()) for loss in terms_of(problem).values()]
    assert_close(found, np.array([[expected["decay"][0], expected["fit"][0]], there]))


@pytest.mark.parametrize("network", some_slow([convolutional, dense], [convolutional]))
def test_the_gauss_newton_matrix_is_the_fisher_matrix(network: Callable[[], Any]) -> None:
    """Σ w Jᵀ (diag p - p pᵀ) J / N, with J of the logits."""
    problem = classifier(network)
    x, w = tf.constant(data()["x"], tf.float64), data()["w"]

    def jacobian() -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            logits = problem.model(x)
        variables = trainable_variables(problem.model)
        return logits, tape.jacobian(logits, variables, experimental_use_pfor=False)

    logits, parts = tf.function(jacobian, autograph=False).get_concrete_function()()
    slopes = np.concatenate([p.numpy().reshape(NUM, 3, -1) for p in parts], axis=2)
    p = tf.nn.softmax(logits).numpy()
    bends = w[:, None, None] * (p[:, :, None] * np.eye(3) - p[:, :, None] * p[:, None, :])
    fisher = 0.7 / NUM * np.einsum("nap,nab,nbq->pq", slopes, bends, slopes)
    unit = np.eye(len(fisher))
    assert_close(gauss_newton_vector_product(problem, unit, ["fit"]), fisher)
    products = ShardProducts(problem, GAUSS_NEWTON)
    shards = cut_points(problem, num_shards=2, term="fit")
    assert_close(products(shards[0], unit) + products(shards[1], unit), fisher)
    term = problem.terms[1]
    alone = choose_engine(replace(problem, terms=[term]), "ggn")[0]
    assert_close(whole(alone), fisher)
    curvature = AutodiffCurvature(problem, term)
    rows = curvature.block_row(BlockRow(0, 0, len(unit)), lambda: None)[1]
    assert_close(rows, fisher)
    assert find_kinds(read_terms(problem)).convex["fit"]


def test_a_dense_network_is_computed_by_layers(expected: Mapping[Any, Any]) -> None:
    problem = replace(classifier(dense), terms=classifier(dense).terms[1:])
    engine, choice = choose_engine(problem, "auto")
    assert choice.name == "layered"
    assert_close(whole(engine), derivatives(problem, terms_of(problem)["fit"])[2])


def test_residuals_beside_it() -> None:
    """A term of points, with derivatives of the network, among those that are not batched."""
    x = np.linspace(-1, 1, 300)[:, None]
    fit = LossTerm(
        "fit", lambda model, x: tf.reduce_mean(tf.cos(model(x))), data={"x": x}, batched=True
    )
    slope = ResidualTerm("slope", x[:5], lambda x, u: u.d("x") - u.value)
    problem = Problem(mlp(1, width=3, depth=1, dtype="float64"), [fit, slope], "x")
    plain = replace(problem, terms=[replace(fit, batched=False), slope])
    assert_close(whole(AutodiffEngine(problem)), whole(AutodiffEngine(plain)))


def test_training_takes_the_same_steps() -> None:
    reached = []
    for batched in (True, False):
        problem = classifier(batched=batched)
        train(problem, adam_steps=3, lbfgs_steps=3, learning_rate=0.01)
        reached.append(get_theta(problem.model))
    # Rounding grows from step to step.
    assert np.abs(reached[0] - reached[1]).max() <= 1e-8
    assert np.abs(reached[0] - get_theta(classifier().model)).max() > 0.02


def test_no_graph_holds_data() -> None:
    """Numbers in constants, of a graph and of the functions that it calls."""

    def largest(problem: Problem) -> int:
        engine = AutodiffEngine(problem)
        whole(engine)
        graphs = [
            compiled.graph.as_graph_def()
            for added in engine._compiled.values()
            for compiled, _, _ in added._calls
        ]
        assert len(graphs) >= len(engine.layout.layers())
        nodes = [n for g in graphs for n in g.node]
        nodes += [n for g in graphs for function in g.library.function for n in function.node_def]
        return max(n.attr["value"].ByteSize() for n in nodes if n.op == "Const")

    assert largest(classifier()) < 1024
    assert largest(classifier(batched=False)) > data()["x"].nbytes


def test_graphs_are_traced_once_for_each_size() -> None:
    problem = classifier()
    sizes = []

    def count(part: batches.Part) -> Any:
        sizes.append(part.arrays and part.arrays["y"].shape[0])
        return tf.zeros([])

    batches.SumOverBatches(problem, problem.terms, count)()
    assert sizes == [None, 151, 150]


def test_a_run_is_resumed(tmp_path: Path, run: Run, expected: Mapping[Any, Any]) -> None:
    problem, stop = classifier(), threading.Event()
    frozen = freeze(problem, ProblemSource(LIVE, live=problem))

    def after_one(event: Any) -> None:
        if isinstance(event, BlockRowStored):
            stop.set()

    options = {"tile": 12, "executor": "threads", "engine": "autodiff"}
    path = tmp_path / "h.zarr"
    with pytest.raises(StoppedError):
        run(path, frozen, [after_one], stop, **options)
    assert run(path, frozen, **options)[0].num_stored >= 1
    assert_close(open_hessian(path).hessian.to_numpy(), expected[None][2])
    assert verify_hessian(path, problem=problem).passed


def test_what_is_declared_changes_no_number_and_no_fingerprint() -> None:
    prints = []
    for batched in (True, False):
        problem = classifier(batched=batched)
        found = freeze(problem, ProblemSource(LIVE, live=problem)).fingerprint()
        # Names of layers, which Keras counts on.
        prints.append({key: value for key, value in found.items() if key != NAMES})
    assert prints[0] == prints[1]


def test_regularisers_are_found_beside_it() -> None:
    model = mlp(16, 3, width=3, depth=1, dtype="float64")
    model.layers[-1].kernel.regularizer = keras.regularizers.L2(0.1)
    problem = Problem(model, [LossTerm("fit", cross_entropy, data=data(), batched=True)])
    assert [t.name for t in with_regularization(problem).terms] == ["fit", REGULARIZATION]


def squares(model: Any, x: Any) -> Any:
    return tf.reduce_sum(model(x) ** 2, axis=1)


def coupled(model: Any, x: Any) -> Any:
    u = model(x)
    return tf.reduce_mean((u[1:] - u[:-1]) ** 2)


def by_class(model: Any, x: Any, y: Any) -> Any:
    """The mean over classes of means over their examples."""
    sums = tf.math.unsorted_segment_sum(squares(model, x), y, 3)
    counts = tf.math.unsorted_segment_sum(tf.ones_like(squares(model, x)), y, 3)
    return tf.reduce_mean(tf.math.divide_no_nan(sums, counts))


def where_known(model: Any, x: Any, w: Any) -> Any:
    """The mean over the examples that are marked."""
    return tf.reduce_sum(w * squares(model, x)) / tf.reduce_sum(w)


def normalised(model: Any, x: Any) -> Any:
    return tf.reduce_mean(squares(lambda x: model(x, training=True), x))


def normalising() -> Any:
    layers = [keras.layers.Dense(3, dtype="float64")]
    layers += [keras.layers.BatchNormalization(dtype="float64")]
    return keras.Sequential([keras.Input((16,), dtype="float64"), *layers])


ROWS = data()["x"].astype("float64")
ONE_MARK = (np.arange(NUM) == 17).astype("float64")
SORTED = np.sort(data()["y"])
NO_MEANS: dict[str, tuple[Any, dict[str, Array]]] = {
    "sum": (lambda model, x: tf.reduce_sum(squares(model, x)), {}),
    "maximum": (lambda model, x: tf.reduce_max(squares(model, x)), {}),
    "root": (lambda model, x: tf.sqrt(tf.reduce_mean(squares(model, x))), {}),
    "coupled": (coupled, {}),
    "by class": (by_class, {"y": SORTED}),
    "one known": (where_known, {"w": ONE_MARK}),
    "normalised": (normalised, {}),
}


def no_mean(name: str) -> Problem:
    loss, more = NO_MEANS[name]
    term = LossTerm("fit", loss, data={"x": ROWS, **more}, batched=True)
    return Problem(normalising() if name == "normalised" else dense(), [term])


@pytest.mark.parametrize("name", NO_MEANS)
def test_what_is_no_mean_is_refused(name: str) -> None:
    with pytest.raises(ProblemError, match=r"'fit' is declared batched, but its loss is no mean"):
        check_means(no_mean(name))


@pytest.mark.parametrize("ask", [train, AutodiffEngine, freeze], ids=lambda f: f.__name__)
def test_whoever_computes_by_batches_asks_first(ask: Callable[..., Any]) -> None:
    problem = no_mean("normalised")
    before = [w.numpy() for w in problem.model.weights]
    arguments = [ProblemSource(LIVE, live=problem)] if ask is freeze else []
    with pytest.raises(ProblemError, match="no mean over its examples"):
        ask(problem, *arguments)
    after = [w.numpy() for w in problem.model.weights]
    assert all(np.array_equal(a, b) for a, b in zip(after, before, strict=True))


def test_roots_of_losses_that_differ_little_are_refused_in_float32() -> None:
    """At initial weights all examples of a classifier have nearly the same loss."""

    def root(model: Any, x: Any, y: Any, w: Any) -> Any:
        return tf.sqrt(cross_entropy(model, x, y, tf.ones_like(w)))

    term = LossTerm("fit", root, data=data(), batched=True)
    with pytest.raises(ProblemError, match="no mean"):
        check_means(Problem(convolutional("float32"), [term]))


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_a_classifier_that_is_sure_is_not_refused_in_float32(scale: float) -> None:
    """Losses near zero are rounding, other ones with other batches."""
    model = convolutional("float32")
    set_theta(model, scale * get_theta(model))
    labels = model(data()["x"]).numpy().argmax(axis=1)
    term = LossTerm("fit", cross_entropy, data={**data(), "y": labels}, batched=True)
    check_means(Problem(model, [term]))


@pytest.mark.parametrize("num", some_slow([1, 2, 3, 4], [1, 3]))
def test_few_examples(num: int) -> None:
    term = LossTerm("fit", cross_entropy, data=data(num), batched=True)
    problem = Problem(convolutional(), [term])
    found = whole(AutodiffEngine(problem))
    plain = replace(problem, terms=[replace(term, batched=False)])
    assert_close(found, whole(AutodiffEngine(plain)))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "none"),
        ({"x": np.zeros((3, 2)), "y": np.zeros(2)}, r"x \(3, 2\), y \(2,\)"),
        ({"x": np.zeros((3, 2)), "nu": 0.5}, r"x \(3, 2\), nu \(\)"),
        ({"x": np.zeros((0, 2))}, r"x \(0, 2\)"),
        ({"nu": 0.5}, r"nu \(\)"),
    ],
)
def test_data_that_are_not_one_entry_an_example_are_refused(
    arrays: dict[str, Any], message: str
) -> None:
    with pytest.raises(ProblemError, match=rf"'fit' is batched, with .*{message}"):
        LossTerm("fit", cross_entropy, data=arrays, batched=True)


def test_how_many_at_once_is_not_asked_for() -> None:
    with pytest.raises(ProblemError, match="batched=64; expected True or False"):
        LossTerm("fit", cross_entropy, data=data(), batched=64)  # type: ignore[arg-type]

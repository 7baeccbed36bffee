"""Runs: the array is the Hessian however it is cut, and a stopped run goes on."""

from __future__ import annotations

import asyncio
import functools
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask.array
import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from hessian_tasks.autodiff import AutodiffEngine
from hessian_tasks.errors import ReproductionError
from hessian_tasks.frozen import FrozenInputs
from hessian_tasks.problem import LossTerm, Problem
from hessian_tasks.process import configure_tensorflow
from hessian_tasks.rebuild import freeze, rebuild
from hessian_tasks.source import LIVE, ProblemSource
from hessian_tasks.spec import BlockRow, EngineChoice
from pipeline.api import compute_hessian, open_hessian, verify_hessian
from pipeline.errors import StoppedError, StoreError, StoreMismatchError
from pipeline.run import prepare
from pipeline.run._blocks import BlockTask
from pipeline.run.events import RunFinished, RunStarted
from pipeline.run.executors import ExecutorName, get_executor
from pipeline.run.inputs import stored_inputs
from pipeline.run.options import RunOptions
from pipeline.run.plan import Plan, Request
from pipeline.store.places import locate
from pipeline.store.store import HessianStore
from pipeline.store.template import create_template
from tests.helpers.runs import Run, computed, objects, snapshot

Array = npt.NDArray[Any]

# Parameters of the Poisson network with 6 hidden units, and of the regression's with 12.
NUM_PARAMS, NUM_INPUTS = 25, 37


def dense_hessian(model: Any, loss: Callable[[], Any]) -> Array:
    """The Jacobian of the concatenated gradient, with nothing of the package in it."""
    variables = [weight.value for weight in model.trainable_weights]
    zero = tf.UnconnectedGradients.ZERO
    with tf.GradientTape(persistent=True) as outer:
        with tf.GradientTape() as inner:
            value = loss()
        gradients = inner.gradient(value, variables, unconnected_gradients=zero)
        flat = tf.concat([tf.reshape(g, [-1]) for g in gradients], axis=0)
    columns = outer.jacobian(
        flat, variables, unconnected_gradients=zero, experimental_use_pfor=False
    )
    return np.concatenate([c.numpy().reshape(len(flat), -1) for c in columns], axis=1)


def poisson_terms(problem: Problem) -> dict[str, Callable[[], Any]]:
    """The two losses of Poisson's problem, written out with nested reverse tapes."""
    model = problem.model
    interior, boundary = (tf.constant(term.arrays["points"]) for term in problem.terms)

    def pde() -> Any:
        x, y = interior[:, 0:1], interior[:, 1:2]
        with tf.GradientTape(persistent=True) as second:
            second.watch([x, y])
            with tf.GradientTape() as first:
                first.watch([x, y])
                u = model(tf.concat([x, y], axis=1))
            u_x, u_y = first.gradient(u, [x, y])
        laplacian = second.gradient(u_x, x) + second.gradient(u_y, y)
        source = tf.sin(np.pi * (x + 1) / 2) * tf.sin(np.pi * (y + 1) / 2)
        return tf.reduce_mean((laplacian + np.pi**2 / 2 * source) ** 2)

    return {"pde": pde, "dirichlet": lambda: tf.reduce_mean(model(boundary) ** 2)}


def assert_equal_to_rounding(actual: Any, expected: Array) -> None:
    assert np.abs(np.asarray(actual) - expected).max() <= 1e-12 * np.abs(expected).max()


@pytest.fixture(scope="module")
def poisson(tiny_problem: Callable[..., Problem]) -> Problem:
    return tiny_problem()


@pytest.fixture(scope="module")
def expected(poisson: Problem) -> dict[str, Array]:
    """Reference Hessians of the terms, and of the total under ``"total"``."""
    terms = poisson_terms(poisson)
    found = {name: dense_hessian(poisson.model, loss) for name, loss in terms.items()}
    return {**found, "total": found["pde"] + found["dirichlet"]}


@pytest.fixture(scope="module")
def frozen(poisson: Problem) -> FrozenInputs:
    return freeze(poisson, ProblemSource(LIVE, live=poisson))


@pytest.fixture(scope="module")
def engine_of(frozen: FrozenInputs) -> Callable[[int], AutodiffEngine]:
    problem = rebuild(frozen)
    return functools.cache(lambda row_batch: AutodiffEngine(problem, row_batch=row_batch))


@pytest.fixture(scope="module")
def complete(
    tmp_path_factory: pytest.TempPathFactory, run: Run, inputs: FrozenInputs
) -> tuple[Path, list[Any]]:
    """A complete store in tiles of side 5, and the events of its run. Copy it to change it."""
    path = tmp_path_factory.mktemp("complete") / "h.zarr"
    return path, run(path, inputs, tile=5)


def test_tensorflow_is_configured_once() -> None:
    assert tf.config.threading.get_intra_op_parallelism_threads() == 1
    # Later runs may use any number of threads: one thread an operation suits them all.
    assert [configure_tensorflow(n) for n in (3, 1, 2)] == [3, 1, 2]


@settings(max_examples=12, deadline=None)
@given(
    tile=st.integers(3, NUM_PARAMS),
    row_batch=st.sampled_from([1, 4, 64]),
    executor=st.sampled_from(["serial", "threads"]),
    num_threads=st.integers(1, 3),
)
def test_any_cut_on_any_threads_gives_the_dense_hessian(
    tile: int,
    row_batch: int,
    executor: ExecutorName,
    num_threads: int,
    frozen: FrozenInputs,
    engine_of: Callable[[int], AutodiffEngine],
    expected: dict[str, Array],
) -> None:
    request = Request(NUM_PARAMS, 8, 1, num_threads, 2**30, tile)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "h.zarr"
        plan = Plan(request, tile, num_threads, 0, 0, 0, 0.0)
        create_template(locate(path), frozen, plan.tiling, EngineChoice("autodiff", ""))
        store = HessianStore(path)
        task = BlockTask([engine_of(row_batch)], store, threading.Event(), lambda record: None)
        get_executor(executor)(task, store.pending(), num_threads)
        assert_equal_to_rounding(store.hessian()[...], expected["total"])
        assert store.pending() == []


@pytest.mark.parametrize(
    ("executor", "num_threads", "tile"),
    [
        ("serial", 1, 7),
        pytest.param("threads", 1, NUM_PARAMS, marks=pytest.mark.slow),
        pytest.param("threads", 2, 16, marks=pytest.mark.slow),
        ("threads", 3, 4),
    ],
)
def test_whole_run_gives_the_dense_hessian(
    executor: ExecutorName,
    num_threads: int,
    tile: int,
    tmp_path: Path,
    poisson: Problem,
    expected: dict[str, Array],
) -> None:
    options = RunOptions(executor=executor, num_threads=num_threads, tile=tile)
    dataset = compute_hessian(poisson, tmp_path / "h.zarr", options=options)
    assert_equal_to_rounding(dataset.hessian, expected["total"])


def test_terms_add_up_and_the_output_bias_is_free_in_the_equation(
    tmp_path: Path, run: Run, frozen: FrozenInputs, expected: dict[str, Array]
) -> None:
    run(tmp_path / "h.zarr", frozen, per_term=True, tile=16)
    dataset = open_hessian(tmp_path / "h.zarr")
    pde, dirichlet = dataset.hessian_pde.to_numpy(), dataset.hessian_dirichlet.to_numpy()
    assert np.array_equal(pde + dirichlet, dataset.hessian)
    for name in ("pde", "dirichlet"):
        assert_equal_to_rounding(dataset[f"hessian_{name}"], expected[name])
    bias = (dataset.row_layer == "output") & (dataset.row_variable == "bias")
    assert np.flatnonzero(bias).tolist() == [NUM_PARAMS - 1]
    # Derivatives of the output do not depend on its bias; the output does.
    assert not pde[bias, :].any()
    assert not pde[:, bias].any()
    assert dirichlet[-1, -1] == pytest.approx(2.0, rel=1e-12)
    assert np.abs(dirichlet[bias, :-1]).max() > 1e-3


def nested_tapes(model: Any, x: Any) -> Any:
    with tf.GradientTape() as tape:
        tape.watch(x)
        u = model(x)
    slope = tape.gradient(u, x)
    return tf.reduce_mean(tf.where(x > 0, slope**2, tf.exp(u))) + tf.reduce_sum(u) ** 2


def test_any_loss_of_the_model_gives_its_dense_hessian(tmp_path: Path) -> None:
    layers = [keras.Input((1,)), keras.layers.Dense(4, "softplus"), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    x = np.linspace(-1, 1, 9)[:, np.newaxis].astype(np.float32)
    term = LossTerm("energy", nested_tapes, weight=0.5, data={"x": x})
    options = RunOptions(num_threads=2, tile=6)
    dataset = compute_hessian(Problem(model, [term]), tmp_path / "h.zarr", options=options)
    reference = 0.5 * dense_hessian(model, lambda: nested_tapes(model, tf.constant(x)))
    assert np.abs(dataset.hessian - reference).max() <= 1e-6 * np.abs(reference).max()
    assert dataset.hessian.dtype == np.float32


def test_events_tell_the_run(complete: tuple[Path, list[Any]]) -> None:
    _, events = complete
    first, last = events[0], events[-1]
    assert isinstance(first, RunStarted)
    assert (first.resumed, first.num_stored, first.plan.num_block_rows) == (False, 0, 8)
    assert isinstance(last, RunFinished)
    assert last.num_computed == 8
    assert computed(events) == list(range(8))
    assert len(events) == 10


def test_every_object_has_one_writer(complete: tuple[Path, list[Any]]) -> None:
    store = HessianStore(complete[0])
    keys = [key for row in store.block_rows for key in store.object_keys(row)]
    assert len(keys) == len(set(keys)) == 8**2
    stored = {name for name in objects(complete[0]) if "/c/" in name}
    assert stored == set(keys)


@pytest.mark.parametrize("lost", [[0], [1, 4], [7]])
def test_resume_computes_only_lost_block_rows(
    lost: list[int],
    tmp_path: Path,
    run: Run,
    inputs: FrozenInputs,
    complete: tuple[Path, list[Any]],
) -> None:
    path = shutil.copytree(complete[0], tmp_path / "h.zarr")
    for index in lost:
        shutil.rmtree(path / "records" / f"{index:06d}")
    events = run(path, inputs)
    assert computed(events) == lost
    assert events[0].resumed
    assert events[0].num_stored == 8 - len(lost)
    assert objects(path) == objects(complete[0])


def test_resume_of_a_complete_store_changes_nothing(
    run: Run, inputs: FrozenInputs, complete: tuple[Path, list[Any]]
) -> None:
    before = snapshot(complete[0])
    assert computed(run(complete[0], inputs)) == []
    assert snapshot(complete[0]) == before


def test_a_complete_store_is_told_by_its_records(
    run: Run,
    inputs: FrozenInputs,
    complete: tuple[Path, list[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(prepare, "rebuild")
    monkeypatch.delattr(prepare, "choose_engines")
    first, last = run(complete[0], inputs)
    assert (first.resumed, first.num_stored, last.num_computed) == (True, 8, 0)
    # Inputs and options are compared all the same.
    others = replace(inputs, gradient=inputs.gradient + 1)
    with pytest.raises(StoreMismatchError, match="the gradient of the loss"):
        run(complete[0], others)
    with pytest.raises(StoreMismatchError, match="has tiles of side 5"):
        run(complete[0], inputs, tile=6)
    shutil.copytree(complete[0], copy := complete[0].with_name("failed.zarr"))
    store = HessianStore(copy)
    assert store.self_check is not None
    store.set_self_check(store.self_check.model_copy(update={"passed": False}))
    with pytest.raises(NameError):  # what has failed is looked at again
        run(copy, inputs)


@pytest.mark.parametrize("executor", ["serial", "threads"])
def test_stopped_run_leaves_a_store_that_opens_and_goes_on(
    executor: ExecutorName,
    tmp_path: Path,
    run: Run,
    inputs: FrozenInputs,
    complete: tuple[Path, list[Any]],
) -> None:
    path, stop, seen = tmp_path / "h.zarr", threading.Event(), []

    def tell(event: Any) -> None:
        seen.append(event)
        if len(computed(seen)) == 2:
            stop.set()

    with pytest.raises(StoppedError, match="The run was stopped"):
        run(path, inputs, [tell], stop, executor=executor, tile=5)
    stored = set(HessianStore(path).records())
    assert 2 <= len(stored) <= 3
    hessian = open_hessian(path).hessian.to_numpy()
    for row in HessianStore(path).block_rows:
        block = hessian[row.start : row.stop, row.start :]
        assert np.isfinite(block).all() if row.index in stored else np.isnan(block).all()
    assert computed(run(path, inputs)) == sorted(set(range(8)) - stored)
    assert objects(path) == objects(complete[0])


@pytest.mark.parametrize("executor", ["serial", "threads"])
def test_block_rows_start_in_the_given_order(executor: ExecutorName) -> None:
    rows = [BlockRow(i, i, i + 1) for i in range(20)]
    started: list[BlockRow] = []
    get_executor(executor)(started.append, rows, 1)
    assert started == rows


@pytest.mark.parametrize("executor", ["serial", "threads"])
def test_nothing_runs_any_more_when_an_executor_has_raised(executor: ExecutorName) -> None:
    started: list[BlockRow] = []
    running: set[BlockRow] = set()

    def task(row: BlockRow) -> None:
        started.append(row)
        running.add(row)
        time.sleep(0.05 if row == started[0] else 0.3)
        running.discard(row)
        if row == started[0]:
            raise ValueError("the first")

    with pytest.raises(ValueError, match="the first"):
        get_executor(executor)(task, [BlockRow(i, i, i + 1) for i in range(6)], 2)
    assert not running


def test_store_opens_in_zarr_dask_and_xarray(complete: tuple[Path, list[Any]]) -> None:
    path = complete[0]
    plain = zarr.open_group(path, mode="r")
    hessian = plain["hessian"]
    assert isinstance(hessian, zarr.Array)
    values = np.asarray(hessian[...])
    assert values.shape == (NUM_INPUTS, NUM_INPUTS)
    assert hessian.metadata.dimension_names == ("row", "col")
    lazy = dask.array.from_zarr(str(path), component="hessian")
    assert lazy.chunks[0] == (5, 5, 5, 5, 5, 5, 5, 2)
    assert np.array_equal(lazy.compute(), values)
    with xr.open_zarr(path, consolidated=False) as dataset:
        assert dataset.hessian.dims == ("row", "col")
        assert np.array_equal(dataset.hessian, values)
        assert {"row_layer", "col_variable", "col_index"} <= set(dataset.coords)
        assert dataset.theta.dims == dataset.gradient.dims == ("row",)


def test_open_hessian_names_every_parameter(complete: tuple[Path, list[Any]]) -> None:
    dataset = open_hessian(complete[0])
    layers = ["hidden_1"] * 24 + ["output"] * 13
    variables = ["kernel"] * 12 + ["bias"] * 12 + ["kernel"] * 12 + ["bias"]
    indices = [*range(12), *range(12), *range(12), 0]
    for dimension in ("row", "col"):
        assert dataset[f"{dimension}_layer"].to_numpy().tolist() == layers
        assert dataset[f"{dimension}_variable"].to_numpy().tolist() == variables
        assert dataset[f"{dimension}_index"].to_numpy().tolist() == indices
    block = dataset.hessian.where(dataset.row_layer == "output", drop=True)
    assert block.sizes == {"row": 13, "col": NUM_INPUTS}


def test_hessian_is_computed_inside_a_running_event_loop(
    tmp_path: Path, poisson: Problem, expected: dict[str, Array]
) -> None:
    async def cell() -> Array:
        options = RunOptions(num_threads=2, tile=16)
        return compute_hessian(poisson, tmp_path / "h.zarr", options=options).hessian.to_numpy()

    assert_equal_to_rounding(asyncio.run(cell()), expected["total"])


def noisy_loss(model: Any, x: Any) -> Any:
    return tf.reduce_mean(model(x) ** 2) * np.random.default_rng().uniform(1, 2)


def test_a_loss_that_draws_random_numbers_is_refused(
    tmp_path: Path, tiny_problem: Callable[..., Problem]
) -> None:
    term = LossTerm("noisy", noisy_loss, data={"x": np.ones((3, 2))})
    problem = Problem(tiny_problem().model, [term])
    number = r"\d+\.\d{4,}"
    message = rf"loss term 'noisy' is {number}, but {number} was recorded.*not deterministic"
    with pytest.raises(ReproductionError, match=message):
        compute_hessian(problem, tmp_path / "h.zarr")
    assert list(tmp_path.iterdir()) == []


RANDOM_POINTS = """
import numpy as np
from hessian_tasks import Problem, ResidualTerm
from hessian_tasks.problems.networks import mlp

def problem(width=3):
    points = np.random.default_rng().uniform(-1, 1, (8, 1))
    fit = ResidualTerm("fit", points, lambda x, u: u.value - x**2)
    return Problem(mlp(1, width=width, depth=1, dtype="float64"), [fit], "x")
"""


def test_points_drawn_anew_each_time_are_frozen(tmp_path: Path, run: Run) -> None:
    file, path = tmp_path / "problem.py", tmp_path / "h.zarr"
    file.write_text(RANDOM_POINTS)
    dataset = compute_hessian(file, path, options=RunOptions(num_threads=2, tile=4))
    problem = ProblemSource(str(file)).load()
    x = dataset.fit_points.to_numpy()
    assert not np.array_equal(problem.terms[0].arrays["points"], x)

    def loss() -> Any:
        return tf.reduce_mean((problem.model(x) - x**2) ** 2)

    assert_equal_to_rounding(dataset.hessian, dense_hessian(problem.model, loss))
    shutil.rmtree(path / "records" / "000001")
    assert computed(run(path, stored_inputs(HessianStore(path)))) == [1]
    assert verify_hessian(path).passed


def test_store_of_a_later_format_is_named_as_such(
    complete: tuple[Path, list[Any]], tmp_path: Path
) -> None:
    path = tmp_path / "later.zarr"
    shutil.copytree(complete[0], path)
    zarr.open_group(path, mode="r+").attrs.update({"format_version": 99, "parameters": None})
    with pytest.raises(StoreError, match=r"has store format 99; this version reads 2"):
        HessianStore(path)

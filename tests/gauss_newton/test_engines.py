"""The Gauss-Newton matrix: its engines, its store with the Jacobians, and what is asked of both."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
import zarr

from hessian_tasks.autodiff import AutodiffEngine
from hessian_tasks.autodiff.generalised import gauss_newton_vector_product
from hessian_tasks.autodiff.linearised import jacobian_vector_product
from hessian_tasks.autodiff.matrices import AutodiffJacobian
from hessian_tasks.gauss_newton import GaussNewtonEngine
from hessian_tasks.jets import reverse_derivative
from hessian_tasks.layered.gauss_newton import layered_matrices
from hessian_tasks.loss import term_values
from hessian_tasks.networks.models import get_theta, resolve_model, set_theta, trainable_variables
from hessian_tasks.problem import Problem, ResidualTerm
from hessian_tasks.problems import burgers, kovasznay, poisson
from hessian_tasks.problems.networks import mlp
from hessian_tasks.reading import read_terms
from hessian_tasks.source import ProblemSource
from hessian_tasks.spec import BlockRow
from pipeline.api import compute_hessian, open_hessian, open_store, verify_hessian
from pipeline.curvature.gauss_newton import neural_tangent_kernel, residual_curvature
from pipeline.errors import StoreMismatchError
from pipeline.run.engines import choose_engine
from pipeline.run.events import BlockRowStored
from pipeline.run.inputs import freeze_source, stored_inputs
from pipeline.run.options import RunOptions
from pipeline.run.plan import Cost, Request, make_plan, project_bytes
from pipeline.store.places.chunks import checksum
from pipeline.store.store import HessianStore
from tests.helpers.chosen import some_slow
from tests.helpers.runs import Cli, Run, objects

Array = npt.NDArray[Any]
ARRAYS = ("ggn", "jacobian")
WEIGHTS = (0.7, -2.0, 0.0)


@dataclass(frozen=True)
class Case:
    """A problem, the dense Jacobians of its terms, and both engines."""

    problem: Problem
    dense: dict[str, Array]
    layered: GaussNewtonEngine
    autodiff: GaussNewtonEngine


def of(problem: Problem) -> Problem:
    """The problem at shifted parameters, its terms of positive, negative and zero weight."""
    model = resolve_model(problem.model)
    theta = get_theta(model)
    set_theta(model, theta + np.random.default_rng(3).normal(0.0, 0.3, theta.shape))
    terms = [replace(t, weight=w) for t, w in zip(problem.terms, WEIGHTS, strict=False)]
    return replace(problem, model=model, terms=terms)


def dense_jacobian(problem: Problem, term: Any) -> Array:
    """∂r/∂θ by one reverse pass a residual, with jets by nested reverse passes."""

    def rows() -> Any:
        with tf.GradientTape() as tape:
            residual = tf.reshape(term_values(problem, term, reverse_derivative), [-1])
        zero = tf.UnconnectedGradients.ZERO
        variables = trainable_variables(problem.model)
        found = tape.jacobian(
            residual, variables, unconnected_gradients=zero, experimental_use_pfor=False
        )
        return tf.concat([tf.reshape(part, [residual.shape[0], -1]) for part in found], axis=1)

    compiled = tf.function(rows, autograph=False)
    return np.asarray(compiled.get_concrete_function()())


def by_layers(problem: Problem) -> GaussNewtonEngine:
    return GaussNewtonEngine(problem, layered_matrices(read_terms(problem)), by_layers=True)


def by_autodiff(problem: Problem) -> GaussNewtonEngine:
    jacobians = [AutodiffJacobian(problem, term) for term in problem.terms]
    return GaussNewtonEngine(problem, jacobians, by_layers=False)


def whole(engine: Any, term: str | None = None) -> Array:
    return np.asarray(engine.block_row(BlockRow(0, 0, engine.layout.num_params), term))


def assert_equal_to_rounding(actual: Any, expected: Array, scale: float | None = None) -> None:
    scale = float(np.abs(expected).max()) if scale is None else scale
    assert np.abs(np.asarray(actual) - expected).max() <= 1e-12 * scale


@pytest.fixture(
    scope="module",
    params=some_slow([poisson, burgers, kovasznay], [poisson]),
    ids=lambda m: m.__name__.rpartition(".")[2],
)
def case(request: pytest.FixtureRequest) -> Case:
    # Three outputs take long to trace.
    depth = 1 if request.param is kovasznay else 2
    problem = of(request.param.problem(3, depth, 7, 5, dtype="float64"))
    dense = {term.name: dense_jacobian(problem, term) for term in problem.terms}
    return Case(problem, dense, by_layers(problem), by_autodiff(problem))


@pytest.mark.parametrize("way", ["layered", "autodiff"])
def test_equals_the_dense_jacobians_and_their_products(way: str, case: Case) -> None:
    engine: GaussNewtonEngine = getattr(case, way)
    total = np.zeros((engine.layout.num_params,) * 2)
    for term in case.problem.terms:
        jacobian = case.dense[term.name]
        expected = 2 * term.weight / len(jacobian) * jacobian.T @ jacobian
        product, columns = engine.term_rows(BlockRow(0, 0, len(total)), term.name)
        assert_equal_to_rounding(columns, jacobian)
        assert_equal_to_rounding(product, expected)
        assert_equal_to_rounding(whole(engine, term.name), expected)
        total += expected
    assert_equal_to_rounding(whole(engine), total)


@pytest.mark.parametrize(("way", "length"), [("layered", 1), ("layered", 4), ("autodiff", 9)])
def test_any_cut_gives_the_same_rows(way: str, length: int, case: Case) -> None:
    engine: GaussNewtonEngine = getattr(case, way)
    expected, size = whole(case.layered), engine.layout.num_params
    for index, start in enumerate(range(0, size, length)):
        row = BlockRow(index, start, min(start + length, size))
        part, scale = expected[start : row.stop, start:], float(np.abs(expected).max())
        assert_equal_to_rounding(engine.block_row(row), part, scale)


def test_products_with_vectors_are_those_of_the_dense_matrices(case: Case) -> None:
    problem, dense = case.problem, case.dense
    vectors = np.random.default_rng(0).standard_normal((2, len(get_theta(problem.model))))
    images = jacobian_vector_product(problem, vectors)
    total = np.zeros_like(vectors)
    for term in problem.terms:
        expected = vectors @ dense[term.name].T
        assert_equal_to_rounding(images[term.name], expected)
        total += 2 * term.weight / expected.shape[1] * expected @ dense[term.name]
    assert_equal_to_rounding(gauss_newton_vector_product(problem, vectors), total)


def fit(depth: int, target: Any) -> Problem:
    """A nonlinear network, or a linear one without hidden layers, at 9 points of the line."""
    network = mlp(1, width=4, depth=depth, dtype="float64")
    points = np.linspace(-1, 1, 9)[:, np.newaxis]
    problem = Problem(network, [ResidualTerm("fit", points, lambda x, u: u.value)], "x")
    model = of(problem).model
    values = target(tf.constant(points), model)
    term = ResidualTerm("fit", points, lambda x, u: u.value - values)
    return Problem(model, [term], "x")


@pytest.mark.parametrize(
    ("depth", "target"),
    [(0, lambda x, model: tf.sin(3 * x)), (2, lambda x, model: model(x).numpy())],
    ids=["linear in the parameters", "zero residual"],
)
def test_is_the_hessian_where_second_derivatives_do_not_count(depth: int, target: Any) -> None:
    problem = fit(depth, target)
    assert_equal_to_rounding(whole(by_layers(problem)), whole(AutodiffEngine(problem)))


def test_is_not_the_hessian_elsewhere() -> None:
    problem = fit(2, lambda x, model: tf.sin(3 * x))
    matrix, hessian = whole(by_layers(problem)), whole(AutodiffEngine(problem))
    assert np.abs(matrix - hessian).max() > 1e-2 * np.abs(hessian).max()
    assert np.linalg.eigvalsh(matrix).min() > -1e-12 * np.abs(matrix).max()


# ---- stores ------------------------------------------------------------------------------------

PROBLEM = """
import numpy as np
import tensorflow as tf
from hessian_tasks import LossTerm, Problem, ResidualTerm
from hessian_tasks.problems.networks import mlp

def problem(weight=-0.5, norm=False):
    network = mlp(1, width=4, depth=2, dtype="float64")
    x = np.linspace(-1, 1, 6)[:, None]
    pair = ResidualTerm("pair", x, lambda x, u: [u.d("x") * u.value, u.value - tf.sin(x)])
    data = ResidualTerm("data", x[:3], lambda x, u: u.d("x") - x**2, weight)
    loss = LossTerm("norm", lambda model: tf.reduce_mean(model(tf.constant(x))) ** 2)
    return Problem(network, [loss] if norm else [pair, data], "x")
"""
NUM_PARAMS, TILE, NUM_BLOCK_ROWS = 33, 9, 4
OPTIONS = {"tile": TILE, "engine": "ggn", "per_term": True}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """A problem file, and complete stores of its Gauss-Newton matrix and of its Hessian."""
    place = tmp_path_factory.mktemp("ggn")
    file = place / "problem.py"
    file.write_text(PROBLEM)
    inputs = freeze_source(ProblemSource(str(file)))
    run(place / "g.zarr", inputs, **OPTIONS)
    run(place / "h.zarr", inputs, tile=16)
    return place


@pytest.fixture(scope="module")
def dense(place: Path) -> dict[str, Array]:
    """Dense Jacobians of the terms."""
    problem = ProblemSource(str(place / "problem.py")).load()
    return {term.name: dense_jacobian(problem, term) for term in problem.terms}


@pytest.fixture
def store(place: Path, tmp_path: Path) -> Path:
    """A copy of the complete store."""
    return Path(shutil.copytree(place / "g.zarr", tmp_path / "g.zarr"))


def test_store_holds_matrices_and_jacobians_with_labels(
    place: Path, dense: dict[str, Array]
) -> None:
    dataset = open_store(place / "g.zarr")
    assert "hessian" not in dataset
    for term, factor, components in [("pair", 2 / 12, 2), ("data", -2 * 0.5 / 3, 1)]:
        jacobian = dataset[f"jacobian_{term}"]
        assert jacobian.dims == (f"{term}_residual", "col")
        assert jacobian.attrs["num_components"] == components
        assert jacobian.attrs["factor"] == pytest.approx(factor, rel=1e-15)
        assert_equal_to_rounding(jacobian, dense[term])
        assert_equal_to_rounding(dataset[f"ggn_{term}"], factor * dense[term].T @ dense[term])
    assert np.array_equal(dataset.ggn_pair.to_numpy() + dataset.ggn_data, dataset.ggn)
    assert open_hessian(place / "g.zarr").identical(dataset)
    assert dataset.jacobian_pair.col_layer.to_numpy()[-1] == "output"


def test_every_object_has_one_writer(place: Path) -> None:
    opened = HessianStore(place / "g.zarr")
    keys = [key for row in opened.block_rows for key in opened.object_keys(row)]
    assert len(keys) == len(set(keys)) == 3 * NUM_BLOCK_ROWS**2 + 2 * NUM_BLOCK_ROWS
    assert set(keys) == {key for key in objects(opened.location.directory, ARRAYS) if "/c/" in key}


def test_lost_block_rows_are_computed_again_to_the_same_bytes(
    store: Path, place: Path, run: Run
) -> None:
    shutil.rmtree(store / "records" / "000001")
    (store / "jacobian_pair" / "c" / "0" / "2").write_bytes(b"damaged")
    events = run(store, stored_inputs(HessianStore(store)))
    assert sorted(e.record.row.index for e in events if isinstance(e, BlockRowStored)) == [1, 2]
    assert objects(store, ARRAYS) == objects(place / "g.zarr", ARRAYS)
    assert events[0].plan.request.num_residuals == 15


@pytest.mark.parametrize("name", some_slow(["ggn", "jacobian_data"], ["jacobian_data"]))
def test_wrong_entry_with_a_right_checksum_is_found(name: str, store: Path) -> None:
    certificate = verify_hessian(store)
    assert certificate.passed
    assert max(certificate.product_errors + certificate.jacobian_errors) < 1e-12
    assert len(certificate.product_errors) == len(certificate.jacobian_errors) == 3
    opened = HessianStore(store)
    array = zarr.open_array(store / name, mode="r+")
    corner = (2, NUM_PARAMS - 2)
    array[corner] = np.asarray(array[corner]) + 0.01
    for index in (0, NUM_BLOCK_ROWS - 1):
        record = opened.records()[index]
        sums = {key: checksum((store / key).read_bytes()) for key in record.checksums}
        replace(record, checksums=sums).save(opened.location)
    certificate = verify_hessian(store)
    assert certificate.damaged == []
    assert not certificate.passed
    errors = certificate.product_errors if name == "ggn" else certificate.jacobian_errors
    assert min(errors) > certificate.tolerance


def test_commands_call_it_by_its_name(store: Path, hessian: Cli, tmp_path: Path) -> None:
    code, output, _ = hessian("verify", store)
    assert code == 0
    assert "error of G v" in output
    assert "error of J v" in output
    code, output, _ = hessian("info", store, "--picture", tmp_path / "matrix.png")
    assert code == 0
    assert "Gauss-Newton matrices  ggn, ggn_pair, ggn_data" in output
    assert "jacobian_pair        (12, 33), 2 components a point" in output
    assert "Hessian" not in output
    code, output, _ = hessian("spectrum", store, "--term", "pair")
    assert (code, ", 0 negative" in output) == (0, True)
    code, _, errors = hessian("spectrum", store, "--term", "none")
    assert (code, "has no Gauss-Newton matrix of term 'none'" in errors) == (1, True)
    code, _, errors = hessian("run", "--store", store, "--engine", "layered")
    assert (code, "was begun with engine ggn" in errors) == (1, True)


def test_losses_without_such_a_matrix_are_refused(place: Path, hessian: Cli) -> None:
    file, path = place / "problem.py", place / "none.zarr"
    code, _, errors = hessian("run", file, "-o", "norm=true", "--engine", "ggn", "--store", path)
    assert code == 1
    assert "No term has a Gauss-Newton matrix: term 'norm' couples its points. Declare" in errors
    assert "Traceback" not in errors
    assert not path.exists()


def test_kernel_is_that_of_all_residuals(place: Path, dense: dict[str, Array]) -> None:
    kernel = neural_tangent_kernel(place / "g.zarr")
    jacobian = np.concatenate([dense["pair"], dense["data"]])
    assert_equal_to_rounding(kernel.compute(), jacobian @ jacobian.T)
    assert kernel.dims == ("residual", "other")
    assert kernel.term.to_numpy().tolist() == ["pair"] * 12 + ["data"] * 3
    assert kernel.point.to_numpy().tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 0, 1, 2]
    assert kernel.other_component.to_numpy().tolist() == [0, 1] * 6 + [0] * 3
    with pytest.raises(StoreMismatchError, match=r"holds the Hessian, but the Gauss-Newton matrix"):
        neural_tangent_kernel(place / "h.zarr")


def test_residual_curvature_is_the_difference(place: Path, tmp_path: Path) -> None:
    h, g = place / "h.zarr", place / "g.zarr"
    difference = residual_curvature(h, g)
    assert difference.dims == ("row", "col")
    assert {"row_layer", "col_index"} <= set(difference.coords)
    expected = open_hessian(h).hessian.to_numpy() - open_store(g).ggn.to_numpy()
    assert np.array_equal(difference, expected)
    assert np.abs(expected).max() > 0.1
    with pytest.raises(StoreMismatchError, match="holds the Gauss-Newton matrix, but the Hessian"):
        residual_curvature(g, g)
    problem = ProblemSource(str(place / "problem.py"), {"weight": 2.0}).load()
    compute_hessian(problem, tmp_path / "other.zarr", options=RunOptions(engine="ggn"))
    with pytest.raises(StoreMismatchError, match=r"different inputs: .*weight of term data"):
        residual_curvature(h, tmp_path / "other.zarr")


def test_networks_that_are_not_layered_go_to_autodiff(tmp_path: Path) -> None:
    dense = [keras.layers.Dense(width, dtype="float64") for width in (3, 1)]
    norm = keras.layers.LayerNormalization(dtype="float64")
    network = keras.Sequential([keras.Input((1,), dtype="float64"), dense[0], norm, dense[1]])
    x = np.linspace(-1, 1, 5)[:, np.newaxis]
    terms = [
        ResidualTerm("slope", x, lambda x, u: u.d("x") - 1.0),
        ResidualTerm("data", x[:2], lambda x, u: u.value),
    ]
    problem = of(Problem(network, terms, "x"))
    path = tmp_path / "g.zarr"
    dataset = compute_hessian(problem, path, options=RunOptions(engine="ggn"))
    total = np.zeros(dataset.ggn.shape)
    for term in problem.terms:
        jacobian = dense_jacobian(problem, term)
        assert_equal_to_rounding(dataset[f"jacobian_{term.name}"], jacobian)
        total += 2 * term.weight / len(jacobian) * jacobian.T @ jacobian
    assert_equal_to_rounding(dataset.ggn, total)
    assert HessianStore(path).attributes["engine_reason"].startswith("by autodiff because ")
    assert verify_hessian(path, problem, num_vectors=1).passed


def test_is_only_computed_when_asked_for() -> None:
    problem = fit(1, lambda x, model: x)
    assert choose_engine(problem, "auto")[1].name == "layered"
    engine, choice = choose_engine(problem, "ggn")
    assert (engine.name, choice.name, choice.reason) == ("ggn", "ggn", "")


def test_plan_counts_the_jacobians() -> None:
    without = Request(1000, 8, 1, num_threads=2, allowed_bytes=2**34, tile=100)
    request = replace(without, num_residuals=300)
    cost = Cost(0, 0, 0, 0.0)
    plans = [make_plan(r, cost) for r in (without, request)]
    assert plans[1].stored_bytes - plans[0].stored_bytes == 300 * 1000 * 8
    more = project_bytes(request, cost, 100, 2) - project_bytes(without, cost, 100, 2)
    # Both threads hold the columns of a tile, a copy in the order of the store, and its encoding.
    assert more == 2 * 3 * 300 * 100 * 8

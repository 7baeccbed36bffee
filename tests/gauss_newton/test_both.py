"""The Hessian and the Gauss-Newton matrix in one run and one store, and what is asked of both."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import zarr

from hessian_tasks.frozen import FrozenInputs
from hessian_tasks.jets import reverse_derivative
from hessian_tasks.layered.expand.network import Network
from hessian_tasks.layered.gauss_newton import LayeredJacobian
from hessian_tasks.loss import term_loss, term_values
from hessian_tasks.networks.models import set_theta, trainable_variables
from hessian_tasks.networks.trainables import resolve
from hessian_tasks.problem import Problem, ResidualTerm
from hessian_tasks.source import ProblemSource
from hessian_tasks.spec import GAUSS_NEWTON, HESSIAN
from pipeline import (
    PlanError,
    RunOptions,
    SelfCheckError,
    StoreError,
    StoreMismatchError,
    analyse_terms,
    compare_approximations,
    compute_hessian,
    neural_tangent_kernel,
    open_hessian,
    residual_curvature,
    select_matrix,
    spectrum,
    try_steps,
    uncertainty,
    verify_hessian,
)
from pipeline.run import _trial, prepare
from pipeline.run.engines import choose_engines
from pipeline.run.inputs import freeze_source, stored_inputs
from pipeline.run.plan import Cost, project_bytes
from pipeline.settings.config import load_settings
from pipeline.store.places.chunks import checksum
from pipeline.store.store import HessianStore
from tests.helpers.forged import forge
from tests.helpers.oracles import dense_hessian, dense_jacobian, linearised_hessian
from tests.helpers.runs import Cli, Run, computed, litter, objects, start_held, wait_for

Array = npt.NDArray[Any]

# A residual that is not linear in the jets, a parameter, data, and a loss that is no residual.
PROBLEM = """
import numpy as np
import tensorflow as tf
from hessian_tasks import DensityTerm, LossTerm, Problem, ResidualTerm
from hessian_tasks.problems.networks import mlp

def problem(small=False, more=False, norm=False, dtype="float64"):
    network = mlp(1, width=4, depth=1 if small else 2, dtype=dtype)
    draw = np.random.default_rng(3)
    network.set_weights([w + draw.normal(0, 0.3, w.shape) for w in network.get_weights()])
    x = np.linspace(-1, 1, 6)[:, None]
    pair = ResidualTerm("pair", x, lambda x, u, nu: [nu * u.d("x") * u.value, u.value - x])
    data = ResidualTerm("data", x[:3], lambda x, u, y: u.value - y, 0.5, data={"y": x[:3] ** 2})
    smooth = DensityTerm("smooth", x, lambda x, u: tf.math.log(tf.cosh(u.d("x")[:, 0])))
    loss = LossTerm("norm", lambda model: tf.reduce_mean(model(tf.constant(x, dtype))) ** 2)
    if small:
        ends = ResidualTerm("ends", x[::5], lambda x, u: u.value**2 - x)
        return Problem(network, [data, *([ends] if more else []), *([loss] if norm else [])], "x")
    return Problem(network, [pair, data, smooth], "x", parameters={"nu": np.asarray(0.7, dtype)})
"""
TERMS = ("pair", "data", "smooth")
# Of the small problem, which has the data alone.
NUM_PARAMS, TILE, NUM_BLOCK_ROWS = 13, 4, 4
ARRAYS = ("hessian", "ggn", "jacobian")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """A problem file, and complete stores of both matrices: with those of terms, and small."""
    place = tmp_path_factory.mktemp("both")
    (place / "problem.py").write_text(PROBLEM)
    run(place / "both.zarr", inputs_of(place), with_ggn=True, per_term=True, tile=9)
    run(place / "small.zarr", inputs_of(place, small=True), with_ggn=True, tile=TILE)
    return place


def inputs_of(place: Path, **options: Any) -> FrozenInputs:
    return freeze_source(ProblemSource(str(place / "problem.py"), options))


@pytest.fixture
def store(place: Path, tmp_path: Path) -> Path:
    """A copy of the small store."""
    return Path(shutil.copytree(place / "small.zarr", tmp_path / "small.zarr"))


def dense(problem: Problem) -> dict[str, Array]:
    """Both matrices of all terms and of their sum, and the Jacobians, by plain tapes."""
    variables, found = trainable_variables(problem.model), {}
    for term in problem.terms:
        loss = partial(term_loss, problem, term, reverse_derivative)
        found[f"hessian_{term.name}"] = dense_hessian(variables, loss)
        if isinstance(term, ResidualTerm):
            values = partial(term_values, problem, term, reverse_derivative)
            derivatives = dense_jacobian(problem, values)[1]
            jacobian = derivatives.reshape(-1, derivatives.shape[-1])
            found[f"jacobian_{term.name}"] = jacobian
            found[f"ggn_{term.name}"] = 2 * term.weight / len(jacobian) * jacobian.T @ jacobian
        else:
            found[f"ggn_{term.name}"] = linearised_hessian(replace(problem, terms=[term]))
    for name in ("hessian", "ggn"):
        found[name] = np.sum([found[f"{name}_{term.name}"] for term in problem.terms], axis=0)
    return found


def assert_equal(dataset: Any, expected: dict[str, Array], error: float = 1e-12) -> None:
    """All arrays, up to so much of the largest entry: rounding of some thousand operations."""
    for name, array in expected.items():
        scale = float(np.abs(array).max())
        assert np.abs(dataset[name].to_numpy() - array).max() <= error * scale, name


@pytest.fixture(scope="module")
def expected(place: Path) -> dict[str, Array]:
    return dense(resolve(ProblemSource(str(place / "problem.py")).load()))


def test_both_are_those_of_dense_autodiff(place: Path, expected: dict[str, Array]) -> None:
    dataset = open_hessian(place / "both.zarr")
    assert_equal(dataset, expected)
    # They are two matrices, not one: the residuals do not vanish.
    assert np.abs(expected["hessian"] - expected["ggn"]).max() > 0.1
    assert set(expected) == {name for name in dataset if name.startswith(ARRAYS)}
    kernel = neural_tangent_kernel(place / "both.zarr").to_numpy()
    rows = np.concatenate([expected["jacobian_pair"], expected["jacobian_data"]])
    np.testing.assert_allclose(kernel, rows @ rows.T, rtol=0, atol=1e-12 * np.abs(kernel).max())
    curvature = residual_curvature(place / "both.zarr").to_numpy()
    assert np.array_equal(curvature, dataset.hessian.to_numpy() - dataset.ggn.to_numpy())


@pytest.mark.parametrize(
    ("options", "only", "error"),
    [({"dtype": "float32"}, None, 2e-5), ({}, ["hidden_1/bias", "output"], 1e-12)],
    ids=["float32", "only"],
)
def test_of_either_precision_and_of_a_part(
    options: dict[str, str], only: list[str] | None, error: float, place: Path, tmp_path: Path
) -> None:
    file = str(place / "problem.py")
    given = replace(ProblemSource(file, {"small": True, **options}).load(), only=only)
    dataset = compute_hessian(given, tmp_path / "both.zarr", options=RunOptions(with_ggn=True))
    problem = resolve(replace(ProblemSource(file, {"small": True}).load(), only=only))
    dtype = options.get("dtype", "float64")
    if dtype == "float32":
        # At the same weights, which are random.
        set_theta(problem.model, dataset.theta.to_numpy().astype("float64"))
    assert dataset.hessian.dtype == dataset.ggn.dtype == dtype
    found = dense(problem)
    names = ("hessian", "ggn", "jacobian_data")
    assert_equal(dataset, {name: found[name] for name in names}, error)
    assert HessianStore(tmp_path / "both.zarr").matrices == (HESSIAN, GAUSS_NEWTON)


@pytest.mark.slow
def test_networks_that_are_not_layered_go_to_autodiff(tmp_path: Path) -> None:
    layers = [keras.layers.Dense(width, dtype="float64") for width in (3, 1)]
    norm = keras.layers.LayerNormalization(dtype="float64")
    network = keras.Sequential([keras.Input((1,), dtype="float64"), layers[0], norm, layers[1]])
    x = np.linspace(-1, 1, 5)[:, np.newaxis]
    problem = Problem(network, [ResidualTerm("slope", x, lambda x, u: u.d("x") - x**2)], "x")
    options = RunOptions(with_ggn=True)
    dataset = compute_hessian(problem, tmp_path / "both.zarr", options=options)
    found = dense(resolve(problem))
    assert_equal(dataset, {name: found[name] for name in ("hessian", "ggn", "jacobian_slope")})
    engine = HessianStore(tmp_path / "both.zarr").attributes
    assert engine["engine"] == "autodiff"
    assert "Gauss-Newton matrix: by autodiff because" in engine["engine_reason"]


def test_the_problem_is_built_and_read_once(
    place: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {"rebuild": 0, "network": 0}
    rebuild, of = prepare.rebuild, Network.of

    def count(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            counts[name] += 1
            return function(*arguments)

        return call

    monkeypatch.setattr(prepare, "rebuild", count("rebuild", rebuild))
    monkeypatch.setattr(Network, "of", count("network", of))
    inputs = inputs_of(place, small=True)
    events = run(tmp_path / "both.zarr", inputs, with_ggn=True, tile=TILE)
    assert counts == {"rebuild": 1, "network": 1}
    assert computed(events) == list(range(NUM_BLOCK_ROWS))
    records = HessianStore(tmp_path / "both.zarr").records()
    assert all(set(record.statistics) == {"hessian", "ggn"} for record in records.values())


def test_the_plan_counts_both(place: Path, tmp_path: Path) -> None:
    inputs, options = inputs_of(place, small=True), RunOptions(tile=TILE)
    alone = prepare.prepare(inputs, options, None).plan
    both = prepare.prepare(inputs, replace(options, with_ggn=True), None).plan
    # One matrix and the Jacobian of 3 residuals, of float64.
    assert both.stored_bytes - alone.stored_bytes == (NUM_PARAMS + 3) * NUM_PARAMS * 8
    assert both.request.num_arrays == 2 * alone.request.num_arrays == 2
    assert not both.tiling.per_term
    cost = Cost(0, 0, 0, 0.0)
    projected = [project_bytes(plan.request, cost, TILE, 1) for plan in (alone, both)]
    # A block row is kept until both are stored, and the Jacobian's columns in three copies.
    assert projected[1] - projected[0] == (TILE * NUM_PARAMS + 3 * 3 * TILE) * 8
    # What is known before a row is tried: all matrices, as every term has both.
    every = replace(options, with_ggn=True, per_term=True)
    planned = prepare.prepare(inputs, every, None).plan
    assert planned.request.num_arrays == 2 * (1 + len(inputs.terms))
    known = prepare.least_bytes(inputs, every)
    assert known == planned.request.num_arrays * NUM_PARAMS**2 * 8


def test_a_trial_counts_the_time_of_both(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = iter([Cost(100, 10, 5, 1.0, 2.0), Cost(130, 1, 7, 0.5, 0.25)])
    monkeypatch.setattr(_trial, "_measure", lambda *arguments, **options: next(costs))
    problem = resolve(ProblemSource(str(place / "problem.py"), {"small": True}).load())
    engines, _ = choose_engines(problem, "auto", with_ggn=True)
    assert _trial.measure(engines, False, 1, 1) == Cost(130, 11, 7, 1.5, 2.25)


def test_a_killed_run_resumes_to_the_same_bytes(place: Path, tmp_path: Path, run: Run) -> None:
    path = tmp_path / "killed.zarr"
    command = ["run", place / "problem.py", "-o", "small=true", "--with-ggn", "--tile", TILE]
    with start_held("rows", 2, [*command, "--store", path], stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: path.exists() and len(HessianStore(path).records()) == 2)
        process.kill()
    missing = [i for i in range(NUM_BLOCK_ROWS) if i not in HessianStore(path).records()]
    assert len(missing) == NUM_BLOCK_ROWS - 2
    assert computed(run(path, inputs_of(place, small=True))) == missing
    assert objects(path, ARRAYS) == objects(place / "small.zarr", ARRAYS)
    assert litter(path) == []


def test_a_damaged_tile_of_either_is_found_and_repaired(store: Path, place: Path, run: Run) -> None:
    damaged = ["ggn/c/2/1", "hessian/c/3/3"]
    for key in damaged:
        (store / key).write_bytes(b"damaged")
    opened = HessianStore(store)
    assert sorted(opened.damaged_objects(opened.records().values())) == damaged
    assert computed(run(store, stored_inputs(opened))) == [1, 3]
    assert objects(store, ARRAYS) == objects(place / "small.zarr", ARRAYS)


def test_verify_says_which_matrix_is_wrong(store: Path) -> None:
    certificate = verify_hessian(store)
    assert certificate.passed
    assert set(certificate.matrix_errors) == {"hessian", "ggn"}
    assert max(max(errors) for errors in certificate.matrix_errors.values()) < 1e-12
    opened, array = HessianStore(store), zarr.open_array(store / "ggn", mode="r+")
    corner = (2, NUM_PARAMS - 2)
    array[corner] = np.asarray(array[corner]) + 0.01
    record = opened.records()[0]
    sums = {key: checksum((store / key).read_bytes()) for key in record.checksums}
    replace(record, checksums=sums).save(opened.location)
    certificate = verify_hessian(store)
    assert (certificate.damaged, certificate.passed) == ([], False)
    assert max(certificate.matrix_errors["hessian"]) < 1e-12
    assert min(certificate.matrix_errors["ggn"]) > certificate.tolerance
    assert certificate.product_errors == certificate.matrix_errors["ggn"]


def test_a_run_checks_both(
    place: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    block_row = LayeredJacobian.block_row

    def wrong(self: LayeredJacobian, *arguments: Any) -> tuple[Array, Array]:
        columns, product = block_row(self, *arguments)
        return columns, product * 1.05

    monkeypatch.setattr(LayeredJacobian, "block_row", wrong)
    with pytest.raises(SelfCheckError, match="of the Gauss-Newton matrix of the total loss is"):
        run(tmp_path / "both.zarr", inputs_of(place, small=True), with_ggn=True)


def test_what_does_not_go_together_is_refused(
    store: Path, place: Path, hessian: Cli, run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "none.zarr"
    asked = ["-o", "small=true", "-o", "norm=true", "--with-ggn", "--store", path]
    code, _, errors = hessian("run", place / "problem.py", *asked)
    assert code == 1
    assert "Not every term has a Gauss-Newton matrix: term 'norm' couples its points" in errors
    inputs = inputs_of(place, small=True)
    with pytest.raises(PlanError, match=r"computes the Gauss-Newton matrix alone.*Leave one"):
        run(path, inputs, with_ggn=True, engine="ggn")
    assert not path.exists()
    with pytest.raises(StoreMismatchError, match=r"Hessian and the Gauss-Newton.*--without-ggn"):
        run(store, inputs, with_ggn=False)
    run(path, inputs)
    with pytest.raises(StoreMismatchError, match=r"for the Hessian, but --with-ggn was asked for"):
        run(path, inputs, with_ggn=True)
    with pytest.raises(StoreMismatchError, match=r"but the Gauss-Newton matrix.*--with-ggn"):
        select_matrix(path, "ggn")
    assert load_settings(assignments=["with_ggn=true"]).with_ggn


@pytest.mark.parametrize(
    "edit",
    [
        lambda attributes: attributes["arrays"].pop(),
        lambda attributes: attributes["jacobians"].pop(),
        lambda attributes: attributes["left_out"].append({"term": "data", "reason": "it is"}),
        lambda attributes: attributes["arrays"].append({"name": "ggn_data", "term": "data"}),
    ],
    ids=["an array less", "a Jacobian less", "a term left out", "a term of one alone"],
)
def test_attributes_of_no_such_store_are_refused(
    edit: Callable[[dict[str, Any]], object], store: Path
) -> None:
    forge(store, edit)
    with pytest.raises(StoreError, match="is not a readable Hessian store"):
        HessianStore(store)


# ---- questions ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def apart(place: Path, run: Run) -> tuple[Path, Path]:
    """The Hessian with those of its terms in one store, and the total G in another."""
    inputs = inputs_of(place, small=True, more=True)
    run(place / "h.zarr", inputs, per_term=True)
    run(place / "g.zarr", inputs, engine="ggn")
    return place / "h.zarr", place / "g.zarr"


def test_parts_are_found_in_one_store(place: Path, expected: dict[str, Array]) -> None:
    found = analyse_terms(place / "both.zarr", num_dominant=3)
    each = ["", *(f" {term}" for term in TERMS)]
    assert [part.label for part in found.parts] == [
        f"{kind}{term}" for term in each for kind in ("H", "G", "H-G")
    ]
    for part, trace in zip(found.parts, found.traces, strict=True):
        end = f"_{part.term}" if part.term else ""
        h, g = np.trace(expected[f"hessian{end}"]), np.trace(expected[f"ggn{end}"])
        wanted = {"hessian": h, "ggn": g, "residual_curvature": h - g}[part.kind]
        np.testing.assert_allclose(trace, wanted, rtol=0, atol=1e-12 * (abs(h) + abs(g)))


def test_terms_of_one_store_go_with_the_total_of_the_other(apart: tuple[Path, Path]) -> None:
    found = analyse_terms(*apart, num_dominant=3)
    assert [part.label for part in found.parts] == ["H", "G", "H-G", "H data", "H ends"]
    difference = np.linalg.norm(residual_curvature(*apart).to_numpy())
    np.testing.assert_allclose(found.norms[2], difference, rtol=1e-12)
    methods = {tried.method for tried in try_steps(*apart, dampings=[1.0])}
    assert methods == {"newton", "saddle_free", "gauss_newton"}


def test_steps_and_approximations_find_it(place: Path) -> None:
    path = place / "both.zarr"
    *_, step = try_steps(path, dampings=[1.0])
    dataset = open_hessian(path)
    damped = dataset.ggn.to_numpy() + np.eye(dataset.sizes["row"])
    length = np.linalg.norm(np.linalg.solve(damped, dataset.gradient.to_numpy()))
    # The condition number is below 1e3.
    assert (step.method, step.length) == ("gauss_newton", pytest.approx(length, rel=1e-10))
    named = [one.name for one in compare_approximations(path, ranks=[3]).found]
    assert named[-1] == "Gauss-Newton"
    alone = compare_approximations(select_matrix(path, "ggn"), ranks=[3])
    assert (alone.title, alone.found[-1].name) == ("Gauss-Newton matrix", "rank 3")


@pytest.mark.parametrize(("name", "negative"), [("hessian", True), ("ggn", False), (None, True)])
def test_a_matrix_is_chosen(
    name: Any, negative: bool, place: Path, expected: dict[str, Array]
) -> None:
    opened = select_matrix(place / "both.zarr", name)
    found, matrix = spectrum(opened), expected[name or "hessian"]
    values = np.linalg.eigvalsh(matrix)
    scale = np.abs(values).max()
    np.testing.assert_allclose(found.eigenvalues, values, rtol=0, atol=1e-12 * scale)
    assert found.inertia is not None
    assert (found.inertia[2] > 0) == negative
    assert opened.records() == HessianStore(place / "both.zarr").records()


def test_each_matrix_has_the_error_that_was_certified_of_it(store: Path) -> None:
    errors = {"hessian": [1e-3], "ggn": [1e-9]}
    certificate = {"passed": True, "product_errors": [1e-3], "matrix_errors": errors}
    HessianStore(store).set_certificate(certificate)
    floors = [spectrum(select_matrix(store, name)).noise_floor for name in ("hessian", "ggn")]
    norms = [spectrum(select_matrix(store, name)).frobenius_norm for name in ("hessian", "ggn")]
    np.testing.assert_allclose(np.divide(floors, norms), [1e-3, 1e-9], rtol=1e-4)


def test_a_saddle_is_told_of_the_other_matrix(place: Path, hessian: Cli) -> None:
    path = place / "both.zarr"
    with pytest.raises(PlanError, match=r"which this store holds: --matrix ggn"):
        uncertainty(path)
    code, output, _ = hessian("uncertainty", path, "--matrix", "ggn")
    assert code == 0
    assert "nu" in output
    code, output, _ = hessian("influence", path, "--matrix", "ggn")
    assert code == 0


def test_commands_say_and_take_both(place: Path, hessian: Cli, tmp_path: Path) -> None:
    path = place / "both.zarr"
    code, output, _ = hessian("status", path)
    assert (code, "Hessian and Gauss-Newton matrix" in output) == (0, True)
    code, output, _ = hessian("info", path, "--matrix", "ggn", "--picture", tmp_path / "g.png")
    assert code == 0
    assert "Hessians               hessian, hessian_pair, hessian_data" in output
    assert "Gauss-Newton matrices  ggn, ggn_pair, ggn_data" in output
    asked = ["-o", "small=true", "--with-ggn", "--per-term"]
    code, output, _ = hessian("plan", place / "problem.py", *asked)
    assert code == 0
    assert "Hessians               2, float64" in output
    assert "Gauss-Newton matrices  2, float64" in output
    traces = {}
    for matrix in ("hessian", "ggn"):
        code, output, _ = hessian("statistics", path, "--matrix", matrix, "--term", "data")
        assert code == 0
        traces[matrix] = output.splitlines()[0]
        assert hessian("solve", path, "--matrix", matrix, "--damping", "100")[0] == 0
        assert hessian("export", path, tmp_path / f"{matrix}.npy", "--matrix", matrix)[0] == 0
    assert traces["hessian"] != traces["ggn"]
    dataset = open_hessian(path)
    for matrix in ("hessian", "ggn"):
        assert np.array_equal(np.load(tmp_path / f"{matrix}.npy"), dataset[matrix])


@pytest.mark.slow
def test_a_report_compares_both(place: Path, hessian: Cli, tmp_path: Path) -> None:
    out = tmp_path / "report"
    code, _, errors = hessian("report", place / "both.zarr", "--out", out, "--stored-only")
    assert (code, errors) == (0, "")
    page = (out / "report.html").read_text()
    assert "What Gauss-Newton leaves out" in page

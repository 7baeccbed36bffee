"""Products without the array: the same matrix as the stored one, on threads and on workers."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.sparse.linalg
import tensorflow as tf
import xarray as xr

from hessian_tasks.autodiff.products import cut_points
from hessian_tasks.frozen import FrozenInputs
from hessian_tasks.parameters import ParameterLayout
from hessian_tasks.problem import LossTerm, Problem
from hessian_tasks.source import LIVE, ProblemSource
from hessian_tasks.spec import GAUSS_NEWTON, HESSIAN
from pipeline.analysis.eigenpairs import extreme_eigenpairs, search_cost
from pipeline.analysis.operator import HessianOperator
from pipeline.cli.render import estimates as rendered
from pipeline.errors import (
    ClusterError,
    ConfigError,
    PlanError,
    ProblemError,
    StoppedError,
    StoreError,
)
from pipeline.estimates._distributed import distributed_product
from pipeline.estimates.estimates import EstimateOptions, estimate
from pipeline.estimates.fitting import allowed_bytes, best_method, fitting_search
from pipeline.estimates.kept import check_replaceable
from pipeline.estimates.operator import is_semidefinite, operator_of
from pipeline.run.cluster.workers import Workers
from pipeline.run.inputs import freeze_source
from pipeline.store.store import HessianStore
from tests.helpers.runs import Cli, Run, connected, processes

Array = npt.NDArray[Any]

OPTIONS = {"width": 8, "depth": 2, "num_interior": 60, "num_boundary": 50, "dtype": "float64"}
CHEAP = ["regression", "-o", "width=12", "-o", "depth=1", "-o", "num_samples=20"]
FEW_POINTS = ["-o", "num_interior=20", "-o", "num_boundary=10"]


@pytest.fixture(scope="module")
def poisson() -> FrozenInputs:
    return freeze_source(ProblemSource("poisson", OPTIONS))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, run: Run, poisson: FrozenInputs) -> Array:
    """The matrix as the layered engine stores it."""
    path = tmp_path_factory.mktemp("stored") / "h.zarr"
    run(path, poisson, per_term=True)
    return np.asarray(HessianStore(path).hessian()[...])


@pytest.fixture(scope="module")
def stored_ggn(tmp_path_factory: pytest.TempPathFactory, run: Run, poisson: FrozenInputs) -> Array:
    path = tmp_path_factory.mktemp("stored") / "g.zarr"
    run(path, poisson, engine="ggn")
    return np.asarray(HessianStore(path).hessian()[...])


def extremes(operator: Any) -> Array:
    found = scipy.sparse.linalg.eigsh(operator, k=8, which="BE", return_eigenvectors=False)
    return np.sort(found)


def assert_same_spectrum(operator: Any, matrix: Array) -> None:
    exact = np.linalg.eigvalsh(matrix)
    found = extremes(operator)
    # Relative to each eigenvalue; the smallest of these is 1e-3 of the largest.
    np.testing.assert_allclose(found, np.concatenate([exact[:4], exact[-4:]]), rtol=1e-8)


def test_threads_give_the_stored_spectrum(poisson: FrozenInputs, stored: Array) -> None:
    operator = operator_of(poisson, num_threads=2, max_batch=16)
    unit = np.eye(len(stored))
    np.testing.assert_allclose(operator @ unit, stored, rtol=0, atol=1e-12 * np.abs(stored).max())
    assert operator.num_products == len(stored)
    assert_same_spectrum(operator, stored)


def test_the_error_of_products_is_measured(poisson: FrozenInputs, stored: Array) -> None:
    operator = operator_of(poisson, num_threads=2)
    np.testing.assert_allclose(operator.norm, np.linalg.norm(stored), rtol=0.5)
    assert np.finfo(np.float64).eps <= operator.relative_error < 1e-13


@pytest.mark.slow
def test_the_measured_error_covers_that_of_float32() -> None:
    """Against products in float64 at the same, rounded, weights and points."""
    single = freeze_source(ProblemSource("poisson", {**OPTIONS, "dtype": "float32"}))
    operator = operator_of(single, num_threads=2)
    double = freeze_source(ProblemSource("poisson", OPTIONS))
    problem = double.source.load()
    from hessian_tasks.networks.models import set_theta

    set_theta(problem.model, single.theta.astype(np.float64))
    terms = [
        replace(t, points=np.asarray(t.points, np.float32).astype(np.float64))
        for t in problem.terms
    ]
    problem = replace(problem, terms=terms)
    exact = operator_of(freeze_source(ProblemSource(LIVE, live=problem)), num_threads=2)
    unit = np.eye(operator.shape[0])
    error = np.linalg.norm(operator @ unit - exact @ unit) / np.linalg.norm(exact @ unit)
    assert error / 3 < operator.relative_error < 10 * error


def test_terms_and_the_gauss_newton_matrix(
    poisson: FrozenInputs, stored: Array, stored_ggn: Array
) -> None:
    unit = np.eye(len(stored))
    terms = [operator_of(poisson, term=t, num_threads=2) for t in ("pde", "dirichlet")]
    assert terms[0].title == "Hessian of term pde"
    total = sum(operator @ unit for operator in terms)
    np.testing.assert_allclose(total, stored, rtol=0, atol=1e-12 * np.abs(stored).max())
    found = operator_of(poisson, matrix=GAUSS_NEWTON, num_threads=2) @ unit
    np.testing.assert_allclose(found, stored_ggn, rtol=0, atol=1e-12 * np.abs(stored_ggn).max())
    with pytest.raises(ProblemError, match="no loss term 'heat'"):
        operator_of(poisson, term="heat")


@pytest.mark.slow
def test_workers_give_the_stored_spectrum(
    poisson: FrozenInputs, stored: Array, workers: Workers
) -> None:
    assert_same_spectrum(operator_of(poisson, workers=workers, max_batch=16), stored)


def test_workers_give_the_stored_matrix(
    poisson: FrozenInputs, stored: Array, workers: Workers
) -> None:
    operator = operator_of(poisson, workers=workers, max_batch=16)
    np.testing.assert_allclose(operator @ np.eye(len(stored)), stored, atol=1e-11)
    # Nothing stays on the workers but the inputs.
    kept = {key for keys in workers.client.has_what().values() for key in keys}
    assert not [key for key in kept if "product" in str(key)]


def test_the_only_worker_is_killed_with_all_that_was_sent(inputs: FrozenInputs) -> None:
    unit = np.eye(len(inputs.theta))
    with connected(processes(workers=1)) as workers:
        shards = cut_points(inputs.source.load(), max_batch=4, num_shards=8)
        product = distributed_product(workers, inputs, HESSIAN, shards)
        first = product(unit[:, :1])
        (victim,) = workers.client.run(os.getpid).values()
        os.kill(victim, signal.SIGKILL)
        found = product(unit)
        assert victim not in workers.client.run(os.getpid).values()
    expected = operator_of(inputs, num_threads=2) @ unit
    tolerance = 1e-12 * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(first, expected[:, :1], rtol=0, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_worker_that_is_killed(poisson: FrozenInputs, stored: Array, num_workers: int) -> None:
    """Also if it was the only one, and had all that was sent."""
    with connected(processes(workers=num_workers)) as workers:
        shards = cut_points(poisson.source.load(), max_batch=4, num_shards=8)
        product = distributed_product(workers, poisson, HESSIAN, shards)
        unit = np.eye(len(stored))
        product(unit[:, :1])  # compiles
        victim = next(iter(workers.client.run(os.getpid).values()))
        timer = threading.Timer(0.05, os.kill, (victim, signal.SIGKILL))
        timer.start()
        found = product(unit)
        timer.join()
    np.testing.assert_allclose(found, stored, rtol=0, atol=1e-12 * np.abs(stored).max())


def test_what_workers_refuse(workers: Workers, tiny_problem: Callable[..., Problem]) -> None:
    problem, lock = tiny_problem(), threading.Lock()

    def loss(model: Any) -> Any:
        with lock:
            return tf.reduce_sum(model.trainable_weights[0] ** 2)

    locked = Problem(problem.model, [LossTerm("locked", loss)])
    live = freeze_source(ProblemSource(LIVE, live=locked))
    with pytest.raises(ConfigError, match="cannot be sent to workers"):
        operator_of(live, workers=workers)


def test_a_problem_that_the_workers_cannot_rebuild(workers: Workers, tmp_path: Path) -> None:
    from hessian_tasks.errors import ReproductionError

    file = tmp_path / "problem.py"
    file.write_text(
        "import os\nfrom hessian_tasks.problems import poisson\n"
        "def problem():\n    good = poisson.problem(4, 1, 9, 9, dtype='float64')\n"
        f"    if os.getpid() != {os.getpid()}:\n"
        "        import dataclasses\n"
        "        worse = dataclasses.replace(good.terms[0], residual=lambda x, u: u.value)\n"
        "        return dataclasses.replace(good, terms=[worse, good.terms[1]])\n"
        "    return good\n"
    )
    frozen = freeze_source(ProblemSource(str(file)))
    with pytest.raises(ReproductionError, match=r"'pde' is .* but .* was recorded"):
        operator_of(frozen, workers=workers)


@pytest.mark.parametrize("on_workers", [False, True])
def test_a_product_is_stopped(workers: Workers, poisson: FrozenInputs, on_workers: bool) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(StoppedError):
        operator_of(poisson, workers=workers if on_workers else None, stop=stop)


@pytest.mark.slow
def test_no_workers_any_more(poisson: FrozenInputs) -> None:
    with connected(processes(workers=1)) as workers:
        shards = cut_points(poisson.source.load())
        impatient = Workers(workers.client, processes(wait=2.0))
        product = distributed_product(impatient, poisson, HESSIAN, shards)
        workers.client.cluster.scale(0)
        with pytest.raises(ClusterError, match="no worker for 2 s"):
            product(np.ones((len(poisson.theta), 1)))


@pytest.mark.slow
def test_a_million_parameters() -> None:
    """Memory: the products' own, and a few vectors."""
    from hessian_tasks.process import peak_bytes, reset_peak, resident_bytes

    options = {"width": 700, "depth": 3, "num_interior": 500, "num_boundary": 100}
    frozen = freeze_source(ProblemSource("poisson", options))
    operator = operator_of(frozen, num_threads=2)
    reset_peak()
    before = resident_bytes()
    rng = np.random.default_rng(0)
    v, w = rng.standard_normal((2, operator.shape[0]))
    forms = np.dot(w, operator @ v), np.dot(v, operator @ w)
    assert abs(forms[0] - forms[1]) < 1e-5 * operator.norm
    assert operator.shape[0] == 984_201
    assert peak_bytes() - before < 2**30


# ---- answers, and how they are kept --------------------------------------------------------------


def test_answers_agree_with_the_stored_matrix(poisson: FrozenInputs, stored: Array) -> None:
    operator = operator_of(poisson, num_threads=2)
    options = EstimateOptions(num_pairs=3, max_products=200, num_diagonal=100)
    found = estimate(operator, poisson.loss, options)
    exact, vectors = np.linalg.eigh(stored)
    ends = [0, 1, 2, -3, -2, -1]
    np.testing.assert_allclose(found.pairs.values, exact[ends], rtol=1e-8)
    assert np.all(np.abs(found.pairs.values - exact[ends]) <= found.eigenvalue_errors)
    overlaps = np.abs(np.sum(found.pairs.vectors * vectors[:, ends], axis=0))
    np.testing.assert_allclose(overlaps, 1, atol=1e-6)
    norm = np.linalg.norm(stored)
    for answer, truth in [(found.trace, np.trace(stored)), (found.frobenius_norm, norm)]:
        assert abs(answer.value - truth) <= 4 * answer.standard_error
        assert answer.standard_error <= 0.01 * 1.5 * norm  # The norm was only estimated then.
    assert found.diagonal is not None
    errors = np.abs(found.diagonal.value - np.diag(stored))
    assert np.mean(errors <= 2 * found.diagonal.standard_error + 1e-12) > 0.8
    layers = found.layers
    assert layers is not None
    parts = np.split(np.diag(stored), np.cumsum(layers.sizes)[:-1])
    assert layers.layers == ["hidden_1", "hidden_2", "output"]
    misses = np.abs(layers.means - [part.mean() for part in parts])
    assert (misses <= 4 * layers.standard_errors).all()
    assert (layers.standard_errors < 0.1 * np.abs(layers.means)).all()
    assert operator.num_products == found.num_products


def test_the_trace_of_the_gauss_newton_matrix(poisson: FrozenInputs, stored_ggn: Array) -> None:
    """By a method that H, which has negative eigenvalues, never gets."""
    exact = np.trace(stored_ggn)
    answers = {}
    for matrix in (GAUSS_NEWTON, HESSIAN):
        operator = operator_of(poisson, matrix=matrix, num_threads=2)
        options = EstimateOptions(num_pairs=1, max_products=40, error=0.0, matrix=matrix)
        answers[matrix.name] = estimate(operator, poisson.loss, options)
    found = answers["ggn"]
    assert (found.trace.method, found.frobenius_norm.method) == ("xnystrace", "xnystrace")
    assert abs(found.trace.value - exact) <= 4 * found.trace.standard_error
    assert found.trace.standard_error < 1e-3 * exact
    assert answers["hessian"].trace.method == "xtrace"
    assert "XNysTrace, 40 products" in rendered(found)


def test_the_matrices_that_have_no_negative_eigenvalue(
    tiny_problem: Callable[..., Problem],
) -> None:
    problem = tiny_problem()
    square = LossTerm("square", lambda model: tf.reduce_sum(model.trainable_weights[0] ** 2))
    negative = replace(problem.terms[0], name="negative", weight=-0.5)
    mixed = replace(problem, terms=[*problem.terms, square, negative])
    (first, *_), frozen = problem.terms, freeze_source(ProblemSource(LIVE, live=mixed))
    assert is_semidefinite(frozen, GAUSS_NEWTON, first.name)
    assert not is_semidefinite(frozen, HESSIAN, first.name)
    for term in (None, "square", "negative"):
        assert not is_semidefinite(frozen, GAUSS_NEWTON, term)


@pytest.mark.parametrize(
    ("gigabytes", "semidefinite", "expected"),
    [
        (2.4, True, "hutchinson"), (2.9, True, "xtrace"), (3.1, True, "xnystrace"),
        (3.1, False, "xtrace"),
    ],
)  # fmt: skip
def test_less_memory_takes_another_method(
    gigabytes: float, semidefinite: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """XTrace has two and a half vectors for each product, XNysTrace three."""
    memory = SimpleNamespace(available=2e9 * gigabytes)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    # 10 MB a vector.
    assert best_method(1_250_000, 100, allowed_bytes(), semidefinite) == expected
    assert allowed_bytes(2**40) > 2**39


def test_eigenpairs_that_do_not_fit(hessian: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are refused before the first product, with a number that fits."""
    command = ["estimate", "poisson", "-o", "width=30", "-o", "depth=2", *FEW_POINTS, "--json"]
    size, allowed = 1_051, 2 * 2**20

    def product(*arguments: Any) -> Any:
        raise AssertionError(arguments)

    memory = SimpleNamespace(available=2 * allowed)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.estimates.operator.threaded_product", product)
        patch.setattr("psutil.virtual_memory", lambda: memory)
        code, text, errors = hessian(*command, "--pairs", 300)
        assert (code, text) == (1, "")
        found = re.search(r"Eigenpairs, 300 at .* 2 MiB are allowed; --pairs (\d+) fits", errors)
        assert found, errors
        fits = int(found[1])
        assert fitting_search(size, fits, allowed).num_bytes <= allowed
        with pytest.raises(PlanError):
            fitting_search(size, fits + 1, allowed)
        memory.available = 2**10
        assert "not even --pairs 1 fits" in hessian(*command, "--pairs", 300)[2]


def test_eigenpairs_take_no_more_than_was_said(poisson: FrozenInputs) -> None:
    """Products, and vectors in memory; of all eigenvalues, too, and of those that are not found."""
    operator = operator_of(poisson, num_threads=2)
    size = operator.shape[0]
    for number, block, passes in [(2, 4, 500), (2, 4, 6), (20, 4, 500), (1, 1, 3)]:
        said = search_cost(size, number, block, passes)
        before = operator.num_products
        extreme_eigenpairs(operator, number, tolerance=1e-6, block=block, max_passes=passes)
        taken = operator.num_products - before
        assert taken <= said.num_products
        # What gave up has taken most of it.
        assert taken > said.num_products / 2 or passes == 500


@pytest.mark.parametrize("number", [5, pytest.param(60, marks=pytest.mark.slow)])
def test_the_memory_of_eigenpairs_is_within_what_was_said(number: int) -> None:
    """NumPy says of each array to tracemalloc; LAPACK's own is on top."""
    diagonal = np.linspace(-1.0, 1.0, 20_000)[:, np.newaxis]
    layout = ParameterLayout.of([("a/kernel", (20_000,))])
    operator = HessianOperator(lambda vectors: diagonal * vectors, layout, relative_error=0.0)
    said = search_cost(20_000, number, 4, 200).num_bytes
    tracemalloc.start()
    try:
        extreme_eigenpairs(operator, number, tolerance=1e-3, block=4, max_passes=200)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert said / 2 < peak < 1.1 * said


def test_the_command_keeps_its_answers(tmp_path: Path, hessian: Cli) -> None:
    path = tmp_path / "e.zarr"
    command = ["estimate", *CHEAP, "-o", "dtype=float64", "--pairs", 2, "--max-products", 30]
    picture = tmp_path / "density.png"
    code, _, errors = hessian(*command, "--picture", picture)
    assert (code, "ask" in errors, picture.exists()) == (2, True, False)
    command += ["--density", 1]
    code, text, errors = hessian(*command, "--threads", 2, "--picture", picture)
    assert code == 0, errors
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert re.search(r"^largest +\S+ ± \S+  \S+ ± \S+$", text, re.MULTILINE)
    assert "(standard error; XTrace, " in text
    assert re.search(r"^  above the floor +[0-9.]+ to [0-9.]+$", text, re.MULTILINE)
    assert "diagonal" not in text
    assert re.search(r"^eigenpairs, 2 at each end: at most \S+ products, and \S+ KiB", errors)
    command += ["--store", path, "--diagonal", 12]
    code, text, errors = hessian(*command, "--threads", 2)
    assert code == 0, errors
    assert re.search(r"^diagonal .*standard error; XDiag, 12 products\)$", text, re.MULTILINE)
    assert re.search(r"^  hidden_1 +[-0-9.e]+ ± [0-9.e-]+, 24$", text, re.MULTILINE)
    code, text, errors = hessian(*command, "--json", "--threads", 2)
    assert code == 0, errors
    told = json.loads(text)
    with xr.open_zarr(path, consolidated=False) as dataset:
        assert dataset.attrs["estimates"] == told
        assert dataset.eigenvector.sizes == {"row": told["num_params"], "pair": 4}
        np.testing.assert_array_equal(dataset.eigenvalue, told["eigenvalues"])
        assert dataset.diagonal.sizes == dataset.theta.sizes
        means = [dataset.diagonal[:24].mean(), dataset.diagonal[24:].mean()]
        np.testing.assert_allclose(told["diagonal"]["means"], means, rtol=1e-12)
    code, text, _ = hessian(*command, "--engine", "ggn", "--json", "--threads", 2)  # replaced
    assert (code, json.loads(text)["asked"]["matrix"]) == (0, "ggn")
    other = [*command, "-o", "width=7"]
    code, text, errors = hessian(*other)
    assert (code, text) == (1, "")
    assert "other inputs: shapes of the network, weights of the network (theta)" in errors
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_the_command_traces_what_is_semidefinite_by_its_own_method(hessian: Cli) -> None:
    options = [*FEW_POINTS, "-o", "width=8", "-o", "depth=1", "--pairs", 2, "--max-products", 30]
    code, text, errors = hessian("estimate", "poisson", *options, "--engine", "ggn", "--json")
    assert code == 0, errors
    assert json.loads(text)["trace"]["method"] == "xnystrace"


def test_a_store_of_a_matrix_is_not_replaced(
    tmp_path: Path, hessian: Cli, run: Run, inputs: FrozenInputs
) -> None:
    run(tmp_path / "h.zarr", inputs)
    code, _, errors = hessian("estimate", "regression", "--store", tmp_path / "h.zarr")
    assert code == 1
    assert "hessian spectrum" in errors
    assert HessianStore(tmp_path / "h.zarr").pending() == []


@pytest.mark.parametrize("attributes", [{}, {"kind": "estimates"}])
def test_damaged_answers_are_not_replaced(
    attributes: dict[str, str], tmp_path: Path, inputs: FrozenInputs
) -> None:
    xr.Dataset(attrs=attributes).to_zarr(tmp_path / "e.zarr", zarr_format=3, consolidated=False)
    with pytest.raises(StoreError, match="holds no estimates"):
        check_replaceable(tmp_path / "e.zarr", inputs)


def test_the_plan_knows_both_ways(hessian: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    small = ["plan", *CHEAP, "--threads", 2]
    code, text, _ = hessian(*small)
    assert code == 0
    assert re.search(r"^matrix-free +\S+ s a product, memory about", text, re.MULTILINE)
    assert re.search(r"^advice +hessian run: the matrix fits", text, re.MULTILINE)
    told = json.loads(hessian(*small, "--json")[1])
    assert told["advice"] == "hessian run"
    assert told["stored_bytes"] == 4 * told["num_params"] ** 2
    assert told["matrix_free"]["seconds_per_product"] > 0
    # A GPU's line is for large matrices, the numbers are there: N S P² FLOP, two a multiply-add.
    assert "on GPUs" not in text
    (points,) = (int(n) for n in re.findall(r"at (\d+) points", text))
    flop = points * told["num_params"] ** 2
    there = told["on_gpus"]
    assert there["gpu_hours"] * 3600 * there["gpu_flop_per_second"] == pytest.approx(flop)
    assert there["store_seconds"] * there["store_bytes_per_second"] == told["stored_bytes"]
    monkeypatch.setattr("pipeline.cli.render._matrix_free.LARGE_BYTES", told["stored_bytes"])
    assert "on 8, bounded by " in hessian(*small)[1]
    # This process is older than the plan, and a command has no other time before it computes.
    assert told["preparing_seconds"] > 0
    assert re.search(r"^preparing +about .* before that: importing", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("memory", "free", "reason", "advice"),
    [
        (
            "64MiB",
            2**60,
            "does not fit into memory: projected .*TensorFlow and the problem alone take",
            r"hessian run --memory \d+MiB",
        ),
        (
            "1KiB",
            2**60,
            "the smallest block row takes .* KiB of memory, and 1 KiB are allowed",
            r"hessian estimate --memory \d+MiB",
        ),
        ("64GiB", 2**10, "only 1 KiB are free for .*runs/regression", "hessian estimate"),
    ],
)
def test_the_plan_says_why_a_matrix_does_not_fit(
    memory: str, free: int, reason: str, advice: str, hessian: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.store.places._directory.free_bytes", lambda path: free)
    command = ["plan", *CHEAP, "--threads", 2, "--memory", memory]
    code, text, errors = hessian(*command)
    assert code == 0, errors
    assert re.search(rf"^stored +\S+ KiB: does not fit, .*{reason}", text, re.MULTILINE)
    assert re.search(rf"^advice +{advice}: ", text, re.MULTILINE)
    assert re.fullmatch(advice, json.loads(hessian(*command, "--json")[1])["advice"])

"""Every run checks itself: what is planted is caught, and nothing else."""

from __future__ import annotations

import json
import pkgutil
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

import pipeline.run.prepare
from hessian_tasks import problems
from hessian_tasks.autodiff import AutodiffEngine
from hessian_tasks.frozen import FrozenInputs
from hessian_tasks.gauss_newton import GaussNewtonEngine
from hessian_tasks.layered.engine import LayeredEngine
from hessian_tasks.layered.multiply import tangents
from hessian_tasks.problem import Problem, ResidualTerm
from hessian_tasks.problems.networks import mlp
from hessian_tasks.rebuild import freeze, rebuild
from hessian_tasks.source import LIVE, ProblemSource
from hessian_tasks.spec import GAUSS_NEWTON, HESSIAN, BlockRow, EngineName
from pipeline.api import compute_hessian, open_store, verify_hessian
from pipeline.errors import SelfCheckError, StoreWarning
from pipeline.run import _selfcheck as selfcheck
from pipeline.run import products
from pipeline.run._references import References
from pipeline.run.engines import choose_engines
from pipeline.run.events import BlockRowStored, RunFinished
from pipeline.run.inputs import freeze_source
from pipeline.run.options import RunOptions
from pipeline.store.store import HessianStore
from pipeline.training import train
from tests.helpers.runs import Cli, Run

Array = npt.NDArray[Any]

# 37 parameters, and several block rows.
REGRESSION = ["regression", "-o", "width=12", "-o", "depth=1", "-o", "num_samples=20"]
REGRESSION += ["-o", "dtype=float64", "--tile", "8"]
NAMES = sorted({m.name for m in pkgutil.iter_modules(problems.__path__)} - {"networks", "sampling"})
# An equation that is not linear, one in time, and what is no equation.
FAST = {"burgers", "heat", "classification", "regression"}
ENGINES = {"layered": LayeredEngine, "autodiff": AutodiffEngine, "ggn": GaussNewtonEngine}


def frozen(name: str, **options: Any) -> Any:
    return freeze_source(ProblemSource(name, options))


@pytest.fixture(scope="module")
def poisson() -> Any:
    return frozen("poisson", width=4, depth=2, num_interior=12, num_boundary=12, dtype="float64")


def spoil(
    patch: pytest.MonkeyPatch, engine: type, change: Callable[[BlockRow, Array], None]
) -> None:
    """Change what an engine computes."""
    name = "term_rows" if engine is GaussNewtonEngine else "block_row"
    right = getattr(engine, name)

    def wrong(self: Any, row: BlockRow, *arguments: Any, **keywords: Any) -> Any:
        found = right(self, row, *arguments, **keywords)
        change(row, found[0] if isinstance(found, tuple) else found)
        return found

    wrong.right = right  # type: ignore[attr-defined]
    patch.setattr(engine, name, wrong)


def drop(row: BlockRow, block: Array, start: int, stop: int) -> None:
    block[max(0, start - row.start) : max(0, stop - row.start)] = 0


def drop_bias(row: BlockRow, block: Array) -> None:
    """Rows 8 to 11 are the first hidden layer's bias."""
    drop(row, block, 8, 12)


def scale_a_tile(row: BlockRow, block: Array) -> None:
    if row.index == 1:
        block[:, 8:16] *= 1 + 1e-5


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in NAMES]
)
def test_built_in_problems_pass(name: str, dtype: str, tmp_path: Path, run: Run) -> None:
    events = run(
        tmp_path / "h.zarr", frozen(name, width=4, depth=2, dtype=dtype), per_term=True, tile=32
    )
    check = events[-1].self_check
    assert check.passed
    assert check.error <= 100 * np.finfo(dtype).eps
    assert HessianStore(tmp_path / "h.zarr").self_check == check


def _dropped(per_term: bool) -> str:
    what = "term 'pde'" if per_term else "the total loss"
    return rf"^Block row 0 \(.* of {what} is wrong: .*hidden_1/bias has a relative error of 1,"


def test_a_classifier_that_is_sure_passes_though_rounding_is_large(
    tmp_path: Path, run: Run
) -> None:
    source = ProblemSource("classification", {"width": 8})
    trained = train(source.load(), adam_steps=150, lbfgs_steps=150, seed=0).problem
    events = run(tmp_path / "h.zarr", freeze(trained, ProblemSource(LIVE, live=trained)))
    check = events[-1].self_check
    # Differences of probabilities that are 1 to seven digits, in float32.
    assert check.tolerance > np.sqrt(np.finfo(np.float32).eps)
    assert check.error < check.tolerance / 2


@pytest.mark.parametrize(
    ("engine", "per_term"),
    [
        *((engine, True) for engine in ENGINES),
        ("layered", False),
        *(pytest.param(name, False, marks=pytest.mark.slow) for name in ("autodiff", "ggn")),
    ],
)
def test_a_dropped_variable_is_caught_and_the_run_goes_no_further(
    engine: str,
    per_term: bool,
    tmp_path: Path,
    run: Run,
    poisson: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, seen = tmp_path / "h.zarr", []
    spoil(monkeypatch, ENGINES[engine], drop_bias)
    with pytest.raises(SelfCheckError, match=_dropped(per_term)):
        run(path, poisson, [seen.append], engine=engine, per_term=per_term, tile=16)
    assert not any(isinstance(event, RunFinished) for event in seen)
    with pytest.warns(StoreWarning, match=r"h\.zarr failed the check of the run"):
        store = HessianStore(path)
    assert store.self_check is not None
    assert not store.self_check.passed
    assert store.verified is False
    assert store.self_check.block_rows == [0]
    with pytest.warns(StoreWarning, match="hidden_1/bias"):
        assert open_store(path).sizes["row"] == store.num_params


@pytest.mark.parametrize(
    "engine",
    ["layered", *(pytest.param(name, marks=pytest.mark.slow) for name in ("autodiff", "ggn"))],
)
def test_a_wrong_tile_of_another_block_row_is_caught_at_the_end(
    engine: str, tmp_path: Path, run: Run, poisson: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = tmp_path / "h.zarr", []
    spoil(monkeypatch, ENGINES[engine], scale_a_tile)
    with pytest.raises(SelfCheckError, match=r"^Block row [12] \(.*the total loss is wrong"):
        run(path, poisson, [seen.append], engine=engine, tile=8)
    assert sum(isinstance(event, BlockRowStored) for event in seen) == 5


def test_a_dropped_variable_is_caught_though_only_the_last_block_row_is_read(
    tmp_path: Path, run: Run, poisson: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selfcheck, "READ_BYTES", 0)

    # Tiles of side 8: four block rows of 37 parameters and a short one, of which two are read.
    spoil(monkeypatch, LayeredEngine, lambda row, block: drop(row, block, 16, 17))
    with pytest.raises(SelfCheckError, match="is wrong"):
        run(tmp_path / "h.zarr", poisson, tile=8)


def test_a_wrong_tangent_of_the_layered_engine_is_caught(
    tmp_path: Path, run: Run, poisson: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def straight(self: Any, total: Any, node: int, key: tuple[int, int, int]) -> None:
        """As it is, without the curvature of the activation."""
        wire, s, t = key
        inputs = self._program.inputs(node)
        for ((a, into), out), slope in self.expansion.jacobians[node].items():
            if into == t and inputs[a] == wire:
                total.add_scaled(self.second(node, s, out), slope[self.points])

    monkeypatch.setattr(tangents.Tangents, "_add_node", straight)
    with pytest.raises(SelfCheckError, match="is wrong"):
        run(tmp_path / "h.zarr", poisson, engine="layered", tile=16)


def free_boundary(held: bool) -> Problem:
    """A residual at a point that the network decides; or held where it is."""

    def residual(x: Any, u: Any) -> Any:
        place = tf.stop_gradient(u[1].value) if held else u[1].value
        return u[0].at(tf.concat([place, x[:, 1:2]], axis=1)).value

    points = np.random.default_rng(0).uniform(-1, 1, (8, 2))
    model = mlp(2, 2, width=4, depth=2, seed=1, dtype="float64")
    return Problem(model, [ResidualTerm("front", points, residual)], "xy")


@pytest.mark.parametrize("engine", ["autodiff", "ggn"])
def test_a_point_that_is_held_is_caught(
    engine: EngineName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose(problem: Problem, name: EngineName, **options: Any) -> Any:
        held = replace(problem, terms=free_boundary(held=True).terms)
        return choose_engines(held, name, **{**options, "readings": None})

    monkeypatch.setattr(pipeline.run.prepare, "choose_engines", choose)
    options = RunOptions(num_threads=2, tile=16, engine=engine)
    with pytest.raises(SelfCheckError, match="of the total loss is wrong"):
        compute_hessian(free_boundary(held=False), tmp_path / "h.zarr", options=options)


def plant() -> None:
    """Have this process's layered engine drop the first layer's bias."""
    spoil(pytest.MonkeyPatch(), LayeredEngine, lambda row, block: drop(row, block, 12, 24))


def mend() -> None:
    LayeredEngine.block_row = LayeredEngine.block_row.right  # type: ignore[attr-defined]


def test_workers_that_compute_something_else_are_caught(
    tmp_path: Path, run: Run, inputs: FrozenInputs, workers: Any
) -> None:
    path = tmp_path / "h.zarr"
    workers.client.run(plant)
    try:
        # Which variable is named depends on what is stored first.
        with pytest.raises(SelfCheckError, match="against products by automatic differentiation"):
            run(path, inputs, workers=workers, tile=16)
    finally:
        workers.client.run(mend)
    # What is stored is still wrong, whoever computes the rest.
    with pytest.raises(SelfCheckError, match="against products by automatic differentiation"):
        run(path, inputs, workers=workers)
    for record in (path / "records").glob("0*"):
        shutil.rmtree(record)
    events = run(path, inputs, workers=workers)
    assert events[-1].self_check.passed
    assert verify_hessian(path).passed


@pytest.fixture
def failed(
    tmp_path: Path, hessian: Cli, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, tuple[int, str, str]]:
    """A complete store whose last tile is wrong, and what the command said."""
    path = tmp_path / "h.zarr"

    def change(row: BlockRow, block: Array) -> None:
        if row.start == 32:
            block *= 1.5

    with pytest.MonkeyPatch.context() as patch:
        spoil(patch, LayeredEngine, change)
        return path, hessian("run", *REGRESSION, "--store", path)


def test_a_failed_check_ends_the_command_and_every_other_repeats_it(
    failed: tuple[Path, tuple[int, str, str]], hessian: Cli, tmp_path: Path
) -> None:
    path, (code, output, errors) = failed
    assert code == 1
    assert "computed" not in output
    assert len(errors.splitlines()) == 1
    other = shutil.copytree(path, tmp_path / "other.zarr")
    HessianStore(other, warn=False).set_self_check(None)
    assert errors.startswith("hessian: Block row 4 (rows 32 to 36) of the Hessian of the total")
    for command in (
        ["info", path], ["status", path], ["spectrum", path], ["statistics", path],
        ["terms", path], ["steps", path], ["export", path, tmp_path / "h.npy"],
        ["report", path, "--stored-only", "--out", tmp_path / "page"], ["compare", path, other],
    ):  # fmt: skip
        _, _, errors = hessian(*command)
        said = [line for line in errors.splitlines() if "failed the check of the run" in line]
        assert len(said) == 1, (command, errors)
    code, output, errors = hessian("verify", path)
    assert code == 4
    assert "failed the check of the run" in errors
    assert "own check FAILED" in hessian("status", path)[1]
    assert json.loads(hessian("info", path, "--json")[1])["self_check"]["passed"] is False


def test_a_failed_store_is_checked_again_and_the_mark_goes_when_it_is_right(
    failed: tuple[Path, tuple[int, str, str]], hessian: Cli
) -> None:
    path, _ = failed
    code, output, errors = hessian("run", *REGRESSION, "--store", path)
    assert (code, "computed" in output) == (1, False)
    assert "rows 32 to 36" in errors
    shutil.rmtree(path / "records" / "000004")
    code, output, errors = hessian("run", *REGRESSION, "--store", path)
    assert (code, errors) == (0, "")
    assert "checked against Hessian-vector products" in output
    assert hessian("status", path)[2] == ""


def test_a_checked_store_is_not_checked_again_and_an_old_one_is(
    tmp_path: Path, run: Run, inputs: FrozenInputs
) -> None:
    path = tmp_path / "h.zarr"
    assert run(path, inputs, tile=8)[-1].self_check.passed
    assert run(path, inputs)[-1].self_check is None
    HessianStore(path).set_self_check(None)
    assert run(path, inputs)[-1].self_check.passed
    shutil.rmtree(path / "records" / "000002")
    assert run(path, inputs)[-1].self_check.passed


def test_parts_of_many_points_make_the_same_products(
    poisson: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = rebuild(poisson)
    vectors = np.random.default_rng(0).standard_normal((2, 37))
    for matrix in (HESSIAN, GAUSS_NEWTON):
        whole = References(problem, matrix)(vectors)
        with monkeypatch.context() as patch:
            patch.setattr(products, "MAX_POINTS", 5)
            parts = References(problem, matrix)(vectors)
        assert parts.keys() == whole.keys() == {"pde", "dirichlet", None}
        for term in whole:
            found, expected = parts[term].products, whole[term].products
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
            # Products are linear but for rounding.
            assert 0 < np.abs(whole[term].rounding).max() < 1e-12


NETWORK = """
import keras, numpy as np
from hessian_tasks import Problem, ResidualTerm

def problem():
    layers = [
        keras.layers.Dense(3, "tanh", name="features", trainable=False, dtype="float64"),
        keras.layers.BatchNormalization(name="scaled", dtype="float64"),
        keras.layers.Dense(1, name="output", dtype="float64"),
    ]
    net = keras.Sequential([keras.Input((1,), dtype="float64"), *layers])
    fit = ResidualTerm("fit", np.linspace(-1, 1, 8)[:, None], lambda x, u: u.value - x)
    return Problem(net, [fit], "x")
"""


def test_a_run_says_what_it_computes_and_info_repeats_it(tmp_path: Path, hessian: Cli) -> None:
    file, path = tmp_path / "problem.py", tmp_path / "h.zarr"
    file.write_text(NETWORK)
    code, output, errors = hessian("run", file, "--store", path)
    assert (code, errors) == (0, "")
    opened = open_store(path)
    norm = float(np.linalg.norm(opened.gradient))
    said = [
        f"loss               {opened.attrs['loss']:.6g}",
        f"  fit              {opened.attrs['loss']:.6g}, weight 1, residual of u at 8 points, "
        "adds up point by point",
        f"gradient           norm {norm:.6g}",
        "engine             layered",
        # Scale and offset of the normalisation, and a kernel and a bias.
        "parameters         10 trainable, float64",
        "not trained        6 in features, 6 in scaled",
        "in inference mode  scaled (BatchNormalization)",
    ]
    assert output.splitlines()[: len(said)] == said
    shown = hessian("info", path)[1]
    assert [line for line in shown.splitlines() if line in said] == said
    assert json.loads(hessian("info", path, "--json")[1])["gradient_norm"] == norm


def test_commands_say_whether_the_store_is_verified(
    tmp_path: Path, hessian: Cli, run: Run, poisson: Any
) -> None:
    path = tmp_path / "h.zarr"
    run(path, poisson, tile=16, per_term=True)
    asked = ["spectrum", "statistics", "terms", "steps", "approximations", "info", "solve"]

    def said() -> set[str]:
        exported = hessian("export", path, tmp_path / "h.npy")[2]
        return {exported, *(hessian(command, path)[2] for command in asked)}

    def verified() -> list[bool | None]:
        answers = [json.loads(hessian(each, path, "--json")[1]) for each in ["status", *asked]]
        return [answer["verified"] for answer in answers]

    assert said() == {f"hessian: not verified yet: hessian verify {path}\n"}
    assert verified() == [None] * 8
    certificate = {"passed": False, "product_errors": [1.0]}
    HessianStore(path).set_certificate(certificate)
    failed = f"hessian: verification FAILED; what is wrong says: hessian verify {path}\n"
    assert said() == {failed}
    assert verified() == [False] * 8
    HessianStore(path).set_certificate({**certificate, "passed": True})
    assert said() == {""}
    assert verified() == [True] * 8


def test_an_answer_from_two_stores_is_verified_where_both_are(
    tmp_path: Path, hessian: Cli, run: Run, poisson: Any
) -> None:
    path, ggn = tmp_path / "h.zarr", tmp_path / "g.zarr"
    run(path, poisson, tile=16)
    run(ggn, poisson, tile=16, engine="ggn")
    HessianStore(path).set_certificate({"passed": True, "product_errors": [1e-9]})
    for command in ("terms", "steps", "approximations"):
        _, output, errors = hessian(command, path, "--ggn", ggn, "--json")
        assert errors == f"hessian: not verified yet: hessian verify {ggn}\n"
        assert json.loads(output)["verified"] is None

"""Curvature along training: against dense matrices, and without changing the training."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import xarray as xr

from hessian_tasks import ParameterLayout, load_problem
from hessian_tasks.autodiff import AutodiffEngine
from hessian_tasks.loss import losses_and_gradient
from hessian_tasks.networks.models import get_theta, set_theta
from hessian_tasks.networks.trainables import resolve
from hessian_tasks.problem import Problem, ResidualTerm
from hessian_tasks.rebuild import freeze, rebuild
from hessian_tasks.source import LIVE, ProblemSource
from hessian_tasks.spec import BlockRow
from pipeline import HessianCallback, open_watched, train
from pipeline.analysis.eigenpairs import extreme_eigenpairs
from pipeline.analysis.operator import HessianOperator
from pipeline.errors import ConfigError, StoreError, StoreMismatchError
from pipeline.estimates.recording import WatchedStore
from pipeline.estimates.watched import TrainingRecord
from pipeline.estimates.watching import Watch
from pipeline.run.inputs import stored_inputs
from pipeline.store.places import Directory


def small(**options: Any) -> Problem:
    sizes = {"width": 10, "depth": 2, "num_interior": 30, "num_boundary": 12, "dtype": "float64"}
    return load_problem("poisson", **{**sizes, **options})


def dense(problem: Problem) -> Any:
    """All rows by automatic differentiation of single entries of the gradient."""
    engine = AutodiffEngine(problem)
    rows = engine.block_row(BlockRow(0, 0, engine.layout.num_params))
    return (rows + rows.T) / 2


def kept(store: Path, problem: Problem) -> WatchedStore:
    return WatchedStore(store, freeze(problem, ProblemSource(LIVE, live=problem)))


def watched_training(problem: Problem, store: Path) -> Any:
    watching = list[tuple[Watch, WatchedStore]]()

    def observe(resolved: Problem, phase: str, step: int) -> None:
        if step % 5 == 0:
            if not watching:
                watching.append((Watch(resolved), kept(store, resolved)))
            watching[0][1].append(watching[0][0].observe(step, phase))

    return train(problem, adam_steps=10, lbfgs_steps=5, observe=observe)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    store = tmp_path_factory.mktemp("watched") / "w.zarr"
    return watched_training(small(), store), store


def test_every_observation_is_that_of_the_dense_hessian_at_its_weights(
    watched: tuple[Any, Path],
) -> None:
    result, store = watched
    found, problem = open_watched(store), result.problem
    assert found.step.values.tolist() == [0, 5, 10, 15]
    assert found.phase.values.tolist() == ["start", "adam", "adam", "lbfgs"]
    final = get_theta(problem.model)
    assert np.array_equal(found.theta[-1], final)
    for step in found.step.values:
        seen = found.sel(step=step)
        set_theta(problem.model, seen.theta.to_numpy())
        values, vectors = np.linalg.eigh(dense(problem))
        ends = np.r_[values[:3], values[-3:]]
        # Its own bound, and what rounding of the dense solver adds.
        slack = 1e-12 * np.abs(values).max()
        assert (np.abs(seen.eigenvalue - ends) <= seen.eigenvalue_error + slack).all()
        assert (seen.eigenvalue_error <= 2e-6 * np.linalg.norm(values)).all()
        # Four standard errors: one estimate in 16,000 is further off, and the seed is fixed.
        assert abs(seen.trace - values.sum()) <= 4 * seen.trace_error + slack * len(values)
        losses, gradient = losses_and_gradient(problem)
        assert seen.term_loss.values.tolist() == pytest.approx(list(losses.values()), rel=1e-12)
        assert float(seen.loss) == pytest.approx(sum(losses.values()), rel=1e-12)
        assert float(seen.gradient_norm) == pytest.approx(np.linalg.norm(gradient), rel=1e-12)
        share = np.sum((vectors[:, -3:].T @ gradient) ** 2) / np.sum(gradient**2)
        # Eigenvectors are off by their residual over the gap, squared in the share's first order.
        assert float(seen.alignment) == pytest.approx(share, abs=1e-3)
    set_theta(problem.model, final)


def test_watching_does_not_change_training(watched: tuple[Any, Path]) -> None:
    alone = train(small(), adam_steps=10, lbfgs_steps=5)
    assert np.array_equal(get_theta(alone.problem.model), get_theta(watched[0].problem.model))


def test_a_training_that_was_killed_leaves_the_steps_it_had(
    watched: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = resolve(small())
    store = kept(tmp_path / "w.zarr", problem)
    watch = Watch(problem, 1)
    store.append(first := watch.observe(0, "start"))
    write = Directory.write

    def die(self: Directory, key: str, data: bytes) -> None:
        if key.startswith("trace"):
            raise KeyboardInterrupt
        write(self, key, data)

    monkeypatch.setattr(Directory, "write", die)
    with pytest.raises(KeyboardInterrupt):
        store.append(replace(first, step=1))
    for opened in (open_watched(tmp_path / "w.zarr"), xr.open_zarr(tmp_path / "w.zarr")):
        assert opened.step.values.tolist() == [0]
        assert np.array_equal(opened.eigenvalue[0], first.pairs.values)
    monkeypatch.undo()
    store.append(replace(first, step=2))
    assert open_watched(tmp_path / "w.zarr").step.values.tolist() == [0, 2]


@pytest.fixture
def copy(watched: tuple[Any, Path], tmp_path: Path) -> Path:
    """A copy of the record that a test may spoil."""
    return Path(shutil.copytree(watched[1], tmp_path / "w.zarr"))


def test_an_altered_root_is_found(copy: Path) -> None:
    root = copy / "zarr.json"
    kept = root.read_text()
    root.write_text(kept.replace('"start"', '"fit"'))
    with pytest.raises(StoreError, match="not as they were written"):
        open_watched(copy)
    # Those of the arrays have no seal, but follow from what has one.
    root.write_text(kept.replace('"fill_value": "NaN"', '"fill_value": 0.0', 1))
    with pytest.raises(StoreError, match="not those that its attributes describe"):
        open_watched(copy)


@pytest.mark.parametrize("name", ["loss", "eigenvalue", "eigenvector", "seconds"])
def test_missing_and_exchanged_entries_are_found(copy: Path, name: str) -> None:
    first, second, *_ = sorted(path for path in (copy / name / "c").rglob("*") if path.is_file())
    shutil.copy(first, second)
    found = open_watched(copy)
    array = found[name]
    assert np.isfinite(array[0]).all()
    with pytest.raises(StoreError, match=f"{name}/c/1.* another one was stored there"):
        array.load()
    second.unlink()
    with pytest.raises(StoreError, match=f"{name}/c/1.* it is missing"):
        open_watched(copy)[name].load()


@pytest.mark.parametrize("name", ["theta", "gradient", "pde_points", "step"])
def test_missing_inputs_and_steps_are_found_at_once(copy: Path, name: str) -> None:
    next(path for path in (copy / name / "c").rglob("*") if path.is_file()).unlink()
    with pytest.raises(StoreError, match=f"{name}/c/.*(it is missing|No such file)"):
        open_watched(copy)


def test_the_problem_is_kept_beside_the_observations(watched: tuple[Any, Path]) -> None:
    record, found = TrainingRecord(watched[1]), open_watched(watched[1])
    rebuilt = rebuild(stored_inputs(record, ProblemSource(LIVE, live=small())))
    assert np.array_equal(get_theta(rebuilt.model), found.theta[0])
    values, _ = losses_and_gradient(rebuilt)
    assert list(values.values()) == pytest.approx(found.term_loss[0].values.tolist(), rel=1e-12)
    last = record.layout.variables[-1]
    chosen = found.theta.sel(row_layer=last.layer, row_variable=last.name)
    assert np.array_equal(chosen, found.theta[:, last.offset : last.stop])


def test_others_are_not_appended(watched: tuple[Any, Path], copy: Path) -> None:
    result, _ = watched
    end = resolve(result.problem)
    with pytest.raises(StoreMismatchError, match="other weights"):
        kept(copy, small())
    other = small(num_boundary=13)
    set_theta(other.model, get_theta(end.model))
    with pytest.raises(StoreMismatchError, match="of another problem: points of term dirichlet"):
        kept(copy, other)
    store = kept(copy, end)
    assert store.last_step == 15
    narrow = Watch(end, 1).observe(16, "adam")
    with pytest.raises(StoreMismatchError, match="ends at step 15"):
        store.append(replace(narrow, step=0))
    with pytest.raises(StoreMismatchError, match=r"eigenvalue of shape \[6\].* got \[2\]"):
        store.append(narrow)
    assert open_watched(copy).step.values.tolist() == [0, 5, 10, 15]
    (copy / "zarr.json").unlink()
    with pytest.raises(StoreError, match="exists"):
        kept(copy, end)


def test_nothing_is_traced_again_at_other_weights() -> None:
    traced = []

    def residual(x: Any, u: Any) -> Any:
        traced.append(1)
        return u.value - x**2

    network = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(3, "tanh"), keras.layers.Dense(1)]
    )
    problem = resolve(Problem(network, [ResidualTerm("fit", [[0.0], [1.0]], residual)], "x"))
    watch = Watch(problem, 1)
    before = watch.observe(0, "start")
    count = len(traced)
    set_theta(problem.model, get_theta(problem.model) + 1)
    after = watch.observe(1, "adam")
    assert len(traced) == count > 0
    assert not np.allclose(before.pairs.values, after.pairs.values)


def test_the_callback_observes_epochs_of_fit(tmp_path: Path) -> None:
    x = np.linspace(-1, 1, 16, dtype="float32")[:, None]

    def trained(**callback: Any) -> tuple[Any, Any]:
        keras.utils.set_random_seed(0)
        network = keras.Sequential(
            [keras.Input((1,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(1)]
        )
        term = ResidualTerm("fit", x, lambda x, u: u.value - x**2)
        problem = Problem(network, [term], "x")
        seen = HessianCallback(problem, **callback) if callback else None
        network.compile("adam", "mse")
        network.fit(x, x**2, epochs=4, batch_size=8, verbose=0, callbacks=[seen] if seen else [])
        return network, seen

    network, seen = trained(every=2, pairs=1, store=tmp_path / "w.zarr")
    assert np.array_equal(get_theta(network), get_theta(trained()[0]))
    found = open_watched(tmp_path / "w.zarr")
    assert found.step.values.tolist() == [0, 2, 4] == [o.step for o in seen.observations]
    assert np.array_equal(found.theta[-1], get_theta(network))
    # In another process, with the weights that the last one came to.
    term = ResidualTerm("fit", x, lambda x, u: u.value - x**2)
    problem = Problem(network, [term], "x")
    later = HessianCallback(problem, every=2, pairs=1, store=tmp_path / "w.zarr")
    network.fit(x, x**2, epochs=2, batch_size=8, verbose=0, callbacks=[later])
    assert open_watched(tmp_path / "w.zarr").step.values.tolist() == [0, 2, 4, 6]
    assert np.array_equal(open_watched(tmp_path / "w.zarr").theta[-1], get_theta(network))
    other = HessianCallback(small())
    with pytest.raises(ConfigError, match="not the problem's network"):
        network.fit(np.ones((1, 1)), np.ones((1, 1)), verbose=0, callbacks=[other])


def test_a_search_that_starts_near_the_eigenvectors_takes_fewer_products() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([[-2.0, -1.0], rng.uniform(-0.1, 0.1, 396), [5.0, 9.0]])
    basis = np.linalg.qr(rng.standard_normal((400, 400)))[0]
    matrix = basis * values @ basis.T
    layout = ParameterLayout.of([("a/kernel", (400,))])

    def search(**options: Any) -> tuple[Any, int]:
        operator = HessianOperator(lambda v: matrix @ v, layout, relative_error=0.0)
        found = extreme_eigenpairs(operator, 2, tolerance=1e-6, block=2, **options)
        return found, operator.num_products

    near = basis[:, [0, 1, -2, -1]] + 1e-5 * rng.standard_normal((400, 4))
    cold, many = search()
    warm, few = search(start=near)
    assert few < many
    for found in (cold, warm):
        assert found.values == pytest.approx([-2.0, -1.0, 5.0, 9.0], abs=1e-9)


@pytest.mark.slow
def test_the_command_watches_and_keeps_checkpoints(tmp_path: Path) -> None:
    hessian = str(Path(sys.executable).with_name("hessian"))
    command = [hessian, "train", "poisson", "--option", "width=4", "--option", "depth=1"]
    command += ["--adam", "20", "--lbfgs", "0", "--watch", "10", "--checkpoints", "2"]
    subprocess.run([*command, "--out", "t.keras"], cwd=tmp_path, check=True)
    assert open_watched(tmp_path / "t-watched.zarr").step.values.tolist() == [0, 10, 20]
    kept = [keras.saving.load_model(tmp_path / f"t-0000{step}.keras") for step in (10, 20)]
    found = open_watched(tmp_path / "t-watched.zarr")
    for network, step in zip(kept, (10, 20), strict=True):
        assert np.array_equal(get_theta(network), found.theta.sel(step=step))
    again = subprocess.run(
        [*command, "--out", "t.keras"], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert again.returncode != 0
    assert "exists" in again.stderr
    assert "Traceback" not in again.stderr

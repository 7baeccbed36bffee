"""The diagonal blocks of layers: parts of the whole Hessian, each in a store of its own."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from hessian_tasks.autodiff import hessian_vector_product
from hessian_tasks.networks.models import get_theta, parameter_layout, set_theta
from hessian_tasks.networks.trainables import resolve
from hessian_tasks.problem import LossTerm, Problem, ResidualTerm
from hessian_tasks.problems.networks import mlp
from hessian_tasks.source import ProblemSource
from pipeline import compute_hessian, compute_layer_blocks, verify_hessian
from pipeline.errors import DoesNotFitError, PlanError, StoppedError, StoreError, StoreMismatchError
from pipeline.run.options import RunOptions
from pipeline.store.store import HessianStore
from tests.helpers.networks import randomise
from tests.helpers.runs import Cli, computed, snapshot

F64: dict[str, Any] = {"dtype": "float64"}
X = np.random.default_rng(4).uniform(-1, 1, (7, 2))
SMALL = ["regression", "-owidth=4", "-odepth=2", "-onum_samples=6", "-odtype=float64"]


def network(seed: int = 3) -> Any:
    return randomise(mlp(2, 1, width=4, depth=2, **F64), np.random.default_rng(seed))


def one(model: Any = None) -> Problem:
    """One network, two parameters, and a loss term of these."""
    return Problem(
        network() if model is None else model,
        [
            ResidualTerm("pde", X, lambda x, u, nu: u.d("y") * u.value - nu * u.d("xx")),
            LossTerm("prior", lambda model, nu, shift: nu**4 * tf.reduce_sum(shift**3)),
        ],
        coordinates="xy",
        parameters={"nu": 0.3, "shift": [1.0, 2.0]},
    )


def fitted(model: Any) -> Problem:
    """One network and values of it, which compile fast."""
    return Problem(model, [ResidualTerm("fit", X, lambda x, u: u.value - x[:, :1] ** 2)], "xy")


def two() -> Problem:
    """Two networks that a residual couples."""

    def pde(x: Any, u: Any, k: Any) -> Any:
        return k.value * (u.d("xx") + u.d("yy")) + k.d("x") * u.d("x")

    return Problem({"u": network(1), "k": network(2)}, [ResidualTerm("pde", X, pde)], "xy")


def dense(problem: Problem) -> dict[str, Any]:
    """The blocks that are cut out of the whole Hessian, which products with unit vectors are."""
    problem = resolve(problem)
    layout = parameter_layout(problem.model)
    whole = hessian_vector_product(problem, np.eye(layout.num_params))
    labels = layout.labels()["layer"]
    rows = {name: np.flatnonzero(labels == i) for i, name in enumerate(layout.layers())}
    return {name: whole[np.ix_(own, own)] for name, own in rows.items()}


@pytest.mark.parametrize("make", [one, pytest.param(two, marks=pytest.mark.slow)])
def test_blocks_are_those_of_the_whole_hessian(make: Callable[[], Problem], tmp_path: Path) -> None:
    problem = make()
    expected = dense(problem)
    found = compute_layer_blocks(problem, tmp_path / "blocks")
    assert list(found) == list(expected)
    for layer, block in found.items():
        scale = abs(expected[layer]).max()
        # Sums of some hundred terms in another order.
        np.testing.assert_allclose(
            block.hessian.to_numpy(), expected[layer], rtol=0, atol=1e-12 * scale
        )
    names = {path.name for path in (tmp_path / "blocks").iterdir()}
    assert names == {f"{layer.replace('/', '.')}.zarr" for layer in expected}
    assert verify_hessian(tmp_path / "blocks" / min(names), problem).passed


def test_a_factory_is_called_once_for_all_layers(tmp_path: Path) -> None:
    """Two calls would give two random networks, and blocks at two θ."""
    layer = keras.layers.Dense
    problem = fitted(
        lambda: keras.Sequential(
            [keras.Input((2,), **F64), layer(3, "tanh", **F64), layer(1, **F64)]
        )
    )
    found = compute_layer_blocks(problem, tmp_path / "blocks")
    theta = np.concatenate([block.theta.to_numpy() for block in found.values()])
    model = resolve(problem).model
    set_theta(model, theta)
    expected = dense(fitted(model))
    for block, other in zip(found.values(), expected.values(), strict=True):
        np.testing.assert_allclose(block.hessian.to_numpy(), other, rtol=0, atol=1e-11)


def test_layers_that_keras_counts_are_found_again(tmp_path: Path) -> None:
    """The next network has layers of other names, and the same weights in the same places."""

    def make() -> Problem:
        dense = keras.layers.Dense
        model = keras.Sequential(
            [keras.Input((2,), **F64), dense(3, "tanh", **F64), dense(1, **F64)]
        )
        return fitted(randomise(model, np.random.default_rng(1)))

    before = compute_layer_blocks(make(), tmp_path / "blocks")
    events: list[Any] = []
    after = compute_layer_blocks(make(), tmp_path / "blocks", callbacks=[events.append])
    assert (list(after), events) == (list(before), [])


@pytest.mark.slow
def test_blocks_are_resumed_between_and_within_layers(tmp_path: Path) -> None:
    problem, options = one(), RunOptions(tile=4, num_threads=1)
    undisturbed = compute_layer_blocks(problem, tmp_path / "whole", options=options)
    seen: list[Any] = []

    def stop_after(number: int) -> Callable[[Any], None]:
        def listen(event: Any) -> None:
            seen.append(event)
            if len(computed(seen)) == number:
                raise StoppedError("enough")

        return listen

    # 12, 20, 5 and 3 parameters, in tiles of side 4 or, of the last, 3, are 3 + 5 + 2 + 1.
    for number in (3, 5):
        with pytest.raises(StoppedError):
            compute_layer_blocks(
                problem, tmp_path / "part", options=options, callbacks=[stop_after(number)]
            )
    names = sorted(path.name for path in (tmp_path / "part").iterdir())
    assert names == ["hidden_1.zarr", "hidden_2.zarr"]
    assert len(HessianStore(tmp_path / "part/hidden_2.zarr").pending()) == 3
    before = snapshot(tmp_path / "part/hidden_1.zarr")
    found = compute_layer_blocks(
        problem, tmp_path / "part", options=options, callbacks=[seen.append]
    )
    assert len(computed(seen)) == 3 + 5 + 2 + 1
    assert before.items() <= snapshot(tmp_path / "part/hidden_1.zarr").items()
    for layer, block in found.items():
        assert np.array_equal(block.hessian, undisturbed[layer].hessian), layer


@pytest.mark.slow
def test_blocks_of_other_weights_are_not_mixed(tmp_path: Path) -> None:
    problem = one()
    compute_layer_blocks(replace(problem, only=["output"]), tmp_path / "blocks")
    set_theta(problem.model, get_theta(problem.model) * 1.01)
    with pytest.raises(StoreMismatchError, match=r"output\.zarr was made from other inputs"):
        compute_layer_blocks(problem, tmp_path / "blocks")
    other = replace(problem, only=["hidden_1"])
    with pytest.raises(StoreError, match=r"stores of something else in it: output\.zarr"):
        compute_layer_blocks(other, tmp_path / "blocks")
    compute_hessian(other, tmp_path / "h.zarr")
    with pytest.raises(StoreError, match="is a store of one matrix"):
        compute_layer_blocks(other, tmp_path / "h.zarr")
    assert [path.name for path in (tmp_path / "blocks").iterdir()] == ["output.zarr"]


def test_layers_that_would_share_a_store_are_refused(tmp_path: Path) -> None:
    inner = keras.Sequential([keras.layers.Dense(1, name="b", **F64)], name="a")
    model = keras.Sequential(
        [keras.Input((2,), **F64), keras.layers.Dense(1, name="a.b", **F64), inner]
    )
    problem = Problem(model, [ResidualTerm("p", X, lambda x, u: u.value)], "xy")
    with pytest.raises(PlanError, match=r"layers a\.b, a/b would both be stored as a\.b\.zarr"):
        compute_layer_blocks(problem, tmp_path / "blocks")


def test_what_does_not_fit_is_refused_before_anything_is_computed(
    tmp_path: Path, hessian: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """hidden_2 takes 20² 8 = 3,200 bytes, all three 64 · 8 + 3,200 + 25 · 8 = 3,912."""
    free = "pipeline.store.places._directory.free_bytes"
    command = ["run", *SMALL, "--blocks", "layers", "--store", tmp_path / "blocks"]
    monkeypatch.setattr(free, lambda path: 3199)
    code, _, errors = hessian(*command)
    assert code == 1
    assert "hidden_2, 20 parameters, takes 3.12 KiB: only 3.12 KiB are free" in errors
    assert "--only hidden_1,output --blocks layers" in errors
    assert "hessian estimate --only hidden_2" in errors
    assert not (tmp_path / "blocks").exists()
    _, planned, _ = hessian("plan", *SMALL, "--blocks", "layers")
    assert re.search(r"^hidden_2 +20 +3\.12 KiB +hessian estimate --only hidden_2$", planned, re.M)
    assert re.search(r"^hidden_1 +8 +512 B +hessian run --only hidden_1$", planned, re.M)
    assert re.search(r"^all +33 +3\.82 KiB$", planned, re.M)
    assert "hidden_2 does not fit: only" in planned
    assert "hessian plan --only hidden_1,output --blocks layers" in planned
    monkeypatch.setattr(free, lambda path: 3911)
    code, _, errors = hessian(*command)
    assert code == 1
    assert "hidden_1, hidden_2, output together take 3.82 KiB" in errors
    with pytest.raises(DoesNotFitError):
        compute_layer_blocks(one(), tmp_path / "blocks")


def test_the_command_computes_skips_and_says_how_far_it_is(tmp_path: Path, hessian: Cli) -> None:
    blocks = tmp_path / "blocks"
    command = ["run", *SMALL, "--blocks", "layers", "--store", blocks]
    assert hessian(*command, "--only", "hidden_2")[0] == 0
    status = hessian("status", blocks)[1]
    assert re.search(r"^hidden_2\.zarr +20 +1 of 1 +not verified$", status, re.M)
    assert "without a store: hidden_1, output" in status
    code, output, errors = hessian(*command)
    assert (code, errors) == (0, "")
    assert "hidden_2 is complete" in output
    assert "hidden_1, 1 of 2" in output
    assert f"next: hessian status {blocks}" in output
    assert "without" not in hessian("status", blocks)[1]
    for asked in (
        ["info"],
        ["verify"],
        ["spectrum"],
        ["run", "--store"],
        ["run", *SMALL, "--store"],
    ):
        code, _, errors = hessian(*asked, blocks)
        assert code == 1, asked
        assert "is not a store, but holds 3: hidden_1.zarr, hidden_2.zarr, output.zarr" in errors
    sizes = {"width": 4, "depth": 2, "num_samples": 6, "dtype": "float64"}
    expected = dense(ProblemSource("regression", sizes).load())
    for layer, block in expected.items():
        found = HessianStore(blocks / f"{layer}.zarr").hessian()[...]
        np.testing.assert_allclose(found, block, rtol=0, atol=1e-12 * abs(block).max())
    code, _, errors = hessian("run", *SMALL, "--blocks", "rows", "--store", blocks)
    assert code == 2
    assert "blocks" in errors
    assert "layers" in errors

"""Budgets of memory: what is refused before it is taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hessian_tasks.frozen import FrozenInputs
from hessian_tasks.layered import engine
from hessian_tasks.layered.expand.expansion import Expansion
from hessian_tasks.layered.expand.network import Network
from hessian_tasks.layered.expand.terms import expand_term, least_bytes
from hessian_tasks.problem import Problem
from hessian_tasks.process import resident_bytes
from hessian_tasks.reading import read_terms
from hessian_tasks.rebuild import rebuild
from hessian_tasks.source import ProblemSource
from pipeline.api import verify_hessian
from pipeline.errors import DoesNotFitError
from pipeline.run import products
from pipeline.run.inputs import freeze_source
from pipeline.run.options import RunOptions
from pipeline.run.prepare import prepare
from pipeline.run.verify import reading_bytes
from pipeline.store.store import HessianStore
from tests.helpers.runs import Cli, Run

NUM_POINTS = 3000


@pytest.fixture(scope="module")
def many() -> FrozenInputs:
    """A problem of more points than are taken for few."""
    options = {"width": 8, "depth": 2, "num_interior": NUM_POINTS, "num_boundary": 10}
    return freeze_source(ProblemSource("poisson", options))


@pytest.fixture(scope="module")
def problem(many: FrozenInputs) -> Problem:
    return rebuild(many)


def arrays_in(value: Any, found: dict[int, Any]) -> dict[int, Any]:
    """All arrays below a value, each once."""
    if isinstance(value, np.ndarray):
        found[id(value)] = value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            arrays_in(part, found)
    elif isinstance(value, Expansion) or hasattr(value, "cotangents"):
        arrays_in({k: v for k, v in vars(value).items() if k != "network"}, found)
    return found


def test_an_expansion_keeps_what_was_counted_before_and_less_than_thrice_that(
    problem: Problem,
) -> None:
    network = Network.of(problem)
    for reading in read_terms(problem):
        counted = least_bytes(network, reading)
        kept = arrays_in(expand_term(network, reading).parts, {})
        # Views are counted with what they are views of.
        owned = {id(a if a.base is None else a.base): a for a in kept.values()}
        num_bytes = sum((a if a.base is None else a.base).nbytes for a in owned.values())
        assert counted <= num_bytes <= 3 * counted


def test_points_that_do_not_fit_are_refused_before_they_are_expanded(
    many: FrozenInputs, problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    expanded: list[Any] = []
    monkeypatch.setattr(engine, "expand_term", lambda *arguments: expanded.append(arguments))
    reading = read_terms(problem)[0]
    options = RunOptions(allowed_bytes=resident_bytes() + 2**20)
    assert least_bytes(Network.of(problem), reading) > 2**20
    with pytest.raises(DoesNotFitError, match="derivatives at all points take") as refused:
        prepare(many, options, None, problem)
    assert refused.value.needed_bytes is not None
    assert refused.value.needed_bytes > options.allowed_bytes
    assert expanded == []


def test_verify_keeps_to_its_budget(
    tmp_path: Path, run: Run, inputs: FrozenInputs, hessian: Cli
) -> None:
    path = tmp_path / "h.zarr"
    run(path, inputs)
    code, _, errors = hessian("verify", path, "--memory", "1MiB")
    assert code == 1
    assert "This does not fit into memory: block rows that are read take" in errors
    assert "Allow more: --memory" in errors
    # Nothing is recorded of what was not done.
    assert HessianStore(path).verified is None
    needed = resident_bytes() + reading_bytes(HessianStore(path)) + 2**30
    assert verify_hessian(path, memory=needed).passed


def test_verify_multiplies_many_points_in_parts(
    tmp_path: Path, run: Run, many: FrozenInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "h.zarr", many)
    shards: list[Any] = []
    multiply = products.ShardProducts.__call__

    def count(self: Any, shard: Any, vectors: Any) -> Any:
        shards.append(shard)
        return multiply(self, shard, vectors)

    monkeypatch.setattr(products.ShardProducts, "__call__", count)
    monkeypatch.setattr(products, "MAX_POINTS", NUM_POINTS - 1)
    assert verify_hessian(tmp_path / "h.zarr").passed
    assert {shard.term for shard in shards} == {"pde"}
    assert max(shard.batch for shard in shards) <= 256

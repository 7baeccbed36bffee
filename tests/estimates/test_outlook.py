"""A plan costs no more than it has to: what it evaluates, and how often."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from hessian_tasks.autodiff.products import ShardProducts
from hessian_tasks.rebuild import rebuild
from pipeline.estimates import outlook
from pipeline.estimates.operator import SHARDS_PER_THREAD
from pipeline.run import prepare
from tests.helpers.runs import Cli

# Sixteen batches of the interior; more than one for each shard.
NUM_INTERIOR, NUM_THREADS = 4096, 2


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a problem is rebuilt, and how many batches of each term are multiplied with."""
    found: Counter[str] = Counter()
    multiply = ShardProducts.__call__

    def build(frozen: Any) -> Any:
        found["rebuilt"] += 1
        return rebuild(frozen)

    def count(self: Any, shard: Any, vectors: Any) -> Any:
        found[shard.term] += len(shard.batches())
        return multiply(self, shard, vectors)

    for module in (outlook, prepare):
        monkeypatch.setattr(module, "rebuild", build)
    monkeypatch.setattr(ShardProducts, "__call__", count)
    return found


def test_a_plan_tries_some_batches_of_a_problem_that_it_reads_once(
    hessian: Cli, counts: Counter[str]
) -> None:
    points = ["-o", f"num_interior={NUM_INTERIOR}", "-o", "num_boundary=40"]
    small = ["-o", "width=4", "-o", "depth=1", "--threads", NUM_THREADS]
    code, text, _ = hessian("plan", "poisson", *points, *small, "--json")
    assert code == 0
    assert counts.pop("rebuilt") == 1
    # The first batch of each shard, twice: to compile, and to take the time.
    assert counts == {"pde": 2 * SHARDS_PER_THREAD * NUM_THREADS, "dirichlet": 2}
    assert json.loads(text)["preparing_seconds"] > 0

"""A plan costs no more than it has to: what it evaluates, and how often."""

from __future__ import annotations

import json
import subprocess
import sys
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
        if vectors.shape[1] == 1:
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


SCRIPT = """
import sys
from pipeline.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
from hessian_tasks.process import peak_bytes
print(peak_bytes(), file=sys.stderr)
"""


@pytest.mark.slow
def test_an_estimate_takes_the_memory_that_is_planned() -> None:
    problem = ["poisson", "-o", "width=10", "-o", "depth=2"]
    little = ["--max-products", "12", "--tolerance", "0.1"]

    def run(*arguments: str) -> tuple[str, int]:
        command = [sys.executable, "-c", SCRIPT, *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return done.stdout, int(done.stderr.splitlines()[-1])

    planned = json.loads(run("plan", *problem, "--json")[0])["matrix_free"]["projected_bytes"]
    _, peak = run("estimate", *problem, *little)
    # Which threads' batches are in memory together is chance, as is what glibc keeps.
    assert 0.95 * peak <= planned <= 1.3 * peak

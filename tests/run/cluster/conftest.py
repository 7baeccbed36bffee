"""Runs on workers: processes, schedulers, queues, Kubernetes, and what happens to them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hessian_tasks.frozen import FrozenInputs
from tests.helpers.runs import Run, objects
from tests.run.cluster.clusters import TILE, slurm_server


@pytest.fixture(scope="session")
def expected(
    tmp_path_factory: pytest.TempPathFactory, run: Run, inputs: FrozenInputs
) -> dict[str, bytes]:
    """The objects of a run of the small problem in this process, one block row after the other."""
    path = tmp_path_factory.mktemp("expected") / "h.zarr"
    run(path, inputs, tile=TILE, executor="serial")
    return objects(path)


@pytest.fixture(scope="session")
def slurm() -> Iterator[None]:
    """SLURM on this machine."""
    with slurm_server():
        yield

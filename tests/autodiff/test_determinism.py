"""The same bytes by automatic differentiation, whenever and wherever a block row is computed."""

from __future__ import annotations

import hashlib
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import pytest

from hessian_tasks.source import ProblemSource
from hessian_tasks.spec import BlockRow

REPEATS = 2
SMALL = {"width": 24, "depth": 2}
FEW_POINTS = {**SMALL, "num_interior": 200, "num_boundary": 50}


def digests(source: ProblemSource, num_threads: int) -> list[str]:
    """Of block rows that so many threads of a process compute, again and again."""
    from hessian_tasks.process import configure_tensorflow

    configure_tensorflow(num_threads)
    from hessian_tasks.autodiff import AutodiffEngine
    from hessian_tasks.rebuild import rebuild
    from pipeline.run.inputs import freeze_source
    from pipeline.store.tiling import split_rows

    engine = AutodiffEngine(rebuild(freeze_source(source)), row_batch=16)
    rows = split_rows(engine.layout.num_params, 100)

    def digest(row: BlockRow) -> str:
        return hashlib.sha256(engine.block_row(row).tobytes()).hexdigest()

    with ThreadPoolExecutor(num_threads) as threads:
        return list(threads.map(digest, rows * REPEATS))


@pytest.mark.parametrize(
    ("source", "threads"),
    [
        (ProblemSource("poisson", FEW_POINTS), (1, 2)),
        (ProblemSource("poisson", FEW_POINTS), (2, 2)),
        (ProblemSource("classification", SMALL), (1, 2, 2)),
    ],
    ids=lambda value: getattr(value, "reference", None),
)
@pytest.mark.slow
def test_block_rows_are_the_same_bytes_in_all_processes_and_threads(
    source: ProblemSource, threads: tuple[int, ...]
) -> None:
    """In float32, without TensorFlow's own switch for it."""
    found = []
    for num_threads in threads:
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            found.append(process.submit(digests, source, num_threads).result())
    first, *others = found
    assert all(other == first for other in others)
    once = first[: len(first) // REPEATS]
    assert first == once * REPEATS
    assert len(set(once)) == len(once) > 5

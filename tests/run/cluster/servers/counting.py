"""For workers to preload: computing a block row takes a second more, and is counted in $BEGUN."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.run.cluster.faults import Counted


class Slow:
    """An engine that takes a second more."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def block_row(self, *arguments: Any, **options: Any) -> Any:
        time.sleep(1.0)
        return self.engine.block_row(*arguments, **options)


def dask_setup(worker: Any) -> None:
    from pipeline.run._blocks import BlockTask

    begin = BlockTask.__call__
    BlockTask.__call__ = lambda task, row: begin(  # type: ignore[method-assign]
        replace(task, engine=Slow(task.engine)), row
    )
    Counted(Path(os.environ["BEGUN"])).setup(worker)

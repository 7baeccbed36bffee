"""The blocks of layers on the command line: planned in one table, computed one after the other."""

from __future__ import annotations

import threading

from rich.console import Console

from pipeline.cli import render
from pipeline.cli._app import print_result
from pipeline.cli._calls import Running, problem_source, run_options, run_store, running
from pipeline.errors import StoppedError
from pipeline.run.by_layer import LayerBlock, freeze_blocks, missing_blocks, plan_blocks
from pipeline.run.options import RunOptions
from pipeline.settings.config import Settings
from pipeline.store.places import Location

__all__ = ["plan_layers", "run_layers"]


def plan_layers(settings: Settings, as_json: bool) -> None:
    """Say what the blocks would cost, by layers."""
    found = plan_blocks(_blocks(settings), run_options(settings))
    print_result(render.planned_blocks(found), render.planned_blocks_data(found), as_json)


def run_layers(settings: Settings, console: Console, stop: threading.Event) -> Location:
    """Compute the blocks that are missing, showing progress; returns where the stores are.

    Raises:
        StoppedError: Saying how far the run came and how to resume it.
    """
    blocks, options = _blocks(settings), run_options(settings)
    missing = missing_blocks(blocks, options)
    for block in blocks:
        if block not in missing:
            console.print(f"{block.layer} is complete: {block.location}")
    with running(settings, console, stop) as now:
        for number, block in enumerate(missing, 1):
            console.print(f"\n{block.layer}, {number} of {len(missing)}: {block.location}")
            _run_block(block, options, now)
    return settings.location


def _run_block(block: LayerBlock, options: RunOptions, now: Running) -> None:
    try:
        run_store(block.location, block.frozen, block.fit(options), now)
    except StoppedError as error:
        raise StoppedError(
            f"{block.layer}: {error} Go on with all layers by the same command."
        ) from error


def _blocks(settings: Settings) -> list[LayerBlock]:
    return freeze_blocks(
        problem_source(settings),
        settings.location,
        settings.weights,
        take_network=settings.take_network,
        only=settings.only,
    )

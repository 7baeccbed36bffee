"""From settings to library calls: what the commands do once TensorFlow is loaded."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from hessian_tasks.frozen import FrozenInputs
from hessian_tasks.source import ProblemSource
from pipeline import render
from pipeline.config import Settings
from pipeline.errors import ConfigError, StoppedError, StoreError
from pipeline.events import Event, RunStarted
from pipeline.inputs import freeze_source, stored_inputs
from pipeline.profiles import InProcess
from pipeline.progress import LossDisplay, ProgressDisplay
from pipeline.run import RunOptions, execute
from pipeline.storage import Location, writing
from pipeline.store import HessianStore
from pipeline.units import format_seconds

if TYPE_CHECKING:
    from pipeline.analysis.lbfgs import LbfgsHistory
    from pipeline.cluster.workers import Workers
    from pipeline.matrix_free.estimates import EstimateOptions, Estimates
    from pipeline.matrix_free.journal import Journal

__all__ = ["estimate_settings", "run_options", "run_settings", "settings_inputs", "train_settings"]


def run_options(settings: Settings) -> RunOptions:
    """The part of the settings that says how to run."""
    profile = settings.chosen
    return RunOptions(
        executor=profile.kind if isinstance(profile, InProcess) else "threads",
        num_threads=settings.threads,
        allowed_bytes=settings.memory,
        tile=settings.tile,
        per_term=settings.per_term,
        engine=settings.engine,
    )


def settings_inputs(settings: Settings) -> FrozenInputs:
    """The frozen inputs: from the problem, or from the store if only that is given.

    Raises:
        ConfigError: If neither says what to compute.
    """
    if settings.problem is not None:
        return freeze_source(_source(settings), settings.weights)
    if settings.store is None:
        raise ConfigError("Give a problem, or the --store of a run to resume.")
    return stored_inputs(HessianStore(settings.store))


def _source(settings: Settings) -> ProblemSource:
    if settings.problem is None:
        raise ConfigError("Give a problem: the name of a built-in one, or path/to/problem.py.")
    return ProblemSource(settings.problem, settings.options)


def run_settings(settings: Settings, console: Console, stop: threading.Event) -> Location:
    """Run, showing progress; returns where the store is.

    Raises:
        StoppedError: Saying how far the run came and how to resume it.
    """
    inputs = settings_inputs(settings)
    location = settings.location
    display = ProgressDisplay(console)

    def describe(event: Event) -> None:
        if isinstance(event, RunStarted):
            console.print(render.table(render.subject(HessianStore(location, warn=False))))

    try:
        with _workers(settings, stop) as workers:
            if workers is not None and workers.dashboard is not None:
                console.print(f"dashboard: {workers.dashboard}")
            execute(location, inputs, run_options(settings), [describe, display], stop, workers)
    except StoppedError as error:
        if not location.exists():
            raise
        store = HessianStore(location)
        raise StoppedError(
            f"stopped; {len(store.records())} of {len(store.block_rows)} block rows are "
            f"stored. Resume with: {store.resume_command}"
        ) from error
    finally:
        display.close()
    return location


def estimate_settings(
    settings: Settings, options: EstimateOptions, console: Console, stop: threading.Event
) -> Estimates:
    """Estimate from products, showing what is done, and keep the answers if a store is given.

    Until they are kept, the products are, so that the same command goes on where it was stopped.

    Raises:
        StoppedError: If ``stop`` was set.
    """
    frozen = freeze_source(_source(settings), settings.weights)
    if settings.store is None:
        return _estimate(settings, frozen, options, _Watched(console, stop))
    from pipeline.matrix_free.estimates import best_method
    from pipeline.matrix_free.journal import Journal
    from pipeline.matrix_free.kept import check_replaceable, save

    location = settings.location
    path = location.directory
    if path is None:
        raise ConfigError(f"Estimates are kept in a directory, but --store is {settings.store}.")
    with location.locked():
        check_replaceable(path, frozen)
        method = best_method(len(frozen.theta), options.max_products)
        journal = Journal(path, frozen.fingerprint(), options.deciding(), method)
        options = replace(options, method=journal.method)
        try:
            found = _estimate(settings, frozen, options, _Watched(console, stop, journal))
        except StoppedError as error:
            if not journal.num_kept:
                raise
            raise StoppedError(
                f"stopped after {journal.num_kept} products, which are kept in "
                f"{journal.directory}. Go on with the same command."
            ) from error
        save(found, frozen, path)
        journal.remove()
    return found


@dataclass(frozen=True)
class _Watched:
    """Who watches an estimate, stops it, and takes down its products."""

    console: Console
    stop: threading.Event
    journal: Journal | None = None

    @property
    def num_taken(self) -> int:
        return 0 if self.journal is None else self.journal.num_taken


def _estimate(
    settings: Settings, frozen: FrozenInputs, options: EstimateOptions, watched: _Watched
) -> Estimates:
    from pipeline.matrix_free.estimates import estimate
    from pipeline.matrix_free.operator import operator_of

    show = watched.console.status("measuring products")
    with _workers(settings, watched.stop) as workers, show as status:
        operator = operator_of(
            frozen,
            matrix=options.matrix,
            term=options.term,
            workers=workers,
            num_threads=settings.threads,
            stop=watched.stop,
            journal=watched.journal,
        )
        # What the measurement took does not count among the products of the answers.
        before = watched.num_taken
        found = estimate(operator, frozen.loss, options, lambda text: status.update(text))
        return replace(found, num_recorded=watched.num_taken - before)


def _workers(settings: Settings, stop: threading.Event) -> AbstractContextManager[Workers | None]:
    if isinstance(settings.chosen, InProcess):
        return nullcontext()
    from pipeline.cluster.connect import connect

    return connect(settings.chosen, stop)


def train_settings(
    settings: Settings,
    out: Path,
    steps: tuple[int, int, int],
    history: Path | None,
    console: Console,
) -> None:
    """Train the problem's network, show the losses, and save it.

    Args:
        settings: Which problem.
        out: Where to save, ``.keras``.
        steps: Steps of Adam, steps of L-BFGS, seed.
        history: Where to save the pairs of L-BFGS, ``.npz``.
        console: Where to show progress.

    Raises:
        ConfigError: If the file's ending is not ``.keras``, or a history of no steps is wanted.
        StoreError: If it cannot be written.
    """
    from pipeline.train import train

    if out.suffix != ".keras":
        raise ConfigError(f"The trained network is saved as .keras, but --out is {out}.")
    adam_steps, lbfgs_steps, seed = steps
    if history is not None and lbfgs_steps == 0:
        raise ConfigError("--history records L-BFGS, but --lbfgs 0 makes no step of it.")
    problem = _source(settings).load()
    result = train(
        problem,
        adam_steps=adam_steps,
        lbfgs_steps=lbfgs_steps,
        seed=seed,
        on_step=LossDisplay(console),
    )
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        result.problem.model.save(out)
    _save_history(result.history, history)
    terms = ", ".join(f"{name} {loss:.3g}" for name, loss in result.losses.items())
    error = "" if result.error is None else f", relative L2 error {result.error:.2e}"
    console.print(f"loss {result.loss:.3e} ({terms}){error}, {format_seconds(result.seconds)}")
    console.print(f"saved {out}{'' if history is None else f' and {history}'}")


def _save_history(found: LbfgsHistory | None, path: Path | None) -> None:
    if path is None:
        return
    if found is None:
        raise StoreError(
            f"L-BFGS found nothing to improve and made no step, so there is no history for {path}. "
            "The network is saved. Train with fewer steps of Adam."
        )
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        found.save(path)

"""From settings to library calls: what the commands do once TensorFlow is loaded."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from hessian_tasks.frozen import FrozenInputs
from hessian_tasks.source import ProblemSource
from pipeline.cli import render
from pipeline.cli._progress import ProgressDisplay
from pipeline.errors import ConfigError, StoppedError
from pipeline.run.events import Callback, Event, RunStarted
from pipeline.run.execute import execute
from pipeline.run.inputs import freeze_source, stored_inputs
from pipeline.run.options import RunOptions
from pipeline.settings.config import Settings
from pipeline.settings.profiles import InProcess
from pipeline.store.places import Location
from pipeline.store.repair import open_mended
from pipeline.store.store import HessianStore
from pipeline.text import printable
from pipeline.units import format_bytes

if TYPE_CHECKING:
    from pipeline.estimates.estimates import EstimateOptions, Estimates
    from pipeline.estimates.journal import Journal
    from pipeline.run.cluster.workers import Workers

__all__ = [
    "Running",
    "estimate_settings",
    "problem_inputs",
    "problem_source",
    "run_options",
    "run_settings",
    "run_store",
    "running",
    "settings_inputs",
]


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
        with_ggn=settings.with_ggn,
    )


def settings_inputs(settings: Settings) -> FrozenInputs:
    """The frozen inputs: from the problem, or from the store if only that is given.

    Raises:
        ConfigError: If neither says what to compute.
    """
    if settings.problem is not None:
        return problem_inputs(settings)
    if settings.store is None:
        raise ConfigError("Give a problem, or the --store of a run to resume.")
    return stored_inputs(open_mended(settings.store))


def problem_inputs(settings: Settings) -> FrozenInputs:
    """The frozen inputs of the problem, at the weights that are given.

    Raises:
        ConfigError: If there is no problem.
    """
    return freeze_source(
        problem_source(settings),
        settings.weights,
        take_network=settings.take_network,
        only=settings.only,
    )


def problem_source(settings: Settings) -> ProblemSource:
    """Where the problem comes from.

    Raises:
        ConfigError: If there is none.
    """
    if settings.problem is None:
        raise ConfigError("Give a problem: the name of a built-in one, or path/to/problem.py.")
    return ProblemSource(settings.problem, settings.options)


def run_settings(settings: Settings, console: Console, stop: threading.Event) -> Location:
    """Run, showing progress; returns where the store is.

    Raises:
        StoppedError: Saying how far the run came and how to resume it.
    """
    inputs = settings_inputs(settings)
    with running(settings, console, stop) as now:
        run_store(settings.location, inputs, run_options(settings), now)
    return settings.location


@dataclass(frozen=True)
class Running:
    """Where a run is shown, what stops it, and whose workers compute."""

    console: Console
    stop: threading.Event
    workers: Workers | None


@contextmanager
def running(settings: Settings, console: Console, stop: threading.Event) -> Iterator[Running]:
    """The workers of the profile, if it has any, while it is entered."""
    with _workers(settings, stop) as workers:
        if workers is not None and workers.dashboard is not None:
            console.print(f"dashboard: {workers.dashboard}")
        yield Running(console, stop, workers)


def run_store(location: Location, inputs: FrozenInputs, options: RunOptions, now: Running) -> None:
    """Compute what is missing in one store, showing progress.

    Raises:
        StoppedError: Saying how far the run came and how to resume it.
    """
    display = ProgressDisplay(now.console)

    def describe(event: Event) -> None:
        if isinstance(event, RunStarted):
            now.console.print(render.table(render.subject(HessianStore(location, warn=False))))

    callbacks: list[Callback] = [describe, display]
    try:
        execute(location, inputs, options, callbacks, now.stop, now.workers)
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


def estimate_settings(
    settings: Settings, options: EstimateOptions, console: Console, stop: threading.Event
) -> Estimates:
    """Estimate from products, showing what is done, and keep the answers if a store is given.

    Until they are kept, the products are, so that the same command goes on where it was stopped.

    Raises:
        DoesNotFitError: If the vectors of so many eigenpairs do not fit into memory.
        StoppedError: If ``stop`` was set.
    """
    frozen = problem_inputs(settings)
    if settings.store is None:
        options = _fitted(settings, frozen, options, console)
        return _estimate(settings, frozen, options, _Watched(console, stop))
    from pipeline.estimates.journal import Journal
    from pipeline.estimates.kept import check_replaceable, save

    location = settings.location
    path = location.directory
    if path is None:
        raise ConfigError(f"Estimates are kept in a directory, but --store is {settings.store}.")
    with location.locked():
        check_replaceable(path, frozen)
        options = _fitted(settings, frozen, options, console)
        inputs, asked = frozen.fingerprint(), options.deciding()
        assert options.method is not None, options
        journal = Journal(path, inputs, asked, options.method, frozen.evaluated)
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


def _fitted(
    settings: Settings, frozen: FrozenInputs, options: EstimateOptions, console: Console
) -> EstimateOptions:
    """The options with how traces are estimated; says what the search for eigenpairs takes.

    Raises:
        DoesNotFitError: If the vectors of that search do not fit.
    """
    from pipeline.estimates.fitting import allowed_bytes, best_method, fitting_search
    from pipeline.estimates.operator import is_semidefinite

    num_params, allowed = len(frozen.theta), allowed_bytes(settings.memory)
    cost = fitting_search(num_params, options.num_pairs, allowed)
    console.print(
        f"eigenpairs, {options.num_pairs} at each end: at most {cost.num_products:,} products, and "
        f"{format_bytes(cost.num_bytes)} of memory",
        highlight=False,
        soft_wrap=True,
    )
    semidefinite = is_semidefinite(frozen, options.matrix, options.term)
    method = best_method(num_params, options.max_products, allowed, semidefinite)
    return replace(options, method=method)


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
    from pipeline.estimates.estimates import estimate
    from pipeline.estimates.operator import operator_of

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
        found = estimate(
            operator, frozen.loss, options, lambda text: status.update(Text(printable(text)))
        )
        return replace(found, num_recorded=watched.num_taken - before)


def _workers(settings: Settings, stop: threading.Event) -> AbstractContextManager[Workers | None]:
    if isinstance(settings.chosen, InProcess):
        return nullcontext()
    from pipeline.run.cluster.connect import connect

    return connect(settings.chosen, stop)

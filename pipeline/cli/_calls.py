"""From settings to library calls: what the commands do once TensorFlow is loaded."""

from __future__ import annotations

import tempfile
import threading
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.text import Text

from hessian_tasks.errors import plain
from hessian_tasks.frozen import FrozenInputs
from hessian_tasks.source import ProblemSource
from pipeline.cli import render
from pipeline.cli._progress import LossDisplay, ProgressDisplay
from pipeline.errors import ConfigError, StoppedError, StoreError
from pipeline.run.events import Event, RunStarted
from pipeline.run.execute import execute
from pipeline.run.inputs import freeze_source, stored_inputs
from pipeline.run.options import RunOptions
from pipeline.settings.config import Settings
from pipeline.settings.profiles import InProcess
from pipeline.store.places import Location, writing
from pipeline.store.repair import open_mended
from pipeline.store.store import HessianStore
from pipeline.text import printable
from pipeline.units import format_seconds

if TYPE_CHECKING:
    from pipeline.analysis.lbfgs import LbfgsHistory
    from pipeline.cli._training import Along
    from pipeline.estimates.estimates import EstimateOptions, Estimates
    from pipeline.estimates.journal import Journal
    from pipeline.run.cluster.workers import Workers

__all__ = [
    "estimate_settings",
    "problem_inputs",
    "run_options",
    "run_settings",
    "settings_inputs",
    "train_settings",
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
        _source(settings),
        settings.weights,
        take_network=settings.take_network,
        only=settings.only,
    )


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
    frozen = problem_inputs(settings)
    if settings.store is None:
        return _estimate(settings, frozen, options, _Watched(console, stop))
    from pipeline.estimates.estimates import best_method
    from pipeline.estimates.journal import Journal
    from pipeline.estimates.kept import check_replaceable, save

    location = settings.location
    path = location.directory
    if path is None:
        raise ConfigError(f"Estimates are kept in a directory, but --store is {settings.store}.")
    with location.locked():
        check_replaceable(path, frozen)
        method = best_method(len(frozen.theta), options.max_products)
        inputs, asked = frozen.fingerprint(), options.deciding()
        journal = Journal(path, inputs, asked, method, frozen.evaluated)
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


def train_settings(settings: Settings, along: Along, seed: int, console: Console) -> None:
    """Train the problem's network, show the losses, and save it.

    Args:
        settings: Which problem.
        along: What is trained by, where the network is saved, what is kept on the way.
        seed: Seed of the training.
        console: Where to show progress.

    Raises:
        ConfigError: If the file has another ending, or a history of no steps is wanted.
        StoreError: If it cannot be written, or does not give back what was written.
    """
    from hessian_tasks.networks.trainables import parameters_of, resolve
    from pipeline.training import train

    out, history, steps = along.out, along.history, along.steps
    if not out.name.endswith((".keras", ".weights.h5", ".npz")):
        raise ConfigError(
            f"The trained network is saved as .keras, .weights.h5 or .npz, but --out is {out}."
        )
    if history is not None and steps.lbfgs == 0:
        raise ConfigError(
            "--history keeps the pairs of L-BFGS, which is to make no step. Give it some: "
            "--lbfgs 1000."
        )
    source = _source(settings)
    problem = source.load()
    with (
        tempfile.TemporaryDirectory() as directory
    ):  # whether it can be saved, before it is trained
        _save_network(resolve(problem).model, Path(directory) / out.name, source)
    result = train(
        problem,
        adam_steps=steps.adam,
        lbfgs_steps=steps.lbfgs,
        ssbroyden_steps=steps.ssbroyden,
        levenberg_marquardt_steps=steps.levenberg_marquardt,
        seed=seed,
        on_step=LossDisplay(console),
        observe=along.observer(lambda model, path: _save_network(model, path, source), source),
    )
    _save_network(result.problem.model, out, source)
    _save_history(result.history, history)
    terms = ", ".join(f"{name} {loss:.3g}" for name, loss in result.losses.items())
    error = "" if result.error is None else f", relative L2 error {result.error:.2e}"
    console.print(f"loss {result.loss:.3e} ({terms}){error}, {format_seconds(result.seconds)}")
    for name, value in parameters_of(result.problem.model).items():
        console.print(f"{name} = {np.array2string(value.numpy(), precision=7, separator=', ')}")
    console.print(f"saved {out}{'' if history is None else f' and {history}'}")
    for path in along.written():
        console.print(f"saved {path}")


def _save_network(model: Any, out: Path, source: ProblemSource) -> None:
    """Save all weights, and read them back as a run will: into the problem's network."""
    from hessian_tasks.networks.trainables import every_weight, networks_of, parameters_of
    from hessian_tasks.networks.weights import load_weights, save_values

    network, *others = networks_of(model).values()
    if out.suffix != ".npz" and (others or parameters_of(model)):
        raise ConfigError(
            f"The problem trains more than one network, which {out} cannot hold. Save as .npz."
        )
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            if out.suffix == ".npz":
                save_values(out, model)
            else:
                (network.save if out.suffix == ".keras" else network.save_weights)(out)
        # Of a subclassed model Keras may not know the arguments that it was made with.
        except NotImplementedError as error:
            raise ConfigError(
                f"Keras cannot save this network as .keras ({plain(error)[:80]}…). Save its "
                f"weights: --out {out.stem}.weights.h5"
            ) from error
    found = load_weights(out, source.load()).model
    pairs = zip(every_weight(found), every_weight(model), strict=True)
    if not all(np.array_equal(own.numpy(), saved.numpy(), equal_nan=True) for own, saved in pairs):
        raise StoreError(f"{out} does not give back the weights that were saved. Save elsewhere.")


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

"""Commands that compute, or say how far computing is."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hessian_tasks.process import configure_tensorflow
from pipeline import render
from pipeline.cli.app import app, print_result
from pipeline.cli.parameters import (
    Assignments,
    Config,
    Engine,
    Json,
    Memory,
    Options,
    PerTerm,
    Problem,
    Profile,
    Store,
    StoreFlag,
    Threads,
    Tile,
    Weights,
    make_settings,
)
from pipeline.errors import ConfigError
from pipeline.profiles import Queue

__all__ = ["cancel", "plan", "run", "status", "submit", "train"]


@app.command()
def plan(
    problem: Problem = None,
    option: Options = [],  # noqa: B006  (typer copies it)
    weights: Weights = None,
    config: Config = None,
    threads: Threads = None,
    memory: Memory = None,
    tile: Tile = None,
    per_term: PerTerm = None,
    engine: Engine = None,
    as_json: Json = False,
) -> None:
    """Say what a run would cost: tiles, memory, time, disk. Computes a few rows to know."""
    settings = make_settings(
        config, problem, option, weights=weights, threads=threads, memory=memory, tile=tile,
        per_term=per_term, engine=engine,
    )  # fmt: skip
    configure_tensorflow(settings.threads)
    from pipeline.commands import run_options, settings_inputs
    from pipeline.run import prepare

    prepared = prepare(settings_inputs(settings), run_options(settings), None)
    print_result(render.plan(prepared.plan), render.plan_data(prepared.plan), as_json)


@app.command()
def run(
    problem: Problem = None,
    option: Options = [],  # noqa: B006
    weights: Weights = None,
    store: StoreFlag = None,
    config: Config = None,
    profile: Profile = None,
    assignments: Assignments = [],  # noqa: B006
    threads: Threads = None,
    memory: Memory = None,
    tile: Tile = None,
    per_term: PerTerm = None,
    engine: Engine = None,
) -> None:
    """Compute the Hessian, or with --engine ggn the Gauss-Newton matrix, into a store.

    The same command resumes an interrupted run.
    """
    settings = make_settings(
        config, problem, option, assignments, weights=weights, store=store, profile=profile,
        threads=threads, memory=memory, tile=tile, per_term=per_term, engine=engine,
    )  # fmt: skip
    configure_tensorflow(settings.threads)
    from pipeline.commands import run_settings

    with _stop_on_signals() as stop:
        place = run_settings(settings, Console(soft_wrap=True, highlight=False), stop)
    typer.echo(f"stored in {place}; next: hessian verify {place}")


@app.command()
def submit(
    problem: Problem = None,
    option: Options = [],  # noqa: B006
    weights: Weights = None,
    store: StoreFlag = None,
    config: Config = None,
    profile: Profile = None,
    assignments: Assignments = [],  # noqa: B006
) -> None:
    """Hand the whole run to the queue of a profile, and return.

    What it does is: hessian run, with the same arguments, as a job.
    """
    settings = make_settings(
        config, problem, option, assignments, weights=weights, store=store, profile=profile
    )
    from pipeline.cluster.submit import submit_job

    chosen = settings.chosen
    if not isinstance(chosen, Queue):
        raise ConfigError(
            f"Profile {settings.profile!r} is not that of a queueing system. Use: hessian run"
        )
    path = settings.location.directory
    if path is None:
        raise ConfigError(
            "What is known of a submitted job lies beside its store, which therefore has to be in "
            f"a directory, but --store is {settings.location}. Use: hessian run"
        )
    command = [str(Path(sys.executable).with_name("hessian")), "run", *sys.argv[2:]]
    job = submit_job(chosen, command, path)
    typer.echo(f"submitted as {job}; next: hessian status {path}, or: hessian cancel {path}")


@app.command()
def cancel(store: Store) -> None:
    """Cancel the job that was submitted for a store; what is stored stays."""
    from pipeline.cluster.submit import cancel_job
    from pipeline.storage import locate

    directory = locate(store).directory
    if directory is None:
        raise ConfigError(f"No job can have been submitted for {store}, which is no directory.")
    typer.echo(f"cancelled {cancel_job(directory)}; resume with: hessian submit")


@app.command()
def status(store: Store, as_json: Json = False) -> None:
    """Say how much of a store is computed, from its records alone."""
    from pipeline.cluster.submit import find_job
    from pipeline.storage import locate
    from pipeline.store import HessianStore

    directory = locate(store).directory
    job = None if directory is None else find_job(directory)
    if job is not None and not as_json:
        typer.echo(f"submitted as {job}")
        if not locate(store).exists():
            return
    opened = HessianStore(store)
    print_result(render.status(opened), render.status_data(opened), as_json)


@app.command()
def train(
    problem: Problem = None,
    option: Options = [],  # noqa: B006
    out: Annotated[Path, typer.Option(help="Where to save, .keras.")] = Path("trained.keras"),
    adam: Annotated[int, typer.Option(min=0, help="Steps of Adam.")] = 2000,
    lbfgs: Annotated[int, typer.Option(min=0, help="Steps of L-BFGS afterwards.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
) -> None:
    """Train a problem's network: Adam, then L-BFGS."""
    settings = make_settings(None, problem, option)
    configure_tensorflow(settings.threads)
    from pipeline.commands import train_settings

    train_settings(settings, out, (adam, lbfgs, seed), Console(soft_wrap=True, highlight=False))


@contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    """Set the event at the first Ctrl-C or SIGTERM; the second Ctrl-C ends at once."""
    stop = threading.Event()

    def handle(signum: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        typer.echo("stopping; once more to end at once", err=True)

    previous = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

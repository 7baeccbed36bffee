"""Commands that compute, or say how far computing is."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from hessian_tasks.process import configure_tensorflow
from hessian_tasks.spec import matrix_of
from pipeline.cli import render
from pipeline.cli._app import Terminal, app, print_result, results, say
from pipeline.cli._parameters import (
    COMPUTING,
    INPUTS,
    PLACES,
    Json,
    Picture,
    Seed,
    Store,
    Term,
    finite,
    takes_settings,
)
from pipeline.errors import ConfigError
from pipeline.settings.config import Settings
from pipeline.settings.profiles import InProcess, Queue

__all__ = ["cancel", "estimate", "loss", "plan", "run", "status", "submit", "train"]


@app.command()
@takes_settings(*INPUTS, "config", *COMPUTING)
def plan(settings: Settings, as_json: Json = False) -> None:
    """Say what a run would cost, what products without the matrix would, and which to prefer.

    Computes a few rows and a few products to know.
    """
    configure_tensorflow(settings.threads)
    from pipeline.cli._blocks import plan_layers
    from pipeline.cli._calls import run_options, settings_inputs
    from pipeline.estimates.outlook import look_ahead

    if settings.blocks is not None:
        plan_layers(settings, as_json)
        return
    found = look_ahead(settings_inputs(settings), run_options(settings), settings.location)
    print_result(render.outlook(found), render.outlook_data(found), as_json)


@app.command()
@takes_settings(*INPUTS, "threads")
def loss(settings: Settings, as_json: Json = False) -> None:
    """Say the loss at the given weights, by terms, and its gradient's norm; nothing is stored.

    What to compare with the loss of training, before anything is computed from weights.
    """
    configure_tensorflow(settings.threads)
    from pipeline.cli._calls import problem_inputs

    frozen = problem_inputs(settings)
    print_result(render.loss(frozen), render.loss_data(frozen), as_json)


@app.command()
@takes_settings(*INPUTS, *PLACES, *COMPUTING)
def run(settings: Settings) -> None:
    """Compute the Hessian, the Gauss-Newton matrix (--engine ggn), or both (--with-ggn).

    The same command resumes an interrupted run.
    """
    _configure_client(settings)
    from pipeline.cli._blocks import run_layers
    from pipeline.cli._calls import run_settings

    whole = settings.blocks is None
    with _stop_on_signals() as stop:
        place = (run_settings if whole else run_layers)(settings, Terminal(file=results()), stop)
    command = f"hessian {'verify' if whole else 'status'} {shlex.quote(str(place))}"
    say(f"stored in {place}; next: {command}")


@app.command()
@takes_settings(
    *INPUTS, *PLACES, "threads", "memory", "engine",
    store="Where to keep the answers, a Zarr group (nowhere).",
)  # fmt: skip
def estimate(
    settings: Settings,
    term: Term = None,
    pairs: Annotated[int, typer.Option(min=1, help="Eigenvalues at each end.")] = 5,
    tolerance: Annotated[
        float,
        typer.Option(
            callback=finite, help="Residuals of eigenpairs to reach, relative to the norm."
        ),
    ] = 1e-8,
    error: Annotated[
        float,
        typer.Option(
            callback=finite,
            help="Standard errors to reach, relative to the norm; 0 takes all products.",
        ),
    ] = 0.01,
    max_products: Annotated[
        int, typer.Option(min=12, help="Products after which an estimate stops.")
    ] = 400,
    diagonal: Annotated[int, typer.Option(min=0, help="Products for the diagonal (none).")] = 0,
    density: Annotated[
        int, typer.Option(min=0, help="Random vectors for the density, 80 products each (none).")
    ] = 0,
    seed: Seed = 0,
    picture: Picture = None,
    as_json: Json = False,
) -> None:
    """Extreme eigenvalues, trace and norm from products alone, without computing the matrix.

    For networks whose matrix would not fit; hessian plan says which do. With --store the same
    command goes on with an interrupted estimate. --picture draws the density.
    """
    if picture is not None and not density:
        raise ConfigError("--picture draws the density, which has to be asked for: --density 4")
    _configure_client(settings)
    from pipeline.cli._calls import estimate_settings
    from pipeline.estimates.estimates import EstimateOptions

    matrix = matrix_of(settings.engine)
    options = EstimateOptions(
        pairs, tolerance, error, max_products, diagonal, density, seed, matrix, term
    )
    console = Terminal(stderr=True)
    with _stop_on_signals() as stop:
        found = estimate_settings(settings, options, console, stop)
    described = found.density_data()
    if picture is not None and described is not None:
        from pipeline.analysis.pictures import estimated_density_picture, save

        title = f"Spectrum of the {found.title}, P = {found.num_params:,}"
        save(estimated_density_picture(described, title), picture)
    print_result(render.estimates(found), found.to_json(), as_json)


@app.command()
@takes_settings(*INPUTS, *PLACES, *COMPUTING)
def submit(settings: Settings) -> None:
    """Hand the whole run to the queue of a profile, and return.

    What it does is: hessian run, with the same arguments, as a job.
    """
    from pipeline.run.cluster.submit import submit_job

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
    named = shlex.quote(str(path))
    say(f"submitted as {job}; next: hessian status {named}, or: hessian cancel {named}")


@app.command()
def cancel(store: Store) -> None:
    """Cancel the job that was submitted for a store; what is stored stays."""
    from pipeline.run.cluster.submit import cancel_job
    from pipeline.store.places import locate

    directory = locate(store).directory
    if directory is None:
        raise ConfigError(f"No job can have been submitted for {store}, which is no directory.")
    say(f"cancelled {cancel_job(directory)}; resume with: hessian submit")


@app.command()
def status(store: Store, as_json: Json = False) -> None:
    """Say how much of a store is computed, from its records alone."""
    from pipeline.run.cluster.submit import find_job
    from pipeline.store.below import is_store, stores_below
    from pipeline.store.places import locate
    from pipeline.store.store import HessianStore

    place = locate(store)
    job = None if place.directory is None else find_job(place.directory)
    text = [] if job is None else [f"submitted as {job}"]
    data: dict[str, Any] = {} if job is None else {"job": asdict(job)}
    if not is_store(place) and stores_below(place):
        text.append(render.stores(place))
        data.update(render.stores_data(place))
    elif job is None or place.exists():
        opened = HessianStore(place)
        text.append(render.status(opened))
        data.update(render.status_data(opened))
    print_result("\n".join(text), data, as_json)


@app.command()
@takes_settings("problem", "option")
def train(
    settings: Settings,
    out: Annotated[Path, typer.Option(help="Where to save, .keras or .weights.h5.")] = Path(
        "trained.keras"
    ),
    adam: Annotated[int, typer.Option(min=0, help="Steps of Adam.")] = 2000,
    lbfgs: Annotated[
        int | None,
        typer.Option(
            min=0, help="Steps of L-BFGS afterwards (1000, or none with one of the following)."
        ),
    ] = None,
    ssbroyden: Annotated[
        int, typer.Option(min=0, help="Steps of self-scaled Broyden afterwards (none).")
    ] = 0,
    levenberg_marquardt: Annotated[
        int, typer.Option(min=0, help="Steps of Levenberg-Marquardt afterwards (none).")
    ] = 0,
    seed: Seed = 0,
    history: Annotated[
        Path | None, typer.Option(help="Where to save the pairs of L-BFGS, .npz.")
    ] = None,
    watch: Annotated[
        int, typer.Option(min=0, help="Steps between observations of the curvature (none).")
    ] = 0,
    watched: Annotated[
        Path | None, typer.Option(help="Where to keep them, a Zarr group (<out>-watched.zarr).")
    ] = None,
    checkpoints: Annotated[
        int, typer.Option(min=0, help="Networks to save along the way, beside --out (none).")
    ] = 0,
) -> None:
    """Train a problem's network: Adam, then L-BFGS or what is asked for."""
    configure_tensorflow(settings.threads)
    from pipeline.cli._training import Along, train_settings
    from pipeline.training import Steps

    steps = Steps.of(adam, lbfgs, ssbroyden, levenberg_marquardt)
    along = Along(out, watch, watched, checkpoints, history, steps)
    train_settings(settings, along, seed, Terminal(file=results()))


def _configure_client(settings: Settings) -> None:
    # Where workers compute, this process tries a few rows or products alone.
    num_gpus = None if isinstance(settings.chosen, InProcess) else 1
    configure_tensorflow(settings.threads, num_gpus)


@contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    """Set the event at the first Ctrl-C or SIGTERM; the second Ctrl-C ends at once."""
    stop = threading.Event()

    def handle(signum: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        say("stopping; once more to end at once", err=True)

    previous = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

"""The command ``hessian``: parse, call the library, print, exit code.

TensorFlow and Zarr are imported inside the commands that need them, so that help, and
mistakes in flags and files, take no seconds.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from hessian_tasks.process import configure_tensorflow
from hessian_tasks.source import ProblemSource
from pipeline import render
from pipeline.config import Settings, load_settings, parse_options
from pipeline.errors import ConfigError, HessianError, StoppedError
from pipeline.profiles import Queue

__all__ = ["app", "main"]

app = typer.Typer(
    help="The exact Hessian of a neural network's training loss.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

# 2 is also what typer exits with for wrong flags.
EXIT_ERROR, EXIT_USAGE, EXIT_STOPPED, EXIT_NOT_VERIFIED = 1, 2, 3, 4

Problem = Annotated[
    str | None, typer.Argument(help="Built-in problem, problem.py or problem.py:name.")
]
Store = Annotated[Path, typer.Argument(help="Directory of the Zarr store.")]
StoreFlag = Annotated[
    Path | None, typer.Option("--store", help="Directory of the Zarr store (runs/<problem>.zarr).")
]
Options = Annotated[
    list[str], typer.Option("--option", "-o", help="Argument of the problem: width=20.")
]
Weights = Annotated[
    Path | None, typer.Option("--weights", help="Trained weights, .keras or .weights.h5.")
]
Config = Annotated[Path | None, typer.Option("--config", help="YAML file with settings.")]
Profile = Annotated[
    str | None, typer.Option(help="Where to compute: threads, serial, processes, or your own.")
]
Assignments = Annotated[
    list[str], typer.Option("--set", help="Another setting: profiles.slurm.workers=4.")
]
Threads = Annotated[int | None, typer.Option(help="Cores to use (all).")]
Memory = Annotated[str | None, typer.Option(help="Memory budget, as 4GiB (half of what is free).")]
Tile = Annotated[int | None, typer.Option(help="Side of the stored tiles (chosen).")]
PerTerm = Annotated[
    bool | None, typer.Option("--per-term/--total-only", help="Also each loss term's matrix.")
]
Engine = Annotated[
    str | None, typer.Option(help="auto, layered, autodiff, or ggn (Gauss-Newton) (auto).")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Term = Annotated[str | None, typer.Option(help="A loss term's matrix instead of the total's.")]
Picture = Annotated[Path | None, typer.Option(help="Write a picture, .png, .svg or .pdf.")]


def _settings(
    config: Path | None,
    problem: str | None,
    option: list[str],
    assignments: Sequence[str] = (),
    **flags: Any,
) -> Settings:
    values = {"problem": problem, "options": parse_options(option), **flags}
    settings = load_settings(config, values, assignments)
    _ = settings.chosen  # before anything is computed
    if settings.problem is not None:
        ProblemSource(settings.problem).check()  # before the seconds of importing TensorFlow
    return settings


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
    settings = _settings(
        config, problem, option, weights=weights, threads=threads, memory=memory, tile=tile,
        per_term=per_term, engine=engine,
    )  # fmt: skip
    configure_tensorflow(settings.threads)
    from pipeline.commands import run_options, settings_inputs
    from pipeline.run import prepare

    prepared = prepare(settings_inputs(settings), run_options(settings), None)
    _print(render.plan(prepared.plan), render.plan_data(prepared.plan), as_json)


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
    settings = _settings(
        config, problem, option, assignments, weights=weights, store=store, profile=profile,
        threads=threads, memory=memory, tile=tile, per_term=per_term, engine=engine,
    )  # fmt: skip
    configure_tensorflow(settings.threads)
    from pipeline.commands import run_settings

    with _stop_on_signals() as stop:
        path = run_settings(settings, Console(soft_wrap=True, highlight=False), stop)
    typer.echo(f"stored in {path}; next: hessian verify {path}")


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
    settings = _settings(
        config, problem, option, assignments, weights=weights, store=store, profile=profile
    )
    from pipeline.cluster.submit import submit_job

    chosen = settings.chosen
    if not isinstance(chosen, Queue):
        raise ConfigError(
            f"Profile {settings.profile!r} is not that of a queueing system. Use: hessian run"
        )
    path = settings.store_path
    command = [str(Path(sys.executable).with_name("hessian")), "run", *sys.argv[2:]]
    job = submit_job(chosen, command, path)
    typer.echo(f"submitted as {job}; next: hessian status {path}, or: hessian cancel {path}")


@app.command()
def cancel(store: Store) -> None:
    """Cancel the job that was submitted for a store; what is stored stays."""
    from pipeline.cluster.submit import cancel_job

    typer.echo(f"cancelled {cancel_job(store)}; resume with: hessian submit")


@app.command()
def status(store: Store, as_json: Json = False) -> None:
    """Say how much of a store is computed, from its records alone."""
    from pipeline.cluster.submit import find_job
    from pipeline.store import HessianStore

    job = find_job(store)
    if job is not None and not as_json:
        typer.echo(f"submitted as {job}")
        if not store.exists():
            return
    opened = HessianStore(store)
    _print(render.status(opened), render.status_data(opened), as_json)


@app.command()
def verify(
    store: Store,
    problem: Annotated[
        str | None, typer.Option(help="The problem's file, if it has moved since.")
    ] = None,
    num_vectors: Annotated[int, typer.Option(min=1, help="Number of random vectors.")] = 3,
    as_json: Json = False,
) -> None:
    """Compare the store with the loss it came from, and record the certificate."""
    from pipeline.api import verify_hessian

    configure_tensorflow()
    certificate = verify_hessian(store, problem, num_vectors)
    _print(render.certificate(certificate), certificate.to_json(), as_json)
    if not certificate.passed:
        raise typer.Exit(EXIT_NOT_VERIFIED)


@app.command()
def spectrum(
    store: Store, term: Term = None, picture: Picture = None, as_json: Json = False
) -> None:
    """Eigenvalues of a complete store, with the floor below which they are noise."""
    from pipeline.analysis.pictures import draw_spectrum
    from pipeline.analysis.spectrum import spectrum as compute
    from pipeline.store import HessianStore

    opened = HessianStore(store)
    found = compute(opened, term)
    if picture is not None:
        title = f"Spectrum of the {opened.matrix.title}, P = {opened.num_params:,}"
        draw_spectrum(found, title, picture)
    _print(render.spectrum(found), found.to_json(), as_json)


@app.command()
def info(store: Store, picture: Picture = None, as_json: Json = False) -> None:
    """Say what a store holds and where it came from; optionally draw the matrix."""
    from pipeline.analysis.pictures import draw_matrix
    from pipeline.store import HessianStore

    opened = HessianStore(store)
    if picture is not None:
        draw_matrix(opened, picture)
    _print(render.info(opened), opened.attributes, as_json)


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
    settings = _settings(None, problem, option)
    configure_tensorflow(settings.threads)
    from pipeline.commands import train_settings

    train_settings(settings, out, (adam, lbfgs, seed), Console(soft_wrap=True, highlight=False))


def main() -> None:
    """Run the command line; what a user can cause becomes one message and an exit code."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        app()
    except HessianError as error:
        typer.echo(f"hessian: {error}", err=True)
        codes: dict[type[HessianError], int] = {StoppedError: EXIT_STOPPED, ConfigError: EXIT_USAGE}
        sys.exit(codes.get(type(error), EXIT_ERROR))


def _print(text: str, data: dict[str, Any], as_json: bool) -> None:
    typer.echo(json.dumps(data, indent=2) if as_json else text)


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

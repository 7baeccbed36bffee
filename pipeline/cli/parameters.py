"""Arguments and flags that commands share, and the settings that they make."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from hessian_tasks.source import ProblemSource
from pipeline.settings.config import Settings, load_settings, parse_options

__all__ = [
    "Assignments",
    "Config",
    "Engine",
    "Json",
    "Memory",
    "Options",
    "PerTerm",
    "Picture",
    "Problem",
    "Profile",
    "Store",
    "StoreFlag",
    "TakeNetwork",
    "Term",
    "Threads",
    "Tile",
    "Weights",
    "make_settings",
]

Problem = Annotated[
    str | None, typer.Argument(help="Built-in problem, problem.py or problem.py:name.")
]
Store = Annotated[str, typer.Argument(help="Path or URL of the Zarr store.")]
StoreFlag = Annotated[
    str | None, typer.Option("--store", help="Path or URL of the store (runs/<problem>.zarr).")
]
Options = Annotated[
    list[str], typer.Option("--option", "-o", help="Argument of the problem: width=20.")
]
Weights = Annotated[
    Path | None, typer.Option("--weights", help="Trained weights, .keras or .weights.h5.")
]
TakeNetwork = Annotated[
    bool | None,
    typer.Option(
        "--take-network", help="Take the .keras file's network too, not its values alone."
    ),
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


def make_settings(
    config: Path | None,
    problem: str | None,
    option: list[str],
    assignments: Sequence[str] = (),
    **flags: Any,
) -> Settings:
    """Settings from the YAML file, the environment, ``--set`` and flags.

    Raises:
        ConfigError: If a key or value is not valid, or the profile is unknown.
        ProblemError: If there is no such problem.
    """
    values = {"problem": problem, "options": parse_options(option), **flags}
    settings = load_settings(config, values, assignments)
    _ = settings.chosen  # before anything is computed
    if settings.problem is not None:
        ProblemSource(settings.problem).check()  # before the seconds of importing TensorFlow
    return settings

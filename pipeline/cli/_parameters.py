"""Arguments and flags that commands share, and the settings that they make."""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable, Sequence
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hessian_tasks.source import ProblemSource
from pipeline.errors import ConfigError
from pipeline.settings.config import Settings, load_settings, parse_options

__all__ = [
    "COMPUTING",
    "INPUTS",
    "PLACES",
    "DataTerm",
    "Json",
    "MatrixName",
    "Memory",
    "Option",
    "Picture",
    "ProblemFile",
    "Seed",
    "Store",
    "Term",
    "finite",
    "named_source",
    "takes_settings",
]

Store = Annotated[str, typer.Argument(help="Path or URL of the Zarr store.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Term = Annotated[str | None, typer.Option(help="A loss term's matrix instead of the total's.")]
MatrixName = Annotated[
    Literal["hessian", "ggn"] | None,
    typer.Option("--matrix", help="Which matrix, of a store --with-ggn (hessian)."),
]
Memory = Annotated[str | None, typer.Option(help="Memory to use, as 4GiB (what is free).")]
DataTerm = Annotated[
    str | None, typer.Option(help="Residual term of the measurements (the one with data).")
]
ProblemFile = Annotated[str | None, typer.Option(help="The problem's file, if it has moved since.")]
Option = Annotated[
    list[str] | None, typer.Option("--option", "-o", help="Argument of --problem: width=20.")
]

# Endings of the formats that pictures are written in.
PICTURES = (".png", ".svg", ".pdf")

# What all generators of random numbers take.
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of what is drawn at random.")]


def finite(value: Any) -> Any:
    """Refuse NaN and infinity, which the bounds of options let through: a callback of options.

    Raises:
        typer.BadParameter: If a number is not finite.
    """
    numbers = value if isinstance(value, list | tuple) else [value]
    if not all(number is None or math.isfinite(number) for number in numbers):
        raise typer.BadParameter(f"{value} is not finite.")
    return value


def drawable(path: Path | None) -> Path | None:
    """Refuse files that no picture can be written to, before anything is computed: a callback.

    Raises:
        typer.BadParameter: If the ending is of no format that pictures have.

    Example:
        >>> drawable(Path("bands.PNG")).name
        'bands.PNG'
    """
    if path is not None and path.suffix.lower() not in PICTURES:
        raise typer.BadParameter(f"{path} ends in none of {', '.join(PICTURES)}.")
    return path


Picture = Annotated[
    Path | None, typer.Option(callback=drawable, help="Write a picture, .png, .svg or .pdf.")
]

# What settings are made from: type, and the argument or option that typer makes of it.
_FLAGS: dict[str, tuple[Any, Any]] = {
    "problem": (
        str | None, typer.Argument(help="Built-in problem, problem.py or problem.py:name."),
    ),
    "option": (
        list[str], typer.Option("--option", "-o", help="Argument of the problem: width=20."),
    ),
    "weights": (
        Path | None,
        typer.Option(
            "--weights", help="Trained weights, .keras, .weights.h5, .npz, .npy, .safetensors, .pt."
        ),
    ),
    "take_network": (
        bool | None,
        typer.Option(
            "--take-network", help="Take the .keras file's network too, not its values alone."
        ),
    ),
    "only": (
        str | None,
        typer.Option(help="What θ consists of: hidden_1,output/bias, or a parameter (all)."),
    ),
    "blocks": (
        str | None,
        typer.Option(help="layers: each layer's diagonal block alone, in a store of its own."),
    ),
    "store": (
        str | None, typer.Option("--store", help="Path or URL of the store (runs/<problem>.zarr)."),
    ),
    "config": (Path | None, typer.Option("--config", help="YAML file with settings.")),
    "profile": (
        str | None,
        typer.Option(help="Where to compute: threads, serial, processes, or your own."),
    ),
    "assignments": (
        list[str], typer.Option("--set", help="Another setting: profiles.slurm.workers=4."),
    ),
    "threads": (int | None, typer.Option(help="Cores to use (all).")),
    "memory": (str | None, typer.Option(help="Memory budget, as 4GiB (half of what is free).")),
    "tile": (int | None, typer.Option(help="Side of the stored tiles (chosen).")),
    "per_term": (
        bool | None, typer.Option("--per-term/--total-only", help="Also each loss term's matrix."),
    ),
    "engine": (
        str | None, typer.Option(help="auto, layered, autodiff, or ggn (Gauss-Newton) (auto)."),
    ),
    "with_ggn": (
        bool | None,
        typer.Option("--with-ggn/--without-ggn", help="Also the Gauss-Newton matrix, beside it."),
    ),
}  # fmt: skip

# What is computed, where it is kept and computed, and how.
INPUTS = ("problem", "option", "weights", "take_network", "only")
PLACES = ("store", "config", "profile", "assignments")
COMPUTING = ("threads", "memory", "tile", "per_term", "engine", "with_ggn", "blocks")


def named_source(problem: str | None, option: Sequence[str] | None) -> ProblemSource | None:
    """The problem that ``--problem`` and ``-o`` name in place of a store's, if they do.

    Raises:
        ConfigError: If there are options of no problem.

    Example:
        >>> named_source("poisson", ["width=20"]).options
        {'width': 20}
    """
    options = parse_options(list(option or []))
    if problem is None and options:
        raise ConfigError("-o gives a problem its arguments: name the problem, too, by --problem.")
    return None if problem is None else ProblemSource(problem, options)


def takes_settings(
    *flags: str, **texts: str
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command these flags, and the settings that they make as its first argument.

    Args:
        flags: Names in the order of the help.
        texts: What the help says of some of them where the command means something else by it.

    Example:
        >>> @takes_settings("problem", "threads")
        ... def show(settings: Settings, loud: bool = False) -> None:
        ...     print(settings.problem, settings.threads, loud)
        >>> list(inspect.signature(show).parameters)
        ['problem', 'threads', 'loud']
        >>> show(problem="poisson", threads=2, loud=True)
        poisson 2 True
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def call(**values: Any) -> None:
            settings = _make_settings(**{name: values.pop(name) for name in flags})
            command(settings, **values)

        _, *own = inspect.signature(command, eval_str=True).parameters.values()
        parameters = [*(_parameter(name, texts.get(name)) for name in flags), *own]
        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return call

    return decorate


def _parameter(name: str, text: str | None) -> Parameter:
    kind, shown = _FLAGS[name]
    if text is not None:
        shown = copy.copy(shown)
        shown.help = text
    default: Any = [] if kind == list[str] else None
    return Parameter(
        name, Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=Annotated[kind, shown]
    )


def _make_settings(
    problem: str | None,
    option: Sequence[str] = (),
    config: Path | None = None,
    assignments: Sequence[str] = (),
    **flags: Any,
) -> Settings:
    """Settings from the YAML file, the environment, ``--set`` and flags.

    Raises:
        ConfigError: If a key or value is not valid, or the profile is unknown.
        ProblemError: If there is no such problem.
    """
    values = {"problem": problem, "options": parse_options(list(option)), **flags}
    settings = load_settings(config, values, assignments)
    _ = settings.chosen  # before anything is computed
    if settings.problem is not None:
        ProblemSource(settings.problem).check()  # before the seconds of importing TensorFlow
    return settings

"""Settings: one YAML file, every key typed and documented, unknown keys refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ByteSize, ConfigDict, Field, ValidationError

from hessian_tasks.spec import EngineName
from pipeline.errors import ConfigError
from pipeline.executors import ExecutorName

__all__ = ["Settings", "load_settings", "parse_options"]


class Settings(BaseModel):
    """What to compute and how; the keys of the YAML file and the flags of the commands."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    problem: str | None = Field(
        None, description="Built-in problem, path/to/problem.py, or path/to/problem.py:name."
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="Arguments of the problem's function, such as width: 20."
    )
    weights: Path | None = Field(
        None, description="Trained weights: .keras (brings its network) or .weights.h5."
    )
    store: Path | None = Field(
        None, description="Directory of the Zarr store; runs/<problem>.zarr by default."
    )
    executor: ExecutorName = Field(
        "threads", description="threads (in this process), or serial (one block row at a time)."
    )
    threads: int | None = Field(
        None, ge=1, description="Cores to use; all that the process may run on by default."
    )
    memory: ByteSize | None = Field(
        None, description="Budget of resident memory, as 4GiB; half of what is free by default."
    )
    tile: int | None = Field(
        None, ge=1, description="Side of the stored tiles; chosen from P and memory by default."
    )
    engine: EngineName = Field(
        "auto",
        description="layered (dense networks), autodiff (any), auto (the fastest that applies); "
        "or ggn, for the Gauss-Newton matrix.",
    )
    per_term: bool | None = Field(
        None, description="Also store the matrix of every loss term, beside that of the total."
    )


def load_settings(path: Path | None, flags: dict[str, Any]) -> Settings:
    """Read the YAML file, if any, and let flags override it.

    Args:
        path: The file.
        flags: Settings by name; None leaves the file's value.

    Raises:
        ConfigError: If the file cannot be read, or a key or value is not valid; names
            the file and the key.
    """
    values = {} if path is None else _read_yaml(path)
    values.update({key: value for key, value in flags.items() if value not in (None, {})})
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        where = str(path) if path is not None else "the command line"
        raise ConfigError("\n".join(_explain(where, e) for e in error.errors())) from error


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"Configuration file {path} cannot be read: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"Configuration file {path} holds no keys; expected lines 'key: value'.")
    return values


def _explain(where: str, error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown key {key!r}; the keys are {', '.join(Settings.model_fields)}."
    return f"{where}: {key} is {error['input']!r}: {error['msg']}."


def parse_options(pairs: list[str]) -> dict[str, Any]:
    """Read ``width=20`` pairs; values are YAML scalars.

    Raises:
        ConfigError: If one has no ``=``.

    Example:
        >>> parse_options(["width=20", "dtype=float64"])
        {'width': 20, 'dtype': 'float64'}
    """
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"Option {pair!r} is not of the form name=value.")
        options[key] = yaml.safe_load(value)
    return options

"""Settings: one YAML file, every key typed and documented, unknown keys refused."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ByteSize, ConfigDict, Field, ValidationError, field_validator

from hessian_tasks.spec import EngineName
from pipeline.errors import ConfigError
from pipeline.settings.profiles import DEFAULTS, MODELS, NESTED, ClusterProfile, InProcess, Profile
from pipeline.store.places import Location, locate

__all__ = ["Settings", "load_settings", "parse_options"]

PREFIX = "HESSIAN__"


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
        None, description="Trained weights for the problem's network: .keras or .weights.h5."
    )
    take_network: bool = Field(
        False, description="Take the network of the .keras file in place of the problem's."
    )
    store: str | None = Field(
        None,
        description="Path or URL of the Zarr store; runs/<problem>.zarr by default.",
    )
    profile: str = Field(
        "threads",
        description="Where to compute: the name of one of the profiles below.",
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
    profiles: dict[str, Profile] = Field(
        default_factory=dict,
        validate_default=True,
        description="Where block rows can be computed, by names of your choice.",
    )

    @field_validator("profiles", mode="before")
    @classmethod
    def _with_defaults(cls, given: Any) -> Any:
        return {**DEFAULTS, **given} if isinstance(given, dict) else given

    @property
    def location(self) -> Location:
        """The store, or where it is by default.

        Raises:
            StoreError: If it is an URL of no kind that can hold a store.
        """
        return locate(self.store or Path("runs") / f"{Path(self.problem or '').stem}.zarr")

    @property
    def chosen(self) -> InProcess | ClusterProfile:
        """The profile.

        Raises:
            ConfigError: If there is none of that name.
        """
        if self.profile not in self.profiles:
            raise ConfigError(
                f"There is no profile {self.profile!r}; the profiles are "
                f"{', '.join(self.profiles)}. Describe it under 'profiles' in the YAML file."
            )
        return self.profiles[self.profile]


def load_settings(
    path: str | Path | None = None,
    flags: Mapping[str, Any] | None = None,
    assignments: Sequence[str] = (),
) -> Settings:
    """Read the YAML file, if any; the environment, assignments and flags override it, in turn.

    Environment variables are named like ``HESSIAN__PROFILES__SLURM__WORKERS``.

    Args:
        path: The file.
        flags: Settings by name; None leaves the value.
        assignments: Of the form ``profiles.slurm.workers=4``.

    Raises:
        ConfigError: If the file cannot be read, or a key or value is not valid; names
            the file and the key.

    Example:
        >>> settings = load_settings(assignments=["profiles.processes.workers=4"])
        >>> settings.profiles["processes"].workers
        4
    """
    values = {} if path is None else _read_yaml(Path(path))
    for name, value in sorted(os.environ.items()):
        if name.startswith(PREFIX):
            _assign(values, name.removeprefix(PREFIX).lower().split("__"), value)
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment!r} is not of the form key=value.")
        _assign(values, key.split("."), value)
    values |= {key: value for key, value in (flags or {}).items() if value not in (None, {})}
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        where = str(path) if path is not None else "the command line"
        raise ConfigError("\n".join(_explain(where, e) for e in error.errors())) from error


def _assign(values: dict[str, Any], keys: list[str], value: str) -> None:
    """Set a nested key; a profile that is only known by default keeps its other keys."""
    if len(keys) > 2 and keys[0] == "profiles":
        profiles = values.setdefault("profiles", {})
        if keys[1] not in profiles and keys[1] in DEFAULTS:
            profiles[keys[1]] = dict(DEFAULTS[keys[1]])
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{'.'.join(keys)} cannot be set: {key} is {values!r}.")
    try:
        values[keys[-1]] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"{'.'.join(keys)} is {value!r}, which is no YAML: {error}") from error


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
        known = ", ".join(_known_keys(error["loc"]))
        return f"{where}: unknown key {key!r}; the keys are {known}."
    return f"{where}: {key} is {error['input']!r}: {error['msg']}."


def _known_keys(location: Sequence[str | int]) -> list[str]:
    """The keys beside one that is unknown."""
    if len(location) < 3 or location[0] != "profiles":
        return list(Settings.model_fields)
    # A profile's own keys come after its name and its kind.
    if len(location) > 4:
        return list(NESTED[str(location[3])].model_fields)
    for model in MODELS:
        if location[2] in get_args(model.model_fields["kind"].annotation):
            return list(model.model_fields)
    return []


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

"""Settings: one YAML file, every key typed and documented, unknown keys refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from hessian_tasks.spec import EngineName
from pipeline.errors import ConfigError
from pipeline.settings._explain import explain
from pipeline.settings._fields import FilePath, FileText, StorePlace, Threads
from pipeline.settings._parse import parse_value
from pipeline.settings._sources import gather
from pipeline.settings.profiles import DEFAULTS, ClusterProfile, InProcess, Profile
from pipeline.store.places import Location, locate
from pipeline.text import shown, shown_name, shown_names
from pipeline.units import Bytes

__all__ = ["Settings", "load_settings", "parse_options"]


class Settings(BaseModel):
    """What to compute and how; the keys of the YAML file and the flags of the commands."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    problem: FileText | None = Field(
        None, description="Built-in problem, path/to/problem.py, or path/to/problem.py:name."
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="Arguments of the problem's function, such as width: 20."
    )
    weights: FilePath | None = Field(
        None,
        description="Trained weights for the problem's network: .keras, .weights.h5, .npz, .npy, "
        ".safetensors, .pt.",
    )
    take_network: bool = Field(
        False, description="Take the network of the .keras file in place of the problem's."
    )
    only: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="What θ consists of: layers, variables, networks, parameters; all by default.",
    )
    blocks: Literal["layers"] | None = Field(
        None,
        description="layers: only the diagonal block of each layer, a store each in a directory.",
    )
    store: StorePlace | None = Field(
        None,
        description="Path or URL of the Zarr store; runs/<problem>.zarr by default.",
    )
    profile: str = Field(
        "threads",
        description="Where to compute: the name of one of the profiles below.",
    )
    threads: Threads | None = Field(
        None, description="Cores to use; all that the process may run on by default."
    )
    memory: Bytes | None = Field(
        None, description="Budget of resident memory, as 4GiB; half of what is free by default."
    )
    tile: int | None = Field(
        None,
        ge=1,
        le=2**31,
        description="Side of the stored tiles; chosen from P and memory by default.",
    )
    engine: EngineName = Field(
        "auto",
        description="layered (dense networks), autodiff (any), auto (the fastest that applies); "
        "or ggn, for the Gauss-Newton matrix.",
    )
    with_ggn: bool | None = Field(
        None, description="Also compute the Gauss-Newton matrix, into the same store."
    )
    per_term: bool | None = Field(
        None, description="Also store the matrix of every loss term, beside that of the total."
    )
    profiles: dict[str, Profile] = Field(
        default_factory=dict,
        validate_default=True,
        description="Where block rows can be computed, by names of your choice.",
    )

    @field_validator("only", mode="before")
    @classmethod
    def _split(cls, given: Any) -> Any:
        return tuple(map(str.strip, given.split(","))) if isinstance(given, str) else given

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
        name = Path(self.problem or "").stem
        default = f"{name}.zarr" if self.blocks is None else f"{name}-{self.blocks}"
        return locate(self.store or Path("runs") / default)

    @property
    def chosen(self) -> InProcess | ClusterProfile:
        """The profile.

        Raises:
            ConfigError: If there is none of that name.
        """
        if self.profile not in self.profiles:
            raise ConfigError(
                f"There is no profile {shown(self.profile)}; the profiles are "
                f"{shown_names(self.profiles)}. Describe it under 'profiles' in the YAML file."
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
    file = None if path is None else Path(path)
    values, origins = gather(file, flags or {}, assignments)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        keys = list(Settings.model_fields)
        raise ConfigError("\n".join(explain(error, file, origins, keys))) from error


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
            raise ConfigError(f"Option {shown(pair)} is not of the form name=value.")
        options[key] = parse_value(value, f"Option -o {shown_name(key)}")
    return options

"""Kinds of values that settings have, with the bounds of what can be meant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import AfterValidator, Field

from pipeline.text import path_obstacle

__all__ = ["Count", "FilePath", "FileText", "Seconds", "StorePlace", "Threads"]


def _possible_path(path: Path) -> Path:
    _check_path(str(path))
    return path


def _check_path(path: str) -> str:
    obstacle = path_obstacle(path)
    if obstacle is not None:
        raise ValueError(obstacle)
    return path


def _names_a_store(place: str) -> str:
    if not place.strip():
        raise ValueError("expected a path, as runs/h.zarr, or an URL")
    return _check_path(place)


Count: TypeAlias = Annotated[int, Field(ge=1, le=100_000)]
"""How many of something there are, or how often it is tried."""

Threads: TypeAlias = Annotated[int, Field(ge=1, le=4096)]
"""Threads of one process."""

# Python's waiting ends with an error beyond centuries.
Seconds: TypeAlias = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
"""A duration."""

FilePath: TypeAlias = Annotated[Path, AfterValidator(_possible_path)]
"""Where a file is, or may be."""

FileText: TypeAlias = Annotated[str, AfterValidator(_check_path)]
"""Where a file is, or another name."""

StorePlace: TypeAlias = Annotated[str, AfterValidator(_names_a_store)]
"""Path or URL of a store."""

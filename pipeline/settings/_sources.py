"""Where settings come from: a file, the environment, assignments and flags, which override."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from pipeline.errors import ConfigError
from pipeline.settings._parse import parse_file, parse_value
from pipeline.settings.profiles import DEFAULTS
from pipeline.text import shown, shown_name

__all__ = ["Origins", "gather"]

PREFIX = "HESSIAN__"

Origins: TypeAlias = dict[tuple[str, ...], str]
"""What set a key, by the key: a variable, an assignment or a flag; a file sets all others."""


def gather(
    path: Path | None, flags: Mapping[str, Any], assignments: Sequence[str]
) -> tuple[dict[str, Any], Origins]:
    """Values as they are given, and what gave them.

    Raises:
        ConfigError: If the file or a value cannot be read, or an assignment is none.
    """
    values = {} if path is None else _mapping(path)
    origins: Origins = {}
    for name, value in sorted(os.environ.items()):
        if name.startswith(PREFIX):
            keys = name.removeprefix(PREFIX).lower().split("__")
            _assign(values, keys, value, shown_name(name))
            origins[tuple(keys)] = shown_name(name)
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {shown(assignment)} is not of the form key=value.")
        origin = f"--set {shown_name(key) or '='}"
        _assign(values, key.split("."), value, origin)
        origins[tuple(key.split("."))] = origin
    for key, value in flags.items():
        if value not in (None, {}):
            values[key] = value
            origins[(key,)] = "the command line"
    return values, origins


def _mapping(path: Path) -> dict[str, Any]:
    values = parse_file(path)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"Configuration file {path} holds no keys; expected lines 'key: value'.")
    return values


def _assign(values: dict[str, Any], keys: list[str], text: str, origin: str) -> None:
    """Set a nested key; a profile that is only known by default keeps its other keys."""
    for depth, key in enumerate(keys[:-1]):
        known = depth == 1 and keys[0] == "profiles" and key in DEFAULTS
        # As YAML reads a key without a value.
        if values.get(key) is None:
            values[key] = dict(DEFAULTS[key]) if known else {}
        if not isinstance(values[key], dict):
            raise ConfigError(
                f"{shown_name('.'.join(keys))} cannot be set: {shown_name(key)} is "
                f"{shown(values[key])}. It is set by {origin}."
            )
        values = values[key]
    values[keys[-1]] = parse_value(text, origin)

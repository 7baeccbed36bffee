"""YAML as settings take it: bounded before it becomes values, and every mistake a sentence.

Values are those that JSON has too, since options are kept in the store: text, numbers, truth, null,
lists, and mappings with keys of text. A date is text.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import ConfigError
from pipeline.text import shown

__all__ = ["parse_file", "parse_value"]

# No settings are larger; what is takes a parser minutes, or all memory.
MAX_BYTES = 2**18
MAX_DEPTH = 32
MAX_NODES = 20_000
MAX_DIGITS = 100

_TAG = "tag:yaml.org,2002:"
_LEFT_OUT = {f"{_TAG}timestamp", f"{_TAG}value"}
_KEPT = {f"{_TAG}{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map")}


class _Refused(yaml.MarkedYAMLError):
    """What YAML allows and settings do not."""

    def __init__(self, problem: str, node: yaml.Node) -> None:
        super().__init__(problem=problem, problem_mark=node.start_mark)


class _Loader(yaml.SafeLoader):
    """Counts nodes, with aliases as often as they stand there, before any becomes a value."""

    yaml_implicit_resolvers = {  # noqa: RUF012  (PyYAML's own are such)
        first: [(tag, pattern) for tag, pattern in pairs if tag not in _LEFT_OUT]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        # Number of nodes and of levels below each node that is complete.
        self._sizes: dict[int, tuple[int, int]] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        """A node; PyYAML calls this for each, within that of its parent."""
        alias = self.check_event(yaml.AliasEvent)
        if self._depth >= MAX_DEPTH:
            raise yaml.MarkedYAMLError(
                problem=f"it is nested deeper than {MAX_DEPTH} levels",
                problem_mark=self.get_mark(),
            )
        self._depth += 1
        node: Any = super().compose_node(parent, index)
        self._depth -= 1
        if alias and id(node) not in self._sizes:
            raise _Refused("an alias stands for what contains it", node)
        if not alias:
            self._sizes[id(node)] = self._measure(node)
        return node  # type: ignore[no-any-return]

    def _measure(self, node: yaml.Node) -> tuple[int, int]:
        children: list[Any] = []
        if isinstance(node, yaml.SequenceNode):
            children = node.value
        elif isinstance(node, yaml.MappingNode):
            children = [part for pair in node.value for part in pair]
        sizes = [self._sizes[id(child)] for child in children]
        number = 1 + sum(size for size, _ in sizes)
        levels = 1 + max((levels for _, levels in sizes), default=0)
        if number > MAX_NODES or levels > MAX_DEPTH:
            raise _Refused(f"it has more than {MAX_NODES:,} values or {MAX_DEPTH} levels", node)
        return number, levels

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """A mapping, whose keys are text and different."""
        keys = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.tag not in (f"{_TAG}str", f"{_TAG}merge"):
                text = key.value if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                raise _Refused(f"the key {shown(text)} is no text; put it into quotes", key)
            if key.value in keys:
                raise _Refused(f"the key {shown(key.value)} stands there twice", key)
            keys.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: Any) -> Any:
        """A number or truth; those of PyYAML raise whatever Python does."""
        kind = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.ScalarNode) and len(node.value) > MAX_DIGITS:
            raise _Refused(f"a number has {len(node.value):,} digits, more than {MAX_DIGITS}", node)
        try:
            return getattr(super(), f"construct_yaml_{kind}")(node)
        except (ValueError, KeyError, IndexError, OverflowError) as error:
            raise _Refused(f"{shown(node.value)} is no {kind}", node) from error


_Loader.yaml_constructors = {
    tag: make
    for tag, make in yaml.SafeLoader.yaml_constructors.items()
    if tag in _KEPT or tag is None
} | {f"{_TAG}{kind}": _Loader.construct_number for kind in ("int", "float", "bool")}


def parse_value(text: str, name: str) -> Any:
    """The value of a flag, a variable or an option.

    Args:
        text: The value as YAML.
        name: What an error calls it.

    Raises:
        ConfigError: If it is no YAML, or none of the values that settings can have.

    Example:
        >>> parse_value("{minimum: 0, maximum: 16}", "--set profiles.slurm.adapt")
        {'minimum': 0, 'maximum': 16}
        >>> parse_value("[1", "-o width")
        Traceback (most recent call last):
        ...
        pipeline.errors.ConfigError: -o width is '[1', which cannot be read: while parsing a flow \
sequence, expected ',' or ']', but got '<stream end>', line 1, column 3.
    """
    return _parse(text, lambda reason: f"{name} is {shown(text)}, which cannot be read: {reason}.")


def parse_file(path: Path) -> Any:
    """What stands in a YAML file.

    Raises:
        ConfigError: If it is no regular file, too large, or no YAML.
    """

    def say(reason: object) -> str:
        return f"Configuration file {path} cannot be read: {reason}."

    try:
        # Others may have no end, or wait for a writer for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(say("it is no regular file"))
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        # Cut off, its end may be half a character.
        text = data.decode() if len(data) <= MAX_BYTES else " " * len(data)
    except UnicodeDecodeError as error:
        raise ConfigError(say(f"it is not UTF-8 at byte {error.start:,}")) from error
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(say(getattr(error, "strerror", None) or error)) from error
    return _parse(text, say)


def _parse(text: str, say: Callable[[str], str]) -> Any:
    if len(text) > MAX_BYTES:
        raise ConfigError(say(f"it is longer than {MAX_BYTES:,} characters"))
    try:
        # Within, as the reader looks at its first characters at once.
        loader = _Loader(text)
        return loader.get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError(say(_reason(error))) from error


def _reason(error: yaml.YAMLError) -> str:
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())[:200]
    said = ", ".join(filter(None, [error.context, error.problem]))
    said = said if len(said) < 200 else f"{said[:200]}…"
    mark = error.problem_mark or error.context_mark
    return said if mark is None else f"{said}, line {mark.line + 1}, column {mark.column + 1}"

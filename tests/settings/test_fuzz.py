"""Settings that nobody means: every mistake is said, none is a traceback, and nothing hangs.

Whatever is drawn goes through the command line; a run ends where its settings are made.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.cli import _runs as runs
from pipeline.settings.config import Settings
from pipeline.settings.profiles import MODELS
from tests.helpers.runs import Cli

KEYS = [
    *Settings.model_fields,
    *(key for model in MODELS for key in model.model_fields),
    *("", "a", "1", "on", "null", "<<", "slurm", "processes", "minimum", "maximum", "ca", "width"),
]
SCALARS = [
    *(
        "",
        "~",
        "null",
        "yes",
        "0",
        "-1",
        "1e400",
        "1.0e+400",
        ".nan",
        ".inf",
        "-.inf",
        "nan",
        "NaN",
    ),
    *("2001-99-99", "2001-01-01", "2001-01-01T99:99:99Z", "1:2:3", "0x", "0b2", "1_000", "--", "="),
    *("!!int x", "!!int ''", "!!float x", "!!bool x", "!!null x", "!!binary x", "!!set {a}"),
    *("!!python/object:os.system x", "!!timestamp x", "!!str [a]", "!!map x", "!a b", "!!"),
    *("*a", "&a", "&a [*a]", "&a {b: *a}", "<<: *a", "? a", "- -", "[1", "{a", "'", '"', "|", ">"),
    *("%YAML 9.9", "---", "--- a\n--- b", "a: b: c", "{a: 1, a: 2}", "{1: 2}", "{[a]: b}", "@a"),
    *(9 * "7", 101 * "7", 6000 * "7", "0x" + 6000 * "f", "1:" + ":".join(200 * ["10"]) + ":1"),
    *(2000 * "[", 2000 * "{", 2000 * "{a: ", 2000 * "- ", 2000 * "? ", 40 * "[" + 40 * "]"),
    *(
        "-1GiB",
        "1e30GiB",
        "GiB",
        "4GiB",
        "1000000 TiB",
        "4 parsecs",
        5000 * "a",
        "s3://",
        "s3:///a",
    ),
    *(".", "..", "/", "/a/../..", "~", "threads", "processes", "serial", "poisson", "poisson.py"),
    *('"\\0"', '"\\e[2J"', '"\\u202e"', '"\\ud800"', "\x1b[2J", "\x07", "\u202e", "\ufeff", "\x85"),
]
LAUGHS = "\n".join(
    ["l0: &l0 [lol]", *(f"l{i}: &l{i} [{', '.join(10 * [f'*l{i - 1}'])}]" for i in range(1, 12))]
)
MERGES = "\n".join(
    ["m0: &m0 {a: 1}", *(f"m{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}]}}" for i in range(1, 40))]
)

# What neither a variable nor an argument can hold.
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
keys = st.sampled_from(KEYS) | text
scalars = st.sampled_from(SCALARS) | text | st.integers().map(str) | st.floats().map(str)
nodes = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: f"[{', '.join(parts)}]"),
        st.lists(st.tuples(keys, inner), max_size=4).map(
            lambda pairs: "{" + ", ".join(f"{key}: {value}" for key, value in pairs) + "}"
        ),
        st.tuples(st.sampled_from(["&a", "!!int", "!!map", "!a", "-"]), inner).map(" ".join),
    ),
    max_leaves=12,
)
lines = st.tuples(keys, nodes).map(lambda pair: f"{pair[0]}: {pair[1]}")
documents = st.one_of(
    st.lists(lines, max_size=6).map("\n".join),
    nodes,
    st.sampled_from([LAUGHS, MERGES, 10**6 * "a", 10**5 * "[]\n", "a: &a\n" * 1000, "\0", "\t\n"]),
)
paths = st.lists(keys, min_size=1, max_size=5)
assignments = st.one_of(
    st.tuples(paths.map(".".join), nodes).map("=".join), text, st.sampled_from(["=", "a", ".=1"])
)
flags = st.one_of(
    st.tuples(st.just("--set"), assignments),
    st.tuples(st.just("-o"), assignments),
    st.tuples(
        st.sampled_from(
            ["--tile", "--threads", "--memory", "--engine", "--store", "--weights", "--profile"]
        ),
        scalars,
    ),
)
arguments = st.lists(flags, max_size=4).map(lambda pairs: [part for pair in pairs for part in pair])
variables = st.dictionaries(
    paths.map(lambda parts: "HESSIAN__" + "__".join(parts).upper().replace("=", "")),
    nodes.filter(lambda value: "\0" not in value),
    max_size=3,
)


@pytest.fixture(autouse=True)
def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise typer.Exit(0)

    monkeypatch.setattr(runs, "configure_tensorflow", stop)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    return tmp_path / "run.yaml"


def check(
    hessian: Cli, file: Path, document: str, variables: dict[str, str], arguments: list[str]
) -> None:
    """Whatever is raised beside what the command line turns into a message fails the test."""
    file.write_bytes(document.encode(errors="surrogatepass"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        code, _, errors = hessian("run", "poisson", "--config", file, *arguments)
    assert code in (0, 1, 2), errors
    assert "Traceback" not in errors
    assert bool(code) == bool(errors)
    if errors.startswith("hessian: "):
        said = errors.splitlines()
        # One line a mistake, of which there may be several.
        assert len(said) <= 11, errors
        assert all(len(line) < 2000 for line in said)


# Every example has files and variables of its own.
SHARED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(max_examples=100, suppress_health_check=SHARED, derandomize=True)
@given(document=documents, variables=variables, arguments=arguments)
def test_settings_that_nobody_means_are_said(
    hessian: Cli, file: Path, document: str, variables: dict[str, str], arguments: list[str]
) -> None:
    check(hessian, file, document, variables, arguments)


@pytest.mark.slow
@settings(max_examples=2000, suppress_health_check=SHARED)
@given(document=documents, variables=variables, arguments=arguments)
def test_more_settings_that_nobody_means_are_said(
    hessian: Cli, file: Path, document: str, variables: dict[str, str], arguments: list[str]
) -> None:
    check(hessian, file, document, variables, arguments)


@pytest.mark.parametrize("document", [*SCALARS, LAUGHS, MERGES], ids=range(len(SCALARS) + 2))
def test_every_scalar_is_read_or_refused_everywhere(
    hessian: Cli, file: Path, document: str
) -> None:
    check(hessian, file, document, {}, [])
    check(hessian, file, "", {"HESSIAN__OPTIONS__WIDTH": document.replace("\0", "")}, [])
    for key in ("tile", "memory", "store", "problem", "weights", "profiles.slurm.wait", "threads"):
        check(hessian, file, "", {}, ["--set", f"{key}={document}"])
    check(hessian, file, "", {}, ["-o", f"width={document}"])

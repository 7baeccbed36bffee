"""Mistaken settings by name: a line that says what was given, where, and what is expected."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ConfigError, ProblemError
from pipeline.settings.config import load_settings
from tests.helpers.runs import Cli
from tests.settings.test_fuzz import LAUGHS, MERGES

YAML: dict[str, str] = {
    "tile: [1": r"expected ',' or '\]', but got '<stream end>', line 1, column 9",
    "options: {when: !!timestamp 2001-01-01}": "could not determine a constructor for the tag",
    "tile: !!int x": "'x' is no int, line 1, column 7",
    f"tile: {6000 * '7'}": "a number has 6,000 digits, more than 100",
    f"options: {{a: {5000 * '['}": "nested deeper than 32 levels",
    "tile: 1\ntile: 2": "the key 'tile' stands there twice, line 2, column 1",
    "1: 2": "the key '1' is no text; put it into quotes",
    "options: {on: 2}": "the key 'on' is no text",
    "options: &a {b: *a}": "an alias stands for what contains it",
    LAUGHS: "more than 20,000 values",
    MERGES: "more than 20,000 values or 32 levels",
    "a" * 2**18 + "b": "longer than 262,144 characters",
}


@pytest.mark.parametrize("text", YAML, ids=range(len(YAML)))
def test_what_no_setting_can_be_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"run.yaml cannot be read: .*{YAML[text]}") as said:
        load_settings(tmp_path / "run.yaml", {})
    assert "\n" not in str(said.value)


def test_dates_are_text_and_aliases_stand_for_what_they_name(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("options: {a: &a [1, 2], b: *a, day: 2001-99-99, is: =}\n")
    expected = {"a": [1, 2], "b": [1, 2], "day": "2001-99-99", "is": "="}
    assert load_settings(tmp_path / "run.yaml", {}).options == expected


def test_only_a_readable_file_of_settings_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "latin").write_bytes(b"tile: 4 # \xff")
    (tmp_path / "binary").write_bytes(bytes(range(32)))
    with (tmp_path / "large").open("wb") as file:
        file.truncate(100 * 2**20)
    reasons = {
        "fifo": "no regular file",
        ".": "no regular file",
        "latin": "not UTF-8 at byte 10",
        "binary": "special characters are not allowed",
        "large": "longer than 262,144 characters",
        "none": "No such file",
        300 * "a": "File name too long",
    }
    for name, reason in reasons.items():
        with pytest.raises(ConfigError, match=reason):
            load_settings(tmp_path / name, {})


def test_what_set_a_key_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run.yaml").write_text("engine: fast\n")
    monkeypatch.setenv("HESSIAN__TILE", "0")
    sets = ["threads=many", "profiles.slurm.workers=-1", "profiles.slurm.wait=.inf"]
    with pytest.raises(ConfigError) as said:
        load_settings(tmp_path / "run.yaml", {"memory": "1e30GiB"}, sets)
    lines = str(said.value).splitlines()
    assert [line.partition(" is ")[0] for line in lines] == [
        "--set threads: threads",
        "the command line: memory",
        "HESSIAN__TILE: tile",
        f"{tmp_path / 'run.yaml'}: engine",
        "--set profiles.slurm.wait: profiles.slurm.slurm.wait",
        "--set profiles.slurm.workers: profiles.slurm.slurm.workers",
    ]
    monkeypatch.setenv("HESSIAN__TILE", "[1")
    with pytest.raises(ConfigError, match=r"^HESSIAN__TILE is '\[1', which cannot be read: while"):
        load_settings(None, {})


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("memory", ["-1GiB", "1e30GiB", "GiB", ".nan", ".inf", "-4", "0", "true", "[1]"]),
        ("threads", ["0", "-1", "1000000000", "1.5", "x"]),
        ("tile", ["0", "-5", "1000000000000", ".nan"]),
        ("store", ["''", "' '", '"a\\0b"', 300 * "a", "5"]),
        ("weights", ['"a\\0b"', 300 * "a"]),
        ("profiles", ["null", "1", "{x: 1}", "{x: {}}", "{x: {kind: 1}}"]),
        ("profiles.slurm.wait", [".inf", ".nan", "-1", "1.0e+300"]),
        ("profiles.slurm.adapt", ["{maximum: 1000000000000}", "{}", "{minimum: 2, maximum: 1}"]),
    ],
)
def test_values_that_nothing_has_are_refused(key: str, values: list[str]) -> None:
    for value in values:
        with pytest.raises(ConfigError, match=rf"^--set {key}: {key.split('.')[0]}") as said:
            load_settings(None, {}, [f"{key}={value}"])
        assert all(len(line) < 500 for line in str(said.value).splitlines())


OPTIONS: dict[str, Any] = {
    "width": [-1, 0, 10**9, 1.5, float("nan"), "1e400", True, None, [1], {"a": 1}],
    "depth": [-1, 10**9],
    "num_interior": [-1, 0, 10**12],
    "seed": [-1, 10**30],
    "dtype": ["int7", "int32", "float16", 5, ""],
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_that_a_problem_refuses_is_named(name: str) -> None:
    from hessian_tasks.source import ProblemSource

    for value in OPTIONS[name]:
        with pytest.raises(ProblemError, match=rf"\b{name}\b") as said:
            ProblemSource("poisson", {name: value}).load()
        assert "\n" not in str(said.value)


def test_annotations_of_a_problem_are_held_against_options(tmp_path: Path) -> None:
    from hessian_tasks.source import ProblemSource

    file = tmp_path / "problem.py"
    file.write_text(
        "from __future__ import annotations\n"
        "def problem(nu: float = 1.0, n: int | None = None, s: str = '', free=None):\n"
        "    raise SystemExit(f'{nu} {n} {s} {free}')\n"
    )

    def said(**options: Any) -> str:
        with pytest.raises(ProblemError) as refused:
            ProblemSource(str(file), options).load()
        return str(refused.value)

    assert "nu of" in said(nu="1e-3")
    assert "expected float, with a point and a sign as 1.0e-3" in said(nu="1e-3")
    assert "expected int or None" in said(n="x")
    assert "failed at line 3: SystemExit: 2 3 a [1]" in said(nu=2, n=3, s="a", free=[1])
    file.write_text("def problem(n: Unknown = 1):\n    raise ValueError(n)\n")
    assert "failed" in said(n="x")


def test_a_problem_file_is_a_file(tmp_path: Path, hessian: Cli) -> None:
    os.mkfifo(tmp_path / "problem.py")
    code, _, errors = hessian("run", tmp_path / "problem.py")
    assert code == 1
    assert "is no regular file" in errors


@pytest.mark.parametrize("command", ["info", "status", "cancel", "spectrum", "export", "verify"])
@pytest.mark.parametrize("store", ["/", "", 300 * "a", "..", "."])
def test_what_can_be_no_store_is_said(
    command: str, store: str, hessian: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    more = [tmp_path / "h.npy"] if command == "export" else []
    code, _, errors = hessian(command, store, *more)
    assert code in (1, 2)
    assert errors.startswith("hessian: ")
    assert errors.count("\n") == 1

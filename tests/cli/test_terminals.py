"""What others wrote is shown, and no terminal, page or spreadsheet obeys it."""

from __future__ import annotations

import json
import logging
import shutil
import unicodedata
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hessian_tasks.frozen import FrozenInputs
from pipeline.cli._app import Terminal, escaped_logs
from pipeline.errors import StoreError
from pipeline.report._page import Page, Section, Table, write_page
from pipeline.store.store import HessianStore
from tests.helpers.forged import forge
from tests.helpers.runs import Cli, Run

# ESC and BEL, a C1 control sequence introducer, overrides of direction, a separator of lines.
NASTY = "a\x1b[2J\x1b]0;title\x07\x9b31m\x08\r\x00\u202eb\u2066c\u2028d\u200b[bold]x[/nope]<b>"


def obeyed(text: str) -> set[str]:
    """Characters that are more than shown, but for newline and tab."""
    kinds = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
    return {c for c in text if unicodedata.category(c) in kinds and c not in "\n\t"}


@pytest.fixture(scope="module")
def poisoned(inputs: FrozenInputs, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose text is more than shown wherever vetting lets it through."""
    path = tmp_path_factory.mktemp("poisoned") / "h.zarr"
    run(path, inputs, tile=20)
    assert {"source.text", "source.options.dtype"} <= set(poison(path))
    return path


def poison(path: Path) -> list[str]:
    """Put characters that are obeyed into each text of a store that vetting lets through."""
    file = path / "zarr.json"
    taken = []
    for key in texts(json.loads(file.read_bytes())["attributes"]):
        before = file.read_bytes()
        forge(path, partial(append, key))
        if opens(path):
            taken.append(".".join(map(str, key)))
        else:
            file.write_bytes(before)
    return taken


def append(key: tuple[Any, ...], attributes: dict[str, Any]) -> None:
    target: Any = attributes
    for part in key[:-1]:
        target = target[part]
    target[key[-1]] += NASTY


def texts(value: Any, key: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where there is text in attributes."""
    if isinstance(value, str):
        return [key]
    pairs = value.items() if isinstance(value, dict) else ()
    pairs = enumerate(value) if isinstance(value, list) else pairs
    return [found for part, inner in pairs for found in texts(inner, (*key, part))]


def opens(path: Path) -> bool:
    try:
        HessianStore(path, warn=False)
    except StoreError:
        return False
    return True


COMMANDS: list[list[Any]] = [
    *([name, "STORE", *json] for name in ("info", "status") for json in ([], ["--json"])),
    *([name, "STORE"] for name in ("spectrum", "statistics", "terms", "verify", "steps")),
    ["compare", "STORE", "STORE"],
    ["report", "STORE", "--out", "OUT"],
    ["report", "STORE", "--out", "OUT", "--stored-only"],
    ["export", "STORE", "OUT.npy"],
    ["run", "--store", "STORE"],
    ["cancel", "STORE"],
    ["run", f"{NASTY}.py"],
    ["run", "poisson", "--weights", f"{NASTY}.keras"],
    ["run", "poisson", "--set", f"{NASTY}={NASTY}"],
    ["run", "poisson", "-o", f"{NASTY}=1"],
    ["run", "poisson", "-o", f"dtype={NASTY[:-30]!r}"],
    ["run", "poisson", "--profile", f"{NASTY}"],
    ["info", f"--{NASTY}"],
    ["info", "STORE", NASTY],
    [NASTY],
]


@pytest.mark.parametrize("command", COMMANDS, ids=[str(i) for i in range(len(COMMANDS))])
def test_no_terminal_obeys_a_store(
    command: list[str], poisoned: Path, tmp_path: Path, hessian: Cli
) -> None:
    store = Path(shutil.copytree(poisoned, tmp_path / "h.zarr"))
    out = tmp_path / "out"
    words = {"STORE": store, "OUT": out, "OUT.npy": tmp_path / "out.npy"}
    code, output, errors = hessian(*(words.get(word, word) for word in command))
    assert code in (0, 1, 2), errors
    assert output + errors
    assert obeyed(output + errors) == set()
    for file in [*out.rglob("*.html"), *out.rglob("*.csv")]:
        assert obeyed(file.read_text()) == set()


def test_what_a_problem_file_raises_is_shown(tmp_path: Path, hessian: Cli) -> None:
    file = tmp_path / "problem.py"
    file.write_text(f"def problem():\n    raise ValueError({NASTY!r})\n")
    code, _, errors = hessian("run", file)
    assert code == 1
    assert obeyed(errors) == set()
    assert r"\x1b[2J" in errors


def test_progress_shows_markup_and_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().print(f"computing {NASTY}")
    output = capsys.readouterr().out
    assert obeyed(output) == set()
    assert r"\x9b31m" in output
    assert "[bold]x[/nope]" in output


def test_logs_are_escaped(caplog: pytest.LogCaptureFixture) -> None:
    with escaped_logs():
        logging.getLogger("distributed.worker").warning("lost %s", NASTY)
    assert obeyed(caplog.messages[0]) == set()
    assert r"\u202eb" in caplog.messages[0]


def test_pages_and_spreadsheets_obey_nothing(tmp_path: Path) -> None:
    cells = ["=1+1", "+1", "-1", "@a", "\t=1", "\r=1", NASTY, "\x1b=1"]
    table = Table("t", NASTY, {NASTY: cells, "=2": list(range(8)), "x": [-0.5] * 8})
    page = Page(NASTY, NASTY, [Section(NASTY, [NASTY], tables=[table])], source=NASTY)
    html = write_page(page, tmp_path, "page").read_text()
    assert obeyed(html) == set()
    assert r"\x1b[2J" in html
    rows = (tmp_path / "tables" / "t.csv").read_text(encoding="utf-8").splitlines()
    assert obeyed("".join(rows)) == set()
    firsts = [row[0] for row in rows[1:]]
    assert set(firsts[:6]) <= {"'", '"'}
    assert rows[0].split(",")[1] == "'=2"
    # Numbers stay numbers.
    assert all(row.endswith(",-0.5") for row in rows[1:])

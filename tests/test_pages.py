"""The code of pages runs, and their commands print what stands there."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.pages import Command, examples, numbers, steps, words
from tests.helpers.runs import ROOT, Cli


def said(lines: list[str]) -> list[str]:
    """Without progress: trainings end when rounding says so, and slow runs say how far they are."""
    progress = ("lbfgs ", "levenberg-marquardt ", "# of # block rows, ")
    return [line for line in lines if not line.startswith(progress)]


# Of the fixture ``follow``.
Follow = Callable[[str], list[tuple[Command, str]]]


@pytest.fixture
def follow(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hessian: Cli,
    capsys: pytest.CaptureFixture[str],
) -> Follow:
    """Runs what stands on a page in an empty directory; its commands, and what they print."""

    def follow(page: str) -> list[tuple[Command, str]]:
        examples(tmp_path)
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(tmp_path))
        names: dict[str, Any] = {}
        found = []
        for step in steps((ROOT / page).read_text()):
            if isinstance(step, Command):
                found.append((step, called(*step.words)))
                assert said(words(found[-1][1])) == said(words(step.printed)), step.words
            else:
                exec(compile(step, page, "exec"), names)
        return found

    def called(program: str, *arguments: str) -> str:
        if program == "python":
            capsys.readouterr()
            runpy.run_path(arguments[0], run_name="__main__")
            return capsys.readouterr().out
        code, printed, errors = hessian(*arguments)
        assert code == 0, errors
        return printed

    return follow


@pytest.mark.parametrize(
    "page",
    [
        pytest.param("README.md", marks=[pytest.mark.slow, pytest.mark.timeout(3000)]),
        pytest.param("docs/start/own_problem.md", marks=pytest.mark.slow),
        "docs/howto/own_loss.md",
        pytest.param("docs/howto/parameters.md", marks=pytest.mark.slow),
        "docs/howto/weights.md",
        pytest.param("docs/concepts/gauss_newton.md", marks=pytest.mark.slow),
    ],
)
def test_code_of_a_page_runs_and_prints_what_stands_there(page: str, follow: Follow) -> None:
    follow(page)


def test_the_first_run_prints_the_numbers_of_its_page(follow: Follow) -> None:
    found = {
        command.words[1]: (command, printed)
        for command, printed in follow("docs/start/first_run.md")
    }
    spectrum, printed = found["spectrum"]
    # The noise floor, and what is counted by it, are left out: it is measured.
    lines = [("eigenvalues", 0), ("largest", 1e-3), ("smallest", 1e-3), ("trace", 1e-3)]
    for name, tolerance in [*lines, ("Frobenius norm", 1e-3)]:
        ours, theirs = (
            next(numbers(line) for line in text.splitlines() if line.startswith(name))
            for text in (printed, spectrum.printed)
        )
        # Printed with five digits, computed in float64.
        assert ours == pytest.approx(theirs, rel=tolerance)


def test_the_example_on_the_front_page_is_the_file() -> None:
    code = steps((ROOT / "README.md").read_text())
    file = (ROOT / "examples" / "own_problem.py").read_text()
    assert any(isinstance(step, str) and file.endswith(step) for step in code)


def test_the_demo_on_the_front_page_is_that_of_make() -> None:
    demo = (ROOT / "Makefile").read_text().partition("\ndemo:")[2].partition("\n\n")[0]
    lines = [
        line.replace("$(BIN)/", "").replace("$(STORE)", "runs/poisson.zarr").split()
        for line in demo.splitlines()
        if line.startswith("\t$(BIN)")
    ]
    shown = [s.words for s in steps((ROOT / "README.md").read_text()) if isinstance(s, Command)]
    assert shown[: len(lines)] == lines

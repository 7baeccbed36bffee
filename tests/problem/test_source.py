"""Mistakes in problem files, and sources that are not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from hessian_tasks.errors import ProblemError
from hessian_tasks.source import ProblemSource


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", r"has no 'problem'"),
        ("problem = 3", r"gives a int, no Problem"),
        ("import nowhere_at_all", r"failed at line 1: ModuleNotFoundError"),
        (
            "def problem():\n    return 1 / 0",
            r"Building the problem of .* failed at line 2: ZeroDivision",
        ),
        ("problem = (", r"SyntaxError"),
    ],
)
def test_mistakes_in_a_problem_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ProblemError, match=message):
        ProblemSource(str(tmp_path / "mine.py")).load()


def test_sources_that_are_not_there() -> None:
    with pytest.raises(ProblemError, match=r"no built-in problem 'pois'.*one of: biharmonic"):
        ProblemSource("pois").check()
    with pytest.raises(ProblemError, match=r"none.py cannot be read"):
        ProblemSource("none.py").check()
    with pytest.raises(ProblemError, match=r"has no option 'widt'; its options are width"):
        ProblemSource("poisson", {"widt": 3}).load()

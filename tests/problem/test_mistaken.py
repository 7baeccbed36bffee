"""Mistakes of a newcomer's in Python: each is one sentence that says what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from hessian_tasks import DensityTerm, LossTerm, Problem, ProblemError, ResidualTerm, mlp
from hessian_tasks.loss import losses_and_gradient
from pipeline import ConfigError, RunOptions, compute_hessian, load_problem

POINTS = np.linspace(-1.0, 1.0, 5)[:, None]
TERM = ResidualTerm("fit", POINTS, lambda x, u: u.value)


def evaluated(term: Any) -> Any:
    return losses_and_gradient(Problem(mlp(1, width=2, depth=1, dtype="float64"), [term], "x"))


def computed(problem: Any) -> Any:
    return compute_hessian(problem, "nowhere.zarr")


def doubled(u: Any) -> Any:
    return tf.complex(u.value, u.value)


CASES: dict[str, tuple[Callable[[], Any], str]] = {
    "type for a problem": (lambda: computed(dict), r"problem is <class 'dict'>; .*Call the func"),
    "function for a problem": (lambda: computed(lambda: TERM), "Call the function"),
    "dictionary for a problem": (lambda: computed({}), r"problem is \{\}; expected a Problem"),
    "number for a residual": (lambda: ResidualTerm("r", POINTS, 3), "'r' is a int; expected a fun"),
    "number for a density": (lambda: DensityTerm("e", POINTS, 3), "density of term 'e' is a int"),
    "number for a loss": (lambda: LossTerm("l", 3), "loss of term 'l' is a int"),
    "number for a name": (lambda: LossTerm(3, len), "3 cannot name the loss term"),
    "list for data": (lambda: LossTerm("l", len, data=[POINTS]), "'l' are a list; .* by name"),
    "list for parameters": (
        lambda: Problem(None, [TERM], "x", parameters=[1.0]), "parameters are a list; .* by name"
    ),
    "number for coordinates": (lambda: Problem(None, [TERM], 1), "coordinates are 1; .* names"),
    "complex residual": (
        lambda: evaluated(ResidualTerm("r", POINTS, lambda x, u: doubled(u))),
        r"residual of term 'r' has dtype complex128; .*\[tf.math.real\(r\), tf.math.imag\(r\)\]",
    ),
    "complex density": (
        lambda: evaluated(DensityTerm("e", POINTS, lambda x, u: doubled(u))),
        "density of term 'e' has dtype complex128; expected real",
    ),
    "complex loss": (
        lambda: evaluated(LossTerm("l", lambda model: tf.cast(model(POINTS)[0, 0], "complex128"))),
        "loss of term 'l' has dtype complex128; expected real",
    ),
    "complex data": (
        lambda: LossTerm("l", len, data={"z": POINTS + 1j}), r"complex128\. .* Z\.real, Z\.imag"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_a_sentence(case: str) -> None:
    make, message = CASES[case]
    with pytest.raises(ProblemError, match=message):
        make()


def test_real_and_imaginary_part_are_the_squared_modulus() -> None:
    def parts(x: Any, u: Any) -> list[Any]:
        r = doubled(u)
        return [tf.math.real(r), tf.math.imag(r)]

    model = mlp(1, width=2, depth=1, dtype="float64")
    problem = Problem(model, [ResidualTerm("r", POINTS, parts, weight=2.0)], "x")
    # The mean over the two components, times two: Σ |r|² / N. Sums of ten numbers in float64.
    expected = 2 * np.mean(np.asarray(model(POINTS)) ** 2)
    assert losses_and_gradient(problem)[0]["r"] == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"executor": "processes"}, r"'processes'; expected 'serial' or 'threads'\. .*client="),
        ({"engine": "layerd"}, "'layerd'; expected 'auto' or 'layered' or "),
        ({"allowed_bytes": "4GiB"}, "allowed_bytes is '4GiB'; expected a whole number"),
        ({"num_threads": True}, "num_threads is True"),
        ({"tile": 2.5}, "tile is 2.5"),
        ({"per_term": "yes"}, "per_term is 'yes'; expected True, False or None"),
    ],
)
def test_options_of_a_run_say_what_there_is(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunOptions(**options)


def test_what_fails_in_a_file_is_said_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text("def problem(width=3):\n    points = helper()\n\ndef helper():\n    1 / 0\n")
    with pytest.raises(ProblemError, match=r"own\.py:problem failed at line 5: ZeroDivisionError"):
        load_problem(file)

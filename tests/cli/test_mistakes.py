"""Wrong inputs on the command line: one message each, and nothing is changed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from hessian_tasks.networks.models import resolve_model
from hessian_tasks.problems.networks import mlp
from hessian_tasks.source import ProblemSource
from pipeline.run.inputs import freeze_source
from tests.helpers.runs import HESSIAN, Cli, Run, snapshot

PROBLEM = """
import numpy as np
import tensorflow as tf
from hessian_tasks import Problem, ResidualTerm
from hessian_tasks.problems.networks import mlp

def problem(weight=1.0, points=0, width=4):
    x = np.random.default_rng(points).uniform(-1, 1, (8, 1))
    fit = ResidualTerm("fit", x, lambda x, u: u.value - tf.sin(x), weight)
    return Problem(mlp(1, width=width, depth=1, dtype="float64"), [fit], "x")
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """A problem file, an incomplete store made from it, weights and settings, all wrong."""
    place = tmp_path_factory.mktemp("workplace")
    file = place / "problem.py"
    file.write_text(PROBLEM)
    inputs = freeze_source(ProblemSource(str(file)))
    run(place / "h.zarr", inputs, tile=5)
    shutil.rmtree(place / "h.zarr" / "records" / "000001")
    model = resolve_model(mlp(1, width=4, depth=1, dtype="float64"))
    model.layers[0].bias.assign(np.full(4, 0.5))
    model.save(place / "trained.keras")
    model.layers[0].kernel.assign(np.full((1, 4), np.nan))
    model.save(place / "nan.keras")
    mlp(1, width=7, depth=1, dtype="float64").save_weights(place / "other.weights.h5")
    (place / "broken.keras").write_bytes(b"not a zip archive")
    (place / "unknown.yaml").write_text("problem: poisson\nworkers: 3\n")
    (place / "wrong.yaml").write_text("threads: many\n")
    return place


# What is given besides the problem and the store, and what the message says.
MISTAKES = {
    "nan weights": (["--weights", "nan.keras"], 1, r"NaN or infinity, first in .*hidden_1/kernel"),
    "other weights": (["--weights", "trained.keras"], 1, r"weights of the network \(theta\) diff"),
    "other network": (["--weights", "other.weights.h5"], 1, r"other\.weights\.h5 cannot be loaded"),
    "broken weights": (["--weights", "broken.keras"], 1, r"broken\.keras cannot be loaded"),
    "missing weights": (["--weights", "none.keras"], 1, r"none\.keras does not exist"),
    "term weight": (["-o", "weight=2.0"], 1, r"other inputs: .*weight of term fit"),
    "points": (["-o", "points=1"], 1, r"other inputs: .*points of term fit"),
    "width": (["-o", "width=5"], 1, r"other inputs: shapes of the network, "),
    "unknown problem option": (["-o", "height=2"], 1, r"has no option 'height'"),
    "option without value": (["-o", "width"], 2, r"'width' is not of the form name=value"),
    "tile": (["--tile", "4"], 1, r"tiles of side 5, but --tile 4 was asked"),
    "per term": (["--per-term"], 1, r"was made without Hessians of the single loss terms"),
    "memory": (["--memory", "1MiB"], 1, r"does not fit into memory: .*allowed 1 MiB"),
    "memory unit": (["--memory", "much"], 2, r"memory is 'much'"),
    "profile": (["--profile", "fibres"], 2, r"no profile 'fibres'; the profiles are threads"),
    "unknown key": (["--config", "unknown.yaml"], 2, r"unknown\.yaml: unknown key 'workers'"),
    "wrong value": (["--config", "wrong.yaml"], 2, r"wrong\.yaml: threads is 'many'"),
    "missing settings": (["--config", "none.yaml"], 2, r"none\.yaml cannot be read"),
}


def check_refusal(code: int, errors: str, expected_code: int, message: str) -> None:
    assert errors.startswith("hessian: "), errors
    assert errors.count("hessian: ") == 1
    assert "Traceback" not in errors
    assert re.search(message, errors), errors
    assert code == expected_code


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_one_message_and_changes_nothing(
    mistake: str, workplace: Path, hessian: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, expected_code, message = MISTAKES[mistake]
    monkeypatch.chdir(workplace)
    before = snapshot(workplace)
    problem = workplace / "problem.py"
    code, _, errors = hessian("run", problem, "--store", "h.zarr", *arguments)
    check_refusal(code, errors, expected_code, message)
    assert snapshot(workplace) == before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("# end", "# another comment", r"other inputs: problem source differs\."),
        ("tf.sin", "tf.cos", r"other inputs: .*problem source"),
        ("def problem", "def poblem", r"has no 'problem'"),
        ("return Problem", "retrun Problem", r"problem\.py failed.*SyntaxError"),
        ("mlp(1,", "mpl(1,", r"failed at line \d+: NameError: name 'mpl'"),
        ("tf.sin(x)", "tf.sin(x)[:, 0]", r"residual of term 'fit' has shape \(8, 8\)"),
    ],
)
def test_changed_problem_file_is_refused(
    old: str, new: str, message: str, workplace: Path, hessian: Cli
) -> None:
    file, path = workplace / "problem.py", workplace / "h.zarr"
    before = snapshot(path)
    changed = (PROBLEM + "# end").replace(old, new)
    file.write_text(changed)
    try:
        code, _, errors = hessian("run", file, "--store", path)
    finally:
        file.write_text(PROBLEM)
    check_refusal(code, errors, 1, message)
    assert snapshot(path) == before


def test_missing_problem_and_store_are_refused(hessian: Cli, tmp_path: Path) -> None:
    code, _, errors = hessian("run", tmp_path / "none.py")
    check_refusal(code, errors, 1, r"none\.py (does not exist|cannot be read)")
    code, _, errors = hessian("run", "--store", tmp_path / "none.zarr")
    check_refusal(code, errors, 1, r"no Hessian store at .*none\.zarr")
    code, _, errors = hessian("run")
    check_refusal(code, errors, 2, r"Give a problem")
    for command in ("status", "verify", "spectrum", "info"):
        code, _, errors = hessian(command, tmp_path / "none.zarr")
        check_refusal(code, errors, 1, r"no Hessian store at .*none\.zarr")
    assert list(tmp_path.iterdir()) == []


def test_unknown_flag_is_named(hessian: Cli) -> None:
    code, _, errors = hessian("run", "poisson", "--workers", "3")
    assert code == 2
    assert "--workers" in errors
    assert "Traceback" not in errors


def test_refusal_of_a_real_process_is_one_line(workplace: Path) -> None:
    before = snapshot(workplace)
    command = [HESSIAN, "run", "problem.py", "--store", "h.zarr", "--weights", "nan.keras"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=workplace, check=False)
    check_refusal(done.returncode, done.stderr, 1, "NaN or infinity")
    assert done.stderr.count("\n") == 1
    assert snapshot(workplace) == before

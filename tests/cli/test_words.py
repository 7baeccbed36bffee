"""What the command says and takes: names, widths, commands to copy, and where weights are kept."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest

from hessian_tasks.networks.models import get_theta
from hessian_tasks.networks.weights import load_weights
from hessian_tasks.source import ProblemSource
from pipeline.api import open_hessian
from pipeline.cli import _runs
from pipeline.cli._app import STOPPED
from pipeline.store.store import HessianStore
from tests.helpers.runs import HESSIAN, Cli, fill

PROBLEM = """
import keras
import tensorflow as tf
from hessian_tasks import Problem, ResidualTerm

class Scaled(keras.Model):
    def __init__(self):
        super().__init__(dtype="float64")
        self.hidden = keras.layers.Dense(2, "tanh", name="hidden", dtype="float64")
        self.last = keras.layers.Dense(1, name="last", dtype="float64")

    def build(self, shape):
        self.scale = self.add_weight(shape=(2,), initializer="ones", name="scale")
        super().build(shape)

    def call(self, x):
        return tf.reduce_sum(self.scale.value) * self.last(self.hidden(x))

def problem():
    model = Scaled()
    model(tf.zeros((1, 1), tf.float64))
    terms = [
        ResidualTerm(f"term{n}", [[0.1 * n], [0.7]], lambda x, u: u.d("x") - x) for n in range(4)
    ]
    return Problem(model, terms, "x")
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a blank, with a problem whose network has weights of its own."""
    place = tmp_path_factory.mktemp("work") / "my place"
    place.mkdir()
    (place / "problem.py").write_text(PROBLEM)
    return place


def test_weights_of_the_network_itself_have_a_name(place: Path, hessian: Cli) -> None:
    store = place / "h.zarr"
    command = ["run", place / "problem.py", "--per-term", "--with-ggn", "--store", store]
    code, output, _ = hessian(*command)
    assert code == 0
    # What is said to do next can be copied, blanks and all.
    following = output.splitlines()[-1].partition("next: ")[2]
    assert shlex.split(following) == ["hessian", "verify", str(store)]
    assert hessian(*shlex.split(following)[1:])[0] == 0

    _, statistics, _ = hessian("statistics", store)
    named = [line.split()[0] for line in statistics.splitlines() if line.startswith("  ")]
    assert named == ["network", "hidden", "last"]
    assert "\n  scale " in hessian("info", store)[1]
    block = open_hessian(store).sel(row_layer="network", col_layer="network")
    np.testing.assert_array_equal(block.hessian, HessianStore(store).read("hessian")[:2, :2])
    # In the store they have none, as ever.
    assert HessianStore(store).layout.variables[0].layer == ""

    _, terms, _ = hessian("terms", store)
    # 15 parts: each of the tables has all of them, none is wider than a terminal.
    assert max(map(len, terms.splitlines())) <= 100
    overlaps = terms.split("overlap")[1].split("inner products")[0]
    assert all(overlaps.count(f"H-G term{n}") == 3 for n in range(4))


def test_they_are_chosen_by_that_name(place: Path, hessian: Cli) -> None:
    code, output, _ = hessian("loss", place / "problem.py", "--only", "network")
    assert (code, "2 of 9" in output) == (0, True)
    code, output, _ = hessian("loss", place / "problem.py", "--only", "network/scale,hidden")
    assert (code, "6 of 9" in output) == (0, True)


@pytest.mark.parametrize("given", [["-1", "2"], ["-1,2"], ["-1, 2"]])
def test_intervals_have_a_space_or_a_comma(given: list[str], hessian: Cli, tmp_path: Path) -> None:
    code, _, errors = hessian("spectrum", tmp_path / "none.zarr", "--interval", *given)
    assert code == 1  # there is no such store, which is asked after the flags are read
    assert "none.zarr" in errors


def test_network_that_cannot_be_saved_is_kept_elsewhere(
    small_disk: Callable[[str], Path], hessian: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disk = small_disk("size=64k")
    fill(disk, leave=4096)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    steps = ["--adam", "3", "--lbfgs", "0"]
    out = disk / "trained.weights.h5"
    code, _, errors = hessian("train", "regression", "-o", "width=20", *steps, "--out", out)
    assert code == 1
    assert "Traceback" not in errors
    assert f"Cannot write to {out}" in errors
    kept = Path(shlex.split(errors.strip())[-1])
    assert kept.is_relative_to(tmp_path)
    source = ProblemSource("regression", {"width": 20})
    trained = load_weights(kept, source.load()).model
    again = tmp_path / "again.weights.h5"
    assert hessian("train", "regression", "-o", "width=20", *steps, "--out", again)[0] == 0
    same = load_weights(again, source.load()).model
    np.testing.assert_array_equal(get_theta(trained), get_theta(same))
    assert isinstance(same, keras.Model)


def test_interrupt_before_a_run_has_begun_says_so(
    hessian: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_runs, "configure_tensorflow", interrupted)
    code, output, errors = hessian("run", "regression", "--store", "none.zarr")
    assert (code, output, errors) == (3, "", f"hessian: {STOPPED}\n")


def test_interrupt_of_imports_is_one_line() -> None:
    """Interrupted where the command's modules are imported, by one of them itself."""
    script = (
        "import sys, types, runpy\n"
        "class Stop:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'pipeline.cli._stores': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Stop())\n"
        f"runpy.run_path({str(HESSIAN)!r}, run_name='__main__')\n"
    )
    python = HESSIAN.with_name("python")
    done = subprocess.run([python, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr == "hessian: stopped by Ctrl-C before anything was begun\n"

"""Files that define a ``dde.Model``: found, rebuilt by workers, and run only if they were named."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from hessian_tasks.bridges import how_to_install
from hessian_tasks.errors import ProblemError
from hessian_tasks.source import ProblemSource
from pipeline import compute_hessian, verify_hessian
from pipeline.run.inputs import freeze_source
from tests.helpers.runs import Cli, Run, objects

EXAMPLE = Path(__file__).parents[2] / "examples" / "burgers_dde.py"
# Points and noise are drawn anew by whoever runs the file.
FILE = """
import deepxde as dde
import numpy as np

nu = dde.Variable(0.5)
line = dde.geometry.Interval(0, 1)

def pde(x, y):
    return nu * dde.grad.hessian(y, x) + y**2

places = np.linspace(0, 1, 5)[:, None]
measured = dde.icbc.PointSetBC(places, places + np.random.normal(size=places.shape))
bc = dde.icbc.RobinBC(line, lambda x, y: np.exp(x) * y, lambda x, on: on)

def make(num_domain=9, width=4):
    data = dde.data.PDE(
        line, pde, [bc, measured], num_domain, 6, train_distribution="pseudo"
    )
    net = dde.nn.FNN([1, width, 1], "tanh", "Glorot normal")
    made = dde.Model(data, net)
    made.compile("adam", lr=1e-3, external_trainable_variables=nu, verbose=0)
    return made

model = make()
"""


@pytest.fixture
def file(tmp_path: Path, library: Any) -> Path:
    (tmp_path / "mine.py").write_text(FILE)
    return tmp_path / "mine.py"


def test_threads_and_workers_that_draw_other_points_compute_the_same(
    file: Path, tmp_path: Path, run: Run, workers: Any
) -> None:
    frozen = freeze_source(ProblemSource(str(file)))
    drawn = frozen.source.load()
    for recorded, term in zip(frozen.terms, drawn.terms, strict=True):
        # The condition on the boundary has one of two points each time.
        key = "values" if term.name == "point_set" else "points"
        if term.name != "robin":
            assert not np.array_equal(recorded.arrays[key], term.arrays[key])
    run(tmp_path / "threads.zarr", frozen, tile=10)
    run(tmp_path / "workers.zarr", frozen, workers=workers, tile=10)
    found = objects(tmp_path / "threads.zarr")
    assert found == objects(tmp_path / "workers.zarr")
    assert found


def test_the_command_finds_the_model_and_names_its_terms(
    file: Path, tmp_path: Path, hessian: Cli
) -> None:
    code, output, errors = hessian("run", file, "--store", tmp_path / "h.zarr")
    assert code == 0, errors
    for name in ("pde", "robin", "point_set"):
        assert name in output + errors
    code, output, errors = hessian("verify", tmp_path / "h.zarr")
    assert code == 0, errors


def test_a_function_may_make_the_model_and_have_options(file: Path) -> None:
    problem = ProblemSource(f"{file}:make", {"num_domain": 3}).load()
    assert problem.terms[0].num_points == 3 + 6
    assert list(problem.parameters) == ["nu"]


def test_a_store_names_a_model_only_if_its_user_did(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute_hessian(file, tmp_path / "h.zarr")
    verify_hessian(tmp_path / "h.zarr")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "others"))
    file.write_text(FILE + f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ProblemError, match="which was not named by you before"):
        verify_hessian(tmp_path / "h.zarr")
    assert not (tmp_path / "ran").exists()


def test_a_name_that_is_no_model_is_said(file: Path) -> None:
    file.write_text("model = 3")
    with pytest.raises(ProblemError, match=r"or a dde.Model called 'model'"):
        ProblemSource(str(file)).load()


def test_a_missing_package_is_named_with_what_brings_it(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import deepxde")
    code = f"""
import sys
sys.modules["deepxde"] = None
from hessian_tasks.bridges import imported
from hessian_tasks.source import ProblemSource
for load in (ProblemSource({str(tmp_path / "mine.py")!r}).load, lambda: imported("deepxde")):
    try:
        load()
    except ValueError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert ["pip install 'hessian-pipeline[deepxde]'" in line for line in lines] == [True, True]
    assert how_to_install(ImportError("deepxde")) == ""


def test_the_example_is_read_at_its_saved_weights_and_its_points(
    library: Any, tmp_path: Path
) -> None:
    model = runpy.run_path(str(EXAMPLE))["model"]
    model.net(model.data.train_x)
    saved = model.save(str(tmp_path / "burgers"))
    frozen = freeze_source(ProblemSource(str(EXAMPLE)), saved)
    data = model.data
    own = model.outputs_losses_train.python_function
    losses = tf.function(lambda: own(tf.constant(data.train_x), None, None)[1], autograph=False)()
    # Means of some hundred float32 numbers, the seed's points, other batches of them.
    assert [t.loss for t in frozen.terms] == pytest.approx(losses.numpy().tolist(), rel=1e-5)
    assert [(term.name, term.kind, term.weight) for term in frozen.terms] == [
        ("pde", "residual", 1.0),
        ("dirichlet", "loss", 5.0),
        ("ic", "loss", 5.0),
    ]
    assert frozen.layout.num_params == 501
    assert frozen.coordinates == ("x", "t")

"""The Python interface inside a real Jupyter kernel, whose event loop is running."""

from pathlib import Path

import nbclient
import nbformat
import pytest

CODE = """
import warnings; warnings.simplefilter("ignore")
from hessian_tasks.problems.poisson import problem
from pipeline import compute_hessian, open_hessian, verify_hessian
poisson = problem(width=3, depth=2, num_interior=20, num_boundary=20)
h = compute_hessian(poisson, r"STORE")
assert h.hessian.chunks is not None
hidden = h.hessian.sel(row=h.row_layer == "hidden_1")
print(hidden.shape, verify_hessian(r"STORE", poisson).passed)
"""


# Jupyter's own packages warn about their deprecations of each other.
@pytest.mark.filterwarnings("ignore")
def test_notebook_computes_and_verifies(tmp_path: Path) -> None:
    cell = nbformat.v4.new_code_cell(CODE.replace("STORE", str(tmp_path / "h.zarr")))
    notebook = nbformat.v4.new_notebook(cells=[cell])
    nbclient.NotebookClient(notebook, timeout=500, kernel_name="python3").execute()
    text = "".join(o.get("text", "") for o in cell.outputs if o["name"] == "stdout")
    assert text.strip() == "(9, 25) True"


CLUSTER = """
import warnings; warnings.simplefilter("ignore")
from distributed import Client, LocalCluster
from pipeline import ProgressBar, RunOptions, compute_hessian, load_problem
import tensorflow as tf
from pipeline import LossTerm, Problem, mlp
scale = 3.0  # what is defined in a notebook goes to the workers with the problem
points = {"x": tf.ones((5, 1))}
term = LossTerm("fit", lambda model, x: scale * tf.reduce_mean(model(x) ** 4), data=points)
problem = Problem(mlp(1, width=4, depth=2, dtype="float64"), [term])
options = RunOptions(tile=8)
with LocalCluster(
    n_workers=2, threads_per_worker=1, memory_limit="7GiB", dashboard_address="127.0.0.1:0"
) as cluster, Client(cluster) as client:
    here = compute_hessian(problem, r"STORE/here.zarr", options=options)
    there = compute_hessian(
        problem, r"STORE/there.zarr", options=options, client=client, callbacks=[ProgressBar()]
    )
    print(here.hessian.to_numpy().tobytes() == there.hessian.to_numpy().tobytes())
    print(client.submit(sum, [1, 2]).result())
"""


@pytest.mark.filterwarnings("ignore")
def test_notebook_computes_on_the_workers_of_its_client(tmp_path: Path) -> None:
    cell = nbformat.v4.new_code_cell(CLUSTER.replace("STORE", str(tmp_path)))
    notebook = nbformat.v4.new_notebook(cells=[cell])
    nbclient.NotebookClient(notebook, timeout=500, kernel_name="python3").execute()
    text = "".join(o.get("text", "") for o in cell.outputs if o.get("name") == "stdout")
    assert text.split() == ["True", "3"]
    # One line, which was replaced until the end.
    (bar,) = (o["data"]["text/plain"] for o in cell.outputs if o["output_type"] == "display_data")
    assert bar.startswith("█" * 30 + " 100%  computed 5 block rows in ")
    assert "checked: error" in bar

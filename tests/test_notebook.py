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

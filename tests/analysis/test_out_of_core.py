"""Analysis of an array that is larger than the memory it may take."""

import subprocess
import sys

import numpy as np
import pytest

from pipeline.store.store import HessianStore
from tests.helpers import matrices

SIZE, TILE = 4000, 400
# In float64 the array has 122 MiB.
LIMIT = 80 * 2**20

SETUP = """
import resource, sys
from pathlib import Path
import numpy as np
from pipeline.analysis.export import export_matrix
from pipeline.analysis.density import spectral_density
from pipeline.analysis.eigenpairs import extreme_eigenpairs
from pipeline.analysis.operator import open_operator
from pipeline.analysis.spectrum import spectrum
from pipeline.analysis.statistics import matrix_statistics
from pipeline.analysis._tiles import complete_matrix

path, limit = sys.argv[1], int(sys.argv[2])
store, matrix = complete_matrix(path)
operator = open_operator(store)
operator @ np.ones(operator.shape[0])  # starts the store's event loop, codecs and threads
pages = int(Path("/proc/self/statm").read_text().split()[5])
resource.setrlimit(resource.RLIMIT_DATA, (pages * resource.getpagesize() + limit,) * 2)
"""
TASKS = {
    "analysis": """
assert matrix_statistics(store).trace > 0
pairs = spectrum(store, memory=0, num_extreme=5).pairs
assert pairs.converged.all()
assert spectral_density(operator, num_steps=10, known=pairs).count(-1.0, 1.0).value > 0
""",
    "export": """
for ending in ("npy", "npz", "h5"):
    export_matrix(store, Path(path).with_suffix("." + ending)).unlink()
""",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> HessianStore:
    outliers = np.geomspace(1.0, 100.0, 20)
    bulk = np.linspace(-1e-3, 1e-3, SIZE - 40)
    matrix = matrices.reflected(np.concatenate([-outliers / 10, bulk, outliers]))
    return matrices.store_matrix(tmp_path_factory.mktemp("large") / "h.zarr", matrix, TILE)


def run(store: HessianStore, code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SETUP + code, str(store.location), str(LIMIT)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.mark.parametrize("name", TASKS)
def test_memory_is_bounded(store: HessianStore, name: str) -> None:
    done = run(store, TASKS[name])
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_whole_array_would_not_fit(store: HessianStore) -> None:
    done = run(store, "matrix.array[...]")
    assert done.returncode != 0
    assert "MemoryError" in done.stderr

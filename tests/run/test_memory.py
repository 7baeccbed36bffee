"""The memory that a plan promises, against what a real process takes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, sys
from hessian_tasks.process import configure_tensorflow
configure_tensorflow()
from hessian_tasks.source import ProblemSource
from pipeline.run.events import RunFinished, RunStarted
from pipeline.run.inputs import freeze_source
from pipeline.run.options import RunOptions
from pipeline.run.execute import execute
seen = {}
def listen(event):
    if isinstance(event, RunStarted):
        seen["projected"], seen["reserved"] = event.plan.projected_bytes, event.plan.reserved_bytes
    if isinstance(event, RunFinished):
        seen["peak"] = event.peak_bytes
frozen = freeze_source(ProblemSource("poisson", {"width": int(sys.argv[2]), "depth": 2}))
execute(sys.argv[1], frozen, RunOptions(tile=int(sys.argv[3])), [listen])
print(json.dumps(seen))
"""


# Width 80 has block rows of 107 MB, which outweigh what compiling takes.
@pytest.mark.parametrize(
    ("width", "tile"), [(10, 64), pytest.param(80, 4000, marks=pytest.mark.slow)]
)
def test_peak_stays_below_the_projection(tmp_path: Path, width: int, tile: int) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "h.zarr"), str(width)]
    done = subprocess.run([*command, str(tile)], check=True, capture_output=True, text=True)
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["reserved"] < seen["peak"] <= seen["projected"]

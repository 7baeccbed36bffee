"""A store that an earlier version wrote is shown, verified and resumed.

``old_store.zip`` was written by the version of 27 November 2026 (23c798d):

    hessian run poisson -o width=3 -o depth=1 -o num_interior=4 -o num_boundary=4 \
        -o dtype=float64 --tile 5 --per-term --store poisson.zarr
    hessian verify poisson.zarr
"""

import shutil
from pathlib import Path

import numpy as np
import pytest

from hessian_tasks.source import ProblemSource
from pipeline import matrix_statistics, open_hessian, verify_hessian
from pipeline.analysis.operator import relative_error
from pipeline.run.inputs import freeze_source
from pipeline.store.store import HessianStore
from tests.helpers.runs import Cli, Run

OPTIONS = {"width": 3, "depth": 1, "num_interior": 4, "num_boundary": 4, "dtype": "float64"}
# Other versions and processors round otherwise; a term's matrix has 5 digits above that.
ROUNDING = 1e-11


@pytest.fixture
def old(tmp_path: Path) -> Path:
    shutil.unpack_archive(Path(__file__).with_name("old_store.zip"), tmp_path)
    return tmp_path / "poisson.zarr"


def test_it_is_shown(old: Path, hessian: Cli) -> None:
    for command in ("info", "status", "statistics", "spectrum"):
        code, output, errors = hessian(command, old)
        assert (code, errors) == (0, "")
        assert output
    store = HessianStore(old)
    assert not store.pending()
    assert store.verified
    assert matrix_statistics(store).trace == pytest.approx(np.trace(store.hessian()[...]))


def test_it_is_the_matrix_of_today(old: Path, tmp_path: Path, run: Run) -> None:
    source = ProblemSource("poisson", OPTIONS)
    run(tmp_path / "new.zarr", freeze_source(source), tile=5, per_term=True)
    now = open_hessian(tmp_path / "new.zarr")
    then = open_hessian(old)
    assert set(then.data_vars) == set(now.data_vars)
    for name in then.data_vars:
        np.testing.assert_allclose(
            then[name].values, now[name].values, rtol=ROUNDING, atol=ROUNDING, err_msg=str(name)
        )


def test_it_is_verified_and_resumed(old: Path, hessian: Cli) -> None:
    whole = HessianStore(old).hessian()[...]
    shutil.rmtree(old / "records" / "000001")
    (old / "hessian_pde" / "c" / "1" / "2").unlink()
    code, output, _ = hessian("run", "--store", old)
    assert code == 0
    assert "computed 1 of 3 block rows" in output
    np.testing.assert_allclose(
        HessianStore(old).hessian()[...], whole, rtol=ROUNDING, atol=ROUNDING
    )
    assert verify_hessian(old).passed


def test_its_noise_floor_is_that_of_its_certificate_until_it_is_verified(old: Path) -> None:
    certificate = HessianStore(old).attributes["certificate"]
    assert "rms_errors" not in certificate
    assert relative_error(HessianStore(old)) == max(
        *certificate["product_errors"], certificate["symmetry_defect"], np.finfo(np.float64).eps
    )
    found = verify_hessian(old)
    assert relative_error(HessianStore(old)) == max(
        found.rms_errors["hessian"], found.symmetry_defect or 0.0, np.finfo(np.float64).eps
    )

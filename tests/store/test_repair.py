"""Metadata and inputs that are damaged or missing are written anew, or the message says how."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from hessian_tasks.frozen import FrozenInputs
from hessian_tasks.source import ProblemSource
from pipeline.errors import StoreError, StoreWarning
from pipeline.run.inputs import freeze_source
from pipeline.store.places import locate
from pipeline.store.repair import repair
from pipeline.store.store import HessianStore
from tests.helpers.runs import Cli, Run, snapshot

ROOT, COPY = "zarr.json", "records/zarr.json"
OPTIONS = ["-o", "width=12", "-o", "depth=1", "-o", "num_samples=20", "-o", "dtype=float64"]


def spoil(file: Path, how: str) -> None:
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-9] + b"nonsense}")


@pytest.mark.parametrize("how", ["missing", "damaged"])
@pytest.mark.parametrize(
    "key", [ROOT, COPY, "hessian/zarr.json", "theta/zarr.json", "col_index/c/0"]
)
def test_what_follows_from_the_store_is_mended_without_the_problem(
    store: Path, complete: Path, key: str, how: str, hessian: Cli
) -> None:
    spoil(store / key, how)
    if key != COPY:
        assert hessian("status", store)[0] == 1
    code, output, errors = hessian("run", "--store", store)
    assert (code, "computed 0 of 8 block rows" in output) == (0, True)
    assert f"written anew: {key}" in errors
    changing = {ROOT}  # the run's check of itself is made again where its result was lost
    before, after = snapshot(complete), snapshot(store)
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} <= changing
    np.testing.assert_array_equal(
        HessianStore(store).hessian()[...], HessianStore(complete).hessian()[...]
    )


@pytest.mark.parametrize("key", ["theta/c/0", "fit_y/c/0/0", "gradient/c/0"])
def test_inputs_are_mended_from_the_problem(store: Path, key: str, hessian: Cli) -> None:
    truth = (store / key).read_bytes()
    spoil(store / key, "missing")
    code, _, errors = hessian("run", "--store", store)
    assert code == 1
    assert "hessian run PROBLEM" in errors
    code, output, errors = hessian("run", "regression", *OPTIONS, "--store", store)
    assert (code, "computed 0 of 8 block rows" in output) == (0, True)
    assert f"written anew: {key}" in errors
    assert (store / key).read_bytes() == truth


def test_inputs_of_another_problem_do_not_mend(store: Path, hessian: Cli) -> None:
    spoil(store / "fit_y/c/0/0", "missing")
    code, _, errors = hessian("run", "regression", *OPTIONS, "-o", "seed=1", "--store", store)
    assert (code, "fit_y/c/0/0" in errors) == (1, True)
    assert not (store / "fit_y/c/0/0").exists()


def test_without_attributes_and_their_copy_nobody_can_tell(store: Path, hessian: Cli) -> None:
    for key in (ROOT, COPY):
        spoil(store / key, "damaged")
    code, _, errors = hessian("run", "--store", store)
    assert (code, errors.count("\n")) == (1, 1)
    assert "another --store" in errors
    source = ProblemSource("regression", {"width": 2})
    with pytest.raises(StoreError, match="nobody can tell"):
        repair(locate(store), freeze_source(source))


def test_attributes_are_those_that_the_records_belong_to(
    store: Path, tmp_path: Path, run: Run, inputs: FrozenInputs, complete: Path
) -> None:
    run(tmp_path / "other.zarr", inputs, tile=5)
    for key in (COPY, ROOT):
        shutil.copy(tmp_path / "other.zarr" / key, store / key)
        with pytest.warns(StoreWarning, match=f"written anew: {key}"):
            assert repair(locate(store)) == [key]
        assert (store / COPY).read_bytes() == (complete / COPY).read_bytes()
        assert HessianStore(store, warn=False).template == HessianStore(complete).template


def test_a_check_that_was_lost_is_not_passed(store: Path, hessian: Cli) -> None:
    spoil(store / ROOT, "damaged")
    with pytest.warns(StoreWarning, match="written anew"):
        repair(locate(store))
    assert "was lost" in hessian("statistics", store)[2]
    assert hessian("run", "--store", store)[0] == 0
    assert HessianStore(store).self_check.passed


def test_an_intact_store_is_left_as_it_is(store: Path) -> None:
    before = snapshot(store)
    assert repair(locate(store)) == []
    assert snapshot(store) == before


def test_several_things_are_mended_at_once(store: Path, inputs: FrozenInputs) -> None:
    keys = ["zarr.json", "gradient/zarr.json", "row_layer/c/0", "theta/c/0"]
    for key in keys:
        spoil(store / key, "missing")
    with pytest.warns(StoreWarning, match="written anew"):
        assert repair(locate(store), inputs) == keys
    opened = HessianStore(store, warn=False)
    assert opened.pending() == []
    # What the run had found of itself is gone with the root.
    assert not opened.self_check.passed

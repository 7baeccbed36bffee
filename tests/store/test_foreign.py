"""Parts of other stores, and stores that somebody has changed who knows how: seen or harmless."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hessian_tasks import Problem, ResidualTerm, mlp
from hessian_tasks.source import ProblemSource
from pipeline import compute_hessian, export_matrix, open_hessian, verify_hessian
from pipeline.errors import StoreError
from pipeline.run.inputs import freeze_source
from pipeline.store.places import filling
from pipeline.store.places.chunks import with_checksum
from pipeline.store.store import HessianStore
from tests.helpers.forged import forge, forge_arrays, make_old
from tests.helpers.runs import Cli, Run

OPTIONS = {"width": 12, "depth": 1, "num_samples": 20, "dtype": "float64"}
POISSON = {"width": 3, "depth": 1, "num_interior": 4, "num_boundary": 4, "dtype": "float64"}


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """A store of the same shape with another matrix."""
    path = tmp_path_factory.mktemp("foreign") / "h.zarr"
    run(path, freeze_source(ProblemSource("regression", {**OPTIONS, "seed": 7})), tile=5)
    return path


@pytest.fixture(scope="module")
def whole_ggn(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    path = tmp_path_factory.mktemp("ggn") / "g.zarr"
    frozen = freeze_source(ProblemSource("poisson", POISSON))
    run(path, frozen, tile=5, engine="ggn", per_term=True)
    return path


@pytest.fixture
def ggn(whole_ggn: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole_ggn, tmp_path / "g.zarr"))


def test_another_matrix_and_its_records_are_not_read(store: Path, foreign: Path) -> None:
    for part in ("hessian", "records"):
        shutil.rmtree(store / part)
        shutil.copytree(foreign / part, store / part)
    assert len(HessianStore(store).pending()) == 8
    with pytest.raises(StoreError, match="is not the record of block row"):
        open_hessian(store).hessian.values  # noqa: B018


def test_tiles_without_a_record_are_not_there(store: Path, complete: Path) -> None:
    shutil.rmtree(store / "records" / "000002")
    found, whole = open_hessian(store).hessian.values, open_hessian(complete).hessian.values
    lost = np.zeros(whole.shape, bool)
    lost[10:15, 10:] = lost[10:, 10:15] = True
    assert np.isnan(found[lost]).all()
    np.testing.assert_array_equal(found[~lost], whole[~lost])
    np.testing.assert_array_equal(HessianStore(store).read_part(*[slice(0, 37)] * 2), found)


def test_a_reader_that_came_early_is_no_more_trusting(store: Path, foreign: Path) -> None:
    tile, record = store / "hessian/c/2/2", store / "records/000002"
    kept = record.rename(store.parent / "kept")
    opened, rows = HessianStore(store), slice(10, 15)
    assert np.isnan(opened.read_part(rows, rows)).all()
    kept.rename(record)
    assert np.isfinite(opened.read_part(rows, rows)).all()
    shutil.copy(foreign / "hessian/c/2/2", tile)
    with pytest.raises(StoreError, match="hessian/c/2/2"):
        opened.read_part(rows, rows)
    with pytest.raises(StoreError, match="hessian/c/2/2"):
        export_matrix(opened, store.parent / "h.npy")


def test_matrices_of_terms_are_verified_one_by_one(ggn: Path) -> None:
    assert verify_hessian(ggn).passed
    names = ["ggn_pde", "ggn_dirichlet"]
    for first in (ggn / names[0] / "c").rglob("*"):
        if first.is_file():
            second = ggn / names[1] / first.relative_to(ggn / names[0])
            data = first.read_bytes()
            first.write_bytes(second.read_bytes())
            second.write_bytes(data)

    def exchange(record: dict[str, Any]) -> None:
        found = record["statistics"]
        found[names[0]], found[names[1]] = found[names[1]], found[names[0]]
        sums = record["checksums"]
        for key in [key for key in sums if key.startswith(f"{names[0]}/")]:
            other = key.replace(*names)
            sums[key], sums[other] = sums[other], sums[key]

    for number in range(3):
        forge(ggn, exchange, f"records/{number:06d}/zarr.json")
    certificate = verify_hessian(ggn)
    assert (certificate.damaged, certificate.misstated) == ([], [])
    assert not certificate.passed


def rename(attributes: dict[str, Any]) -> None:
    for variable in attributes["parameters"]:
        variable["layer"] = {"hidden_1": "output", "output": "hidden_1"}[variable["layer"]]


LIES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "loss": lambda attributes: attributes.update(loss=42.0),
    "weight of a Jacobian": lambda attributes: attributes["jacobians"][0].update(weight=2.0),
    "points of a Jacobian": lambda attributes: attributes["jacobians"][0].update(num_points=2),
    "layers": rename,
    "fingerprint": lambda attributes: attributes.update(fingerprint={}),
    "certificate": lambda a: a.update(certificate={"passed": True, "product_errors": [-1.0]}),
    "infinite certificate": lambda a: a.update(
        certificate={"passed": True, "product_errors": [float("inf")]}
    ),
    "empty variable": lambda a: a["parameters"].append({"layer": "z", "name": "z", "shape": [0]}),
    "many arrays": lambda a: a["terms"][0].update(arrays=[f"a{n}" for n in range(10**5)]),
}


@pytest.mark.parametrize("lie", LIES)
def test_attributes_that_do_not_fit_each_other_or_the_problem_are_refused(
    lie: str, ggn: Path
) -> None:
    (forge_arrays if lie == "layers" else forge)(ggn, LIES[lie])
    with pytest.raises(StoreError):
        verify_hessian(ggn)


def test_terms_that_are_left_out_are_those_of_the_problem(ggn: Path) -> None:
    def leave_out(attributes: dict[str, Any]) -> None:
        attributes["left_out"] = [{"term": "pde", "reason": "of a whim"}]
        attributes["arrays"] = [a for a in attributes["arrays"] if a["term"] != "pde"]
        attributes["jacobians"] = [j for j in attributes["jacobians"] if j["term"] != "pde"]

    forge(ggn, leave_out)
    with pytest.raises(StoreError, match="leaves out pde, but none of its problem"):
        verify_hessian(ggn)


def test_labels_are_those_of_the_parameters(store: Path) -> None:
    codes = HessianStore(store).read("row_layer")
    stored = with_checksum((1 - codes).astype("<i4").tobytes())
    (store / "row_layer/c/0").write_bytes(stored)
    number = int.from_bytes(stored[-4:], "little")
    forge(store, lambda attributes: attributes["checksums"].update({"row_layer/c/0": number}))
    with pytest.raises(StoreError, match=r"row_layer of .* does not name"):
        HessianStore(store)


@pytest.mark.parametrize("key", ["theta", "fit_x", "row_layer", "col_index"])
def test_an_old_store_without_an_array_is_refused(store: Path, key: str, hessian: Cli) -> None:
    make_old(store)
    assert hessian("verify", store)[0] == 0
    shutil.rmtree(store / key / "c")
    code, _, errors = hessian("verify", store)
    assert (code, errors.count("\n")) == (1, 1)


def test_a_certificate_is_of_the_store_that_was_verified(
    store: Path, foreign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.run import verify

    certify = verify.certify

    def exchange(*arguments: Any) -> verify.Certificate:
        found = certify(*arguments)
        shutil.rmtree(store)
        shutil.copytree(foreign, store)
        return found

    monkeypatch.setattr(verify, "certify", exchange)
    with pytest.raises(StoreError, match="was changed while it was verified"):
        verify_hessian(store)
    assert HessianStore(store).attributes.get("certificate") is None


def test_names_of_arrays_do_not_collide(tmp_path: Path) -> None:
    points = np.zeros((3, 1))
    term = ResidualTerm(
        "row", points, lambda x, u, layer: u.value - layer, data={"layer": np.ones((3, 1))}
    )
    problem = Problem(mlp(1, width=2, depth=1), [term], "x")
    with pytest.raises(StoreError, match="two arrays have the name row_layer"):
        compute_hessian(problem, tmp_path / "h.zarr")
    assert not (tmp_path / "h.zarr").exists()


def test_making_a_store_sweeps_its_own_litter_alone(tmp_path: Path) -> None:
    others = [".h.zarr.0123abcd.creating", ".h2.0123abcd.creating", ".h.01.creating"]
    for name in [*others, ".h.0123abcd.creating"]:
        (tmp_path / name).mkdir()
    with filling(tmp_path / "h") as made:
        made.mkdir()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*others, "h"])
    with filling(tmp_path / "*") as made:
        made.mkdir()
    assert len(list(tmp_path.iterdir())) == 5

"""What a store says is what it holds: sums, inputs, labels, tiles, and what they are read as."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from hessian_tasks.frozen import FrozenInputs
from pipeline import matrix_statistics, open_hessian, verify_hessian
from pipeline.errors import StoreError
from pipeline.store.arrays import Content
from pipeline.store.places.chunks import with_checksum
from pipeline.store.records import BlockRecord
from pipeline.store.seal import is_sealed, sealed
from pipeline.store.store import HessianStore
from tests.helpers.forged import forge
from tests.helpers.runs import Cli, Run

TILE = 5
RECORD, ROOT = "records/000003/zarr.json", "zarr.json"


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change metadata without sealing them again."""
    content = json.loads(file.read_bytes())
    change(content)
    file.write_text(json.dumps(content))


def claim(attributes: dict[str, Any]) -> None:
    attributes["statistics"]["hessian"]["trace"] = 1e6


def test_a_record_that_was_changed_is_none(store: Path, hessian: Cli) -> None:
    edit(store / RECORD, lambda content: claim(content["attributes"]))
    assert [row.index for row in HessianStore(store).pending()] == [3]
    for command in ("spectrum", "statistics"):
        code, _, errors = hessian(command, store)
        assert (code, "lacks 1 of 8 block rows" in errors) == (1, True)


def test_sums_that_somebody_made_up_are_found(store: Path, hessian: Cli) -> None:
    forge(store, claim, RECORD)
    assert HessianStore(store).records()[3].statistics["hessian"].trace == 1e6
    for command in ("spectrum", "statistics"):
        code, _, errors = hessian(command, store)
        assert code == 1
        assert "Block rows 3 of" in errors
        assert "hessian run --store" in errors
    certificate = verify_hessian(store)
    assert (certificate.passed, certificate.misstated) == (False, [3])
    code, output, _ = hessian("run", "--store", store)
    assert (code, "computed 1 of 8 block rows" in output) == (0, True)
    assert verify_hessian(store).passed


def test_no_flipped_bit_of_a_record_is_believed(store: Path) -> None:
    data = (store / RECORD).read_bytes()
    truth, rng = BlockRecord.from_json(data), np.random.default_rng(0)
    for bit in rng.choice(8 * len(data), 500, replace=False):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            found = BlockRecord.from_json(bytes(changed))
        except (ValueError, KeyError, TypeError):
            continue
        assert found == truth  # a bit of what is no part of the record


def test_a_record_of_another_store_is_none(
    store: Path, tmp_path: Path, run: Run, inputs: FrozenInputs
) -> None:
    run(tmp_path / "other.zarr", inputs, tile=TILE)
    shutil.copy(tmp_path / "other.zarr" / RECORD, store / RECORD)
    assert is_sealed(json.loads((store / RECORD).read_bytes())["attributes"])
    assert [row.index for row in HessianStore(store).pending()] == [3]


@pytest.mark.parametrize("key", ["theta/c/0", "gradient/c/0", "fit_x/c/0/0", "row_layer/c/0"])
def test_missing_inputs_and_labels_are_not_zeros(store: Path, key: str, hessian: Cli) -> None:
    (store / key).unlink()
    for command in ("status", "info", "spectrum", "verify"):
        code, _, errors = hessian(command, store)
        assert (code, errors.count("\n")) == (1, 1)
        assert key in errors
        assert "hessian run" in errors


def test_other_inputs_of_the_right_size_are_refused(store: Path) -> None:
    theta = HessianStore(store).read("theta")
    for key, data in Content(theta + 1, ("row",)).objects("theta").items():
        (store / key).write_bytes(data)
    with pytest.raises(StoreError, match=r"theta/c/0 of .* another one was stored there"):
        HessianStore(store)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attributes", {"scale_factor": 2.0}),
        ("attributes", {"add_offset": 1.0}),
        ("attributes", {"_FillValue": "AAAAAAAA8D8="}),
        ("fill_value", 0),
        ("fill_value", 0.0),
        ("data_type", "int64"),
        ("dimension_names", ["col", "row"]),
        ("dimension_names", None),
        ("codecs", [{"name": "bytes", "configuration": {"endian": "big"}}, {"name": "crc32c"}]),
        ("shape", [37, 36]),
        ("compressor", "zlib"),
    ],
)
def test_what_xarray_would_apply_is_refused(store: Path, key: str, value: Any) -> None:
    edit(store / "hessian" / ROOT, lambda content: content.update({key: value}))
    with pytest.raises(StoreError, match="array hessian") as caught:
        open_hessian(store)
    assert f"hessian run --store {store}" in str(caught.value)


def test_meanings_of_labels_are_those_of_the_parameters(store: Path) -> None:
    names = ["output", "hidden_1"]
    edit(store / "row_layer" / ROOT, lambda c: c["attributes"].update(flag_meanings=names))
    with pytest.raises(StoreError, match="array row_layer: attributes"):
        HessianStore(store)


def test_stores_are_what_zarr_reads(complete: Path) -> None:
    root, store = zarr.open_group(complete, mode="r"), HessianStore(complete)
    arrays = dict(root.arrays())
    assert set(arrays) == set(store.metadata)
    for name in store.metadata:
        np.testing.assert_array_equal(arrays[name][...], store.array(name)[...])
    assert np.isnan(arrays["theta"].fill_value)


@pytest.mark.parametrize(
    "data",
    [
        np.array(3, "float16"), np.arange(4, dtype="uint8"), np.ones((2, 0, 3)),
        np.array([[True, False]]), np.arange(6, dtype=">i4").reshape(3, 2), np.array([1j]),
    ],
)  # fmt: skip
def test_arrays_of_any_kind_are_what_zarr_reads(data: Any, tmp_path: Path) -> None:
    content = Content(data, tuple(f"axis_{n}" for n in range(data.ndim)))
    objects = {"a/zarr.json": content.metadata.to_json(), **content.objects("a")}
    for key, stored in objects.items():
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(stored)
    found = zarr.open_array(tmp_path / "a", mode="r")
    assert found.dtype == data.dtype.newbyteorder("=")
    np.testing.assert_array_equal(found[...], data)


def damaged(store: Path, hessian: Cli, tile: str) -> None:
    """Every way to read the matrix names the tile and what mends it."""
    with pytest.raises(StoreError, match=tile) as caught:
        open_hessian(store).hessian.values  # noqa: B018
    assert f"hessian run --store {store}" in str(caught.value)
    for command in (["spectrum"], ["statistics"], ["export", store.with_suffix(".npy")]):
        code, _, errors = hessian(command[0], store, *command[1:])
        assert (code, errors.count("\n")) == (1, 1)
        assert re.search(tile, errors)
        assert f"hessian run --store {store}" in errors


def test_reads_find_a_damaged_tile(store: Path, hessian: Cli) -> None:
    tile = store / "hessian/c/2/5"
    data = bytearray(tile.read_bytes())
    data[7] ^= 16
    tile.write_bytes(data)
    damaged(store, hessian, "hessian/c/2/5")


def test_reads_find_a_missing_tile(store: Path, hessian: Cli) -> None:
    (store / "hessian/c/2/5").unlink()
    damaged(store, hessian, "hessian/c/2/5")


def test_reads_find_tiles_that_were_swapped(store: Path, hessian: Cli) -> None:
    first, second = store / "hessian/c/2/5", store / "hessian/c/1/4"
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    damaged(store, hessian, "hessian/c/(2/5|1/4)")


def test_numbers_that_are_none_are_named_by_block_row(store: Path, hessian: Cli) -> None:
    tile = store / "hessian/c/2/5"
    entries = np.frombuffer(tile.read_bytes()[:-4]).copy()
    entries[3] = np.nan
    tile.write_bytes(with_checksum(entries.tobytes()))
    key, name = "hessian/c/2/5", "records/000002/zarr.json"
    recorded = int.from_bytes(tile.read_bytes()[-4:], "little")
    forge(store, lambda a: a["checksums"].update({key: recorded}), name)
    code, _, errors = hessian("statistics", store)
    assert (code, "Block rows 2 of" in errors) == (1, True)


def test_a_tile_that_a_run_wrote_anew_is_read(store: Path) -> None:
    opened, other = HessianStore(store), HessianStore(store)
    row = slice(10, 15)
    before = opened.read_part(row, row)
    record = other.records()[2]
    checksums = other.write_block_row(record.row, "hessian", np.ones((5, 27)))
    sums = {"hessian": type(record.statistics["hessian"]).of(np.ones((5, 27)))}
    BlockRecord(
        record.row, checksums, sums, "layered", 0.0, 0.0, 0, other.template
    ).save(other.location)  # fmt: skip
    assert not np.array_equal(before, opened.read_part(row, row))


def test_more_block_rows_than_files_can_be_are_refused(store: Path) -> None:
    forge(store, lambda attributes: attributes.update(tile=1))
    with pytest.raises(StoreError, match=r"array hessian: chunk_grid"):
        HessianStore(store)

    def widen(attributes: dict[str, Any]) -> None:
        attributes["parameters"] = [{"layer": "hidden_1", "name": "kernel", "shape": [10**6]}]
        for name in ("theta", "gradient"):
            attributes["input_arrays"][name]["shape"] = [10**6]

    forge(store, widen)
    with pytest.raises(StoreError, match="make 1e\\+06 block rows"):
        HessianStore(store)


def test_names_that_label_rows_are_bounded(store: Path) -> None:
    def change(attributes: dict[str, Any]) -> None:
        attributes["parameters"][0]["layer"] = "y" * 20_000

    forge(store, change)
    with pytest.raises(StoreError, match=r"parameters\.0\.layer: .*1000 characters"):
        HessianStore(store)


def test_a_seal_is_of_all_attributes() -> None:
    attributes = sealed({"loss": 1.5, "terms": [{"name": "fit"}]})
    assert is_sealed(json.loads(json.dumps(attributes)))
    assert not is_sealed({**attributes, "more": 1})
    assert not is_sealed({"loss": 1.5})


def test_statistics_are_those_of_the_tiles(store: Path) -> None:
    matrix = HessianStore(store).hessian()[...]
    assert matrix_statistics(store).trace == pytest.approx(np.trace(matrix), rel=1e-12)

"""Damaged files: found, named, and computed again, or refused. No wrong array, ever."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pytest

from hessian_tasks.autodiff import hessian_vector_product
from hessian_tasks.frozen import FrozenInputs
from hessian_tasks.rebuild import rebuild
from pipeline.api import verify_hessian
from pipeline.errors import StoreError, StoreWarning
from pipeline.run.verify import certify
from pipeline.store.store import HessianStore
from tests.helpers.runs import Cli, Run, computed, objects

Product = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
LAST_TILE = "hessian/c/7/7"


@pytest.fixture(scope="module")
def product(inputs: FrozenInputs) -> Product:
    """Hessian-vector products, for certificates without compiling anew."""
    problem = rebuild(inputs)
    return lambda vectors: hessian_vector_product(problem, vectors)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES = {"truncated": truncate, "flipped": flip_bit, "deleted": Path.unlink, "emptied": empty}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("key", ["hessian/c/2/6", "hessian/c/5/3"])
def test_damaged_tile_is_found_and_repaired(
    damage: str,
    key: str,
    store: Path,
    complete: Path,
    run: Run,
    inputs: FrozenInputs,
    product: Product,
) -> None:
    DAMAGES[damage](store / key)
    certificate = certify(HessianStore(store), {"hessian": product})
    assert not certificate.passed
    assert (certificate.damaged, certificate.num_missing) == ([key], 0)
    events = run(store, inputs)
    # The writer of a tile is the block row of its smaller index.
    assert computed(events) == [min(int(i) for i in key.split("/")[2:])]
    assert objects(store) == objects(complete)
    assert certify(HessianStore(store), {"hessian": product}).passed


def test_verification_is_recorded_until_the_store_changes(
    store: Path, run: Run, inputs: FrozenInputs
) -> None:
    assert verify_hessian(store).passed
    assert HessianStore(store).attributes["certificate"]["passed"] is True
    flip_bit(store / LAST_TILE)
    certificate = verify_hessian(store)
    assert not certificate.passed
    assert certificate.damaged == [LAST_TILE]
    assert HessianStore(store).attributes["certificate"]["passed"] is False
    assert computed(run(store, inputs)) == [7]
    assert "certificate" not in HessianStore(store).attributes


def test_wrong_entry_with_a_right_checksum_is_found(store: Path, product: Product) -> None:
    opened = HessianStore(store)
    record = opened.records()[7]
    rows = slice(record.row.start, record.row.stop)
    block = opened.read_part(rows, rows).copy()
    block[36 - rows.start, 36 - rows.start] *= 1.01
    sums = opened.write_block_row(record.row, "hessian", block)
    replace(record, checksums=sums).save(opened.location)
    certificate = certify(HessianStore(store), {"hessian": product})
    assert certificate.damaged == []
    assert not certificate.passed
    assert min(certificate.product_errors) > certificate.tolerance


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_record_is_computed_again(
    damage: str, store: Path, complete: Path, run: Run, inputs: FrozenInputs, product: Product
) -> None:
    record = store / "records" / "000001" / "zarr.json"
    if damage == "flipped":
        # Of a bit in a file of JSON some flips pass; in a key none does.
        record.write_bytes(record.read_bytes().replace(b'"checksums"', b'"chekksums"'))
    else:
        DAMAGES[damage](record)
    certificate = certify(HessianStore(store), {"hessian": product})
    assert (certificate.passed, certificate.num_missing) == (False, 1)
    assert computed(run(store, inputs)) == [1]
    assert objects(store) == objects(complete)
    assert certify(HessianStore(store), {"hessian": product}).passed


def test_no_flipped_bit_in_a_record_raises_or_hides_damage(store: Path) -> None:
    opened = HessianStore(store)
    truth = opened.records()[6]
    for index in range(6):
        shutil.rmtree(store / "records" / f"{index:06d}")
    path = store / "records" / "000006" / "zarr.json"
    data, rng = path.read_bytes(), random.Random(1)
    for _ in range(300):
        flipped = bytearray(data)
        flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        found = opened.records().get(6)
        if found is not None and found.checksums != truth.checksums:
            assert set(opened.damaged_objects([found])) <= set(truth.checksums)
            assert opened.block_rows[6] in opened.pending()


def test_damaged_inputs_are_refused(store: Path) -> None:
    flip_bit(store / "theta" / "c" / "0")
    with pytest.raises(StoreError, match=r"theta/c/0 of .* cannot be read"):
        verify_hessian(store)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["zarr.json", "hessian/zarr.json"])
def test_damaged_metadata_is_refused_and_mended(
    damage: str, file: str, store: Path, complete: Path, run: Run, inputs: FrozenInputs
) -> None:
    if damage == "flipped":
        data = (store / file).read_bytes()
        (store / file).write_bytes(data.replace(b'"zarr_format": 3', b'"zarr_format": 7'))
    else:
        DAMAGES[damage](store / file)
    with pytest.raises(StoreError, match="is not a readable Hessian store"):
        HessianStore(store)
    with pytest.warns(StoreWarning, match=f"written anew: {file}"):
        assert computed(run(store, inputs)) == []
    assert objects(store) == objects(complete)


def test_verify_exits_with_4_when_it_fails(store: Path, hessian: Cli) -> None:
    assert hessian("verify", store)[0] == 0
    flip_bit(store / LAST_TILE)
    code, output, errors = hessian("verify", store, "--json")
    assert code == 4
    assert LAST_TILE in output
    assert errors == ""

"""What is tried again, and what is not."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from zarr.core.buffer import default_buffer_prototype

from hessian_tasks.frozen import FrozenInputs
from pipeline.errors import StoreError
from pipeline.store.places import Directory, filling
from pipeline.store.places import _retrying as retrying
from pipeline.store.places._retrying import PAUSES, RetryingFiles
from pipeline.store.store import HessianStore
from tests.helpers.runs import Run


@pytest.fixture
def failures(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Error numbers that the next operations of the file system end with, after they were done."""
    numbers: list[int] = []
    monkeypatch.setattr(retrying, "PAUSES", [0.0] * len(PAUSES))
    for name in ("read_bytes", "replace"):
        operation = getattr(Path, name)

        def fail(*arguments: Any, operation: Any = operation) -> Any:
            result = operation(*arguments)
            if numbers:
                number = numbers.pop(0)
                raise OSError(number, os.strerror(number))
            return result

        monkeypatch.setattr(Path, name, fail)
    return numbers


def write_and_read(path: Path) -> bytes | None:
    """Write as block rows are, and read as Zarr does."""
    Directory(path).write("c/0/0", b"tile")

    async def read() -> bytes | None:
        files = await RetryingFiles.open(path)
        found = await files.get("c/0/0", default_buffer_prototype())
        return None if found is None else found.to_bytes()

    return asyncio.run(read())


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_what_passes_is_tried_again(number: int, tmp_path: Path, failures: list[int]) -> None:
    failures += [number] * len(PAUSES)
    assert write_and_read(tmp_path) == b"tile"
    assert failures == []


def test_what_does_not_pass_in_time_is_raised(tmp_path: Path, failures: list[int]) -> None:
    failures += [errno.EIO] * (len(PAUSES) + 1)
    with pytest.raises(OSError, match="Input/output error"):
        write_and_read(tmp_path)
    assert failures == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS])
def test_what_does_not_pass_is_raised_at_once(
    number: int, tmp_path: Path, failures: list[int]
) -> None:
    failures += [number, errno.EIO]
    with pytest.raises(OSError, match=os.strerror(number)):
        write_and_read(tmp_path)
    assert failures == [errno.EIO]


@pytest.fixture
def flipped(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of objects of which the next read, once for each entry, has one wrong byte."""
    keys: list[str] = []
    read = Directory.read

    def wrong(self: Directory, key: str, *limit: int) -> bytes:
        data = bytearray(read(self, key, *limit))
        if key in keys:
            keys.remove(key)
            data[9] ^= 1
        return bytes(data)

    monkeypatch.setattr(Directory, "read", wrong)
    return keys


def test_one_wrong_byte_at_one_read_is_no_damage(
    tmp_path: Path, run: Run, inputs: FrozenInputs, flipped: list[str]
) -> None:
    path, tile = tmp_path / "h.zarr", "hessian/c/0/1"
    run(path, inputs, tile=20)
    store = HessianStore(path)
    part = slice(0, 20), slice(20, 37)
    right = store.read_part(*part)
    flipped += [tile]
    np.testing.assert_array_equal(store.read_part(*part), right)
    assert flipped == []
    flipped += [tile]
    assert store.damaged_objects(store.records().values()) == {}
    assert flipped == []
    # Twice is damage, for either.
    flipped += [tile] * 2
    with pytest.raises(StoreError, match=tile):
        store.read_part(*part)
    flipped += [tile] * 2
    assert list(store.damaged_objects(store.records().values())) == [tile]
    assert flipped == []


def test_what_was_put_there_meanwhile_is_said(tmp_path: Path) -> None:
    path = tmp_path / "h.zarr"

    def make_beside_another() -> None:
        with filling(path) as made:
            made.mkdir()
            path.mkdir()
            (path / "zarr.json").touch()

    with pytest.raises(StoreError, match="put there meanwhile, or taken away, as by another run"):
        make_beside_another()
    assert [file.name for file in path.iterdir()] == ["zarr.json"]
    assert list(tmp_path.iterdir()) == [path]

"""What is tried again, and what is not."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from typing import Any

import pytest
from zarr.core.buffer import default_buffer_prototype

from pipeline.store.places import Directory
from pipeline.store.places import _retrying as retrying
from pipeline.store.places._retrying import PAUSES, RetryingFiles


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

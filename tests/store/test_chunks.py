"""Objects are those that Zarr itself would write, and no damage of them goes unseen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import pytest
import zarr
from hypothesis import example, given
from hypothesis import strategies as st
from zarr.codecs import Crc32cCodec

from pipeline.store.places import chunks
from pipeline.store.places.chunks import Chunk, checksum
from tests.helpers import matrices

Array = npt.NDArray[Any]


def encode(part: Array, shape: tuple[int, int]) -> bytes:
    """The object of a chunk, which comes a second time as it came the first."""
    chunk = Chunk(part, shape)
    for _ in range(2):
        data = b"".join(bytes(piece) for piece in chunk)
        assert checksum(data) == chunk.checksum
    return data


def encode_by_zarr(part: Array, shape: tuple[int, int]) -> bytes:
    objects: dict[str, Any] = {}
    array = zarr.create_array(
        zarr.storage.MemoryStore(objects), name="a", shape=part.shape, chunks=shape,
        dtype=part.dtype, fill_value=np.nan, compressors=Crc32cCodec(),
    ).with_config({"write_empty_chunks": True})  # fmt: skip
    array[...] = part
    return bytes(objects["a/c/0/0"].to_bytes())


sides = st.integers(1, 130)


@given(
    st.tuples(sides, sides),
    st.data(),
    st.sampled_from(["float32", "float64"]),
    st.booleans(),
    st.sampled_from([1, 1000, 10**5]),
)
def test_chunks_are_those_of_zarr(
    shape: tuple[int, int], data: st.DataObject, dtype: str, transposed: bool, piece_bytes: int
) -> None:
    size = tuple(data.draw(st.integers(1, side)) for side in shape)
    whole = np.random.default_rng(1).standard_normal((300, 300)).astype(dtype)
    part = whole[: size[1], 7 : 7 + size[0]].T if transposed else whole[: size[0], 7 : 7 + size[1]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "PIECE_BYTES", piece_bytes)
        assert encode(part, shape) == encode_by_zarr(part, shape)


@given(st.binary(min_size=40, max_size=40), st.integers(0, 44 * 8 - 1))
@example(bytes(40), 44 * 8 - 1)
def test_every_flipped_bit_is_seen(contents: bytes, bit: int) -> None:
    part = np.frombuffer(contents, "float32").reshape(2, 5)
    kept = encode(part, (2, 5))
    flipped = bytearray(kept)
    flipped[bit // 8] ^= 1 << bit % 8
    assert checksum(bytes(flipped)) is None
    # Four zeros are the checksum of nothing, which no block row has written.
    for size in range(len(kept)):
        assert checksum(kept[:size]) in (None, 0)


def test_the_checksum_of_whole_objects_would_see_nothing() -> None:
    """The remainder of contents and their own checksum does not depend on the contents."""
    rng = np.random.default_rng(0)
    sound = [encode(rng.standard_normal((3, 3)), (3, 3)) for _ in range(2)]
    assert google_crc32c.value(sound[0]) == google_crc32c.value(sound[1])
    assert checksum(sound[0]) != checksum(sound[1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("size", "tile"), [(30, 1), (200, 16), (200, 70), (200, 150), (200, 200)])
def test_zarr_reads_what_block_rows_write(dtype: str, size: int, tile: int, tmp_path: Path) -> None:
    matrix = np.random.default_rng(tile).standard_normal((size, size)).astype(dtype)
    matrix += matrix.T
    matrices.store_matrix(tmp_path / "h.zarr", matrix, tile)
    found = zarr.open_array(tmp_path / "h.zarr" / "hessian", mode="r")[...]
    np.testing.assert_array_equal(found, matrix)

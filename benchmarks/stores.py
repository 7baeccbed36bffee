"""What tile side, compressor and shards cost: to write a Hessian as a run does, and to read it.

The array is a real one, computed once: that of the Poisson problem, by default of width 100, P =
20,601. Every layout gets the same block rows from memory, on as many threads as a run has, each
as whole tiles and their transposes; then a row, a column, a tile's worth of rows and the whole
array are read back. Files stay in the page cache, so that times are those of codecs and of file
operations, which are what layouts differ in.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from hessian_tasks.process import available_cores
from hessian_tasks.spec import BlockRow
from pipeline.run.plan import split_rows

Array = npt.NDArray[Any]

COMPRESSORS: dict[str, Sequence[Any]] = {
    "none, crc32c": [Crc32cCodec()],
    "zstd 1": [ZstdCodec(level=1, checksum=True)],
    "zstd 3": [ZstdCodec(level=3, checksum=True)],
    "zstd -1": [ZstdCodec(level=-1, checksum=True)],
    "blosc lz4, crc32c": [BloscCodec(cname="lz4", clevel=1, shuffle="shuffle"), Crc32cCodec()],
    "blosc zstd, crc32c": [BloscCodec(cname="zstd", clevel=1, shuffle="shuffle"), Crc32cCodec()],
}
REPEATS = 5


@dataclass(frozen=True)
class Layout:
    """One way to store the array: side of the tiles, compressor, side of the shards if any."""

    tile: int
    compressor: str
    shard: int | None = None

    def create(self, path: Path, side: int, dtype: np.dtype[Any]) -> zarr.Array[Any]:
        array = zarr.create_array(
            path,
            shape=(side, side),
            chunks=(self.tile, self.tile),
            shards=None if self.shard is None else (self.shard, self.shard),
            dtype=dtype,
            fill_value=np.nan,
            compressors=COMPRESSORS[self.compressor],
        )
        return array.with_config({"write_empty_chunks": True})

    def __str__(self) -> str:
        shard = "" if self.shard is None else f" in shards of {self.shard}"
        return f"{self.tile:>5}{shard:<18} {self.compressor:<19}"


LAYOUTS = [
    *(Layout(tile, "zstd 1") for tile in (512, 1024, 1536, 2048, 3456)),
    *(Layout(1024, compressor) for compressor in COMPRESSORS if compressor != "zstd 1"),
    Layout(512, "zstd 1", shard=2048),
    Layout(1024, "zstd 1", shard=4096),
]


def computed(width: int, directory: Path) -> Array:
    """The Hessian, by the run that users start."""
    from hessian_tasks.process import configure_tensorflow

    configure_tensorflow()
    from hessian_tasks.problems.poisson import problem
    from pipeline import compute_hessian

    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        found = compute_hessian(problem(width=width), f"{scratch}/h.zarr")
        matrix = np.asarray(found.hessian.data.compute())
    # Diagonal tiles are symmetric to rounding; here every layout must read back the same bits.
    return np.triu(matrix) + np.triu(matrix, 1).T


def write(array: zarr.Array[Any], matrix: Array, side: int) -> None:
    """Write block rows and their transposes, as tasks do."""

    def store(row: BlockRow) -> None:
        block = matrix[row.start : row.stop, row.start :]
        array[row.start : row.stop, row.start :] = block
        if row.stop < len(matrix):
            array[row.stop :, row.start : row.stop] = block[:, row.num_rows :].T

    with ThreadPoolExecutor(available_cores()) as pool:
        list(pool.map(store, split_rows(len(matrix), side)))


def seconds(function: Callable[[int], object], repeats: int = REPEATS) -> float:
    """Median time of a call, at another place of the array each time."""
    times = []
    for position in np.linspace(0, 1, repeats + 2)[1:-1]:
        began = time.perf_counter()
        function(position)
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def read_rows(array: zarr.Array[Any], height: int) -> None:
    """Read the whole array, some rows at a time, on the threads of a run."""
    with ThreadPoolExecutor(available_cores()) as pool:
        starts = range(0, array.shape[0], height)
        for _ in pool.map(lambda start: array[start : start + height].shape, starts):
            pass


def measure(layout: Layout, matrix: Array, directory: Path) -> Array:
    """Files, bytes, and seconds to write, to read all, a row, and a column."""
    path = Path(tempfile.mkdtemp(dir=directory))
    side, height = len(matrix), layout.shard or layout.tile
    try:
        array = layout.create(path / "h", side, matrix.dtype)
        began = time.perf_counter()
        write(array, matrix, height)
        writing = time.perf_counter() - began
        files = [file for file in path.rglob("c/*/*") if file.is_file()]
        stored = sum(file.stat().st_size for file in files)
        row = seconds(lambda at: array[int(at * side)])
        column = seconds(lambda at: array[:, int(at * side)])
        began = time.perf_counter()
        read_rows(array, height)
        reading = time.perf_counter() - began
        assert np.array_equal(array[-height:, -height:], matrix[-height:, -height:])
    finally:
        shutil.rmtree(path)
    return np.array([len(files), stored, writing, reading, row, column])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=100)
    parser.add_argument("--directory", type=Path, help="where arrays are written, and removed")
    parser.add_argument("--rounds", type=int, default=3, help="how often each layout is tried")
    arguments = parser.parse_args()
    directory = arguments.directory or Path(tempfile.gettempdir())
    matrix = computed(arguments.width, directory)
    print(f"P = {len(matrix):,}, {matrix.dtype}, {matrix.nbytes / 2**30:.2f} GiB", flush=True)
    # Other work on the machine only ever adds; in rounds, a disturbance is not one layout's alone.
    rounds = [
        [measure(layout, matrix, directory) for layout in LAYOUTS] for _ in range(arguments.rounds)
    ]
    print(" tile                   compressor            files   size    write", end="  ")
    print("read all    a row  a column")
    for layout, found in zip(LAYOUTS, np.min(rounds, axis=0), strict=True):
        files, stored, writing, reading, row, column = found
        print(
            f"{layout} {files:>7.0f} {stored / matrix.nbytes:>6.3f} {writing:>6.2f} s "
            f"{reading:>7.2f} s {row * 1e3:>5.0f} ms {column * 1e3:>6.0f} ms"
        )


if __name__ == "__main__":
    main()

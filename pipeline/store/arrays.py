"""Arrays as a store holds them: their metadata, and their entries as objects.

Metadata are written from a few facts, shape, dtype, names of axes, and are read by comparing them
with the same: whatever Zarr, xarray or Dask would take from them beyond that, a scale or another
fill value, is damage. See the Zarr v3 specification, section "Array metadata".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import (
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
)

from pipeline.store.places import Location
from pipeline.store.places.chunks import CHECKSUM_BYTES, with_checksum
from pipeline.store.places.location import ROOT
from pipeline.store.vetting import STORE, DataType, Line, Strict, damaged, first_error, read_object

__all__ = [
    "ArrayMetadata",
    "Content",
    "describe_array",
    "encode",
    "fill_value",
    "object_key",
    "read_array",
]

MAX_CHUNK_BYTES = 2**32


class _Exact(Strict):
    """Data of exactly the declared keys, too."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class _Chunks(_Exact):
    class Configuration(_Exact):
        chunk_shape: list[PositiveInt]

    name: Literal["regular"]
    configuration: Configuration


class _Keys(_Exact):
    class Configuration(_Exact):
        separator: Literal["/"] = "/"

    name: Literal["default"]
    configuration: Configuration = Configuration()


class _Bytes(_Exact):
    class Configuration(_Exact):
        endian: Literal["little"] | None = None

    name: Literal["bytes"]
    configuration: Configuration = Configuration()


class _Crc32c(_Exact):
    name: Literal["crc32c"]


class _ArrayAttributes(_Exact):
    flag_meanings: list[Line] | None = None
    factor: FiniteFloat | None = None
    num_components: PositiveInt | None = None


class ArrayMetadata(_Exact):
    """An array's metadata, all of them: no run writes any others."""

    zarr_format: Literal[3]
    node_type: Literal["array"]
    data_type: DataType
    shape: list[NonNegativeInt] = Field(max_length=32)
    chunk_grid: _Chunks
    chunk_key_encoding: _Keys
    # That of inputs is 0 in stores from before every object of theirs was written.
    fill_value: bool | int | float | Literal["NaN"] | list[Literal["NaN"] | float]
    codecs: tuple[_Bytes, _Crc32c]
    storage_transformers: list[Any] = Field([], max_length=0)
    dimension_names: list[Line]
    attributes: _ArrayAttributes = _ArrayAttributes()

    @property
    def chunks(self) -> list[int]:
        """The shape of a chunk."""
        return self.chunk_grid.configuration.chunk_shape

    @property
    def whole(self) -> bool:
        """Whether it is one chunk."""
        return self.chunks == one_chunk(self.shape)

    @property
    def chunk_bytes(self) -> int:
        """Size of a chunk's entries."""
        return math.prod(self.chunks) * np.dtype(self.data_type).itemsize

    @property
    def object_bytes(self) -> int:
        """Size of a chunk's object, with its checksum."""
        return self.chunk_bytes + CHECKSUM_BYTES

    def grid(self) -> list[int]:
        """Number of chunks along every dimension."""
        return [-(-size // side) for size, side in zip(self.shape, self.chunks, strict=True)]

    def to_json(self) -> bytes:
        """As it is stored."""
        return self.model_dump_json(exclude_none=True, indent=2).encode()

    def difference(self, expected: ArrayMetadata) -> str:
        """In what it is not the expected one, in words, or nothing."""
        found, wanted = self.model_dump(), expected.model_dump()
        differing = [key for key in wanted if found[key] != wanted[key]]
        return "; ".join(f"{key} is {found[key]}, not {wanted[key]}" for key in differing)


def object_key(name: str, place: Sequence[int]) -> str:
    """The key of a chunk (Zarr v3 specification, section "Default chunk key encoding").

    Example:
        >>> object_key("hessian", (3, 5))
        'hessian/c/3/5'
    """
    return "/".join([name, "c", *map(str, place)])


def describe_array(
    shape: Sequence[int],
    data_type: str,
    axes: Sequence[str],
    chunks: Sequence[int] | None = None,
    **attributes: Any,
) -> ArrayMetadata:
    """The metadata of an array.

    Args:
        shape: Its shape.
        data_type: Its dtype.
        axes: Names of its dimensions.
        chunks: Shape of a chunk, or None for one chunk.
        attributes: Its attributes.

    Example:
        >>> describe_array([4, 2], "float32", ["a", "b"]).object_bytes
        36
    """
    grid = one_chunk(shape) if chunks is None else list(chunks)
    return ArrayMetadata.model_validate(
        {
            "zarr_format": 3,
            "node_type": "array",
            "data_type": data_type,
            "shape": list(shape),
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": grid}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": fill_value(data_type),
            "codecs": (
                {"name": "bytes", "configuration": {"endian": "little"}},
                {"name": "crc32c"},
            ),
            "dimension_names": list(axes),
            "attributes": attributes,
        }
    )


def one_chunk(shape: Sequence[int]) -> list[int]:
    """The chunk that holds an array as a whole; no chunk may be empty."""
    return [max(1, size) for size in shape]


def fill_value(data_type: str) -> Any:
    """What Zarr makes of missing entries: nothing that could pass for a number, where there is.

    Example:
        >>> [fill_value(name) for name in ("float32", "int64", "complex64", "bool", "uint8")]
        ['NaN', -1, ['NaN', 'NaN'], False, 0]
    """
    kind = np.dtype(data_type).kind
    return {"f": "NaN", "i": -1, "c": ["NaN", "NaN"], "b": False}.get(kind, 0)


def read_array(location: Location, name: str, kind: str = STORE) -> ArrayMetadata:
    """The metadata of an array.

    Raises:
        StoreError: If they cannot be read, or no run writes such an array.
    """
    try:
        data = read_object(location, f"{name}/{ROOT}", kind)
        found = ArrayMetadata.model_validate_json(data)
    except ValidationError as error:
        raise damaged(location, f"array {name}, {first_error(error)}", kind) from error
    if len(found.chunks) != len(found.shape) or found.chunk_bytes > MAX_CHUNK_BYTES:
        raise damaged(location, f"array {name} has chunks {found.chunks}", kind)
    return found


@dataclass(frozen=True)
class Content:
    """An array that is written as a whole.

    Attributes:
        data: Its entries.
        axes: Names of its dimensions.
        chunks: Shape of a chunk, which divides the array's, or None for one chunk.
        attributes: Its attributes.

    Example:
        >>> sorted(Content(np.arange(3), ("row",)).objects("index"))
        ['index/c/0']
    """

    data: npt.NDArray[Any]
    axes: tuple[str, ...]
    chunks: Sequence[int] | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def metadata(self) -> ArrayMetadata:
        """Its metadata."""
        kind = self.data.dtype.name
        return describe_array(self.data.shape, kind, self.axes, self.chunks, **self.attributes)

    def objects(self, name: str) -> dict[str, bytes]:
        """Its entries, by the keys of their objects."""
        stored = self.data.dtype.newbyteorder("<")
        found = {}
        for place, part in self._parts():
            contents = np.ascontiguousarray(part, stored).tobytes()
            found[object_key(name, place)] = with_checksum(contents)
        return found

    def _parts(self) -> Iterator[tuple[tuple[int, ...], npt.NDArray[Any]]]:
        if not self.data.size:
            return
        chunks = one_chunk(self.data.shape) if self.chunks is None else self.chunks
        grid = [-(-size // side) for size, side in zip(self.data.shape, chunks, strict=True)]
        for place in np.ndindex(*grid):
            starts = [number * side for number, side in zip(place, chunks, strict=True)]
            cut = tuple(slice(s, s + side) for s, side in zip(starts, chunks, strict=True))
            yield place, self.data[cut]


def encode(contents: Mapping[str, Content]) -> dict[str, bytes]:
    """The entries of arrays, by the keys of their objects."""
    return {
        key: data
        for name, content in contents.items()
        for key, data in content.objects(name).items()
    }

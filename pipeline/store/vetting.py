"""What the metadata of a Zarr group may say; whatever says anything else is refused.

A store, or estimates that were kept, may come from a stranger. Everything that the rest of the
package takes from their attributes or from Zarr's is checked, once, when they are opened: names
stay inside, sizes can be held, and there are no codecs but those that runs write with. This is
what all groups have in common: recorded inputs, and arrays.
"""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
    StringConstraints,
    ValidationError,
)

from pipeline.errors import StoreError
from pipeline.store.places import Location
from pipeline.store.places.chunks import CHECKSUM_BYTES

__all__ = [
    "ESTIMATES",
    "ArrayMetadata",
    "Line",
    "Name",
    "RecordedInputs",
    "Strict",
    "check_attributes",
    "damaged",
    "read_array",
    "read_group",
]

MAX_CHUNK_BYTES = 2**32
STORE = "Hessian store"
# The kind of a group of estimates, by its attributes.
ESTIMATES = "estimates"

Checked = TypeVar("Checked", bound=BaseModel)

# As the names of terms and of their arrays are, alone and joined.
Name = Annotated[str, StringConstraints(pattern=r"\A[A-Za-z][A-Za-z0-9_]*\z", max_length=200)]
# One line without control characters, which could be orders to a terminal.
Line = Annotated[str, StringConstraints(pattern=r"\A[^\p{C}\p{Zl}\p{Zp}]*\z")]


class Strict(BaseModel):
    """Data of exactly the declared types."""

    model_config = ConfigDict(strict=True, frozen=True)


class _Term(Strict):
    name: Name
    kind: Literal["residual", "density", "loss"]
    weight: FiniteFloat
    loss: FiniteFloat
    # Of a residual, in stores from before readings were recorded.
    derivatives: list[Line] = []
    arrays: list[Name]


class _Variable(Strict):
    layer: Line
    name: Line
    shape: list[NonNegativeInt] = Field(max_length=32)


class _Held(Strict):
    position: NonNegativeInt
    path: Line
    shape: list[NonNegativeInt] = Field(max_length=32)


class _Source(Strict):
    reference: Line
    options: dict[str, Any]
    digest: Line
    text: str


class _Provenance(Strict):
    model_config = ConfigDict(extra="allow")

    created: Line
    packages: dict[Line, Line]


class RecordedInputs(Strict):
    """The inputs, as far as anything depends on what attributes say of them."""

    loss: FiniteFloat
    terms: list[_Term] = Field(min_length=1, max_length=1000)
    network_inputs: list[Line]
    parameters: list[_Variable] = Field(min_length=1, max_length=20_000)
    # Stores from before weights could be left out do not say that none is.
    held: list[_Held] = Field([], max_length=20_000)
    architecture: str | None = Field(alias="model_config")
    fingerprint: dict[Line, Line]
    source: _Source
    provenance: _Provenance

    @property
    def num_params(self) -> int:
        """P, by the table of parameters."""
        return sum(math.prod(variable.shape) for variable in self.parameters)

    @property
    def inputs(self) -> dict[str, int | None]:
        """Names of the inputs' arrays, and their lengths where P decides them."""
        own = [f"{term.name}_{key}" for term in self.terms for key in term.arrays]
        by_row = dict.fromkeys(["theta", "gradient"], self.num_params)
        return {**dict.fromkeys([*own, "state"]), **by_row}


class _Chunks(Strict):
    class Configuration(Strict):
        chunk_shape: list[PositiveInt]

    name: Literal["regular"]
    configuration: Configuration


class _Keys(Strict):
    class Configuration(Strict):
        separator: Literal["/", "."] = "/"

    name: Literal["default"]
    configuration: Configuration = Configuration()


class _Bytes(Strict):
    class Configuration(Strict):
        endian: Literal["little"] | None = None

    name: Literal["bytes"]
    configuration: Configuration = Configuration()


class _Crc32c(Strict):
    name: Literal["crc32c"]


class _ArrayAttributes(Strict):
    flag_meanings: list[Line] | None = None
    factor: FiniteFloat | None = None
    num_components: PositiveInt | None = None


class ArrayMetadata(Strict):
    """An array's metadata, as far as they decide what reading it costs."""

    zarr_format: Literal[3]
    node_type: Literal["array"]
    data_type: Literal[
        "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
        "float16", "float32", "float64", "complex64", "complex128",
    ]  # fmt: skip
    shape: list[NonNegativeInt] = Field(max_length=32)
    chunk_grid: _Chunks
    chunk_key_encoding: _Keys
    codecs: tuple[_Bytes, _Crc32c]
    storage_transformers: list[Any] = Field([], max_length=0)
    attributes: _ArrayAttributes = _ArrayAttributes()

    @property
    def chunks(self) -> list[int]:
        """The shape of a chunk."""
        return self.chunk_grid.configuration.chunk_shape

    @property
    def whole(self) -> bool:
        """Whether it is one chunk."""
        return self.chunks == [max(1, size) for size in self.shape]

    @property
    def chunk_bytes(self) -> int:
        """Size of a chunk's entries."""
        return math.prod(self.chunks) * np.dtype(self.data_type).itemsize

    @property
    def object_bytes(self) -> int:
        """Size of a chunk's object, with its checksum."""
        return self.chunk_bytes + CHECKSUM_BYTES


def read_group(location: Location, kind: str = STORE) -> dict[str, Any]:
    """The attributes of a group, not yet checked.

    Raises:
        StoreError: If they cannot be read.
    """
    data = _read(location, "zarr.json", kind)
    try:
        group = json.loads(data)
        if (group["zarr_format"], group["node_type"]) != (3, "group"):
            raise ValueError("it is no group of Zarr v3")
        return dict(group["attributes"])
    # Damaged metadata surface as any of these.
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(location, f"{type(error).__name__}: {error}", kind) from error


def check_attributes(
    model: type[Checked], attributes: dict[str, Any], location: Location, kind: str = STORE
) -> Checked:
    """The attributes of a group, checked.

    Args:
        model: What they may be.
        attributes: As they are.
        location: Where the group is.
        kind: What it is, for messages.

    Raises:
        StoreError: Naming the first that is wrong.
    """
    try:
        return model.model_validate_json(json.dumps(attributes))
    except (ValidationError, ValueError) as error:
        raise damaged(location, _first(error), kind) from error


def read_array(location: Location, name: str, kind: str = STORE) -> ArrayMetadata:
    """The metadata of an array.

    Raises:
        StoreError: If they cannot be read, or no run writes such an array.
    """
    try:
        found = ArrayMetadata.model_validate_json(_read(location, f"{name}/zarr.json", kind))
    except ValidationError as error:
        raise damaged(location, f"array {name}, {_first(error)}", kind) from error
    if len(found.chunks) != len(found.shape) or found.chunk_bytes > MAX_CHUNK_BYTES:
        raise damaged(location, f"array {name} has chunks {found.chunks}", kind)
    return found


def _read(location: Location, key: str, kind: str = STORE) -> bytes:
    try:
        return location.read(key)
    except FileNotFoundError as error:
        raise damaged(location, f"there is no {key}: {error}", kind) from error


def damaged(location: Location, reason: str, kind: str = STORE) -> StoreError:
    """The error for metadata that say what they must not."""
    return StoreError(
        f"{location} is not a readable {kind} ({reason}). Copy it again from where it came, or "
        "compute it anew at another place."
    )


def _first(error: ValueError) -> str:
    """The first thing that is wrong, in a line, without orders to a terminal."""
    if not isinstance(error, ValidationError):
        return str(error)[:200]
    found = error.errors(include_url=False)[0]
    place = ".".join(map(str, found["loc"]))
    line = f"{place or 'metadata'}: {found['msg']}"[:300]
    return "".join(letter if letter.isprintable() else "?" for letter in line)

"""What the metadata of a store may say; whatever says anything else is refused.

A store may come from a stranger. Everything that the rest of the package takes from its attributes
or from Zarr's is checked here, once, when a store is opened: names stay in the store, sizes can be
held, and there are no codecs but those that runs write with.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

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
    model_validator,
)

from hessian_tasks.spec import GAUSS_NEWTON, matrix_of
from pipeline.errors import StoreError
from pipeline.names import array_names, jacobian_name
from pipeline.storage import Location
from pipeline.storage.chunks import CHECKSUM_BYTES

__all__ = [
    "FORMAT_VERSION",
    "ArrayMetadata",
    "Attributes",
    "check_arrays",
    "read_array",
    "read_attributes",
]

FORMAT_VERSION = 2
MAX_BLOCK_ROWS = 10**6
MAX_CHUNK_BYTES = 2**32
LABELS = ("layer", "variable", "index")

# As the names of terms and of their arrays are, alone and joined.
Name = Annotated[str, StringConstraints(pattern=r"\A[A-Za-z][A-Za-z0-9_]*\z", max_length=200)]
# One line without control characters, which could be orders to a terminal.
Line = Annotated[str, StringConstraints(pattern=r"\A[^\p{C}\p{Zl}\p{Zp}]*\z")]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class _Array(_Strict):
    name: Name
    term: Name | None


class _Jacobian(_Strict):
    name: Name
    term: Name


class _Term(_Strict):
    name: Name
    kind: Literal["residual", "loss"]
    weight: FiniteFloat
    loss: FiniteFloat
    derivatives: list[Line]
    arrays: list[Name]


class _Variable(_Strict):
    layer: Line
    name: Line
    shape: list[NonNegativeInt] = Field(max_length=32)


class _Source(_Strict):
    reference: Line
    options: dict[str, Any]
    digest: Line
    text: str


class _Certificate(_Strict):
    passed: bool
    product_errors: list[float]


class Attributes(_Strict):
    """The root's attributes, as far as anything depends on them."""

    engine: Literal["layered", "autodiff", "ggn"]
    engine_reason: Line
    tile: PositiveInt
    arrays: list[_Array] = Field(min_length=1, max_length=1000)
    # Stores of the Hessian from before there were others do not say that they have none.
    jacobians: list[_Jacobian] = Field([], max_length=1000)
    loss: FiniteFloat
    terms: list[_Term] = Field(min_length=1, max_length=1000)
    network_inputs: list[Line]
    parameters: list[_Variable] = Field(min_length=1, max_length=20_000)
    architecture: str | None = Field(alias="model_config")
    fingerprint: dict[Line, Line]
    source: _Source
    provenance: dict[str, Any]
    certificate: _Certificate | None = None

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        terms = [term.name for term in self.terms]
        matrix = matrix_of(self.engine)
        arrays = {array.term: array.name for array in self.arrays}
        if arrays not in (array_names(matrix.name, []), array_names(matrix.name, terms)):
            raise ValueError("the arrays are not those of the matrix, or of it and its terms")
        expected = {term: jacobian_name(term) for term in terms if matrix == GAUSS_NEWTON}
        if {jacobian.term: jacobian.name for jacobian in self.jacobians} != expected:
            raise ValueError("the Jacobians are not those of the terms")
        return self

    @property
    def num_params(self) -> int:
        """P, by the table of parameters."""
        return sum(math.prod(variable.shape) for variable in self.parameters)

    @property
    def inputs(self) -> dict[str, int | None]:
        """Names of the arrays beside the matrices, and their lengths where P decides them."""
        labels = [f"{axis}_{key}" for axis in ("row", "col") for key in LABELS]
        own = [f"{term.name}_{key}" for term in self.terms for key in term.arrays]
        by_row = dict.fromkeys(["theta", "gradient", *labels], self.num_params)
        return {**dict.fromkeys([*own, "state"]), **by_row}


class _Chunks(_Strict):
    class Configuration(_Strict):
        chunk_shape: list[PositiveInt]

    name: Literal["regular"]
    configuration: Configuration


class _Keys(_Strict):
    class Configuration(_Strict):
        separator: Literal["/", "."] = "/"

    name: Literal["default"]
    configuration: Configuration = Configuration()


class _Bytes(_Strict):
    class Configuration(_Strict):
        endian: Literal["little"] | None = None

    name: Literal["bytes"]
    configuration: Configuration = Configuration()


class _Crc32c(_Strict):
    name: Literal["crc32c"]


class _ArrayAttributes(_Strict):
    flag_meanings: list[Line] | None = None
    factor: FiniteFloat | None = None
    num_components: PositiveInt | None = None


class ArrayMetadata(_Strict):
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
    def chunk_bytes(self) -> int:
        """Size of a chunk's entries."""
        return math.prod(self.chunks) * np.dtype(self.data_type).itemsize

    @property
    def object_bytes(self) -> int:
        """Size of a chunk's object, with its checksum."""
        return self.chunk_bytes + CHECKSUM_BYTES


def read_attributes(location: Location) -> tuple[Attributes, dict[str, Any]]:
    """The root's attributes, checked, and as they are.

    Raises:
        StoreError: If they cannot be read, or are not those of a store of this format.
    """
    data = _read(location, "zarr.json")
    try:
        group = json.loads(data)
        if (group["zarr_format"], group["node_type"]) != (3, "group"):
            raise ValueError("it is no group of Zarr v3")
        raw = group["attributes"]
        version = raw["format_version"]
    # Damaged metadata surface as any of these.
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(location, f"{type(error).__name__}: {error}") from error
    if version != FORMAT_VERSION:
        raise StoreError(
            f"{location} has store format {repr(version)[:20]}; this version reads "
            f"{FORMAT_VERSION}."
        )
    try:
        attributes = Attributes.model_validate_json(json.dumps(raw))
    except (ValidationError, ValueError) as error:
        raise _damaged(location, _first(error)) from error
    rows = attributes.num_params / attributes.tile
    if not 0 < rows <= MAX_BLOCK_ROWS:
        raise _damaged(location, f"{attributes.num_params} parameters in tiles of side "
                       f"{attributes.tile} make {rows:.3g} block rows")  # fmt: skip
    return attributes, raw


def read_array(location: Location, name: str) -> ArrayMetadata:
    """The metadata of an array.

    Raises:
        StoreError: If they cannot be read, or no run writes such an array.
    """
    try:
        found = ArrayMetadata.model_validate_json(_read(location, f"{name}/zarr.json"))
    except ValidationError as error:
        raise _damaged(location, f"array {name}, {_first(error)}") from error
    if len(found.chunks) != len(found.shape) or found.chunk_bytes > MAX_CHUNK_BYTES:
        raise _damaged(location, f"array {name} has chunks {found.chunks}")
    return found


def check_arrays(
    location: Location, attributes: Attributes, arrays: Mapping[str, ArrayMetadata]
) -> None:
    """Compare the arrays with what the attributes say of them.

    Raises:
        StoreError: Naming the array that differs.
    """
    side, tile = attributes.num_params, attributes.tile
    lengths = attributes.inputs
    square = {array.name for array in attributes.arrays}
    wide = {array.name for array in attributes.jacobians}
    for name, array in arrays.items():
        if name in square:
            fits = array.shape == [side, side] and array.chunks == [tile, tile]
        elif name in wide:
            fits = array.shape[1:] == [side] and array.chunks[1:] == [tile]
        else:
            length = lengths[name]
            fits = array.chunks == [max(1, size) for size in array.shape]
            fits &= length is None or array.shape == [length]
        if not fits:
            raise _damaged(location, f"array {name} does not have the recorded shape and tiles")


def _read(location: Location, key: str) -> bytes:
    try:
        return location.read(key)
    except FileNotFoundError as error:
        raise _damaged(location, f"there is no {key}: {error}") from error


def _damaged(location: Location, reason: str) -> StoreError:
    return StoreError(f"{location} is not a readable Hessian store ({reason}).")


def _first(error: ValueError) -> str:
    """The first thing that is wrong, in a line."""
    if not isinstance(error, ValidationError):
        return str(error)[:200]
    found = error.errors(include_url=False)[0]
    place = ".".join(map(str, found["loc"]))
    return f"{place or 'metadata'}: {found['msg']}"[:300]

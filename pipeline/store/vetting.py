"""What the metadata of a Zarr group may say; whatever says anything else is refused.

A store, or estimates that were kept, may come from a stranger. Everything that the rest of the
package takes from their attributes or from Zarr's is checked, once, when they are opened: names
stay inside, sizes can be held, and there are no codecs but those that runs write with. This is
what all groups have in common: recorded inputs, and arrays.
"""

from __future__ import annotations

import json
import math
import shlex
from typing import Annotated, Any, Literal, Self, TypeAlias, TypeVar

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

from hessian_tasks.problem.terms import TermKind
from pipeline.errors import StoreError
from pipeline.store.places import Location
from pipeline.store.places.location import ROOT
from pipeline.store.seal import SEAL, is_sealed

__all__ = [
    "ESTIMATES",
    "FLOATS",
    "OTHER_ARRAYS",
    "RECORD",
    "STORE",
    "TRAINING",
    "DataType",
    "Line",
    "Name",
    "RecordedInputs",
    "Strict",
    "check_attributes",
    "check_seal",
    "damaged",
    "first_error",
    "read_group",
    "read_object",
]

# What groups are, for messages.
STORE, RECORD = "Hessian store", "record of training"
# The kinds of groups of estimates and of observations of a training, by their attributes.
ESTIMATES, TRAINING = "estimates", "training"

Checked = TypeVar("Checked", bound=BaseModel)

# As the names of terms and of their arrays are, alone and joined.
Name = Annotated[str, StringConstraints(pattern=r"\A[A-Za-z][A-Za-z0-9_]*\z", max_length=200)]
# One line without control characters, which could be orders to a terminal.
Line = Annotated[str, StringConstraints(pattern=r"\A[^\p{C}\p{Zl}\p{Zp}]*\z")]
# What rows and columns are labelled with, P times.
Label = Annotated[Line, StringConstraints(max_length=1000)]


# The inputs beside the data of terms.
OTHER_ARRAYS = ("theta", "gradient", "state")
FLOATS = ("float32", "float64")
# Of arrays that are inputs.
DataType: TypeAlias = Literal[
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64", "complex64", "complex128",
]  # fmt: skip


class Strict(BaseModel):
    """Data of exactly the declared types."""

    model_config = ConfigDict(strict=True, frozen=True)


class _Term(Strict):
    name: Name
    kind: TermKind
    weight: FiniteFloat
    loss: FiniteFloat
    # Of a residual, in stores from before readings were recorded.
    derivatives: list[Line] = []
    arrays: list[Name] = Field(max_length=100)


class _Variable(Strict):
    layer: Label
    name: Label
    shape: list[PositiveInt] = Field(max_length=32)


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
    python: Line


class InputArray(Strict):
    """An array of the inputs."""

    shape: list[NonNegativeInt] = Field(max_length=32)
    data_type: DataType


class _Rounding(Strict):
    model_config = ConfigDict(extra="forbid")

    loss: FiniteFloat = Field(ge=0)
    gradient: FiniteFloat = Field(ge=0)


class RecordedInputs(Strict):
    """The inputs, as far as anything depends on what attributes say of them."""

    loss: FiniteFloat
    # Stores from before it was measured do not have it.
    rounding: _Rounding | None = None
    terms: list[_Term] = Field(min_length=1, max_length=1000)
    network_inputs: list[Line]
    parameters: list[_Variable] = Field(min_length=1, max_length=20_000)
    # Stores from before weights could be left out do not say that none is.
    held: list[_Held] = Field([], max_length=20_000)
    architecture: str | None = Field(alias="model_config")
    fingerprint: dict[Line, Line]
    source: _Source
    provenance: _Provenance
    # What arrays of inputs there are, and the CRC-32C of every object that is written with them.
    # Stores from before missing objects were told from zeros have neither.
    input_arrays: dict[Name, InputArray] | None = None
    checksums: dict[Line, NonNegativeInt] = Field({}, max_length=100_000)

    @model_validator(mode="after")
    def _check_loss(self) -> Self:
        total = math.fsum(term.loss for term in self.terms)
        if not math.isclose(self.loss, total, rel_tol=1e-4, abs_tol=1e-4 * self._largest_loss):
            raise ValueError("the loss is not the sum of its terms")
        return self

    @model_validator(mode="after")
    def _check_arrays(self) -> Self:
        if self.input_arrays is not None:
            lengths = {name: [n] for name, n in self.own_arrays.items() if n is not None}
            if self.input_arrays.keys() != self.own_arrays.keys() or any(
                self.input_arrays[name].shape != shape for name, shape in lengths.items()
            ):
                raise ValueError("the arrays of the inputs are not those of the terms and of θ")
            if any(
                self.input_arrays[name].data_type not in FLOATS for name in ("theta", "gradient")
            ):
                raise ValueError("θ and the gradient are no floating-point numbers")
        return self

    @property
    def _largest_loss(self) -> float:
        return max(abs(term.loss) for term in self.terms)

    @property
    def num_params(self) -> int:
        """P, by the table of parameters."""
        return sum(math.prod(variable.shape) for variable in self.parameters)

    @property
    def inputs(self) -> dict[str, int | None]:
        """Names of the arrays that are written with the attributes, and lengths that P decides."""
        return self.own_arrays

    @property
    def own_arrays(self) -> dict[str, int | None]:
        """Those of the inputs among them."""
        own = [f"{term.name}_{key}" for term in self.terms for key in term.arrays]
        lengths = dict.fromkeys(OTHER_ARRAYS, self.num_params)
        return {**dict.fromkeys(own), **lengths, "state": None}

    def axes(self, name: str) -> list[str]:
        """Names of the dimensions of an array of the inputs."""
        if name in ("theta", "gradient"):
            return ["row"]
        arrays = self.input_arrays or {}
        return (
            ["state"]
            if name == "state"
            else [f"{name}_{n}" for n in range(len(arrays[name].shape))]
        )


def read_group(location: Location, kind: str = STORE, key: str = ROOT) -> dict[str, Any]:
    """The attributes of a group, not yet checked.

    Raises:
        StoreError: If they cannot be read.
    """
    data = read_object(location, key, kind)
    try:
        group = json.loads(data)
        if (group["zarr_format"], group["node_type"]) != (3, "group"):
            raise ValueError("it is no group of Zarr v3")
        return dict(group["attributes"])
    # Damaged metadata surface as any of these.
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(location, f"{type(error).__name__}: {error}", kind) from error


def check_seal(attributes: dict[str, Any], location: Location, kind: str = STORE) -> None:
    """See that attributes are as they were written.

    Raises:
        StoreError: If they are not. Those from before there were seals pass.
    """
    if (SEAL in attributes or "input_arrays" in attributes) and not is_sealed(attributes):
        raise damaged(location, "its attributes are not as they were written", kind)


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
        raise damaged(location, first_error(error), kind) from error


def read_object(location: Location, key: str, kind: str = STORE) -> bytes:
    """An object of metadata.

    Raises:
        StoreError: If there is none.
    """
    try:
        return location.read(key)
    except FileNotFoundError as error:
        raise damaged(location, f"there is no {key}: {error}", kind) from error


def damaged(location: Location, reason: str, kind: str = STORE) -> StoreError:
    """The error for metadata that say what they must not."""
    advice = {
        STORE: f"What can be mended of it is, by: hessian run --store {shlex.quote(str(location))}",
        RECORD: "Copy it again from where it came, or train again with: hessian train --watch 200",
    }.get(kind, "Copy it again from where it came, or estimate anew with: hessian estimate")
    return StoreError(f"{location} is not a readable {kind} ({reason}). {advice}")


def first_error(error: ValueError) -> str:
    """The first thing that is wrong, in a line, without orders to a terminal."""
    if not isinstance(error, ValidationError):
        return str(error)[:200]
    found = error.errors(include_url=False)[0]
    place = ".".join(map(str, found["loc"]))
    line = f"{place or 'metadata'}: {found['msg']}"[:300]
    return "".join(letter if letter.isprintable() else "?" for letter in line)

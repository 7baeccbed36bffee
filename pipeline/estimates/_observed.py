"""What is kept of observations along a training, and what its metadata may say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Self

from pydantic import Field, PositiveInt, model_validator

from pipeline.errors import StoreError
from pipeline.store.arrays import ArrayMetadata, describe_array, object_key
from pipeline.store.expected import expected_inputs
from pipeline.store.places import Location
from pipeline.store.places.location import ROOT
from pipeline.store.seal import group_json
from pipeline.store.vetting import (
    RECORD,
    TRAINING,
    Line,
    RecordedInputs,
    check_attributes,
    check_seal,
    damaged,
    read_group,
)

__all__ = [
    "FORMAT_VERSION",
    "QUANTITIES",
    "STEP",
    "WEIGHTS",
    "Extent",
    "RecordedTraining",
    "expected_quantities",
    "keys_of",
    "read_training",
    "root_json",
]

FORMAT_VERSION = 1
STEP = "step"  # The name of the leading axis, too.
# The weights of every step; ``theta`` are those that training began with.
WEIGHTS = "weights"


class Quantity(NamedTuple):
    """What is observed at every step: its axes beside that of steps, and its dtype."""

    axes: tuple[str, ...] = ()
    data_type: str = "float64"


class Extent(NamedTuple):
    """Lengths of the axes of quantities, and the dtype of the weights."""

    step: int
    row: int
    pair: int
    term: int
    data_type: str


QUANTITIES = {
    STEP: Quantity(data_type="int64"),
    "loss": Quantity(),
    "term_loss": Quantity(("term",)),
    "gradient_norm": Quantity(),
    "alignment": Quantity(),
    "eigenvalue": Quantity(("pair",)),
    "eigenvalue_error": Quantity(("pair",)),
    "eigenvector": Quantity(("row", "pair")),
    "trace": Quantity(),
    "trace_error": Quantity(),
    WEIGHTS: Quantity(("row",)),
    "num_products": Quantity(data_type="int64"),
    "seconds": Quantity(),
}


class RecordedTraining(RecordedInputs):
    """The group's attributes, as far as anything depends on them.

    The inputs are those that training began with.
    """

    kind: Literal["training"]
    format_version: Literal[1]
    num_pairs: PositiveInt = Field(le=10_000)
    # Who trained, observation by observation.
    phases: list[Line] = Field(min_length=1, max_length=1_000_000)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.input_arrays is None:
            raise ValueError("the arrays of the inputs are not listed")
        both = self.own_arrays.keys() & QUANTITIES.keys()
        if both:
            raise ValueError(f"an array of the inputs has the name {min(both)!r} of a quantity")
        keys = [key for number in range(len(self.phases)) for key in keys_of(number)]
        if not self.checksums.keys() >= set(keys):
            raise ValueError("an observation has no checksums")
        return self

    @property
    def extent(self) -> Extent:
        """How large quantities are."""
        weights = (self.input_arrays or {})["theta"].data_type
        num_terms, num_steps = len(self.terms), len(self.phases)
        return Extent(num_steps, self.num_params, self.num_pairs, num_terms, weights)


def keys_of(number: int) -> dict[str, str]:
    """The quantities of an observation, by the keys of their objects."""
    return {
        object_key(name, (number, *[0] * len(quantity.axes))): name
        for name, quantity in QUANTITIES.items()
    }


def expected_quantities(extent: Extent) -> dict[str, ArrayMetadata]:
    """The metadata of the arrays of quantities; each observation is a chunk of its own."""
    found = {}
    for name, quantity in QUANTITIES.items():
        data_type = extent.data_type if name == WEIGHTS else quantity.data_type
        shape = [getattr(extent, axis) for axis in quantity.axes]
        axes = [STEP, *quantity.axes]
        found[name] = describe_array([extent.step, *shape], data_type, axes, [1, *shape])
    return found


def root_json(attributes: Mapping[str, Any], arrays: Mapping[str, ArrayMetadata]) -> bytes:
    """The metadata of the group, with those of all arrays (Zarr's consolidated metadata)."""
    metadata = {name: json.loads(array.to_json()) for name, array in arrays.items()}
    consolidated = {"kind": "inline", "must_understand": False, "metadata": metadata}
    group = json.loads(group_json(attributes))
    return json.dumps({**group, "consolidated_metadata": consolidated}).encode()


def read_training(location: Location) -> tuple[RecordedTraining, dict[str, Any]]:
    """The attributes of a record of training, checked, and as they are.

    Raises:
        StoreError: If they cannot be read, or are not those of one, or if arrays are not as follows
            from them.
    """
    raw = read_group(location, RECORD)
    if raw.get("kind") != TRAINING:
        raise StoreError(f"{location} is no {RECORD}. Make one with: hessian train --watch 200")
    check_seal(raw, location, RECORD)
    checked = check_attributes(RecordedTraining, raw, location, RECORD)
    arrays = expected_inputs(checked) | expected_quantities(checked.extent)
    if json.loads(location.read(ROOT)) != json.loads(root_json(raw, arrays)):
        raise damaged(location, "its arrays are not those that its attributes describe", RECORD)
    return checked, raw

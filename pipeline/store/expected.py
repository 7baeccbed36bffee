"""The arrays that follow from a store's attributes, and whether they are those."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from hessian_tasks.parameters import ParameterLayout
from hessian_tasks.spec import TermResiduals
from pipeline.store.arrays import ArrayMetadata, describe_array, fill_value
from pipeline.store.metadata import AXES, LABELS, Attributes
from pipeline.store.places import Location
from pipeline.store.tiling import residual_chunk
from pipeline.store.vetting import FLOATS, STORE, RecordedInputs, damaged

__all__ = [
    "check_arrays",
    "check_expected",
    "expected_arrays",
    "expected_inputs",
    "label_attributes",
]


def expected_arrays(attributes: Attributes) -> dict[str, ArrayMetadata]:
    """The metadata of every array of a store, which its attributes decide."""
    side, tile = attributes.num_params, attributes.tile
    data_type = attributes.data_type or "float64"
    square = partial(describe_array, [side, side], data_type, ["row", "col"], [tile, tile])
    found = {array.name: square() for array in attributes.arrays}
    for jacobian in attributes.jacobians:
        found[jacobian.name] = _expected_jacobian(jacobian.residuals, data_type, side, tile)
    found |= expected_inputs(attributes)
    layout = ParameterLayout.from_json([v.model_dump() for v in attributes.parameters])
    for axis, key in itertools.product(AXES, LABELS):
        options = label_attributes(layout, key)
        found[f"{axis}_{key}"] = describe_array([side], "int32", [axis], **options)
    return found


def expected_inputs(attributes: RecordedInputs) -> dict[str, ArrayMetadata]:
    """The metadata of the arrays of inputs among them."""
    return {
        name: describe_array(array.shape, array.data_type, attributes.axes(name))
        for name, array in (attributes.input_arrays or {}).items()
    }


def label_attributes(layout: ParameterLayout, key: str) -> dict[str, Any]:
    """What the codes of a label mean, as an attribute of their array."""
    if key == "index":
        return {}
    if key == "variable":
        return {"flag_meanings": [v.name for v in layout.variables]}
    # Stores have always had "" for what is in no layer.
    recorded = {v.owner: v.layer for v in layout.variables}
    return {"flag_meanings": list(recorded.values())}


def _expected_jacobian(
    residuals: TermResiduals, data_type: str, side: int, tile: int
) -> ArrayMetadata:
    itemsize = np.dtype(data_type).itemsize
    return describe_array(
        [residuals.count, side],
        data_type,
        [f"{residuals.term}_residual", "col"],
        [residual_chunk(residuals.count, tile, itemsize), tile],
        # The matrix of the term is factor JᵀJ.
        factor=residuals.factor,
        num_components=residuals.num_components,
    )


def check_arrays(
    location: Location, attributes: Attributes, arrays: Mapping[str, ArrayMetadata]
) -> None:
    """Compare the arrays with what the attributes say of them.

    Raises:
        StoreError: Naming the array that differs, and in what.
    """
    if attributes.input_arrays is not None:
        check_expected(location, arrays, expected_arrays(attributes))
        return
    # A store from before arrays followed from the attributes: as far as these tell.
    side, tile = attributes.num_params, attributes.tile
    lengths = attributes.inputs
    square = {array.name for array in attributes.arrays}
    wide = {array.name for array in attributes.jacobians}
    for name, array in arrays.items():
        if name in square:
            fits = array.shape == [side, side] and array.chunks == [tile, tile]
            fits &= array.data_type in FLOATS
            fits &= array.fill_value == fill_value(array.data_type)
        elif name in wide:
            fits = array.shape[1:] == [side] and array.chunks[1:] == [tile]
            fits &= array.fill_value == fill_value(array.data_type)
        else:
            length = lengths[name]
            fits = array.whole and (length is None or array.shape == [length])
        if not fits:
            raise damaged(location, f"array {name} does not have the recorded shape and tiles")


def check_expected(
    location: Location,
    arrays: Mapping[str, ArrayMetadata],
    expected: Mapping[str, ArrayMetadata],
    kind: str = STORE,
) -> None:
    """See that arrays are the expected ones, in all of their metadata.

    Raises:
        StoreError: Naming the array that differs, and in what.
    """
    for name, wanted in expected.items():
        difference = arrays[name].difference(wanted)
        if difference:
            raise damaged(location, f"array {name}: {difference}", kind)

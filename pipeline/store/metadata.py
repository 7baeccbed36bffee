"""What the metadata of a store may say, beyond what all groups have in common."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveInt, model_validator

from hessian_tasks.parameters import ParameterLayout
from hessian_tasks.spec import GAUSS_NEWTON, StoredEngine, TermResiduals, matrix_of
from pipeline.errors import StoreError
from pipeline.store.arrays import ArrayMetadata, describe_array, fill_value
from pipeline.store.names import array_names, jacobian_name
from pipeline.store.places import Location
from pipeline.store.places.location import ROOT
from pipeline.store.records import GROUP
from pipeline.store.tiling import MAX_BLOCK_ROWS, residual_chunk
from pipeline.store.vetting import (
    ESTIMATES,
    STORE,
    Line,
    Name,
    RecordedInputs,
    Strict,
    check_attributes,
    check_seal,
    damaged,
    read_group,
)

__all__ = [
    "COPY",
    "FORMAT_VERSION",
    "LATER",
    "Attributes",
    "SelfCheck",
    "check_arrays",
    "check_expected",
    "expected_arrays",
    "label_attributes",
    "read_attributes",
]

FORMAT_VERSION = 2
AXES = ("row", "col")
LABELS = ("layer", "variable", "index")
# The attributes as the store was created, beside the root's that are rewritten.
COPY = f"{GROUP}/{ROOT}"
# What is set later, in the root alone.
LATER = ("certificate", "self_check")


class _Array(Strict):
    name: Name
    term: Name | None


class _Jacobian(Strict):
    name: Name
    term: Name
    # Not in stores from before arrays followed from the attributes.
    num_points: NonNegativeInt = 0
    num_components: PositiveInt = 1
    weight: FiniteFloat = 1.0

    @property
    def residuals(self) -> TermResiduals:
        """The residuals that it is of."""
        return TermResiduals(self.term, self.num_points, self.num_components, self.weight)


class _LeftOut(Strict):
    term: Name
    reason: Line


class _Certificate(Strict):
    passed: bool
    product_errors: list[float]


class SelfCheck(Strict):
    """What a run found when it compared its result with products by automatic differentiation.

    Attributes:
        passed: Whether they agree.
        failure: What is wrong, in a sentence; empty if nothing is.
        block_rows: Indices of the block rows that were read.
        seed: Seed of the random vectors.
        error: Relative error of the product that is furthest off, or None if it is not finite.
        tolerance: How large it may be, given what rounding makes of the product.
        seconds: What compiling, multiplying and reading took.
    """

    passed: bool
    failure: Line
    block_rows: list[NonNegativeInt] = Field(max_length=MAX_BLOCK_ROWS)
    seed: NonNegativeInt
    error: FiniteFloat | None
    tolerance: FiniteFloat
    seconds: FiniteFloat


class _Fixed(Strict):
    weights: dict[Line, NonNegativeInt]
    inference: list[Line]


class Attributes(RecordedInputs):
    """The root's attributes, as far as anything depends on them."""

    engine: StoredEngine
    engine_reason: Line
    readings: dict[Name, Line] = Field({}, max_length=1000)
    tile: PositiveInt
    data_type: Literal["float32", "float64"] | None = None
    arrays: list[_Array] = Field(min_length=1, max_length=1000)
    # Stores of the Hessian from before there were others do not say that they have none.
    jacobians: list[_Jacobian] = Field([], max_length=1000)
    # Stores from before every term had to have the matrix do not say that none is left out.
    left_out: list[_LeftOut] = Field([], max_length=1000)
    certificate: _Certificate | None = None
    self_check: SelfCheck | None = None
    fixed: _Fixed | None = None

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        matrix = matrix_of(self.engine)
        missing = {term.term for term in self.left_out}
        names = {term.name for term in self.terms}
        if not missing < names or (missing and matrix != GAUSS_NEWTON):
            raise ValueError("the terms that are left out are not some of the matrix's")
        terms = [term for term in self.terms if term.name not in missing]
        arrays = {array.term: array.name for array in self.arrays}
        each = [term.name for term in terms]
        if arrays not in (array_names(matrix.name, []), array_names(matrix.name, each)):
            raise ValueError("the arrays are not those of the matrix, or of it and its terms")
        residual = [term.name for term in terms if term.kind == "residual"]
        expected = {name: jacobian_name(name) for name in residual if matrix == GAUSS_NEWTON}
        if {jacobian.term: jacobian.name for jacobian in self.jacobians} != expected:
            raise ValueError("the Jacobians are not those of the residuals")
        return self

    @property
    def inputs(self) -> dict[str, int | None]:
        """Names of the arrays beside the matrices, and their lengths where P decides them."""
        labels = [f"{axis}_{key}" for axis in AXES for key in LABELS]
        return {**self.own_arrays, **dict.fromkeys(labels, self.num_params)}


def read_attributes(location: Location, key: str = ROOT) -> tuple[Attributes, dict[str, Any]]:
    """The root's attributes, or their copy, checked, and as they are.

    Raises:
        StoreError: If they cannot be read, or are not those of a store of this format.
    """
    raw = read_group(location, key=key)
    if raw.get("kind") == ESTIMATES:
        raise StoreError(
            f"{location} holds estimates, and no matrix. Read them with: hessian report, or "
            "compute the matrix with: hessian run"
        )
    version = raw.get("format_version")
    if version != FORMAT_VERSION:
        raise StoreError(
            f"{location} has store format {repr(version)[:20]}; this version reads "
            f"{FORMAT_VERSION}."
        )
    check_seal(raw, location)
    attributes = check_attributes(Attributes, raw, location)
    rows = attributes.num_params / attributes.tile
    if not 0 < rows <= MAX_BLOCK_ROWS:
        raise damaged(location, f"{attributes.num_params} parameters in tiles of side "
                       f"{attributes.tile} make {rows:.3g} block rows")  # fmt: skip
    return attributes, raw


def expected_arrays(attributes: Attributes) -> dict[str, ArrayMetadata]:
    """The metadata of every array of a store, which its attributes decide."""
    side, tile = attributes.num_params, attributes.tile
    data_type = attributes.data_type or "float64"
    square = partial(describe_array, [side, side], data_type, ["row", "col"], [tile, tile])
    found = {array.name: square() for array in attributes.arrays}
    for jacobian in attributes.jacobians:
        found[jacobian.name] = _expected_jacobian(jacobian.residuals, data_type, side, tile)
    for name, array in (attributes.input_arrays or {}).items():
        found[name] = describe_array(array.shape, array.data_type, attributes.axes(name))
    layout = ParameterLayout.from_json([v.model_dump() for v in attributes.parameters])
    for axis, key in itertools.product(AXES, LABELS):
        options = label_attributes(layout, key)
        found[f"{axis}_{key}"] = describe_array([side], "int32", [axis], **options)
    return found


def label_attributes(layout: ParameterLayout, key: str) -> dict[str, Any]:
    """What the codes of a label mean, as an attribute of their array."""
    if key == "index":
        return {}
    names = layout.layers() if key == "layer" else [v.name for v in layout.variables]
    return {"flag_meanings": names}


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

"""What the metadata of a store may say, beyond what all groups have in common."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveInt, model_validator

from hessian_tasks.spec import (
    GAUSS_NEWTON,
    HESSIAN,
    Matrix,
    StoredEngine,
    TermResiduals,
    matrix_of,
)
from pipeline.errors import StoreError
from pipeline.store.names import array_names, jacobian_name
from pipeline.store.places import Location
from pipeline.store.places.location import ROOT
from pipeline.store.records import GROUP
from pipeline.store.seal import SEAL, sealed
from pipeline.store.tiling import MAX_BLOCK_ROWS
from pipeline.store.vetting import (
    ESTIMATES,
    OTHER_ARRAYS,
    TRAINING,
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
    "AXES",
    "COPY",
    "FORMAT_VERSION",
    "LABELS",
    "LABEL_ARRAYS",
    "LATER",
    "Attributes",
    "SelfCheck",
    "read_attributes",
    "template_of",
]

FORMAT_VERSION = 2
AXES = ("row", "col")
LABELS = ("layer", "variable", "index")
LABEL_ARRAYS = tuple(f"{axis}_{key}" for axis, key in itertools.product(AXES, LABELS))
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
    # Stores from before there could be two matrices do not have them by matrix.
    matrix_errors: dict[Literal["hessian", "ggn"], list[float]] = Field({})
    # Nor do earlier ones have their root mean square.
    rms_errors: dict[Literal["hessian", "ggn"], float] = Field({})
    damaged: list[Line] = Field([])
    num_missing: NonNegativeInt = 0
    symmetry_defect: float | None = None
    created: Line = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        errors = [*self.product_errors, self.symmetry_defect or 0.0]
        errors += itertools.chain(*self.matrix_errors.values(), self.rms_errors.values())
        if self.passed and not all(0 <= error < math.inf for error in errors):
            raise ValueError("its errors are no errors of one that has passed")
        return self


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

    @classmethod
    def lost(cls) -> SelfCheck:
        """What is known where the result was lost with the attributes."""
        failure = "What it found was lost with the store's attributes: hessian run checks it again."
        return cls(
            passed=False, failure=failure, block_rows=[], seed=0, error=None, tolerance=0.0,
            seconds=0.0,
        )  # fmt: skip


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
        missing = {term.term for term in self.left_out}
        names = {term.name for term in self.terms}
        if not missing < names or (missing and self.matrices != (GAUSS_NEWTON,)):
            raise ValueError("the terms that are left out are not some of the matrix's")
        terms = [term for term in self.terms if term.name not in missing]
        arrays = {(array.term, array.name) for array in self.arrays}
        each = [term.name for term in terms]
        if arrays not in (self._expected([]), self._expected(each)):
            raise ValueError("the arrays are not those of the matrix, or of it and its terms")
        residual = [term.name for term in terms if term.kind == "residual"]
        expected = {name: jacobian_name(name) for name in residual if GAUSS_NEWTON in self.matrices}
        if {jacobian.term: jacobian.name for jacobian in self.jacobians} != expected:
            raise ValueError("the Jacobians are not those of the residuals")
        return self

    @model_validator(mode="after")
    def _check_collisions(self) -> Self:
        matrices = [*(a.name for a in self.arrays), *(j.name for j in self.jacobians)]
        own = [f"{term.name}_{key}" for term in self.terms for key in term.arrays]
        names = [*matrices, *own, *OTHER_ARRAYS, *LABEL_ARRAYS]
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise ValueError(f"two arrays have the name {min(twice)}; call the term otherwise")
        return self

    @model_validator(mode="after")
    def _check_jacobians(self) -> Self:
        weights = {term.name: term.weight for term in self.terms}
        inputs = self.input_arrays
        for jacobian in self.jacobians if inputs is not None else ():
            points = (inputs or {})[f"{jacobian.term}_points"].shape[0]
            if (jacobian.weight, jacobian.num_points) != (weights[jacobian.term], points):
                raise ValueError(f"{jacobian.name} has not the weight or the points of its term")
        return self

    def _expected(self, terms: list[str]) -> set[tuple[str | None, str]]:
        return {pair for m in self.matrices for pair in array_names(m.name, terms).items()}

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        """Which matrices there are: that of the engine, and beside a Hessian maybe G."""
        own = matrix_of(self.engine)
        both = own == HESSIAN and any(array.name == GAUSS_NEWTON.name for array in self.arrays)
        return (own, GAUSS_NEWTON) if both else (own,)

    def arrays_of(self, matrix: Matrix) -> dict[str | None, str]:
        """Names of a matrix's arrays, by loss term; the total's term is None."""
        known = array_names(matrix.name, [term.name for term in self.terms])
        return {a.term: a.name for a in self.arrays if a.name == known.get(a.term)}

    @property
    def inputs(self) -> dict[str, int | None]:
        """Names of the arrays beside the matrices, and their lengths where P decides them."""
        return {**self.own_arrays, **dict.fromkeys(LABEL_ARRAYS, self.num_params)}


def read_attributes(location: Location, key: str = ROOT) -> tuple[Attributes, dict[str, Any]]:
    """The root's attributes, or their copy, checked, and as they are.

    Raises:
        StoreError: If they cannot be read, or are not those of a store of this format.
    """
    raw = read_group(location, key=key)
    held = {ESTIMATES: "estimates", TRAINING: "observations along a training"}
    if raw.get("kind") in held:
        raise StoreError(
            f"{location} holds {held[raw['kind']]}, and no matrix. Read them with: hessian report, "
            "or compute the matrix with: hessian run"
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


def template_of(attributes: Mapping[str, Any]) -> int | None:
    """Which store attributes are of, by the checksum of them as they were created.

    None of one from before records said which store they belong to.
    """
    if "input_arrays" not in attributes:
        return None
    created = {key: value for key, value in attributes.items() if key not in LATER}
    return int(sealed(created)[SEAL])

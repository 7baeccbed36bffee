"""What the metadata of kept estimates may say, beyond what all groups have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

from pipeline.analysis.estimators import DiagonalMethod, TraceMethod
from pipeline.store.arrays import ArrayMetadata, describe_array
from pipeline.store.expected import expected_inputs
from pipeline.store.places import Location
from pipeline.store.vetting import (
    Line,
    Name,
    RecordedInputs,
    Strict,
    check_attributes,
    check_seal,
    read_group,
)

__all__ = [
    "AXES",
    "FORMAT_VERSION",
    "KIND",
    "KeptAttributes",
    "chunks_of",
    "expected_arrays",
    "read_answers",
]

KIND = "set of estimates"
# Names of the dimensions of the arrays of answers.
AXES = {
    "eigenvalue": ("pair",),
    "eigenvalue_error": ("pair",),
    "eigenvector": ("row", "pair"),
    "diagonal": ("row",),
    "diagonal_error": ("row",),
}
FORMAT_VERSION = 1
# Sizes that pictures can be drawn of; sinh of more than 700 is no number any more.
Number = Annotated[float, Field(ge=-1e100, le=1e100)]
Size = Annotated[float, Field(ge=0, le=1e100)]
Arcsinh = Annotated[float, Field(ge=-600, le=600)]
Counts: TypeAlias = dict[Literal["below", "within", "above"], Size]


class _Estimate(Strict):
    value: Number
    standard_error: Size
    num_products: NonNegativeInt
    method: TraceMethod


class _Diagonal(Strict):
    method: DiagonalMethod
    num_products: NonNegativeInt
    layers: list[Line] = Field(min_length=1, max_length=10_000)
    parameters: list[PositiveInt]
    means: list[Number]
    standard_errors: list[Size]

    @model_validator(mode="after")
    def _check(self) -> Self:
        columns = self.parameters, self.means, self.standard_errors
        if any(len(column) != len(self.layers) for column in columns):
            raise ValueError("the diagonal's columns differ in length")
        return self


class _Resolved(Strict):
    size: Size
    below: tuple[Size, Size]
    above: tuple[Size, Size]


class _Density(Strict):
    num_vectors: PositiveInt
    num_steps: PositiveInt
    num_known: NonNegativeInt
    counts: Counts
    errors: Counts
    # Estimates from before these were told have half widths alone.
    ranges: dict[Literal["below", "within", "above"], tuple[Size, Size]] | None = None
    resolved: _Resolved | None = None
    scale: float = Field(ge=1e-100, le=1e30)
    grid: list[Arcsinh] = Field(min_length=2, max_length=10_000)
    density: list[Size]
    density_error: list[Size]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not len(self.grid) == len(self.density) == len(self.density_error):
            raise ValueError("the curve's columns differ in length")
        if not any(self.density):
            raise ValueError("the curve is zero everywhere")
        if not len(self.counts) == len(self.errors) == 3:
            raise ValueError("the counts are not those below, within and above the noise")
        if self.ranges is not None and len(self.ranges) != 3:
            raise ValueError("the ranges are not those below, within and above the noise")
        return self


class _Asked(Strict):
    # What else was asked is only shown.
    model_config = ConfigDict(extra="allow")

    matrix: Literal["hessian", "ggn"]
    term: Name | None
    num_diagonal: NonNegativeInt
    seed: int


class Answers(Strict):
    """What :meth:`~pipeline.estimates.estimates.Estimates.to_json` says."""

    matrix: Line
    asked: _Asked
    num_params: PositiveInt
    eigenvalues: list[Number] = Field(min_length=1, max_length=10_000)
    residuals: list[Size]
    tolerance: Size
    num_passes: NonNegativeInt
    trace: _Estimate
    frobenius_norm: _Estimate
    # Estimates from before it was told by layers have none.
    diagonal: _Diagonal | None = None
    relative_error: Size
    noise_floor: Size
    density: _Density | None
    num_products: NonNegativeInt
    num_recorded: NonNegativeInt
    seconds: Size

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.eigenvalues) != len(self.residuals):
            raise ValueError("there is not one residual for each eigenvalue")
        if self.eigenvalues != sorted(self.eigenvalues):
            raise ValueError("eigenvalues do not ascend")
        if len(self.eigenvalues) > self.num_params:
            raise ValueError("there are more eigenvalues than parameters")
        return self


class KeptAttributes(RecordedInputs):
    """The group's attributes, as far as anything depends on them."""

    kind: Literal["estimates"]
    format_version: Literal[1]
    estimates: Answers

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.num_params != self.estimates.num_params:
            raise ValueError("the table of parameters has another number of them")
        term = self.estimates.asked.term
        if term is not None and term not in [found.name for found in self.terms]:
            raise ValueError("the estimates are of a term that there is not")
        return self

    @property
    def shapes(self) -> dict[str, list[int]]:
        """Shapes of the arrays beside the inputs."""
        size, number = self.num_params, len(self.estimates.eigenvalues)
        shapes = {"eigenvalue": [number], "eigenvalue_error": [number]}
        shapes["eigenvector"] = [size, number]
        if self.estimates.asked.num_diagonal:
            shapes |= {"diagonal": [size], "diagonal_error": [size]}
        return shapes


def expected_arrays(attributes: KeptAttributes) -> dict[str, ArrayMetadata]:
    """The metadata of every array of kept estimates, which their attributes decide."""
    found = expected_inputs(attributes)
    for name, shape in attributes.shapes.items():
        found[name] = describe_array(shape, "float64", AXES[name], chunks_of(shape))
    return found


def chunks_of(shape: Sequence[int]) -> list[int]:
    """The chunks of an array of answers: whole columns.

    Example:
        >>> chunks_of([5301, 10])
        [5301, 1]
    """
    return [shape[0], *[1] * (len(shape) - 1)]


def read_answers(location: Location) -> tuple[KeptAttributes, dict[str, Any]]:
    """The attributes of kept estimates, checked, and as they are.

    Raises:
        StoreError: If they cannot be read, or are not those of estimates.
    """
    raw = read_group(location, KIND)
    check_seal(raw, location, KIND)
    return check_attributes(KeptAttributes, raw, location, KIND), raw

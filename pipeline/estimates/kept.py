"""Estimates that are kept: a Zarr group of the answers and of the inputs that they belong to."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hessian_tasks.frozen import FrozenInputs
from hessian_tasks.spec import MATRICES
from pipeline.analysis.eigenpairs import Eigenpairs
from pipeline.analysis.spectrum import Spectrum
from pipeline.errors import StoreError, StoreMismatchError
from pipeline.estimates._answers import (
    AXES,
    FORMAT_VERSION,
    KIND,
    KeptAttributes,
    chunks_of,
    expected_arrays,
    read_answers,
)
from pipeline.store.agreement import differing_inputs
from pipeline.store.arrays import Content, encode
from pipeline.store.expected import check_expected
from pipeline.store.opened import HoldsInputs
from pipeline.store.places import Directory, Location, Place, filling, locate
from pipeline.store.places.location import ROOT
from pipeline.store.seal import group_json
from pipeline.store.template import describe_inputs, input_contents
from pipeline.store.vetting import ESTIMATES, damaged, read_group

if TYPE_CHECKING:
    from pipeline.estimates.estimates import Estimates

__all__ = ["KeptEstimates", "check_replaceable", "holds_estimates", "save"]


class KeptEstimates(HoldsInputs):
    """Estimates as they were kept.

    Attributes:
        answers: The numbers, as :meth:`~pipeline.estimates.estimates.Estimates.to_json` says.
        matrix: Of which matrix; its title names the term, if it is that of one.
        term: The loss term, or None for the total.

    Example:
        >>> import tempfile
        >>> from hessian_tasks.source import ProblemSource
        >>> from pipeline.run.inputs import freeze_source
        >>> from pipeline.estimates.estimates import EstimateOptions, estimate
        >>> from pipeline.estimates.operator import operator_of
        >>> frozen = freeze_source(ProblemSource("poisson", {"width": 4, "depth": 1}))
        >>> found = estimate(operator_of(frozen), frozen.loss, EstimateOptions(num_pairs=2))
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     save(found, frozen, Path(directory) / "e.zarr")
        ...     kept = KeptEstimates(f"{directory}/e.zarr")
        ...     kept.matrix.title, kept.spectrum().vectors.shape
        ('Hessian', (17, 4))
    """

    kind = KIND
    advice = advice_for_inputs = "Estimate again with: hessian estimate"

    def __init__(self, place: Place) -> None:
        """Open estimates.

        Args:
            place: Where they are.

        Raises:
            StoreError: If there are none, or they are damaged.
        """
        location = locate(place)
        checked, attributes = read_answers(location)
        super().__init__(location, attributes, checked, checked.shapes)
        if checked.input_arrays is None:
            self._check_shapes(checked)
        else:
            check_expected(location, self.metadata, expected_arrays(checked), KIND)
        self.check_contents()
        self.answers = checked.estimates
        self.term = self.answers.asked.term
        self.matrix = replace(MATRICES[self.answers.asked.matrix], title=self.answers.matrix)

    def _check_shapes(self, checked: KeptAttributes) -> None:
        """Of estimates from before arrays followed from the attributes."""
        for name, array in self.metadata.items():
            shape, length = checked.shapes.get(name), checked.inputs.get(name)
            fits = array.whole and (length is None or array.shape == [length])
            if shape is not None:
                fits = array.shape == shape and array.chunks == chunks_of(shape)
                fits &= array.data_type == "float64"
            if not fits:
                reason = f"array {name} does not have the recorded shape and chunks"
                raise damaged(self.location, reason, KIND)

    def spectrum(self) -> Spectrum:
        """The eigenpairs, and what is known of all eigenvalues together.

        Raises:
            StoreError: If they cannot be read.
        """
        answers, number = self.answers, len(self.answers.eigenvalues)
        everything = slice(0, self.num_params), slice(0, number)
        vectors = self.read_entries(*everything, "eigenvector")
        # What is not a number is not below anything.
        if not np.abs(vectors).max() < 2 or np.abs(np.sum(vectors**2, axis=0) - 1).max() > 1e-6:
            raise damaged(self.location, "eigenvectors do not have length 1", KIND)
        values, residuals = np.array(answers.eigenvalues), np.array(answers.residuals)
        return Spectrum(
            values,
            number == self.num_params,
            answers.noise_floor,
            answers.trace.value,
            answers.frobenius_norm.value,
            vectors,
            Eigenpairs(values, vectors, residuals, answers.tolerance, answers.num_passes),
        )


def holds_estimates(location: Location) -> bool:
    """Whether a group says of itself that it is one of estimates."""
    try:
        return read_group(location).get("kind") == ESTIMATES
    except StoreError:
        return False


def check_replaceable(path: Path, frozen: FrozenInputs) -> None:
    """Find out before the first product whether answers can be saved to a path.

    Raises:
        StoreMismatchError: If there are answers of other inputs.
        StoreError: If something else is there.
    """
    if not path.exists():
        return
    try:
        recorded = KeptEstimates(path)
    except StoreError as error:
        raise StoreError(
            f"{path} exists, and holds no estimates: {error} If it is a store of the matrix, ask "
            "that: hessian spectrum. Or give another --store."
        ) from error
    differing = differing_inputs(recorded, frozen)
    if differing:
        raise StoreMismatchError(
            f"{path} holds estimates of other inputs: {differing}. Give another --store."
        )


def save(found: Estimates, frozen: FrozenInputs, path: Path) -> None:
    """Write the answers and the inputs that they belong to, as a Zarr group that xarray opens.

    Arrays: ``eigenvalue``, ``eigenvalue_error`` ``[pair]``, ``eigenvector`` ``[row, pair]``,
    ``theta`` and ``gradient`` ``[row]``, ``state``, the points, and ``diagonal`` with
    ``diagonal_error`` ``[row]`` where it was asked for. Attributes: those of
    :meth:`~pipeline.estimates.estimates.Estimates.to_json` under ``estimates``, and the inputs
    as a store of the matrix has them. It is made under another name and renamed.

    Raises:
        StoreError: If it cannot be written.
    """
    with filling(path) as directory:
        directory.mkdir()
        for key, data in _objects(found, frozen).items():
            Directory(directory).write(key, data)
        if path.exists():
            shutil.rmtree(path)


def _objects(found: Estimates, frozen: FrozenInputs) -> dict[str, bytes]:
    contents = {
        **input_contents(frozen),
        "eigenvalue": Content(found.pairs.values, AXES["eigenvalue"]),
        "eigenvalue_error": Content(found.eigenvalue_errors, AXES["eigenvalue_error"]),
    }
    vectors = found.pairs.vectors
    contents["eigenvector"] = Content(vectors, AXES["eigenvector"], chunks_of(vectors.shape))
    if found.diagonal is not None:
        contents["diagonal"] = Content(found.diagonal.value, AXES["diagonal"])
        contents["diagonal_error"] = Content(found.diagonal.standard_error, AXES["diagonal_error"])
    objects = encode(contents)
    attributes = {"kind": ESTIMATES, "format_version": FORMAT_VERSION}
    attributes |= {"estimates": found.to_json(), **describe_inputs(frozen, objects)}
    arrays = {f"{name}/{ROOT}": content.metadata.to_json() for name, content in contents.items()}
    return {ROOT: group_json(attributes), **arrays, **objects}

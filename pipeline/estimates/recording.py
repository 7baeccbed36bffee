"""Keeping observations along a training in a Zarr group, one after the other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from hessian_tasks.frozen import WEIGHTS as CHANGING
from hessian_tasks.frozen import Evaluated, FrozenInputs
from pipeline.errors import StoreError, StoreMismatchError
from pipeline.estimates._observed import (
    FORMAT_VERSION,
    STEP,
    WEIGHTS,
    Extent,
    RecordedTraining,
    expected_quantities,
    keys_of,
    root_json,
)
from pipeline.estimates.watched import TrainingRecord
from pipeline.estimates.watching import Observation
from pipeline.store.agreement import differences
from pipeline.store.arrays import ArrayMetadata, encode
from pipeline.store.places import Directory, Place, locate
from pipeline.store.places.chunks import checksum, with_checksum
from pipeline.store.places.location import ROOT
from pipeline.store.template import describe_inputs, input_contents
from pipeline.store.vetting import TRAINING, first_error

__all__ = ["WatchedStore"]

Array = npt.NDArray[Any]

ADVICE = "Give this training another place, or remove it."


class WatchedStore:
    """Appends observations to a group of which each array has steps as its leading axis.

    The entries of an observation are chunks of their own. The group's metadata, which hold those
    of all arrays, say how many observations there are; they are written last, by one rename. So at
    any time the group has all arrays of equally many steps.

    Attributes:
        last_step: The step of the last observation, or None.
    """

    def __init__(self, place: Place, frozen: FrozenInputs) -> None:
        """Take a place where nothing is, or a record that ends with the weights that there are now.

        Args:
            place: A directory.
            frozen: The inputs of the training, at the weights that it begins with.

        Raises:
            StoreMismatchError: If there is the record of another problem, or of other weights.
            StoreError: If something else is there, or it is no directory.
        """
        location = locate(place)
        if location.directory is None:
            raise StoreError(f"What is watched is kept in a directory, but got {location}.")
        self._directory = Directory(Path(location.directory))
        self._frozen, self._inputs = frozen, input_contents(frozen)
        self._input_arrays = {name: content.metadata for name, content in self._inputs.items()}
        self._attributes: dict[str, Any] = {}
        self.last_step: int | None = None
        if location.exists():
            self._go_on()

    def _go_on(self) -> None:
        """Go on with the record that is there.

        Raises:
            StoreError: If it is none of this training.
        """
        where = self._directory
        try:
            record = TrainingRecord(where)
            last = record.dataset().isel({STEP: -1}).load()
        except StoreError as error:
            raise StoreError(f"{where} exists. {ADVICE} {error}") from error
        differing = differences(
            _lasting(record.attributes["fingerprint"]), _lasting(self._frozen.fingerprint())
        )
        if differing:
            raise StoreMismatchError(f"{where} exists, of another problem: {differing}. {ADVICE}")
        self.last_step = int(last[STEP])
        if not np.array_equal(last.theta, self._frozen.theta):
            raise StoreMismatchError(
                f"{where} exists, and ends at step {self.last_step} with other weights than this "
                f"training begins with. {ADVICE}"
            )
        losses = dict(zip(record.terms, last.term_loss.values.tolist(), strict=True))
        found = self._frozen.evaluated.disagreement(Evaluated(losses, self._frozen.gradient))
        if found:
            raise StoreMismatchError(f"{where} exists, of another problem: {found}. {ADVICE}")
        self._attributes = record.attributes

    def append(self, found: Observation) -> None:
        """Write an observation.

        Raises:
            StoreMismatchError: If it is of no later step than the one before it, or its arrays have
                other shapes.
            StoreError: If it cannot be written.
        """
        if self.last_step is not None and found.step <= self.last_step:
            raise StoreMismatchError(
                f"{self._directory} exists, and ends at step {self.last_step}, but the next "
                f"observation is of step {found.step}. {ADVICE}"
            )
        attributes = self._attributes or self._begin(found)
        number = len(attributes["phases"])
        quantities = expected_quantities(self._extent(attributes))
        objects = self._encoded(_entries(found), quantities, number)
        sums = {key: checksum(data) for key, data in objects.items()}
        attributes = attributes | {
            "phases": [*attributes["phases"], found.phase],
            "checksums": attributes["checksums"] | sums,
        }
        objects |= {f"{name}/{ROOT}": array.to_json() for name, array in quantities.items()}
        objects[ROOT] = root_json(attributes, self._input_arrays | quantities)
        if number:
            with self._directory.writing():
                for key, data in objects.items():
                    self._directory.write(key, data)
        else:
            self._create(attributes, objects)
        self._attributes, self.last_step = attributes, found.step

    def _begin(self, found: Observation) -> dict[str, Any]:
        """Attributes of a group without any observation."""
        return {
            **describe_inputs(self._frozen, encode(self._inputs)),
            "kind": TRAINING,
            "format_version": FORMAT_VERSION,
            "num_pairs": len(found.pairs.values),
            "phases": [],
        }

    def _extent(self, attributes: Mapping[str, Any]) -> Extent:
        """With one more observation than there are."""
        return Extent(
            step=len(attributes["phases"]) + 1,
            row=self._frozen.layout.num_params,
            pair=attributes["num_pairs"],
            term=len(self._frozen.terms),
            data_type=self._frozen.dtype.name,
        )

    def _encoded(
        self, entries: Mapping[str, Array], arrays: Mapping[str, ArrayMetadata], number: int
    ) -> dict[str, bytes]:
        objects = {}
        for key, name in keys_of(number).items():
            found, expected = entries[name], arrays[name]
            if list(found.shape) != expected.shape[1:]:
                raise StoreMismatchError(
                    f"{self._directory} has {name} of shape {expected.shape[1:]} at every step, "
                    f"but got {list(found.shape)}. Observe the same problem, and as many "
                    f"eigenpairs as before. {ADVICE}"
                )
            stored = np.dtype(expected.data_type).newbyteorder("<")
            objects[key] = with_checksum(np.ascontiguousarray(found, stored).tobytes())
        return objects

    def _create(self, attributes: Mapping[str, Any], objects: Mapping[str, bytes]) -> None:
        try:
            RecordedTraining.model_validate_json(json.dumps(attributes))
        except ValidationError as error:
            raise StoreError(f"{self._directory} cannot be made: {first_error(error)}.") from error
        metadata = {f"{n}/{ROOT}": array.to_json() for n, array in self._input_arrays.items()}
        self._directory.create({**metadata, **encode(self._inputs), **objects})


def _lasting(prints: Mapping[str, str]) -> dict[str, str]:
    """A fingerprint without what training changes."""
    return {label: text for label, text in prints.items() if label not in CHANGING}


def _entries(found: Observation) -> dict[str, Array]:
    """The quantities of an observation."""
    return {
        STEP: np.array(found.step),
        "loss": np.array(sum(found.losses.values())),
        "term_loss": np.array(list(found.losses.values())),
        "gradient_norm": np.array(found.gradient_norm),
        "alignment": np.array(found.alignment),
        "eigenvalue": found.pairs.values,
        "eigenvalue_error": found.eigenvalue_errors,
        "eigenvector": found.pairs.vectors,
        "trace": np.array(found.trace.value),
        "trace_error": np.array(found.trace.standard_error),
        WEIGHTS: found.theta,
        "num_products": np.array(found.num_products),
        "seconds": np.array(found.seconds),
    }

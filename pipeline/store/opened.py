"""An open Zarr group that holds the inputs of its problem: a store, or estimates that were kept."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from hessian_tasks.parameters import ParameterLayout
from pipeline.store._reading import check_memory, read_entries, reading
from pipeline.store.arrays import object_key, read_array
from pipeline.store.places import Location
from pipeline.store.places.chunks import checksum
from pipeline.store.vetting import STORE, RecordedInputs

__all__ = ["HoldsInputs"]


class HoldsInputs:
    """A group whose metadata are vetted; it shows the arrays that they name, and no others.

    Attributes:
        location: Where it is.
        attributes: The group's attributes.
        num_params: P.
        layout: The parameter table.
        metadata: Those of the arrays, by name.
        objects: What it consists of, as a Zarr store to be read.
        kind: What it is, for messages.
    """

    kind = STORE

    @property
    def advice(self) -> str:
        """What to do about damage."""
        return f"Mend it with: hessian run --store {shlex.quote(str(self.location))}"

    @property
    def advice_for_inputs(self) -> str:
        """What to do about damage of what only the problem can tell."""
        return (
            "Write it anew from the problem, with its options and weights: hessian run PROBLEM "
            f"--store {shlex.quote(str(self.location))}"
        )

    def __init__(
        self,
        location: Location,
        attributes: dict[str, Any],
        checked: RecordedInputs,
        names: Iterable[str],
    ) -> None:
        """Open the arrays.

        Args:
            location: Where the group is.
            attributes: Its attributes, as they are.
            checked: The same, checked.
            names: Names of the arrays beside the inputs.

        Raises:
            StoreError: If an array is missing, or none that a run writes.
        """
        self.location, self.attributes = location, attributes
        self.num_params = checked.num_params
        self.layout = ParameterLayout.from_json(
            attributes["parameters"], attributes.get("held", [])
        )
        names = [*names, *checked.inputs]
        read = partial(read_array, location, kind=self.kind)
        self.metadata = dict(zip(names, location.each(read, names), strict=True))
        self.objects = location.open()
        self.objects.object_bytes = {n: array.object_bytes for n, array in self.metadata.items()}
        self.objects.vouch = self._vouch_for
        self._checked = checked
        self._open: dict[str, zarr.Array[Any]] = {}

    @property
    def has_checksums(self) -> bool:
        """Whether it has checksums of inputs, labels and attributes, as all have by now."""
        return self._checked.input_arrays is not None

    def check_contents(self) -> None:
        """See that the arrays of inputs and labels hold what was written.

        They are small beside a matrix, and what is missing of them would pass for zeros.

        Raises:
            StoreError: Naming the first that does not.
        """
        if not self.has_checksums:
            return
        keys = [
            object_key(name, [0] * len(self.metadata[name].shape))
            for name in self._checked.inputs
            if math.prod(self.metadata[name].shape)
        ]
        self.location.each(self._check_object, keys)

    def _check_object(self, key: str) -> None:
        advice = self.advice
        if key.partition("/")[0] in self._checked.own_arrays:
            advice = self.advice_for_inputs
        with reading(f"Object {key} of {self.location}", advice):
            if key not in self._checked.checksums:
                raise ValueError("its checksum is not recorded")
            # A file can have holes: it may be larger than the disk.
            check_memory(f"The bytes of {key} of {self.location}", self.objects.limit(key))
            self.vouch(key, self.location.read(key, self.objects.limit(key)))

    def _vouch_for(self, key: str, data: bytes | memoryview | None) -> bool:
        with reading(f"Object {key} of {self.location}", self.advice):
            return self.vouch(key, data)

    def vouch(self, key: str, data: bytes | memoryview | None) -> bool:
        """Whether an object is there, whole, and the one that was stored.

        Args:
            key: Its key.
            data: Its bytes, or None if there is none.

        Returns:
            False if nothing is recorded as stored there, whatever lies there.

        Raises:
            ValueError: If it is not the one that was stored.
        """
        found = None if data is None else checksum(data)
        if found is None and data is not None:
            raise ValueError("its checksum is not that of its contents")
        recorded = self.recorded(key, found)
        if recorded is not None and found != recorded:
            raise ValueError("it is missing" if data is None else "another one was stored there")
        return recorded is not None

    def recorded(self, key: str, found: int | None) -> int | None:
        """The checksum that an object was recorded with, None if it was not.

        Args:
            key: Its key.
            found: What it has now, which is believed where none are recorded at all.
        """
        return self._checked.checksums.get(key, found)

    def array(self, name: str) -> zarr.Array[Any]:
        """One of the arrays.

        Raises:
            StoreError: If there is none of that name.
        """
        if name not in self._open:
            with reading(f"Array {name!r} of {self.location}", self.advice):
                if name not in self.metadata:
                    raise KeyError(f"it has {', '.join(self.metadata)}")
                found = zarr.open_array(self.objects, path=name, mode="r", zarr_format=3)
                self._open[name] = found
        return self._open[name]

    def read(self, name: str) -> npt.NDArray[Any]:
        """A small array as a whole: ``theta``, ``gradient``, points.

        Raises:
            StoreError: If it is missing or damaged.
        """
        array = self.array(name)
        with reading(f"Array {name!r} of {self.location}", self.advice):
            return np.asarray(array[...])

    @property
    def gradient_norm(self) -> float:
        """``‖∇L(θ)‖``."""
        return float(np.linalg.norm(self.read("gradient").astype(np.float64)))

    def read_entries(self, rows: slice, columns: slice, name: str) -> npt.NDArray[Any]:
        """Entries of an array of two dimensions, as they are stored, not to be changed.

        Raises:
            StoreError: If a chunk is damaged, or they do not fit into memory.
        """
        return read_entries(
            self.array(name), self.location, (rows, columns), self.vouch, self.advice
        )

"""An open Zarr group that holds the inputs of its problem: a store, or estimates that were kept."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from hessian_tasks.parameters import ParameterLayout
from pipeline.store.places import Location
from pipeline.store.reading import VERIFY, read_entries, reading
from pipeline.store.vetting import STORE, RecordedInputs, read_array

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
        advice: What to do about damage, likewise.
    """

    kind = STORE
    advice = VERIFY

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
        self._open: dict[str, zarr.Array[Any]] = {}

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
        return read_entries(self.array(name), self.location, rows, columns, self.advice)

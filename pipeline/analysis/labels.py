"""Selecting parameters by the names of their layer and variable, in xarray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import xarray as xr
from xarray.core.indexing import IndexSelResult

from hessian_tasks.parameters import NETWORK

__all__ = ["labelled"]

Array = npt.NDArray[Any]

# Labels of fixed width take as much for every row as the longest name.
MAX_LABEL_BYTES = 2**26


class ParameterIndex(xr.Index):
    """An xarray index over the labels of one axis: ``row_layer``, ``row_variable``, ``row_index``.

    ``sel`` takes any of them together. Parameters of a layer or a variable lie side by side, so
    that what is selected is a slice, and stays lazy and cheap.

    Example:
        >>> labels = {"row_layer": ("row", ["a", "a", "b"]), "row_index": ("row", [0, 1, 0])}
        >>> matrix = xr.DataArray(np.arange(3), labels, ("row",))
        >>> matrix = matrix.set_xindex(["row_layer", "row_index"], ParameterIndex)
        >>> matrix.sel(row_layer="a").to_numpy().tolist()
        [0, 1]
        >>> matrix.sel(row_layer="a", row_index=1).to_numpy().tolist()
        [1]
    """

    def __init__(self, dimension: str, labels: Mapping[str, Array]) -> None:
        """Index ``dimension`` by labels ``[size]``, by the names of their coordinates."""
        self._dimension = dimension
        self._labels = dict(labels)

    @classmethod
    def from_variables(
        cls, variables: Mapping[Any, xr.Variable], *, options: Mapping[str, Any]
    ) -> Self:
        """Index coordinates that share their only dimension; xarray calls this."""
        dimensions = {variable.dims for variable in variables.values()}
        if len(dimensions) != 1 or len(next(iter(dimensions))) != 1:
            raise ValueError(f"labels {list(variables)} do not share one dimension: {dimensions}")
        labels = {str(name): variable.to_numpy() for name, variable in variables.items()}
        return cls(str(next(iter(dimensions))[0]), labels)

    def create_variables(
        self, variables: Mapping[Any, xr.Variable] | None = None
    ) -> dict[Any, xr.Variable]:
        """The labels as coordinates."""
        known = variables or {}
        attributes = {name: known[name].attrs for name in self._labels if name in known}
        return {
            name: xr.Variable((self._dimension,), values, attributes.get(name))
            for name, values in self._labels.items()
        }

    def sel(self, labels: dict[Any, Any], **options: Any) -> IndexSelResult:
        """Where all labels agree, as a slice if that is one.

        Raises:
            KeyError: If that is nowhere, with the labels that there are.
        """
        if options.get("method") or options.get("tolerance"):
            raise ValueError("names of parameters are selected exactly, without a method")
        found = np.ones(len(next(iter(self._labels.values()))), np.bool_)
        for name, wanted in labels.items():
            known = self._labels[name]
            hits = np.isin(known, np.asarray(wanted))
            if not hits.any():
                examples = ", ".join(map(str, list(dict.fromkeys(known.tolist()))[:12]))
                raise KeyError(f"no {name} is {wanted!r}; there are {examples}")
            found &= hits
        positions = np.flatnonzero(found)
        if not len(positions):
            raise KeyError(f"no parameter has {labels}")
        first, last = int(positions[0]), int(positions[-1])
        side_by_side = last - first + 1 == len(positions)
        return IndexSelResult(
            {self._dimension: slice(first, last + 1) if side_by_side else positions}
        )

    def isel(self, indexers: Mapping[Any, Any]) -> Self | None:
        """The index of a selection by position; None of a single parameter."""
        chosen = indexers[self._dimension]
        if isinstance(chosen, xr.Variable):
            if chosen.dims != (self._dimension,):
                return None
            chosen = chosen.to_numpy()
        if np.ndim(chosen) != 1 and not isinstance(chosen, slice):
            return None
        return type(self)(self._dimension, {k: v[chosen] for k, v in self._labels.items()})

    def equals(self, other: xr.Index, *, exclude: frozenset[Any] | None = None) -> bool:
        """Whether both name the same parameters in the same order."""
        return isinstance(other, ParameterIndex) and (
            self._labels.keys() == other._labels.keys()
            and all(np.array_equal(v, other._labels[k]) for k, v in self._labels.items())
        )

    def join(self, other: Self, how: str = "inner") -> Self:
        """Arrays of other parameters do not fit together; of the same this is not asked.

        Raises:
            ValueError: Always.
        """
        raise ValueError(f"the parameters along {self._dimension} of the two arrays differ")

    def rename(self, name_dict: Mapping[Any, Any], dims_dict: Mapping[Any, Any]) -> Self:
        """The index with other names of coordinates and dimension."""
        labels = {str(name_dict.get(k, k)): v for k, v in self._labels.items()}
        return type(self)(str(dims_dict.get(self._dimension, self._dimension)), labels)


def labelled(dataset: xr.Dataset, axes: Sequence[str] = ("row", "col")) -> xr.Dataset:
    """A dataset with names in the place of codes, and an index over them.

    Args:
        dataset: With coordinates ``row_layer``, ``row_variable`` and ``row_index`` of each axis;
            what the codes of the first two mean is their attribute ``flag_meanings``.
        axes: The axes of parameters.
    """
    labels = {}
    for name in [n for n in dataset.coords if "flag_meanings" in dataset[n].attrs]:
        codes = dataset[name]
        # What is in no layer is recorded without a name.
        names = np.array([name or NETWORK for name in codes.attrs["flag_meanings"]])
        if names.itemsize * codes.size > MAX_LABEL_BYTES:
            names = names.astype(object)
        labels[name] = (codes.dims, names[codes.to_numpy()])
    dataset = dataset.assign_coords(labels)
    for axis in axes:
        keys = [f"{axis}_{label}" for label in ("layer", "variable", "index")]
        dataset = dataset.set_xindex(keys, ParameterIndex)
    return dataset

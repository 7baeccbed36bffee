"""Curvature along training as a Zarr group, to which each observation is appended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from pipeline.errors import StoreError
from pipeline.estimates.watching import Observation
from pipeline.store.arrays import ArrayMetadata, describe_array, object_key
from pipeline.store.places import Directory, Place, locate
from pipeline.store.places.chunks import with_checksum
from pipeline.store.places.location import ROOT
from pipeline.store.seal import group_json
from pipeline.store.vetting import check_seal, read_group

__all__ = ["WatchedStore", "open_watched"]

Array = npt.NDArray[Any]

KIND = "record of training"
WATCHED = "training"
FIRST = "step"  # Names the leading axis, too.


class WatchedStore:
    """Appends observations to a group of which each array has steps as its leading axis.

    The entries of an observation are chunks of their own. The group's metadata, which hold those
    of all arrays (Zarr's consolidated metadata), say how many observations there are; they are
    written last, by one rename. So at any time the group has all arrays of equally many steps.
    """

    def __init__(self, place: Place) -> None:
        """Take a place where nothing is.

        Raises:
            StoreError: If something is there, or it is no directory.
        """
        location = locate(place)
        if location.directory is None:
            raise StoreError(f"What is watched is kept in a directory, but got {location}.")
        if location.exists():
            raise StoreError(
                f"{location} exists. Give the record of this training another place, or remove it."
            )
        self._directory = Directory(Path(location.directory))
        self._phases: list[str] = []

    def append(self, found: Observation) -> None:
        """Write an observation.

        Raises:
            StoreError: If it cannot be written.
        """
        number = len(self._phases)
        metadata = {}
        with self._directory.writing():
            for name, (entries, axes) in _entries(found).items():
                place = (number, *[0] * entries.ndim)
                stored = np.ascontiguousarray(entries, entries.dtype.newbyteorder("<"))
                self._directory.write(object_key(name, place), with_checksum(stored.tobytes()))
                metadata[name] = _metadata(entries, axes, number + 1)
                self._directory.write(f"{name}/{ROOT}", metadata[name].to_json())
            self._phases.append(found.phase)
            attributes = {"kind": WATCHED, "format_version": 1}
            attributes |= {"terms": list(found.losses), "phases": self._phases}
            self._directory.write(ROOT, _group(attributes, metadata))


def _entries(found: Observation) -> dict[str, tuple[Array, list[str]]]:
    """What is stored of an observation, with the axes beside that of steps."""
    pair = ["pair"]
    return {
        FIRST: (np.array(found.step, np.int64), []),
        "loss": (np.array(sum(found.losses.values())), []),
        "term_loss": (np.array(list(found.losses.values())), ["term"]),
        "gradient_norm": (np.array(found.gradient_norm), []),
        "alignment": (np.array(found.alignment), []),
        "eigenvalue": (found.pairs.values, pair),
        "eigenvalue_error": (found.eigenvalue_errors, pair),
        "eigenvector": (found.pairs.vectors, ["row", "pair"]),
        "trace": (np.array(float(found.trace.value)), []),
        "trace_error": (np.array(float(found.trace.standard_error)), []),
        "theta": (found.theta, ["row"]),
        "num_products": (np.array(found.num_products, np.int64), []),
        "seconds": (np.array(found.seconds), []),
    }


def _metadata(entries: Array, axes: list[str], number: int) -> ArrayMetadata:
    shape = list(entries.shape)
    return describe_array([number, *shape], entries.dtype.name, [FIRST, *axes], [1, *shape])


def _group(attributes: dict[str, Any], metadata: dict[str, ArrayMetadata]) -> bytes:
    arrays = {name: json.loads(array.to_json()) for name, array in metadata.items()}
    consolidated = {"kind": "inline", "must_understand": False, "metadata": arrays}
    group = json.loads(group_json(attributes))
    return json.dumps({**group, "consolidated_metadata": consolidated}).encode()


def open_watched(store: Place) -> xr.Dataset:
    """Open what ``hessian train --watch`` or a :class:`HessianCallback` has kept.

    Of an interrupted training it has the steps that were observed.

    Args:
        store: Its directory.

    Returns:
        By ``step``: ``loss``, ``term_loss`` ``[term]``, ``gradient_norm``, ``alignment`` (the share
        of the squared gradient in the span of the eigenvectors of the largest eigenvalues),
        ``eigenvalue`` and ``eigenvalue_error`` ``[pair]``, ascending, ``eigenvector``
        ``[row, pair]``, ``trace`` and ``trace_error``, ``theta`` ``[row]``, ``num_products`` and
        ``seconds``; coordinates ``phase`` and ``term``.

    Raises:
        StoreError: If there is no such record, or it is damaged.

    Example:
        >>> import tempfile
        >>> from hessian_tasks import load_problem
        >>> from hessian_tasks.networks.trainables import resolve
        >>> from pipeline.estimates.watching import Watch
        >>> small = resolve(load_problem("regression", width=4, depth=1, num_samples=10))
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     WatchedStore(f"{directory}/w.zarr").append(Watch(small, 2).observe(0, "start"))
        ...     dict(open_watched(f"{directory}/w.zarr").eigenvalue.sizes)
        {'step': 1, 'pair': 4}
    """
    location = locate(store)
    attributes = read_group(location, KIND)
    if attributes.get("kind") != WATCHED:
        raise StoreError(f"{location} is no {KIND}. Make one with: hessian train --watch 200")
    check_seal(attributes, location, KIND)
    try:
        group = json.loads(location.read(ROOT))["consolidated_metadata"]["metadata"]
        arrays = {
            name: ArrayMetadata.model_validate_json(json.dumps(found))
            for name, found in group.items()
        }
        objects = location.open()
        objects.object_bytes = {name: array.object_bytes for name, array in arrays.items()}
        opened: xr.Dataset = xr.open_zarr(objects, consolidated=True, zarr_format=3)
        phases, terms = list(map(str, attributes["phases"])), list(map(str, attributes["terms"]))
        opened = opened.assign_coords(phase=(FIRST, phases), term=terms)
        # A file that is missing is read as -1.
        if (opened[FIRST].to_numpy() < 0).any() or not np.isfinite(opened["theta"]).all():
            raise StoreError(f"{location} is damaged: files of it are missing. Train again.")
    except StoreError:
        raise
    # Damaged files surface as whatever Zarr and xarray make of them.
    except Exception as error:
        raise StoreError(
            f"{location} cannot be opened as a {KIND} ({type(error).__name__}: {error})."
        ) from error
    return opened

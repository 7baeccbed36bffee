"""Mending a store: metadata and inputs that are missing or damaged are written anew.

The metadata of arrays and the labels follow from the root's attributes, and these have a copy
beside the records. Inputs are the problem's, if theirs is the recorded checksum. Block rows need
nothing of this: what of them is damaged is computed again.
"""

from __future__ import annotations

import warnings
from typing import Any

from hessian_tasks.frozen import FrozenInputs
from hessian_tasks.parameters import ParameterLayout
from pipeline.errors import StoreError, StoreWarning
from pipeline.store.arrays import Content, read_array
from pipeline.store.metadata import COPY, LATER, Attributes, expected_arrays, read_attributes
from pipeline.store.places import Location, Place, locate
from pipeline.store.places.chunks import checksum
from pipeline.store.places.location import ROOT
from pipeline.store.seal import group_json, is_sealed
from pipeline.store.store import HessianStore
from pipeline.store.template import input_contents, label_contents

__all__ = ["open_mended", "repair"]


def open_mended(place: Place) -> HessianStore:
    """Open a store, and if that fails, mend what can be mended without the problem.

    Raises:
        StoreError: If there is none, or it cannot be mended, or another run is at work on it.
    """
    location = locate(place)
    try:
        return HessianStore(location)
    except StoreError:
        if not location.exists():
            raise
    with location.locked():
        repair(location)
    return HessianStore(location)


def repair(location: Location, frozen: FrozenInputs | None = None) -> list[str]:
    """Write anew what of a store's metadata and inputs is not as it was written.

    Warns of what that was. Whoever calls has the lock.

    Args:
        location: Where the store is.
        frozen: Inputs of its problem, if they are at hand.

    Returns:
        Keys of what was written.

    Raises:
        StoreError: If neither the attributes nor their copy can be read, or it cannot be written.
    """
    checked, attributes = _read_either(location)
    if checked.input_arrays is None:
        return []  # from before one followed from the other
    wanted = _metadata(location, checked, attributes)
    contents = label_contents(ParameterLayout.from_json(attributes["parameters"]))
    if frozen is not None:
        contents |= input_contents(frozen)
    wanted |= _objects(location, checked, contents)
    with location.writing():
        for key, data in wanted.items():
            location.write(key, data)
    if wanted:
        warnings.warn(
            f"{location}: missing or damaged, and written anew: {', '.join(wanted)}",
            StoreWarning,
            stacklevel=2,
        )
    return list(wanted)


def _read_either(location: Location) -> tuple[Attributes, dict[str, Any]]:
    """The attributes, or else their copy."""
    try:
        return read_attributes(location)
    except StoreError as error:
        try:
            return read_attributes(location, COPY)
        except StoreError:
            raise StoreError(
                f"{error} The copy of its attributes, {COPY}, is not readable either, so that "
                "nobody can tell what is in it. Compute it again, into another --store."
            ) from error


def _metadata(
    location: Location, checked: Attributes, attributes: dict[str, Any]
) -> dict[str, bytes]:
    """Metadata that are not as they should be, by their keys."""
    created = {key: value for key, value in attributes.items() if key not in LATER}
    wanted = {}
    if not _reads(location, ROOT):
        wanted[ROOT] = group_json(attributes)
    if not _reads(location, COPY):
        wanted[COPY] = group_json(created)
    for name, array in expected_arrays(checked).items():
        try:
            found = read_array(location, name)
        except StoreError:
            found = None
        if found != array:
            wanted[f"{name}/{ROOT}"] = array.to_json()
    return wanted


def _reads(location: Location, key: str) -> bool:
    try:
        return is_sealed(read_attributes(location, key)[1])
    except StoreError:
        return False


def _objects(
    location: Location, checked: Attributes, contents: dict[str, Content]
) -> dict[str, bytes]:
    """Objects that are not there as recorded, and can be, by their keys."""
    wanted = {}
    for name, content in contents.items():
        for key, data in content.objects(name).items():
            recorded = checked.checksums.get(key)
            if checksum(data) == recorded and _stored(location, key, len(data)) != recorded:
                wanted[key] = data
    return wanted


def _stored(location: Location, key: str, limit: int) -> int | None:
    try:
        return checksum(location.read(key, limit))
    except (FileNotFoundError, StoreError):
        return None

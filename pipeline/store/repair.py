"""Mending a store: metadata and inputs that are missing or damaged are written anew.

The metadata of arrays and the labels follow from the root's attributes, and these have a copy
beside the records. Inputs are the problem's, if theirs is the recorded checksum. Block rows need
nothing of this: what of them is damaged is computed again.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping
from typing import Any, TypeAlias

from hessian_tasks.frozen import FrozenInputs
from hessian_tasks.parameters import ParameterLayout
from pipeline.errors import StoreError, StoreWarning
from pipeline.store.agreement import differences
from pipeline.store.arrays import Content, encode, read_array
from pipeline.store.below import check_one
from pipeline.store.expected import expected_arrays
from pipeline.store.metadata import COPY, LATER, Attributes, SelfCheck, read_attributes, template_of
from pipeline.store.places import Location, Place, locate
from pipeline.store.places.chunks import checksum
from pipeline.store.places.location import ROOT
from pipeline.store.records import GROUP, BlockRecord
from pipeline.store.seal import group_json
from pipeline.store.store import HessianStore
from pipeline.store.template import input_contents, label_contents

__all__ = ["open_mended", "repair"]


# Attributes, checked, and as they are.
Read: TypeAlias = tuple[Attributes, dict[str, Any]]


def open_mended(place: Place) -> HessianStore:
    """Open a store that is to be computed; if that fails, mend what needs no problem first.

    Raises:
        StoreError: If there is none, or it cannot be mended, or another run is at work on it.
    """
    location = locate(place)
    try:
        return HessianStore(location, warn=False)
    except StoreError:
        if not location.exists():
            raise
    with location.locked():
        repair(location)
    return HessianStore(location, warn=False)


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
    there = _readable(location)
    checked, attributes = _own(location, there)
    if checked.input_arrays is None:
        return []  # from before one followed from the other
    wanted = _attributes(attributes, there) | _arrays(location, checked)
    contents = label_contents(ParameterLayout.from_json(attributes["parameters"]))
    if frozen is not None and not differences(attributes["fingerprint"], frozen.fingerprint()):
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


def _readable(location: Location) -> dict[str, Read]:
    """The attributes and their copy, as far as they can be read, by their keys.

    Raises:
        StoreError: If neither can.
    """
    found = {}
    for key in (ROOT, COPY):
        try:
            found[key] = read_attributes(location, key)
        except StoreError as error:
            failure = error
    if not found:
        check_one(location)
        raise StoreError(
            f"{failure} The copy of its attributes, {COPY}, is not readable either, so that "
            "nobody can tell what is in it. Compute it again, into another --store."
        )
    return found


def _own(location: Location, there: Mapping[str, Read]) -> Read:
    """Those that the records belong to, where attributes and copy are of two stores."""
    if len({template_of(attributes) for _, attributes in there.values()}) > 1:
        templates = _templates(location)
        for checked, attributes in there.values():
            if template_of(attributes) in templates:
                return checked, attributes
    return next(iter(there.values()))


def _templates(location: Location) -> set[int | None]:
    """Which stores the records say that they belong to."""
    found: set[int | None] = set()
    for name in location.children(GROUP):
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            found.add(BlockRecord.from_json(location.read(f"{GROUP}/{name}/{ROOT}")).template)
    return found


def _attributes(attributes: dict[str, Any], there: Mapping[str, Read]) -> dict[str, bytes]:
    """The attributes and their copy where these are not there, by their keys."""
    created = {key: value for key, value in attributes.items() if key not in LATER}
    template = template_of(attributes)
    # What a run or a verification has found is in the root alone.
    lost = {**created, "self_check": SelfCheck.lost().model_dump()}
    written = {ROOT: lost, COPY: created}
    intact = {key for key, read in there.items() if template_of(read[1]) == template}
    return {key: group_json(value) for key, value in written.items() if key not in intact}


def _arrays(location: Location, checked: Attributes) -> dict[str, bytes]:
    """Metadata of arrays that are not those that follow from the attributes, by their keys."""
    wanted = {}
    for name, array in expected_arrays(checked).items():
        try:
            found = read_array(location, name)
        except StoreError:
            found = None
        if found != array:
            wanted[f"{name}/{ROOT}"] = array.to_json()
    return wanted


def _objects(
    location: Location, checked: Attributes, contents: dict[str, Content]
) -> dict[str, bytes]:
    """Objects that are not there as recorded, and can be, by their keys."""
    wanted = {}
    for key, data in encode(contents).items():
        recorded = checked.checksums.get(key)
        if checksum(data) == recorded and _stored(location, key, len(data)) != recorded:
            wanted[key] = data
    return wanted


def _stored(location: Location, key: str, limit: int) -> int | None:
    try:
        return checksum(location.read(key, limit))
    except (FileNotFoundError, StoreError):
        return None

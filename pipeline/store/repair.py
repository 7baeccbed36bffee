"""Mending a store: metadata and inputs that are missing or damaged are written anew.

The metadata of arrays and the labels follow from the root's attributes, and these have a copy
beside the records. Inputs are the problem's, if theirs is the recorded checksum. Block rows need
nothing of this: what of them is damaged is computed again.
"""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

from hessian_tasks.frozen import FrozenInputs
from hessian_tasks.parameters import ParameterLayout
from pipeline.errors import StoreError, StoreWarning
from pipeline.store.agreement import differences
from pipeline.store.arrays import Content, read_array
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
    checked, attributes = _read_either(location)
    if checked.input_arrays is None:
        return []  # from before one followed from the other
    wanted = _metadata(location, checked, attributes)
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


def _read_either(location: Location) -> tuple[Attributes, dict[str, Any]]:
    """The attributes, or else their copy: those that the records belong to, if there are any."""
    found = []
    for key in (ROOT, COPY):
        try:
            found.append(read_attributes(location, key))
        except StoreError as error:
            failure = error
    if not found:
        raise StoreError(
            f"{failure} The copy of its attributes, {COPY}, is not readable either, so that "
            "nobody can tell what is in it. Compute it again, into another --store."
        )
    templates = _templates(location) if len(found) == 2 else set()
    own = [each for each in found if template_of(each[1]) in templates]
    return (own or found)[0]


def _templates(location: Location) -> set[int | None]:
    """Which stores the records say that they belong to."""
    found: set[int | None] = set()
    for name in location.children(GROUP):
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            found.add(BlockRecord.from_json(location.read(f"{GROUP}/{name}/{ROOT}")).template)
    return found


def _metadata(
    location: Location, checked: Attributes, attributes: dict[str, Any]
) -> dict[str, bytes]:
    """Metadata that are not as they should be, by their keys."""
    created = {key: value for key, value in attributes.items() if key not in LATER}
    wanted = {}
    if not _is_of(location, ROOT, attributes):
        # What a run or a verification has found is in the root alone.
        lost = SelfCheck.lost().model_dump()
        wanted[ROOT] = group_json({**created, "self_check": lost})
    if not _is_of(location, COPY, attributes):
        wanted[COPY] = group_json(created)
    for name, array in expected_arrays(checked).items():
        try:
            found = read_array(location, name)
        except StoreError:
            found = None
        if found != array:
            wanted[f"{name}/{ROOT}"] = array.to_json()
    return wanted


def _is_of(location: Location, key: str, attributes: dict[str, Any]) -> bool:
    """Whether the attributes there are those of the same store."""
    try:
        return template_of(read_attributes(location, key)[1]) == template_of(attributes)
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

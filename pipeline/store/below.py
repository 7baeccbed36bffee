"""Places that hold stores rather than being one, as that of the blocks of layers.

Each store in it is whole by itself, and says of what problem it is and which weights it leaves
out; nothing beside them has to be kept in step.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterable

from hessian_tasks.parameters import ParameterLayout, owner_of
from pipeline.errors import StoreError
from pipeline.store.metadata import read_attributes
from pipeline.store.places import Location
from pipeline.store.places.location import ROOT
from pipeline.text import shown_names

__all__ = ["SUFFIX", "check_one", "is_store", "layers_of", "recorded_layers", "stores_below"]

# Of the names of stores.
SUFFIX = ".zarr"


def is_store(location: Location) -> bool:
    """Whether there is a group of Zarr, and not only a directory.

    Raises:
        StoreError: If that cannot be found out.
    """
    try:
        location.read(ROOT)
    except FileNotFoundError:
        return False
    return True


def stores_below(location: Location) -> list[Location]:
    """The stores directly below a place, by their names.

    Raises:
        StoreError: If that cannot be found out.
    """
    names = sorted(name for name in location.children("") if name.endswith(SUFFIX))
    return [store for store in map(location.below, names) if is_store(store)]


def recorded_layers(stores: Iterable[Location]) -> list[str]:
    """:func:`layers_of` the first store that can be read; nothing if none can."""
    for store in stores:
        with contextlib.suppress(StoreError):
            _, attributes = read_attributes(store)
            table, held = attributes["parameters"], attributes.get("held", [])
            return layers_of(ParameterLayout.from_json(table, held))
    return []


def layers_of(layout: ParameterLayout) -> list[str]:
    """The layer of every weight that could be trained, in their order, whether it is in θ or not.

    Example:
        >>> from hessian_tasks.parameters import Held
        >>> theta = ParameterLayout.of([("b/kernel", (3,)), ("b/bias", ())])
        >>> layers_of(ParameterLayout(theta.variables, (Held(0, "a/kernel", (2,)),)))
        ['a', 'b', 'b']
    """
    held = {weight.position: owner_of(weight.path) for weight in layout.held}
    own = iter(variable.owner for variable in layout.variables)
    count = len(layout.held) + len(layout.variables)
    return [held[place] if place in held else next(own) for place in range(count)]


def check_one(location: Location) -> None:
    """Refuse a place that is no store, but has some in it.

    Raises:
        StoreError: Naming them.
    """
    stores = [] if is_store(location) else stores_below(location)
    if stores:
        raise StoreError(
            f"{location} is not a store, but holds {len(stores)}: "
            f"{shown_names(store.name for store in stores)}. Name one of them, as {stores[0]}; how "
            f"far they all are says: hessian status {shlex.quote(str(location))}"
        )

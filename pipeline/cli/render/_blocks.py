"""What is said of the blocks of layers: what they would cost, and how far they are."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.cli.render._runs import plan_data, state, status_data
from pipeline.cli.render._table import columns
from pipeline.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from pipeline.run.by_layer import PlannedBlock
    from pipeline.store.places import Location

__all__ = ["planned_blocks", "planned_blocks_data", "stores", "stores_data"]


def planned_blocks(found: Sequence[PlannedBlock]) -> str:
    """A line a layer, the totals, and why what does not fit does not, for people."""
    rows = [("layer", "parameters", "stored", "memory", "time", "advice")]
    for planned in found:
        block, plan = planned.block, planned.plan
        cost = ("", "") if plan is None else _cost(plan.projected_bytes, plan.projected_seconds)
        size = format_bytes(planned.stored_bytes)
        rows.append((block.layer, f"{block.num_params:,}", size, *cost, _advice(planned)))
    fitting = [planned for planned in found if not planned.obstacle]
    for name, chosen in {"all": found, "that fit": fitting}.items():
        plans = [planned.plan for planned in chosen if planned.plan is not None]
        cost = ("", "")
        if plans and len(plans) == len(chosen):
            most = max(plan.projected_bytes for plan in plans)
            cost = _cost(most, sum(plan.projected_seconds for plan in plans))
        size = format_bytes(sum(planned.stored_bytes for planned in chosen))
        count = f"{sum(planned.block.num_params for planned in chosen):,}"
        if name == "all" or len(chosen) < len(found):
            rows.append((name, count, size, *cost, ""))
    lines = [f"{p.block.layer} does not fit: {p.obstacle}" for p in found if p.obstacle]
    if fitting and len(fitting) < len(found):
        names = shlex.quote(",".join(planned.block.layer for planned in fitting))
        lines.append(f"Time and memory of the others: hessian plan --only {names} --blocks layers")
    return "\n".join([columns(rows), *lines])


def _cost(num_bytes: int, seconds: float) -> tuple[str, str]:
    return format_bytes(num_bytes), format_seconds(seconds)


def _advice(planned: PlannedBlock) -> str:
    layer = shlex.quote(planned.block.layer)
    if not planned.obstacle:
        return f"hessian run --only {layer}"
    return f"hessian estimate --only {layer}"


def planned_blocks_data(found: Sequence[PlannedBlock]) -> dict[str, Any]:
    """The same for scripts; bytes and seconds."""
    layers = [
        {
            "layer": planned.block.layer,
            "store": str(planned.block.location),
            "num_params": planned.block.num_params,
            "stored_bytes": planned.stored_bytes,
            **({} if planned.plan is None else plan_data(planned.plan)),
            "stored_obstacle": planned.obstacle,
            "advice": _advice(planned),
        }
        for planned in found
    ]
    total = sum(planned.stored_bytes for planned in found)
    return {"layers": layers, "stored_bytes": total, "fits": not any(p.obstacle for p in found)}


def stores(place: Location) -> str:
    """How far the stores in a directory are, and which layers have none yet, for people."""
    data = stores_data(place)
    rows = [("store", "parameters", "block rows", "state")]
    for name, found in data["stores"].items():
        if "error" in found:
            rows.append((name, "", "", "cannot be read: hessian info says why"))
            continue
        done = f"{found['num_stored']} of {found['num_block_rows']}"
        rows.append((name, f"{found['num_params']:,}", done, found["state"]))
    text = columns(rows)
    if data["without_store"]:
        text += f"\nwithout a store: {', '.join(data['without_store'])}"
    return text


def stores_data(place: Location) -> dict[str, Any]:
    """The same for scripts."""
    from pipeline.errors import StoreError
    from pipeline.store.below import layers_of, stores_below
    from pipeline.store.store import HessianStore

    found: dict[str, Any] = {}
    every: list[list[str]] = []
    own: set[str] = set()
    for location in stores_below(place):
        try:
            store = HessianStore(location, warn=False)
        except StoreError as error:
            found[location.name] = {"error": str(error)}
            continue
        found[location.name] = {**status_data(store), "state": state(store)}
        every.append(layers_of(store.layout))
        own |= set(store.layout.layers())
    # Of one problem, or of several that happen to lie side by side.
    together = all(layers == every[0] for layers in every)
    known = dict.fromkeys(every[0]) if every and together else {}
    return {"stores": found, "without_store": [layer for layer in known if layer not in own]}

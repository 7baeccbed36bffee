"""The diagonal blocks of the layers of a matrix: a store each, in one directory.

The block of a layer is the whole matrix of the loss as a function of that layer's weights, so that
each is an ordinary run with θ in one layer, and its store an ordinary store. Σ P_l² entries in
place of (Σ P_l)².
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hessian_tasks.frozen import FrozenInputs
from hessian_tasks.networks.by_layer import problems_by_layer
from hessian_tasks.rebuild import freeze
from hessian_tasks.source import ProblemSource
from pipeline.errors import DoesNotFitError, PlanError, StoreError
from pipeline.run.inputs import load_source
from pipeline.run.options import RunOptions
from pipeline.run.plan import Plan
from pipeline.run.prepare import find_obstacle, kept_options, least_bytes, prepare
from pipeline.store.below import SUFFIX, is_store, recorded_layers, stores_below
from pipeline.store.places import Location, Place, locate
from pipeline.store.store import HessianStore
from pipeline.text import shown_names
from pipeline.units import format_bytes

__all__ = ["LayerBlock", "PlannedBlock", "freeze_blocks", "missing_blocks", "plan_blocks"]


@dataclass(frozen=True)
class LayerBlock:
    """The diagonal block of one layer.

    Attributes:
        layer: The layer, as the store or the problem names it.
        location: Its store, which may not exist yet.
        frozen: The inputs, with θ in this layer.
    """

    layer: str
    location: Location
    frozen: FrozenInputs

    @property
    def num_params(self) -> int:
        """Rows of the block."""
        return len(self.frozen.theta)

    def fit(self, options: RunOptions) -> RunOptions:
        """Options with tiles no larger than the block, where their side is given."""
        tile = None if options.tile is None else min(options.tile, self.num_params)
        return replace(options, tile=tile)


@dataclass(frozen=True)
class PlannedBlock:
    """What a block would cost.

    Attributes:
        block: The block.
        stored_bytes: Of its matrices, without padding.
        plan: How it would be computed, or None if that was not tried.
        obstacle: Why not; empty if it does.
    """

    block: LayerBlock
    stored_bytes: int
    plan: Plan | None
    obstacle: str


def freeze_blocks(
    source: ProblemSource,
    place: Place,
    weights: str | Path | None = None,
    *,
    take_network: bool = False,
    only: Sequence[str] | None = None,
) -> list[LayerBlock]:
    """The blocks of a problem, in the order of θ.

    Args:
        source: Where the problem comes from.
        place: The directory, or prefix, of their stores.
        weights: As :func:`~pipeline.run.inputs.freeze_source` takes them, and the following.
        take_network: Likewise.
        only: Likewise; then the blocks are those of the layers of what it names.

    Raises:
        ProblemError: If the problem or its weights cannot be used.
        PlanError: If two layers would have one store.
        StoreError: If ``place`` is a store, or has stores of other layers in it.
    """
    location = locate(place)
    if is_store(location):
        raise StoreError(
            f"{location} is a store of one matrix. The blocks of layers have a store each, in a "
            "directory: give another --store."
        )
    problem = load_source(source, weights, take_network=take_network, only=only)
    inputs = {name: freeze(part, source) for name, part in problems_by_layer(problem).items()}
    return _placed(location, inputs)


def _placed(location: Location, inputs: dict[str, FrozenInputs]) -> list[LayerBlock]:
    """Blocks where they are, or are to be; layers are called what the stores call them.

    Keras counts the names that it gives layers on with every network that a process builds.
    """
    there = stores_below(location)
    recorded = recorded_layers(there)
    blocks = []
    for own, frozen in inputs.items():
        held = {weight.position for weight in frozen.layout.held}
        count = len(held) + len(frozen.layout.variables)
        first = min(set(range(count)) - held)
        layer = recorded[first] if len(recorded) == count else own
        name = layer.replace("/", ".")
        blocks.append(LayerBlock(layer, location.below(f"{name}{SUFFIX}"), frozen))
    _check_names(location, blocks, there)
    return blocks


def _check_names(location: Location, blocks: list[LayerBlock], there: list[Location]) -> None:
    names = [block.location.name for block in blocks]
    (name, count), *_ = Counter(names).most_common(1)
    if count > 1:
        both = shown_names(block.layer for block in blocks if block.location.name == name)
        raise PlanError(f"The layers {both} would both be stored as {name}. Rename one of them.")
    others = [store.name for store in there if store.name not in names]
    if others:
        raise StoreError(
            f"{location} has stores of something else in it: {shown_names(others)}. The problem's "
            f"layers are {shown_names(block.layer for block in blocks)}. Give another --store."
        )


def missing_blocks(blocks: Sequence[LayerBlock], options: RunOptions) -> list[LayerBlock]:
    """The blocks that are not complete, once it is clear that all of them can be stored.

    Raises:
        StoreMismatchError: If a store was made from other inputs, or contradicts the options.
        DoesNotFitError: If blocks do not fit, each or together; nothing was computed.
    """
    missing = [block for block in blocks if not _complete(block, options)]
    new = [block for block in missing if not is_store(block.location)]
    obstacles = {b.layer: find_obstacle(b.frozen, options, b.location) for b in new}
    unfit = [block for block in new if obstacles[block.layer]]
    if unfit:
        sizes = "; ".join(
            f"{block.layer}, {block.num_params:,} parameters, takes "
            f"{format_bytes(least_bytes(block.frozen, options))}: {obstacles[block.layer]}"
            for block in unfit
        )
        raise DoesNotFitError(f"Nothing was computed. {sizes}. {_advice(blocks, unfit)}")
    needed = sum(least_bytes(block.frozen, options) for block in new)
    free = new[0].location.free_bytes() if new else None
    if free is not None and needed > free:
        raise DoesNotFitError(
            f"Nothing was computed. The blocks of {shown_names(b.layer for b in new)} together "
            f"take {format_bytes(needed)}, but only {format_bytes(free)} are free. Name some of "
            "them with --only, or choose another --store."
        )
    return missing


def _advice(blocks: Sequence[LayerBlock], unfit: Sequence[LayerBlock]) -> str:
    rest = shlex.quote(",".join(block.layer for block in blocks if block not in unfit))
    others = len(unfit) < len(blocks)
    first = f"Compute the others with --only {rest} --blocks layers. " if others else ""
    return (
        f"{first}Of these, products answer without the matrix: hessian estimate --only "
        f"{shlex.quote(unfit[0].layer)}"
    )


def _complete(block: LayerBlock, options: RunOptions) -> bool:
    """Whether a block's store holds it, checked; what cannot be opened its run mends or refuses."""
    if not is_store(block.location):
        return False
    try:
        store = HessianStore(block.location, warn=False)
    except StoreError:
        return False
    store.check_inputs(block.frozen)
    kept_options(store, block.fit(options))
    check = store.self_check
    return check is not None and check.passed and not store.pending()


def plan_blocks(blocks: Sequence[LayerBlock], options: RunOptions) -> list[PlannedBlock]:
    """What each block would cost; a few rows are tried if all fit, which takes long beside others.

    Raises:
        PlanError: If the engine, the tile side or the like does not apply.
    """
    obstacles = [find_obstacle(block.frozen, options, block.location) for block in blocks]
    found = []
    for block, obstacle in zip(blocks, obstacles, strict=True):
        plan = None
        if not any(obstacles):
            try:
                plan = prepare(block.frozen, block.fit(options), None).plan
            except DoesNotFitError as error:
                obstacle = str(error)
        found.append(PlannedBlock(block, least_bytes(block.frozen, options), plan, obstacle))
    return found

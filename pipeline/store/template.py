"""The template: a store's metadata and inputs, written before any block row.

Only the client that starts a run writes metadata. The template is made in memory, so that a
store is put in place whole or not at all, wherever that is.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import Crc32cCodec
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from hessian_tasks.frozen import FrozenInputs, FrozenTerm
from hessian_tasks.networks.fixed import FixedParts
from hessian_tasks.spec import EngineChoice, matrix_of
from pipeline.store import records
from pipeline.store.metadata import FORMAT_VERSION
from pipeline.store.names import array_names, jacobian_name
from pipeline.store.places import Location
from pipeline.store.tiling import Tiling, residual_chunk

__all__ = ["create_template", "describe_inputs", "save_array", "save_inputs"]

PACKAGES = ("dask", "hessian-pipeline", "keras", "numpy", "tensorflow", "zarr")


def create_template(
    location: Location,
    frozen: FrozenInputs,
    tiling: Tiling,
    choice: EngineChoice,
    fixed: FixedParts | None = None,
) -> None:
    """Create the store of a run: attributes, inputs, and matrices full of NaN.

    Args:
        location: Where; there must be none.
        frozen: The inputs.
        tiling: The tile side, and which arrays there are.
        choice: The engine, fixed for the life of the store, and which Jacobians it brings.
        fixed: What of the network is not trained, if that is known.

    Raises:
        StoreError: If it cannot be written; no store is left behind.
    """
    objects: dict[str, Buffer] = {}
    extra = {} if fixed is None else {"fixed": asdict(fixed)}
    _write(MemoryStore(objects), frozen, tiling, choice, extra)
    location.create({key: value.to_bytes() for key, value in objects.items()})


def _write(
    store: MemoryStore,
    frozen: FrozenInputs,
    tiling: Tiling,
    choice: EngineChoice,
    extra: Mapping[str, Any],
) -> None:
    chosen = frozen.terms if tiling.per_term else ()
    terms = [term.name for term in chosen if term.name not in choice.left_out]
    names = array_names(matrix_of(choice.name).name, terms)
    attributes = {**_attributes(frozen, tiling, choice, names), **extra}
    root = zarr.create_group(store, zarr_format=3, attributes=attributes)
    root.create_group(records.GROUP)
    _reserve(root, frozen, tiling, choice, names)
    save_inputs(root, frozen)
    _save_labels(root, frozen)


def _reserve(
    root: zarr.Group,
    frozen: FrozenInputs,
    tiling: Tiling,
    choice: EngineChoice,
    names: Mapping[str | None, str],
) -> None:
    num_params, tile, dtype = frozen.layout.num_params, tiling.tile, frozen.dtype
    create = partial(
        root.create_array,
        dtype=dtype,
        # Missing entries must never pass for numbers.
        fill_value=np.nan,
        compressors=Crc32cCodec(),
    )
    for name in names.values():
        square = (num_params, num_params)
        create(name, shape=square, chunks=(tile, tile), dimension_names=("row", "col"))
    for residuals in choice.residuals:
        create(
            jacobian_name(residuals.term),
            shape=(residuals.count, num_params),
            chunks=(residual_chunk(residuals.count, tile, dtype.itemsize), tile),
            dimension_names=(f"{residuals.term}_residual", "col"),
            # The matrix of the term is factor JᵀJ.
            attributes={
                "factor": residuals.factor,
                "num_components": residuals.num_components,
            },
        )


def save_inputs(root: zarr.Group, frozen: FrozenInputs) -> None:
    """Write the inputs' arrays into a group."""
    save_array(root, "theta", frozen.theta, ("row",))
    save_array(root, "gradient", frozen.gradient, ("row",))
    save_array(root, "state", frozen.state, ("state",))
    for term in frozen.terms:
        for key, array in term.arrays.items():
            axes = tuple(f"{term.name}_{key}_{axis}" for axis in range(array.ndim))
            save_array(root, f"{term.name}_{key}", array, axes)


def save_array(
    root: zarr.Group, name: str, data: npt.NDArray[Any], axes: tuple[str, ...], **options: Any
) -> None:
    """Write an array into a group, as one chunk unless the options of Zarr say otherwise."""
    array = root.create_array(
        name,
        shape=data.shape,
        dtype=data.dtype,
        compressors=Crc32cCodec(),
        dimension_names=axes,
        **{"chunks": tuple(max(1, size) for size in data.shape), **options},
    )
    array[...] = data


def _save_labels(root: zarr.Group, frozen: FrozenInputs) -> None:
    # Codes with names in the attributes, as in the CF conventions: Zarr's strings
    # have no stable specification yet.
    layout = frozen.layout
    meanings = {
        "layer": layout.layers(),
        "variable": [v.name for v in layout.variables],
        "index": None,
    }
    for key, codes in layout.labels().items():
        names = meanings[key]
        options = {} if names is None else {"attributes": {"flag_meanings": names}}
        for dimension in ("row", "col"):
            save_array(root, f"{dimension}_{key}", codes, (dimension,), **options)


def _attributes(
    frozen: FrozenInputs, tiling: Tiling, choice: EngineChoice, names: Mapping[str | None, str]
) -> dict[str, Any]:
    title = matrix_of(choice.name).title
    labels = [f"{d}_{key}" for d in ("row", "col") for key in ("layer", "variable", "index")]
    return {
        "title": f"{title} of a training loss with respect to all trainable weights",
        "format_version": FORMAT_VERSION,
        "coordinates": " ".join(labels),
        "engine": choice.name,
        "engine_reason": choice.reason,
        "readings": dict(choice.readings),
        "left_out": [{"term": term, "reason": why} for term, why in choice.left_out.items()],
        "tile": tiling.tile,
        "arrays": [{"name": name, "term": term} for term, name in names.items()],
        "jacobians": [{"name": jacobian_name(r.term), "term": r.term} for r in choice.residuals],
        **describe_inputs(frozen),
    }


def describe_inputs(frozen: FrozenInputs) -> dict[str, Any]:
    """The inputs beside their arrays, and where and when they are recorded, as JSON data."""
    return {
        "loss": frozen.loss,
        "terms": [_describe(term) for term in frozen.terms],
        "network_inputs": list(frozen.coordinates),
        "parameters": frozen.layout.to_json(),
        "held": frozen.layout.held_to_json(),
        "model_config": frozen.model_config,
        "fingerprint": frozen.fingerprint(),
        "source": {
            "reference": frozen.source.reference,
            "options": json.loads(json.dumps(dict(frozen.source.options), default=repr)),
            "digest": frozen.source_digest,
            "text": frozen.source.text,
        },
        "provenance": _provenance(),
    }


def _describe(term: FrozenTerm) -> dict[str, Any]:
    return {
        "name": term.name,
        "kind": term.kind,
        "weight": term.weight,
        "loss": term.loss,
        "arrays": list(term.arrays),
    }


def _provenance() -> dict[str, Any]:
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "packages": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
    }

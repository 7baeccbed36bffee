"""The template: a store's metadata and inputs, written before any block row.

Only the client that starts a run writes metadata. The template is made in memory, so that a
store is put in place whole or not at all, wherever that is. Its attributes decide the metadata of
all arrays and list the checksums of all inputs; a copy of them lies with the records, so that
either can be written anew from the other.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from pydantic import ValidationError

from hessian_tasks.frozen import FrozenInputs, FrozenTerm
from hessian_tasks.networks.fixed import FixedParts
from hessian_tasks.parameters import ParameterLayout
from hessian_tasks.spec import EngineChoice
from pipeline.errors import StoreError
from pipeline.store.arrays import Content, encode
from pipeline.store.expected import expected_arrays, label_attributes
from pipeline.store.metadata import AXES, COPY, FORMAT_VERSION, LABEL_ARRAYS, Attributes
from pipeline.store.names import array_names, jacobian_name
from pipeline.store.places import Location
from pipeline.store.places.chunks import checksum
from pipeline.store.places.location import ROOT
from pipeline.store.seal import group_json
from pipeline.store.tiling import Tiling
from pipeline.store.trust import recorded_options
from pipeline.store.vetting import first_error

__all__ = ["create_template", "describe_inputs", "input_contents", "label_contents"]

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
        StoreError: If it cannot be written, or arrays would have the same name; no store is left
            behind.
    """
    objects = encode({**input_contents(frozen), **label_contents(frozen.layout)})
    attributes = _attributes(frozen, tiling, choice) | describe_inputs(frozen, objects)
    if fixed is not None:
        attributes["fixed"] = asdict(fixed)
    try:
        checked = Attributes.model_validate_json(json.dumps(attributes))
    except ValidationError as error:
        raise StoreError(f"{location} cannot be made: {first_error(error)}.") from error
    arrays = {f"{n}/{ROOT}": array.to_json() for n, array in expected_arrays(checked).items()}
    root = group_json(attributes)
    location.create({ROOT: root, COPY: root, **arrays, **objects})


def input_contents(frozen: FrozenInputs) -> dict[str, Content]:
    """The inputs' arrays, by name."""
    found = {
        "theta": Content(frozen.theta, ("row",)),
        "gradient": Content(frozen.gradient, ("row",)),
        "state": Content(frozen.state, ("state",)),
    }
    for term in frozen.terms:
        for key, array in term.arrays.items():
            axes = tuple(f"{term.name}_{key}_{axis}" for axis in range(array.ndim))
            found[f"{term.name}_{key}"] = Content(array, axes)
    return found


def label_contents(layout: ParameterLayout) -> dict[str, Content]:
    """The labels of rows and columns, by name."""
    # Codes with names in the attributes, as in the CF conventions: Zarr's strings
    # have no stable specification yet.
    return {
        f"{axis}_{key}": Content(codes, (axis,), attributes=label_attributes(layout, key))
        for key, codes in layout.labels().items()
        for axis in AXES
    }


def _attributes(frozen: FrozenInputs, tiling: Tiling, choice: EngineChoice) -> dict[str, Any]:
    chosen = frozen.terms if tiling.per_term else ()
    terms = [term.name for term in chosen if term.name not in choice.left_out]
    names = [pair for m in choice.matrices for pair in array_names(m.name, terms).items()]
    titles = " and ".join(matrix.title for matrix in choice.matrices)
    return {
        "title": f"{titles} of a training loss with respect to all trainable weights",
        "format_version": FORMAT_VERSION,
        "coordinates": " ".join(LABEL_ARRAYS),
        "engine": choice.name,
        "engine_reason": choice.reason,
        "readings": dict(choice.readings),
        "left_out": [{"term": term, "reason": why} for term, why in choice.left_out.items()],
        "tile": tiling.tile,
        "arrays": [{"name": name, "term": term} for term, name in names],
        "jacobians": [{"name": jacobian_name(r.term), **asdict(r)} for r in choice.residuals],
        "data_type": frozen.dtype.name,
    }


def describe_inputs(frozen: FrozenInputs, objects: Mapping[str, bytes]) -> dict[str, Any]:
    """The inputs beside their arrays, and where and when they are recorded, as JSON data.

    Args:
        frozen: The inputs.
        objects: What is written of arrays with them, by key.
    """
    shapes = {
        name: {"shape": list(array.data.shape), "data_type": array.data.dtype.name}
        for name, array in input_contents(frozen).items()
    }
    return {
        "input_arrays": shapes,
        "checksums": {key: checksum(data) for key, data in objects.items()},
        "loss": frozen.loss,
        "rounding": asdict(frozen.rounding),
        "terms": [_describe(term) for term in frozen.terms],
        "network_inputs": list(frozen.coordinates),
        "parameters": frozen.layout.to_json(),
        "held": frozen.layout.held_to_json(),
        "model_config": frozen.model_config,
        "fingerprint": frozen.fingerprint(),
        "source": {
            "reference": frozen.source.reference,
            "options": recorded_options(frozen.source),
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

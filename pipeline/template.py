"""The template: a store's metadata and inputs, written before any block row.

Only the client that starts a run writes metadata. The template is made under a
temporary name and renamed, so that a store is there whole or not at all.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import ZstdCodec

from hessian_tasks.frozen import FrozenInputs, FrozenTerm
from hessian_tasks.spec import EngineChoice
from pipeline import records
from pipeline.plan import Plan

__all__ = ["FORMAT_VERSION", "array_names", "create_template"]

FORMAT_VERSION = 1
PACKAGES = ("dask", "hessian-pipeline", "keras", "numpy", "tensorflow", "zarr")


def array_names(terms: list[str]) -> dict[str | None, str]:
    """Names of the Hessian arrays: the total's (None) and each term's.

    Example:
        >>> array_names(["pde"])
        {None: 'hessian', 'pde': 'hessian_pde'}
    """
    return {None: "hessian", **{term: f"hessian_{term}" for term in terms}}


def create_template(path: Path, frozen: FrozenInputs, plan: Plan, choice: EngineChoice) -> None:
    """Create the store of a run: attributes, inputs, and Hessians full of NaN.

    Args:
        path: Where; must not exist.
        frozen: The inputs.
        plan: Gives the tile side and which arrays there are.
        choice: The engine, fixed for the life of the store.

    Raises:
        OSError: If it cannot be written; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for litter in path.parent.glob(f".{path.name}.*.creating"):  # of a killed run
        shutil.rmtree(litter, ignore_errors=True)
    half_made = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.creating")
    try:
        _write(half_made, frozen, plan, choice)
        half_made.rename(path)
    except BaseException:
        shutil.rmtree(half_made, ignore_errors=True)
        raise


def _write(path: Path, frozen: FrozenInputs, plan: Plan, choice: EngineChoice) -> None:
    per_term = plan.request.num_arrays > 1
    names = array_names([t.name for t in frozen.terms] if per_term else [])
    root = zarr.create_group(
        path, zarr_format=3, attributes=_attributes(frozen, plan, choice, names)
    )
    root.create_group(records.GROUP)
    for name in names.values():
        root.create_array(
            name,
            shape=(plan.request.num_params,) * 2,
            chunks=(plan.tile, plan.tile),
            dtype=frozen.dtype,
            # Missing entries must never pass for numbers. Plain zstd lets a flipped
            # bit through, hence its checksum.
            fill_value=np.nan,
            compressors=ZstdCodec(level=1, checksum=True),
            dimension_names=("row", "col"),
        )
    _save(root, "theta", frozen.theta, ("row",))
    _save(root, "gradient", frozen.gradient, ("row",))
    _save(root, "state", frozen.state, ("state",))
    for term in frozen.terms:
        for key, array in term.arrays.items():
            axes = tuple(f"{term.name}_{key}_{axis}" for axis in range(array.ndim))
            _save(root, f"{term.name}_{key}", array, axes)
    _save_labels(root, frozen)


def _save(
    root: zarr.Group, name: str, data: npt.NDArray[Any], axes: tuple[str, ...], **attributes: Any
) -> None:
    array = root.create_array(
        name,
        shape=data.shape,
        chunks=tuple(max(1, size) for size in data.shape),
        dtype=data.dtype,
        compressors=ZstdCodec(level=1, checksum=True),
        dimension_names=axes,
        attributes=attributes,
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
        attributes = {} if names is None else {"flag_meanings": names}
        for dimension in ("row", "col"):
            _save(root, f"{dimension}_{key}", codes, (dimension,), **attributes)


def _attributes(
    frozen: FrozenInputs, plan: Plan, choice: EngineChoice, names: Mapping[str | None, str]
) -> dict[str, Any]:
    labels = [f"{d}_{key}" for d in ("row", "col") for key in ("layer", "variable", "index")]
    return {
        "title": "Hessian of a training loss with respect to all trainable weights",
        "format_version": FORMAT_VERSION,
        "coordinates": " ".join(labels),
        "engine": choice.name,
        "engine_reason": choice.reason,
        "tile": plan.tile,
        "arrays": [{"name": name, "term": term} for term, name in names.items()],
        "loss": frozen.loss,
        "terms": [_describe(term) for term in frozen.terms],
        "network_inputs": list(frozen.coordinates),
        "parameters": frozen.layout.to_json(),
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
        "derivatives": list(term.derivatives),
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

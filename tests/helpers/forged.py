"""Stores that somebody has changed who knows how: what they say is sealed again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.store.metadata import COPY, LATER, template_of
from pipeline.store.seal import SEAL, group_json

ROOT = "zarr.json"


def forge(store: Path, edit: Callable[[dict[str, Any]], object], key: str = ROOT) -> None:
    """Change the attributes of a group, and seal them; copy and records follow the root."""
    attributes = json.loads((store / key).read_bytes())["attributes"]
    edit(attributes)
    (store / key).write_bytes(group_json(attributes))
    if key == ROOT and "input_arrays" in attributes:
        created = {name: value for name, value in attributes.items() if name not in LATER}
        (store / COPY).write_bytes(group_json(created))
        template = template_of(attributes)
        for record in store.glob(f"records/0*/{ROOT}"):
            name = str(record.relative_to(store))
            forge(store, lambda known: known.update(template=template), name)


def make_old(store: Path) -> None:
    """As if it had been written before there were seals, by an earlier version."""
    attributes = json.loads((store / ROOT).read_bytes())["attributes"]
    for key in (SEAL, "input_arrays", "checksums"):
        del attributes[key]
    write(store / ROOT, attributes)
    for record in store.glob(f"records/0*/{ROOT}"):
        known = json.loads(record.read_bytes())["attributes"]
        write(record, {key: known[key] for key in known if key not in (SEAL, "template")})


def write(file: Path, attributes: dict[str, Any]) -> None:
    group = {"attributes": attributes, "zarr_format": 3, "node_type": "group"}
    file.write_text(json.dumps(group))

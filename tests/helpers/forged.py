"""Stores that somebody has changed who knows how: what they say is sealed again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hessian_tasks.parameters import ParameterLayout
from pipeline.store.expected import expected_arrays
from pipeline.store.metadata import COPY, LATER, read_attributes, template_of
from pipeline.store.places import locate
from pipeline.store.places.chunks import checksum
from pipeline.store.seal import SEAL, group_json
from pipeline.store.template import label_contents

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


def forge_arrays(store: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change the attributes of a store, and the labels and metadata that follow from them."""

    def edit_labels(attributes: dict[str, Any]) -> None:
        edit(attributes)
        layout = ParameterLayout.from_json(attributes["parameters"])
        for name, content in label_contents(layout).items():
            for key, data in content.objects(name).items():
                (store / key).write_bytes(data)
                attributes["checksums"][key] = checksum(data)

    forge(store, edit_labels)
    for name, array in expected_arrays(read_attributes(locate(store))[0]).items():
        (store / name / ROOT).write_bytes(array.to_json())


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

"""Seals: a group's attributes carry a checksum of themselves.

An object of metadata has no codec that would find a flipped bit, and a number that is still one
after it is believed. A seal is no signature: whoever means to can make another, so that what is
sealed is what was written, and not yet the truth.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import google_crc32c

__all__ = ["SEAL", "group_json", "is_sealed", "sealed"]

SEAL = "checksum"


def sealed(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes with the CRC-32C of them, as JSON with sorted keys.

    Example:
        >>> sealed({"b": 1, "a": [2.5]})
        {'b': 1, 'a': [2.5], 'checksum': 489043339}
    """
    kept = {key: value for key, value in attributes.items() if key != SEAL}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"))
    return {**kept, SEAL: int(google_crc32c.value(text.encode()))}


def is_sealed(attributes: Mapping[str, Any]) -> bool:
    """Whether attributes are as they were sealed.

    Example:
        >>> is_sealed(sealed({"loss": 1.5})), is_sealed({**sealed({"loss": 1.5}), "loss": 1.25})
        (True, False)
    """
    return bool(attributes.get(SEAL) == sealed(attributes)[SEAL])


def group_json(attributes: Mapping[str, Any]) -> bytes:
    """The metadata of a Zarr group, its attributes sealed (Zarr v3, section "Group metadata")."""
    group = {"attributes": sealed(attributes), "zarr_format": 3, "node_type": "group"}
    return json.dumps(group, indent=2).encode()

"""Where stores are: directories and object storage, behind one interface.

- :mod:`~pipeline.store.places.location`: what everything above knows of a place;
- :mod:`~pipeline.store.places._directory`: a directory of a local or shared file system;
- :mod:`~pipeline.store.places._bucket`: a prefix of a bucket of object storage;
- :mod:`~pipeline.store.places._locks` and :mod:`~pipeline.store.places._lease`: how clients exclude
  each other in the one and the other;
- :mod:`~pipeline.store.places.chunks`: how entries become objects;
- :mod:`~pipeline.store.places.guard`: bounds on what is read from a place that others can write.
"""

from __future__ import annotations

import os
import posixpath
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote

from pipeline.errors import StoreError
from pipeline.store.places._bucket import SCHEMES, Bucket
from pipeline.store.places._directory import Directory, filling, free_bytes, writing
from pipeline.store.places.location import Location
from pipeline.text import path_obstacle, shown

__all__ = [
    "Bucket",
    "Directory",
    "Location",
    "Place",
    "filling",
    "free_bytes",
    "locate",
    "writing",
]

Place: TypeAlias = str | Path | Location
"""A store as users name it: a path, or an URL."""


def locate(place: Place) -> Location:
    """Where a path or an URL leads, from whatever directory this process works in later.

    Raises:
        StoreError: If no store can be there.

    Example:
        >>> str(locate("runs/poisson.zarr"))
        'runs/poisson.zarr'
        >>> locate("S3A://bucket//runs/../poisson%2Ezarr/")
        Bucket(url='s3://bucket/poisson.zarr')
    """
    if isinstance(place, Location):
        return place
    scheme, separator, rest = str(place).partition("://")
    if isinstance(place, Path) or not separator:
        return _local(str(place))
    if scheme == "file":
        return _local(rest)
    # Two spellings of one place have to be one, or two runs would not see each other.
    scheme = {"s3a": "s3"}.get(scheme.lower(), scheme.lower())
    bucket, _, path = rest.partition("/")
    path = posixpath.normpath(f"/{unquote(path)}").strip("/")
    # Without a path the whole bucket would be the store, with no place beside it.
    if scheme not in SCHEMES or not bucket or not path:
        raise StoreError(
            f"No store can be at {place}. Expected a path, or an URL like "
            f"s3://bucket/path/h.zarr, of {', '.join(SCHEMES)}."
        )
    return Bucket(f"{scheme}://{bucket}/{path}")


def _local(place: str) -> Directory:
    path, obstacle = Path(os.path.expanduser(place)), path_obstacle(place)
    if obstacle is None and path.name in ("", ".."):
        path = path.resolve()  # what lies beside the store is named after it
    if not place or obstacle is not None or not path.name:
        raise StoreError(
            f"No store can be at {shown(place)}: {obstacle or 'expected a path as runs/h.zarr'}."
        )
    return Directory(path)

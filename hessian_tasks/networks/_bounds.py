"""What a file of weights may make of memory: little more than its own size, and than the network's.

Archives, arrays and HDF5 datasets say how large they are before they are read, and a few bytes may
say anything. So what they say is added up first. Keras compresses no weights; nothing that is
compressed in HDF5 is read, since its filters write on past what a dataset says of itself.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import h5py
import keras
import numpy as np

from hessian_tasks.errors import ModelError
from hessian_tasks.networks.architecture import count_weights

__all__ = ["check_file", "check_size"]

# Of an archive's member; noise has 1.1, and zeros a thousand.
MAX_EXPANSION = 100
# What is no larger than this is never refused.
FLOOR = 2**20
MAX_ENTRIES = 100_000
# A file may hold an optimizer's moments beside the weights; Adam has two of each.
MAX_COPIES = 8
# Filters that change no sizes: shuffle and fletcher32.
HARMLESS_FILTERS = {2, 3}
ADVICE = "Save the weights again: model.save_weights, or hessian train --out."


def check_file(path: Path, num_weights: int | None = None) -> None:
    """Refuse a file that would expand to much more than it is, before any of it is read.

    Files that cannot be opened are left to whoever reads them.

    Args:
        path: A ``.keras``, ``.weights.h5`` or ``.npz`` file, or another archive.
        num_weights: How many weights the problem has that they are for, if it is for one.

    Raises:
        ModelError: Saying what is too large.
    """
    most = None if num_weights is None else max(FLOOR, MAX_COPIES * num_weights)
    try:
        if path.suffix == ".h5":
            with path.open("rb") as file:
                _check_hdf5(path, file, path.stat().st_size, most)
        else:
            with zipfile.ZipFile(path) as archive:
                _check_archive(path, archive, most)
    except (OSError, zipfile.BadZipFile, EOFError):
        return


def check_size(path: Path, num_weights: int) -> None:
    """Refuse a file of another library that is, or would expand to, much more than the weights.

    Args:
        path: An archive, or a file whose values are not compressed.
        num_weights: How many weights the problem has that they are for.

    Raises:
        ModelError: Saying what is too large.
    """
    most = max(FLOOR, MAX_COPIES * num_weights)
    if (size := path.stat().st_size) > 8 * most + 2**26:
        raise _too_large(path, f"it has {size} bytes, where the network has {num_weights} values")
    check_file(path, num_weights)


def _check_archive(path: Path, archive: zipfile.ZipFile, most: int | None) -> None:
    members, size = archive.infolist(), path.stat().st_size
    for member in members:
        if member.file_size > max(FLOOR, MAX_EXPANSION * member.compress_size):
            raise _too_large(
                path, f"{member.filename!a} expands from {member.compress_size} bytes to "
                f"{member.file_size}",
            )  # fmt: skip
    if sum(member.compress_size for member in members) > size or len(members) > MAX_ENTRIES:
        raise _too_large(path, f"its {len(members)} members overlap, or are more than it can hold")
    total = sum(member.file_size for member in members)
    if most is not None and total > 8 * most + 2**26:
        raise _too_large(path, f"it expands to {total} bytes, where the network has {most} values")
    if path.suffix == ".npz":
        for member in members:
            _check_array(path, archive, member)
    elif path.suffix == ".keras":
        found = io.BytesIO(archive.read("model.weights.h5"))
        num_values = _check_hdf5(path, found, len(found.getbuffer()), most)
        _check_config(path, archive.read("config.json"), num_values)


def _check_array(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Compare the shape in the header of an array with the bytes that follow."""
    with archive.open(member) as file:
        try:
            version = np.lib.format.read_magic(file)
            readers = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }
            shape, _, dtype = readers[version](file)
        except (ValueError, KeyError):
            return  # no array, which NumPy says better
    if math.prod(shape) * dtype.itemsize > member.file_size:
        raise _too_large(path, f"{member.filename!a} says that it has the shape {list(shape)}")


def _check_hdf5(path: Path, file: IO[bytes], size: int, most: int | None) -> int:
    """Check all datasets of a file; returns how many values they have."""
    found = 0
    with h5py.File(file, "r") as opened:
        for number, (name, dataset) in enumerate(_datasets(path, opened)):
            _check_dataset(path, name, dataset, size)
            found += math.prod(dataset.shape or ())
            if number >= MAX_ENTRIES or (most is not None and found > most):
                raise _too_large(
                    path, f"it has tensors of {found} values and more, where the network is for "
                    f"{most} at most, moments of an optimizer included",
                )  # fmt: skip
            if found > size + FLOOR:
                raise _too_large(path, f"it has {size} bytes, and tensors of {found} values")
    return found


def _datasets(path: Path, opened: h5py.File) -> Iterator[tuple[str, Any]]:
    """The datasets of a file, each once; links that lead elsewhere are refused."""
    found: list[tuple[str, Any]] = []

    def visit(name: str, entry: Any) -> None:
        if isinstance(entry, h5py.Dataset):
            found.append((name, entry))
        else:
            _check_links(path, entry)

    _check_links(path, opened)
    opened.visititems(visit)
    yield from found


def _check_links(path: Path, group: Any) -> None:
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ModelError(f"Weights file {path} has a link at {name!a}, not a tensor. {ADVICE}")


def _check_dataset(path: Path, name: str, dataset: Any, size: int) -> None:
    plist = dataset.id.get_create_plist()
    filters = {plist.get_filter(number)[0] for number in range(plist.get_nfilters())}
    if dataset.external or dataset.is_virtual or not filters <= HARMLESS_FILTERS:
        raise ModelError(
            f"Weights file {path} has a tensor {name!a} that is compressed or lies in other files, "
            f"which Keras writes none of. {ADVICE}"
        )
    needed = math.prod(dataset.shape or ()) * dataset.dtype.itemsize
    stored = min(size, dataset.id.get_storage_size())
    if needed > max(FLOOR, stored) or dataset.dtype.hasobject:
        raise _too_large(path, f"tensor {name!a} has {stored} bytes, and needs {needed}")


def _check_config(path: Path, text: bytes, num_values: int) -> None:
    """Compare the network that an archive describes with the values that it has for it."""

    def build() -> Any:
        config = json.loads(text)
        config["compile_config"] = None
        return keras.saving.deserialize_keras_object(config, safe_mode=True)

    try:
        count_weights(build, 0, num_values)
    except ModelError as error:
        raise _too_large(path, str(error).rstrip(".")) from error
    # Keras raises whatever its layers do; then the network is not built, but the values are read.
    except Exception:
        return


def _too_large(path: Path, reason: str) -> ModelError:
    return ModelError(
        f"Weights file {path} was not read, since it would take much more memory than weights do: "
        f"{reason}. {ADVICE}"
    )

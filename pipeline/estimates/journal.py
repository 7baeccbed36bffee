"""A journal of products: what an interrupted estimate has multiplied is not multiplied again.

Every algorithm here asks for products one after the other, and decides what to ask next by the
answers and by random numbers from a seed. So if the same is asked again and answered from the
journal, it comes to where it was, bit for bit, and goes on from there; none has to know.

The journal is a hidden directory beside where the answers are to be kept. Each product is one file,
put in place at once: a digest of the vectors and of what the journal is of, the images, and a
checksum.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from pydantic import Field

from hessian_tasks.frozen import Evaluated
from pipeline.analysis.estimators import TraceMethod
from pipeline.errors import StoreMismatchError
from pipeline.estimates._products import Array, Product
from pipeline.store.agreement import differences
from pipeline.store.places import Directory
from pipeline.store.places.chunks import CHECKSUM_BYTES, checksum
from pipeline.store.vetting import Line, Strict

__all__ = ["Journal"]

HEADER = "header.json"
MAX_HEADER_BYTES = 2**20
DIGEST_BYTES = hashlib.sha256().digest_size


class _Header(Strict):
    inputs: dict[Line, Line]
    # Journals from before they were recorded have neither.
    losses: dict[Line, float] = Field(default_factory=dict)
    gradient_norm: float = 0.0
    asked: dict[str, Any]
    method: TraceMethod


class Journal:
    """The products of an estimate, in the order in which they were asked for.

    Attributes:
        directory: Where they are.
        method: How traces are estimated.
        num_taken: Products with single vectors that were answered from it.
        num_kept: How many it holds, as far as has been asked.

    Example:
        >>> import tempfile
        >>> def double(vectors):
        ...     print("computed")
        ...     return 2 * vectors
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     path = Path(directory) / "e.zarr"
        ...     for _ in range(2):
        ...         journal = Journal(path, {"theta": "1f"}, {"seed": 0}, "xtrace")
        ...         images = journal.recording(double)(np.ones((3, 2)))
        ...     images.tolist(), journal.num_taken
        computed
        ([[2.0, 2.0], [2.0, 2.0], [2.0, 2.0]], 2)
    """

    def __init__(
        self,
        path: Path,
        inputs: Mapping[str, str],
        asked: Mapping[str, Any],
        method: TraceMethod,
        at_theta: Evaluated | None = None,
    ) -> None:
        """Open the journal beside a path, or begin it.

        Args:
            path: Where the answers are to be kept.
            inputs: Fingerprint of the inputs.
            asked: What else decides all products, as JSON data; if it differs from what is
                recorded, that is dropped.
            method: How traces would be estimated now, which depends on the memory that is free.
                Where there are products already, theirs stands.
            at_theta: Losses and gradient of the inputs.

        Raises:
            StoreMismatchError: If it has products of other inputs.
            StoreError: If it cannot be read.
        """
        self.directory = path.with_name(f".{path.name}.products")
        self.num_taken = self.num_kept = 0
        self._place = Directory(self.directory)
        self._position = 0
        recorded = self._recorded()
        differing = "" if recorded is None else _differing(recorded, inputs, at_theta)
        if differing:
            raise StoreMismatchError(
                f"{self.directory} holds products of an interrupted estimate of other inputs: "
                f"{differing}. Give another --store, or remove it."
            )
        if recorded is None or recorded.asked != asked:
            self.remove()
            recorded = _Header(inputs=dict(inputs), asked=dict(asked), method=method)
            if at_theta is not None:
                norm = float(_norm(at_theta)[0])
                found = {"losses": dict(at_theta.losses), "gradient_norm": norm}
                recorded = recorded.model_copy(update=found)
        self._place.sweep()
        self.method = recorded.method
        self._header = recorded.model_dump_json(indent=2).encode()

    def recording(self, product: Product) -> Product:
        """The product, which is only computed where the journal does not have it.

        The result raises StoreError if what was computed cannot be written.
        """

        def recorded(vectors: Array) -> Array:
            key, digest = f"{self._position:06d}", self._digest(vectors)
            images = self._find(key, digest, vectors.shape)
            if images is None:
                images = np.ascontiguousarray(product(vectors), "<f8")
                self._write(key, digest, images)
            else:
                self.num_taken += vectors.shape[1]
            self.num_kept += vectors.shape[1]
            self._position += 1
            return images

        return recorded

    def remove(self) -> None:
        """Drop all of it.

        Raises:
            StoreError: If it cannot be removed.
        """
        with self._place.writing():
            if self.directory.exists():
                shutil.rmtree(self.directory)

    def _recorded(self) -> _Header | None:
        """The header; without a readable one nothing is known of what follows."""
        try:
            return _Header.model_validate_json(self._place.read(HEADER, MAX_HEADER_BYTES))
        except (FileNotFoundError, ValueError):
            return None

    def _digest(self, vectors: Array) -> bytes:
        found = hashlib.sha256(self._header)
        found.update(str(vectors.shape).encode())
        found.update(np.ascontiguousarray(vectors, "<f8").data)
        return found.digest()

    def _find(self, key: str, digest: bytes, shape: tuple[int, ...]) -> Array | None:
        """The images of these vectors; None if they have to be computed."""
        size = DIGEST_BYTES + 8 * math.prod(shape) + CHECKSUM_BYTES
        try:
            data = self._place.read(key, size)
        except FileNotFoundError:
            return None
        if len(data) != size or checksum(data) is None:
            return None  # damaged, and replaced
        if data[:DIGEST_BYTES] != digest:
            self._drop(key)
            return None
        images = np.frombuffer(data, "<f8", math.prod(shape), DIGEST_BYTES)
        return images.reshape(shape).astype(np.float64)

    def _drop(self, first: str) -> None:
        """Drop the products from here on: the algorithm has taken another way."""
        with self._place.writing():
            for file in self.directory.glob("[0-9]*"):
                if file.name >= first:
                    file.unlink(missing_ok=True)

    def _write(self, key: str, digest: bytes, images: Array) -> None:
        contents = images.reshape(-1).view(np.uint8)
        found = int(google_crc32c.extend(google_crc32c.value(digest), contents))
        pieces: list[bytes | memoryview] = [digest, contents.data]
        pieces.append(found.to_bytes(CHECKSUM_BYTES, "little"))
        with self._place.writing():
            if not (self.directory / HEADER).exists():
                self._place.write(HEADER, self._header)
            self._place.write_pieces(key, pieces)


def _differing(recorded: _Header, inputs: Mapping[str, str], at_theta: Evaluated | None) -> str:
    differing = differences(recorded.inputs, inputs)
    if differing or at_theta is None or not recorded.losses:
        return differing
    # θ is the same, so that the norm tells as much of the gradient as there is to know.
    norm = _norm(at_theta)
    before = Evaluated(recorded.losses, np.array([recorded.gradient_norm], norm.dtype))
    return replace(at_theta, gradient=norm).disagreement(before)


def _norm(at_theta: Evaluated) -> Array:
    return np.array([np.linalg.norm(at_theta.gradient)], at_theta.gradient.dtype)

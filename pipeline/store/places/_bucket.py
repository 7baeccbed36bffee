"""Stores in object storage: S3 and what speaks its language, Google Cloud, Azure.

Endpoints, regions and credentials come from the environment, as for other tools:
``AWS_ENDPOINT_URL``, ``AWS_REGION``, ``AWS_ACCESS_KEY_ID`` and so on.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import ObjectStore

from pipeline.errors import ConfigError, StoreError
from pipeline.store.places._lease import held
from pipeline.store.places._retrying import retry_request
from pipeline.store.places.guard import MAX_METADATA_BYTES, GuardedStore
from pipeline.store.places.location import ROOT, Location

__all__ = ["SCHEMES", "Bucket"]

SCHEMES = ("s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss")
RECORDS = "records"

# Some ten seconds of a server's silence or errors are waited out, minutes are not: thirteen
# attempts with pauses that grow from 0.1 s.
RETRY = {
    "max_retries": 12,
    "retry_timeout": timedelta(seconds=30),
    "backoff": {
        "init_backoff": timedelta(seconds=0.1),
        "max_backoff": timedelta(seconds=4),
        "base": 2,
    },
}
CLIENT = {"connect_timeout": timedelta(seconds=5), "timeout": timedelta(seconds=60)}


@dataclass(frozen=True)
class Bucket(Location):
    """A store below a prefix of a bucket.

    Attributes:
        url: The bucket and the prefix, ``s3://bucket/prefix``.
    """

    url: str

    def __str__(self) -> str:
        """The URL."""
        return self.url

    @property
    def directory(self) -> None:
        """There is none."""

    @property
    def name(self) -> str:
        """The last part of the prefix."""
        return self.url.rpartition("/")[2]

    @property
    def num_threads(self) -> int:
        """Many, since most of the time is waiting."""
        return 16

    @property
    def num_writers(self) -> int:
        """As many: each waits for its answer."""
        return self.num_threads

    def below(self, name: str) -> Bucket:
        """A longer prefix."""
        return Bucket(f"{self.url}/{name}")

    def resolve(self) -> Bucket:
        """The same URL."""
        return self

    def exists(self) -> bool:
        """Whether the root's metadata are there, which are written last."""
        import obstore

        with self._clear("read"):
            try:
                obstore.get(_client(self.url), ROOT)
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error) or "ContainerNotFound" in str(error):
                    raise
                return False
        return True

    def open(self) -> GuardedStore:
        """A Zarr store that turns this server's errors into clear ones."""
        return _Objects(_client(self.url), self)

    def read(self, key: str, limit: int = MAX_METADATA_BYTES) -> bytes:
        """The bytes of an object."""
        import obstore

        with self._clear("read", missing=False):
            found = obstore.get(_client(self.url), key)
            _check_size(key, found.meta["size"], limit)
            return bytes(found.bytes())

    def children(self, prefix: str) -> list[str]:
        """Names below a prefix, as if it were a directory."""
        import obstore

        with self._clear("read"):
            found = retry_request(
                lambda: obstore.list_with_delimiter(_client(self.url), prefix or None)
            )
        paths = [*found["common_prefixes"], *(item["path"] for item in found["objects"])]
        return [path.rpartition("/")[2] for path in paths]

    def write_pieces(self, key: str, pieces: Iterable[bytes | memoryview]) -> None:
        """One PUT."""
        import obstore

        data = bytearray()
        for piece in pieces:
            data += piece
        with self._clear("write to"):
            obstore.put(_client(self.url), key, data)

    def create(self, objects: Mapping[str, bytes]) -> None:
        """Put the root's metadata last, and only if there are none meanwhile."""
        import obstore

        client = _client(self.url)
        with self._clear("write to"):
            # Of another store whose root is gone; they would speak for block rows of this one.
            if set(self.children(RECORDS)) - {ROOT}:
                raise StoreError(
                    f"There are completion records below {self}, but no store. Remove what is "
                    "left there, or give another --store."
                )
            others = [key for key in objects if key != ROOT]
            self.each(lambda key: self.write(key, objects[key]), others)
            try:
                obstore.put(client, ROOT, objects[ROOT], mode="create")
            except obstore.exceptions.AlreadyExistsError as error:
                # A PUT whose answer was lost is repeated, and then finds itself.
                if self.read(ROOT) == objects[ROOT]:
                    return
                raise StoreError(
                    f"Another run has made {self} meanwhile. Run the same command again to join it."
                ) from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[Callable[[], None]]:
        """Hold a lease beside the store, which has no other name."""
        with held(_client(f"{self.url}.lock"), str(self), self._clear):
            yield lambda: None

    def sweep(self) -> None:
        """Nothing: objects appear whole."""

    def free_bytes(self) -> None:
        """There is no bound."""

    def writing(self) -> AbstractContextManager[None]:
        """Say what to do about the server."""
        return self._clear("write to")

    @contextlib.contextmanager
    def _clear(self, verb: str, *, missing: bool = True) -> Iterator[None]:
        """Turn errors of the server into one that says what to do.

        Args:
            verb: What could not be done.
            missing: Whether that an object is missing is such an error.
        """
        from obstore.exceptions import BaseError

        try:
            yield
        except StoreError:
            raise
        except FileNotFoundError as error:
            if not missing and "NoSuchBucket" not in str(error):
                raise
            raise StoreError(f"Cannot {verb} {self}: {_advice(str(error))}") from error
        # Errors of permission are both, those of the network the first.
        except (BaseError, OSError) as error:
            raise StoreError(f"Cannot {verb} {self}: {_advice(str(error))}") from error


class _Objects(GuardedStore, ObjectStore[Any]):  # type: ignore[misc]
    """Object storage whose errors are clear."""

    def __init__(self, store: Any, bucket: Bucket) -> None:
        super().__init__(store, read_only=True)
        self.bucket = bucket

    def __str__(self) -> str:
        return self.bucket.url

    def __getstate__(self) -> dict[str, Any]:
        # Without the client, which holds credentials: whoever reads it needs their own.
        return {key: value for key, value in self.__dict__.items() if key != "store"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, store=_client(state["bucket"].url))

    async def fetch(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None
    ) -> Buffer | None:
        import obstore

        # Runs write no shards, of which parts would be read.
        assert byte_range is None
        with self.bucket._clear("read"):
            try:
                found = await obstore.get_async(self.store, key)
                _check_size(key, found.meta["size"], self.limit(key))
                data: Any = await found.bytes_async()
            except FileNotFoundError:
                return None
            return prototype.buffer.from_bytes(data)


def _check_size(key: str, size: int, limit: int) -> None:
    if size > limit:
        raise FileNotFoundError(f"{key} has {size} bytes, where at most {limit} can be")


def _client(url: str) -> Any:
    """What speaks to the server; the same as long as the environment is, to keep connections.

    Raises:
        ConfigError: If the package for it is missing.
        StoreError: If the environment does not make sense.
    """
    prefixes = ("AWS_", "GOOGLE_", "AZURE_")
    return _connect(url, frozenset(i for i in os.environ.items() if i[0].startswith(prefixes)))


@functools.lru_cache(maxsize=16)
def _connect(url: str, environment: frozenset[tuple[str, str]]) -> Any:
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ImportError as error:
        raise ConfigError(
            f"{url} needs a package that is not installed. Install: "
            "pip install 'hessian-pipeline[s3]'"
        ) from error
    # Client options replace what the environment says, so that it is read here.
    allow_http = dict(environment).get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "yes", "on")
    try:
        options: Any = {**CLIENT, "allow_http": allow_http}
        retry: Any = RETRY
        return from_url(url, client_options=options, retry_config=retry)
    except (BaseError, ValueError, TypeError) as error:
        raise StoreError(f"{url} cannot be opened: {_first_line(str(error))}") from error


# What servers and clients say, and what it takes.
_ADVICE = {
    r"NoSuchBucket|ContainerNotFound|bucket does not exist": "there is no such bucket. Create it, "
    "or correct the URL",
    r"169\.254\.169\.254|metadata\.google|[Cc]redential": "no credentials were found. Set "
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or what your provider takes",
    r"AccessDenied|InvalidAccessKey|SignatureDoesNotMatch|\b40[13]\b": "the server refuses these "
    "credentials. Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what they may do",
    r"builder error|scheme is not https": "the endpoint is not encrypted. If that is meant, set "
    "AWS_ALLOW_HTTP=true",
    r"error sending request|timed out|timeout|Connect": "the server does not answer. Check "
    "AWS_ENDPOINT_URL and the network",
}


def _advice(message: str) -> str:
    found = next((text for pattern, text in _ADVICE.items() if re.search(pattern, message)), None)
    line = _first_line(message)
    return line if found is None else f"{found}. ({line})"


def _first_line(message: str) -> str:
    return message.strip().partition("\n")[0][:300]

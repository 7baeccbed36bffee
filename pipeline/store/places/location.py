"""What everything above knows of the place of a store, whichever kind it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

from pipeline.store.places.guard import MAX_METADATA_BYTES, GuardedStore

__all__ = ["ROOT", "Location"]

# The object that makes a store of a place.
ROOT = "zarr.json"

Item = TypeVar("Item")
Result = TypeVar("Result")


class Location(ABC):
    """The place of a store: objects by key, each written whole or not at all.

    Values are small and can be sent to workers, which open the same place themselves.
    """

    @property
    @abstractmethod
    def num_threads(self) -> int:
        """Objects that are read or written at once where order does not matter."""

    @property
    @abstractmethod
    def num_writers(self) -> int:
        """Objects of one block row that are written at once."""

    @property
    @abstractmethod
    def directory(self) -> Path | None:
        """The directory, or None if the place is not in a file system."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The last part of the path or URL."""

    @abstractmethod
    def below(self, name: str) -> Location:
        """The place of that name in this one."""

    @abstractmethod
    def resolve(self) -> Location:
        """The same place, named independently of this process's working directory."""

    @abstractmethod
    def exists(self) -> bool:
        """Whether there is a store.

        Raises:
            StoreError: If that cannot be found out.
        """

    @abstractmethod
    def open(self) -> GuardedStore:
        """The place as Zarr knows it, to be read."""

    @abstractmethod
    def read(self, key: str, limit: int = MAX_METADATA_BYTES) -> bytes:
        """The bytes of an object.

        Raises:
            FileNotFoundError: If there is none of that key, or one larger than ``limit``, which
                is not what a run wrote.
            StoreError: If it cannot be read, or is not in the store.
        """

    @abstractmethod
    def children(self, prefix: str) -> list[str]:
        """Names directly below a prefix, or below the place itself, if there are any.

        Raises:
            StoreError: If they cannot be read.
        """

    def write(self, key: str, data: bytes) -> None:
        """Put an object in place, or replace it, at once."""
        self.write_pieces(key, [data])

    @abstractmethod
    def write_pieces(self, key: str, pieces: Iterable[bytes | memoryview]) -> None:
        """Put an object in place, or replace it, at once.

        Args:
            key: Its key.
            pieces: Its contents, which may be asked for again after a failure. A piece is good
                until the next is asked for.
        """

    @abstractmethod
    def create(self, objects: Mapping[str, bytes]) -> None:
        """Make a store of these objects, whole or not at all.

        Raises:
            StoreError: If there is one meanwhile, or it cannot be written.
        """

    @abstractmethod
    def locked(self) -> AbstractContextManager[Callable[[], None]]:
        """Exclude other clients, in other processes and on other machines, while it is entered.

        A client that dies, in whatever way, does not stay in the way of the next. Who has made the
        store meanwhile calls what is entered, so that it is held by whatever name it has.

        Raises:
            StoreError: If another client has it.
        """

    @abstractmethod
    def sweep(self) -> None:
        """Remove what killed writers have left; whoever calls has the lock."""

    @abstractmethod
    def free_bytes(self) -> int | None:
        """Free space, or None where there is no such bound."""

    @abstractmethod
    def writing(self) -> AbstractContextManager[None]:
        """Turn a failure to write into one StoreError that says what to do."""

    def each(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """The results of a function of keys, or the like, that waits for the place, in order."""
        with ThreadPoolExecutor(self.num_threads) as pool:
            return list(pool.map(function, items))

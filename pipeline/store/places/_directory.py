"""Stores in a directory of a local or shared file system."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from hessian_tasks.process import available_cores
from pipeline.errors import StoreError
from pipeline.store.places._locks import lock_directory, lock_file
from pipeline.store.places._retrying import RetryingFiles, retry
from pipeline.store.places.guard import MAX_METADATA_BYTES, GuardedStore
from pipeline.store.places.location import Location

__all__ = ["Directory", "filling", "free_bytes", "writing"]

# Copies into the page cache soon take all of the memory's bandwidth.
MAX_WRITERS = 4


@dataclass(frozen=True)
class Directory(Location):
    """A store in a directory.

    Attributes:
        path: The directory, absolute, whatever the working directory is later.
        relative: Whether it was named relative to the working directory, and is so to people.
    """

    path: Path
    relative: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        """Make the path absolute."""
        if not self.path.is_absolute():
            object.__setattr__(self, "relative", True)
            object.__setattr__(self, "path", Path(os.path.abspath(self.path)))

    def __str__(self) -> str:
        """The path."""
        return str(self.directory)

    @property
    def directory(self) -> Path:
        """The path, from where this process works now if it was named so."""
        return Path(os.path.relpath(self.path)) if self.relative else self.path

    @property
    def name(self) -> str:
        """The directory's own name."""
        return self.path.resolve().name

    @property
    def num_threads(self) -> int:
        """As many as there are cores: checksums take longer than reading."""
        return available_cores()

    @property
    def num_writers(self) -> int:
        """A few: what the cores do not compute meanwhile, they can write."""
        return min(MAX_WRITERS, available_cores())

    def below(self, name: str) -> Directory:
        """A directory in this one, named to people as this one is."""
        return Directory(self.path / name, self.relative)

    def resolve(self) -> Directory:
        """The absolute path."""
        return Directory(self.path.resolve())

    def exists(self) -> bool:
        """Whether there is a directory."""
        return self.path.is_dir()

    def open(self) -> GuardedStore:
        """A Zarr store that does not leave the directory."""
        return _Files(self.path, read_only=True)

    def read(self, key: str, limit: int = MAX_METADATA_BYTES) -> bytes:
        """The bytes of a file."""
        try:
            return retry(lambda: _regular_file(self.path, key, limit).read_bytes())
        except (FileNotFoundError, StoreError):
            raise
        except OSError as error:
            raise StoreError(f"{self.path / key} cannot be read: {error.strerror}.") from error

    def children(self, prefix: str) -> list[str]:
        """Names in a subdirectory, or in the directory."""
        directory = _inside(self.path, prefix) if prefix else self.path
        try:
            return os.listdir(directory)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise StoreError(f"{directory} cannot be read: {error.strerror}.") from error

    def write_pieces(self, key: str, pieces: Iterable[bytes | memoryview]) -> None:
        """Write a file beside its place and rename it."""
        file = _inside(self.path, key)
        retry(lambda: _put(file, pieces))

    def create(self, objects: Mapping[str, bytes]) -> None:
        """Fill a directory of a temporary name and rename it."""
        with filling(self.path) as directory:
            directory.mkdir()
            for key, data in objects.items():
                Directory(directory).write(key, data)
            # Without locks another run may have taken the first of them for litter.
            if not all((directory / key).exists() for key in objects):
                raise FileNotFoundError(errno.ENOENT, "half made, and gone", str(directory))

    @contextlib.contextmanager
    def locked(self) -> Iterator[Callable[[], None]]:
        """Hold locks of the operating system, which end with the process.

        One on a file beside, by whatever links the path leads there, which serves until there is a
        directory; and one on that itself, which is the same one where it is mounted elsewhere, too.
        """
        path = self.path.resolve()
        file = path.with_name(f".{path.name}.lock")
        with contextlib.ExitStack() as held:
            with self.writing():
                file.parent.mkdir(parents=True, exist_ok=True)
                held.callback(os.close, self._own(lock_file(file)))
            # While it is still locked, so that nobody locks a file that is not there any more.
            held.callback(file.unlink, missing_ok=True)

            def hold() -> None:
                with self.writing():
                    held.callback(os.close, self._own(lock_directory(path)))

            if path.is_dir():
                hold()
            yield hold

    def _own(self, descriptor: int | None) -> int:
        if descriptor is None:
            raise StoreError(
                f"Another run is at work on {self}. Wait until it has ended, or stop it."
            )
        return descriptor

    def sweep(self) -> None:
        """Remove ``*.partial`` files."""
        for litter in self.path.rglob("*.partial"):
            litter.unlink(missing_ok=True)

    def free_bytes(self) -> int:
        """Free disk space where the directory is or will be."""
        return free_bytes(self.path)

    def writing(self) -> AbstractContextManager[None]:
        """Say what to do about the file system."""
        return writing(self.path)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write to ``path``, or below it, into one clear message."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        advice = {
            errno.ENOSPC: "the disk is full. Free some space and run the same command again",
            errno.EDQUOT: "the disk quota is used up. Free some space and run again",
            errno.EROFS: "the file system is read-only. Remount it, or copy the store",
            errno.EACCES: "permission was denied. Check who owns the directory",
            **dict.fromkeys(
                (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT),
                "something was put there meanwhile, or taken away, as by another run that began at "
                "the same time. Wait until that has ended, and run the same command again",
            ),
            errno.EISDIR: f"{error.filename2} is a directory, where a file belongs. Move it away "
            "and run the same command again",
        }.get(error.errno or 0, str(error))
        raise StoreError(f"Cannot write to {path}: {advice}. What was stored is intact.") from error


@contextlib.contextmanager
def filling(path: Path) -> Iterator[Path]:
    """The name of a directory to be made, which takes the place of ``path`` when it is left.

    Raises:
        StoreError: If it cannot be written, or there is something at ``path``.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        own = f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}.creating"
        for litter in path.parent.glob(own):  # of killed runs
            # In one go, so that who fills it yet, where there are no locks, renames no part of it.
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(litter.rename(_half_made(path)), ignore_errors=True)
        half_made = _half_made(path)
        try:
            yield half_made
            half_made.rename(path)
        except BaseException:
            shutil.rmtree(half_made, ignore_errors=True)
            raise


def _half_made(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.creating")


def free_bytes(path: Path) -> int:
    """Free disk space where ``path`` is or will be."""
    existing = next(p for p in [path, *path.absolute().parents] if p.exists())
    return shutil.disk_usage(existing).free


class _Files(GuardedStore, RetryingFiles):  # type: ignore[misc]
    """A directory, out of which no symbolic link leads."""

    async def fetch(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None
    ) -> Buffer | None:
        try:
            _regular_file(self.root, key, self.limit(key))
        except FileNotFoundError:
            return None
        return await super().fetch(key, prototype, byte_range)


def _inside(root: Path, key: str) -> Path:
    """The file of a key.

    Raises:
        StoreError: If a symbolic link leads out of the store.
    """
    file, real_root = root / key, os.path.realpath(root)
    if not os.path.realpath(file).startswith(f"{real_root}{os.sep}"):
        raise StoreError(f"{file} leads out of the store, which nothing in a store may.")
    return file


def _put(file: Path, pieces: Iterable[bytes | memoryview]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    half_made = file.with_name(f"{file.name}.{uuid.uuid4().hex}.partial")
    try:
        with half_made.open("wb") as opened:
            for piece in pieces:
                opened.write(piece)
        half_made.replace(file)
    except BaseException:
        half_made.unlink(missing_ok=True)
        raise


def _regular_file(root: Path, key: str, limit: int) -> Path:
    """The file of a key, if it is one and no larger than it can be.

    Raises:
        FileNotFoundError: If there is none.
        StoreError: If a symbolic link leads out of the store.
    """
    file = _inside(root, key)
    try:
        found = file.stat()
    except NotADirectoryError as error:
        raise FileNotFoundError(str(error)) from error
    if not stat.S_ISREG(found.st_mode):
        raise FileNotFoundError(f"{file} is no regular file")
    if found.st_size > limit:
        raise FileNotFoundError(f"{file} has {found.st_size} bytes, where at most {limit} can be")
    return file

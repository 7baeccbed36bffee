"""Faults to be injected into workers, connections and stores, and counts of what they cost."""

from __future__ import annotations

import errno
import os
import random
import selectors
import signal
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from distributed import WorkerPlugin

from hessian_tasks.spec import BlockRow
from pipeline.errors import BlockRowError, StoreError

__all__ = [
    "Counted",
    "Fault",
    "FlakyDisk",
    "Proxy",
    "at_random_moments",
    "die_later",
    "fail",
    "gobble",
    "hang",
    "kill",
    "spoil",
    "stop",
]

Fault = Callable[[], None]


class Counted(WorkerPlugin):
    """Counts how often a block row is begun, and makes some of them fail.

    Either as a plugin of all workers, or as a task of its own, which then does nothing else.

    Attributes:
        directory: Holds one file for each time that a block row was begun.
        faults: By index of the block row: what happens, and how many times.
        seconds: How much longer each block row takes.
    """

    name = "counted"

    def __init__(
        self,
        directory: Path,
        faults: dict[int, tuple[Fault, int]] | None = None,
        seconds: float = 0.0,
    ) -> None:
        self.directory, self.faults, self.seconds = directory, faults or {}, seconds
        directory.mkdir(exist_ok=True)

    def setup(self, worker: Any) -> None:
        from pipeline.run._blocks import BlockTask

        begin = BlockTask.__call__

        def call(task: BlockTask, row: BlockRow) -> Any:
            self.happen(row)
            return begin(task, row)

        BlockTask.__call__ = call  # type: ignore[method-assign]

    def __call__(self, row: BlockRow) -> Any:
        self.happen(row)
        return row.index

    def happen(self, row: BlockRow) -> None:
        number = self.begun()[row.index]
        (self.directory / f"{row.index}-{uuid.uuid4().hex}").touch()
        time.sleep(self.seconds)
        fault, times = self.faults.get(row.index, (None, 0))
        if fault is not None and number < times:
            fault()

    def order(self) -> list[int]:
        """The block rows in the order in which they were begun."""
        files = sorted(self.directory.iterdir(), key=lambda file: file.stat().st_mtime_ns)
        return [int(file.name.split("-")[0]) for file in files]

    def begun(self) -> Counter[int]:
        """How often each block row was begun."""
        return Counter(self.order())


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_later(seconds: float) -> None:
    """Die when the task is over, about when its result arrives."""
    threading.Timer(seconds, kill).start()


def fail() -> None:
    raise StoreError("The network file system is away.")


def spoil() -> None:
    raise BlockRowError("The block row holds NaN.")


def stop() -> None:
    """As a machine that is suspended: no thread goes on, no heartbeat is sent."""
    os.kill(os.getpid(), signal.SIGSTOP)


def hang() -> None:
    """As a task that never returns, on a worker that is otherwise well."""
    time.sleep(10_000)


def gobble() -> None:
    """Take ever more memory, at most 16 GiB."""
    taken = []
    for _ in range(256):
        taken.append(bytearray(os.urandom(1)) * (64 * 2**20))
        time.sleep(0.05)


@contextmanager
def at_random_moments(act: Callable[[], object], shortest: float, longest: float) -> Iterator[None]:
    """Do something again and again, as long as this is entered."""
    over, rng = threading.Event(), random.Random(11)

    def repeat() -> None:
        while not over.wait(rng.uniform(shortest, longest)):
            act()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class FlakyDisk(WorkerPlugin):
    """Makes some of the reads and writes of every worker's store fail, below Zarr.

    Attributes:
        directory: Holds one file for each failure.
        share: Which share of them fails.
    """

    name = "flaky disk"

    def __init__(self, directory: Path, share: float) -> None:
        self.directory, self.share = directory, share
        directory.mkdir(exist_ok=True)

    def setup(self, worker: Any) -> None:
        rng = random.Random(os.getpid())
        for name in ("read_bytes", "replace"):
            setattr(Path, name, self.flaky(getattr(Path, name), rng))

    def flaky(self, operation: Callable[..., Any], rng: random.Random) -> Callable[..., Any]:
        def fail_sometimes(file: Path, *arguments: Any) -> Any:
            before = rng.random() < 0.5
            failing = rng.random() < self.share and ".zarr/" in str(file)
            if not (failing and before):
                result = operation(file, *arguments)
            if failing:
                (self.directory / uuid.uuid4().hex).touch()
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return result

        return fail_sometimes


class Proxy:
    """Passes a port of this machine on, and cuts all of its connections when told to."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.server = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self.server.getsockname()[1]}"
        self.pairs: list[tuple[socket.socket, socket.socket]] = []
        threading.Thread(target=self.accept, daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.close()
        self.cut()

    def accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                near = self.server.accept()[0]
                far = socket.create_connection(self.target)
                self.pairs.append((near, far))
                threading.Thread(target=pump, args=(near, far), daemon=True).start()

    def cut(self) -> int:
        """Close all connections; their number."""
        pairs, self.pairs = self.pairs, []
        for pair in pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        return len(pairs)


def pump(near: socket.socket, far: socket.socket) -> None:
    """Copy both ways until one of the ends is closed."""
    with near, far, selectors.DefaultSelector() as selector, suppress(OSError):
        selector.register(near, selectors.EVENT_READ, far)
        selector.register(far, selectors.EVENT_READ, near)
        while True:
            for key, _ in selector.select():
                source: Any = key.fileobj
                data = source.recv(2**16)
                if not data:
                    return
                key.data.sendall(data)

"""How clients exclude each other where there are no locks: a lease that has to be renewed.

Whoever works on a store keeps an object beside it and rewrites it every few seconds, each time on
condition that it is what it was last. Another client watches it: as long as it changes, somebody is
at work; if it does not change for a while, by the watcher's own clock, nobody is, and it may be
taken over. A client of the same machine whose process has ended need not be watched.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import StoreError
from pipeline.store.places._retrying import retry_request

__all__ = ["BEAT_SECONDS", "held"]

BEAT_SECONDS = 5.0
# Beats that may fail to come before a lease counts as left behind.
MISSED_BEATS = 6
KEY = "lease"
MAX_BYTES = 4096

Clear = Callable[[str], AbstractContextManager[None]]


@contextmanager
def held(client: Any, name: str, clear: Clear) -> Iterator[None]:
    """Hold the lease below a prefix while it is entered.

    Args:
        client: What speaks to the server, at the prefix.
        name: What it is the lease of, for messages.
        clear: Turns errors of the server into clear ones, given a verb.

    Raises:
        StoreError: If another client has it, or the server cannot be written to.
    """
    with clear("write to"):
        lease = _Lease(client, name)
        lease.take()
    ended = threading.Event()
    heart = threading.Thread(target=lease.beat, args=(ended,), daemon=True)
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join()
        with clear("write to"):
            lease.give_back()


class _Lease:
    def __init__(self, client: Any, name: str) -> None:
        self.client, self.name = client, name
        self.token = uuid.uuid4().hex
        self.count = 0

    def take(self) -> None:
        """Write it if nobody has it, watching for as long as it takes to know."""
        previous, deadline = None, time.monotonic() + MISSED_BEATS * BEAT_SECONDS
        while True:
            found = self.look()
            alive = None if found is None else _is_alive(found)
            changed = previous is not None and found != previous
            if found is None or alive is False or (not changed and time.monotonic() > deadline):
                break
            if alive or changed:
                raise self.refusal()
            previous = found
            time.sleep(min(1.0, BEAT_SECONDS))
        if not self.put("create" if found is None else {"e_tag": found["e_tag"]}):
            raise self.refusal()

    def refusal(self) -> StoreError:
        return StoreError(
            f"Another run is at work on {self.name}. Wait until it has ended, or stop it."
        )

    def beat(self, ended: threading.Event) -> None:
        """Renew it until the run has ended, or somebody else has taken it over."""
        from obstore.exceptions import BaseError

        while not ended.wait(BEAT_SECONDS):
            # A server that is away for a few beats is waited for; whoever takes the lease over
            # meanwhile computes the same, and objects are whole in any case.
            with contextlib.suppress(BaseError, OSError):
                found = self.look()
                if found is None or found["token"] != self.token:
                    return
                self.put({"e_tag": found["e_tag"]})

    def give_back(self) -> None:
        import obstore

        found = self.look()
        if found is not None and found["token"] == self.token:
            retry_request(lambda: obstore.delete(self.client, KEY))

    def look(self) -> dict[str, Any] | None:
        """What is written there, with its version."""
        import obstore

        try:
            answer = obstore.get(self.client, KEY)
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise
            return None
        if answer.meta["size"] > MAX_BYTES:
            raise StoreError(f"The lease of {self.name} is not one. Remove {self.name}.lock/{KEY}.")
        try:
            found: dict[str, Any] = {"token": None, **json.loads(bytes(answer.bytes()))}
        except (ValueError, TypeError, RecursionError):
            found = {"token": None}  # of whom, nobody knows; whether it is renewed can be seen
        return {**found, "e_tag": answer.meta["e_tag"]}

    def put(self, mode: Any) -> bool:
        """Write it, unless another client was faster."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        self.count += 1
        body = {"token": self.token, "count": self.count, **_this_process()}
        try:
            obstore.put(self.client, KEY, json.dumps(body).encode(), mode=mode)
        except (AlreadyExistsError, PreconditionError):
            # A write whose answer was lost is repeated, and then finds itself.
            found = self.look()
            return found is not None and found["token"] == self.token
        return True


def _this_process() -> dict[str, Any]:
    return {"machine": _machine(), "pid": os.getpid(), "started": _started(os.getpid())}


def _machine() -> str:
    # Containers share the number of the boot, and have names of their own.
    return f"{socket.gethostname()} {Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"


def _started(pid: int) -> str | None:
    """When a process started, in ticks since the boot, which no change of the clock moves."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _is_alive(lease: dict[str, Any]) -> bool | None:
    """Whether the process is at work that wrote a lease, or None if it is on another machine."""
    pid = lease.get("pid")
    if lease.get("machine") != _machine() or not isinstance(pid, int):
        return None
    # Numbers of processes are used again, but not for two that started at the same time.
    return _started(pid) == lease.get("started")

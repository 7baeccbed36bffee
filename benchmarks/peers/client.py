"""The other end of a worker: starts its process, asks, and gives up on it in time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from catalogue import Peer

__all__ = ["Client", "PeerError"]

WORKER = Path(__file__).with_name("worker.py")


class PeerError(Exception):
    """A peer that cannot do what was asked."""


class Client:
    """A worker process; use it as a context manager, or close it."""

    def __init__(self, peer: Peer, case: Path, environment: dict[str, str], timeout: float) -> None:
        self.timeout = timeout
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER), peer.module, peer.function, str(case)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        )

    def ask(self, do: str, **values: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            PeerError: If the worker fails, dies, or takes too long.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        timer = threading.Timer(self.timeout, self._process.kill)
        timer.start()
        try:
            self._process.stdin.write(json.dumps({"do": do, **values}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            late = not timer.is_alive()
            timer.cancel()
        if not line:
            raise PeerError(f"took longer than {self.timeout:g} s" if late else self._last_words())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer

    def _last_words(self) -> str:
        status = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return f"died with status {status}: {lines[-1] if lines else ''}"

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

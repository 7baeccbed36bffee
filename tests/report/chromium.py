"""Headless Chromium, spoken to by its DevTools protocol over a pipe: what a page does in it."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Visit", "browser", "install"]

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--remote-debugging-pipe",
]  # fmt: skip


@dataclass(frozen=True)
class Visit:
    """What happened when a page was opened.

    Attributes:
        requests: Addresses that were asked for besides the page itself and data in it.
        errors: Errors on the console, and exceptions.
        width: Width of what there is to scroll through, in CSS pixels.
        images: For each image, whether it was decoded.
        spilled: Texts of the headline's cards that are wider than their card.
        text: Text of the page, as shown.
        screenshot: PNG of the whole page.
    """

    requests: list[str]
    errors: list[str]
    width: int
    images: list[bool]
    spilled: list[str]
    text: str
    screenshot: bytes


def install() -> str:
    """Path of Chromium, which is installed if need be; skips the test where it cannot be."""
    script = Path(__file__).with_name("chromium.sh")
    done = subprocess.run(["bash", script], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"Chromium cannot be installed: {done.stderr[-300:]}")
    return done.stdout.strip().splitlines()[-1]


class Browser:
    """A running Chromium."""

    def __init__(self, reader: Any, writer: Any) -> None:
        self._reader, self._writer = reader, writer
        self._received = b""
        self._number = 0
        self._session = ""
        self._events: list[dict[str, Any]] = []

    def visit(self, path: Path, width: int, height: int = 900) -> Visit:
        """Open a file in a window of that width, and look."""
        page = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=page, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self._call(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        self._events.clear()
        self._call("Page.navigate", url=path.resolve().as_uri())
        self._wait("Page.loadEventFired")
        images = "[...document.images].map(i => i.complete && i.naturalWidth > 0)"
        cards = "[...document.querySelectorAll('.facts div')]"
        spilled = f"{cards}.filter(e => e.scrollWidth > e.clientWidth).map(e => e.innerText)"
        shot = self._call("Page.captureScreenshot", captureBeyondViewport=True)
        visit = Visit(
            requests=self._requests(path.resolve().as_uri()),
            errors=self._errors(),
            width=self._evaluate("document.documentElement.scrollWidth"),
            images=self._evaluate(images),
            spilled=self._evaluate(spilled),
            text=self._evaluate("document.body.innerText"),
            screenshot=base64.b64decode(shot["data"]),
        )
        self._session = ""
        self._call("Target.closeTarget", targetId=page)
        return visit

    def _requests(self, page: str) -> list[str]:
        sent = [e for e in self._events if e["method"] == "Network.requestWillBeSent"]
        urls = [event["params"]["request"]["url"] for event in sent]
        return [url for url in urls if url != page and not url.startswith("data:")]

    def _errors(self) -> list[str]:
        found = []
        for event in self._events:
            parameters = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                found.append(str(parameters["exceptionDetails"]))
            elif event["method"] == "Runtime.consoleAPICalled" and parameters["type"] == "error":
                found.append(str(parameters["args"]))
            elif event["method"] == "Log.entryAdded" and parameters["entry"]["level"] == "error":
                found.append(parameters["entry"]["text"])
        return found

    def _evaluate(self, expression: str) -> Any:
        done = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        return done["result"]["value"]

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._writer.write(json.dumps(message).encode() + b"\0")
        self._writer.flush()
        while (answer := self._receive()).get("id") != self._number:
            self._events.append(answer)
        assert "error" not in answer, answer
        return dict(answer["result"])

    def _wait(self, method: str) -> None:
        while not any(event["method"] == method for event in self._events):
            self._events.append(self._receive())

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            part = self._reader.read1(2**20)
            assert part, "Chromium ended"
            self._received += part
        message, _, self._received = self._received.partition(b"\0")
        return dict(json.loads(message))


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Start Chromium with an empty profile in a directory, and end it."""
    to_read, to_write = os.pipe(), os.pipe()
    # Chromium reads from descriptor 3 and writes to 4.
    script = f'exec "$0" "$@" 3<&{to_read[0]} 4>&{to_write[1]}'
    command = ["bash", "-c", script, install(), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(
        command, pass_fds=(to_read[0], to_write[1]), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(to_read[0])
    os.close(to_write[1])
    try:
        with os.fdopen(to_write[0], "rb") as reader, os.fdopen(to_read[1], "wb") as writer:
            yield Browser(reader, writer)
    finally:
        process.terminate()
        process.wait(300)

"""Commands that are interrupted say how to resume, and what they say works."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.cli._calls import run_settings
from pipeline.errors import StoppedError
from pipeline.settings.config import Settings
from pipeline.store.store import HessianStore
from tests.helpers.runs import Cli, read_until, start_held, wait_for


def test_resume_command_quotes_the_path(tmp_path: Path) -> None:
    path, stop = tmp_path / "my store.zarr", threading.Event()
    stop.set()
    options = {"width": 4, "depth": 1}
    settings = Settings(problem="regression", options=options, store=str(path), threads=2)
    with pytest.raises(StoppedError, match="stopped; 0 of 1 block rows are stored") as stopped:
        run_settings(settings, Console(), stop)
    command = str(stopped.value).partition("Resume with: ")[2]
    assert shlex.split(command)[-1] == str(path)


def test_interrupted_command_says_how_to_resume(
    tmp_path: Path, hessian: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "h.zarr"
    options = ["-o", "width=40", "-o", "depth=1", "--tile", "4", "--store", path]
    pipe = subprocess.PIPE
    command = ["run", "regression", *options]
    with start_held("rows", 3, command, stdout=pipe, stderr=pipe) as process:
        wait_for(lambda: len([*path.glob("records/*/zarr.json")]) == 3 or bool(process.poll()))
        process.send_signal(signal.SIGINT)
        read_until(process.stderr, "stopping")  # before it is let go
        _, errors = process.communicate()
    assert process.returncode == 3
    assert "Traceback" not in errors
    message = re.search(r"hessian: stopped; (\d+) of 31 block rows are stored. .*: (.*)", errors)
    assert message, errors
    num_stored = len(HessianStore(path).records())
    assert int(message[1]) == num_stored < 31
    code, output, errors = hessian(*shlex.split(message[2])[1:])
    assert (code, errors) == (0, "")
    assert f"resuming: {num_stored} of 31 block rows are stored" in output
    assert HessianStore(path).pending() == []

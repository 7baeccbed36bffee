"""Queues that refuse jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ClusterError
from pipeline.run.cluster.connect import connect
from pipeline.settings.profiles import Queue
from tests.helpers.runs import WAIT

REASON = "sbatch: error: invalid account or partition"


def program(path: Path, *lines: str) -> None:
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)


def test_what_the_queue_says_of_refused_jobs_is_the_error_and_ends_the_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    submitted, cancelled = tmp_path / "submitted", tmp_path / "cancelled"
    program(tmp_path / "sbatch", f"echo job >> {submitted}", f"echo '{REASON}' >&2", "exit 1")
    program(tmp_path / "scancel", f"touch {cancelled}")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    given = {"kind": "slurm", "workers": 2, "memory": "1GiB", "wait": WAIT}
    with (
        pytest.raises(ClusterError, match=f"^No worker can come: .*{REASON}$"),
        connect(Queue.model_validate(given)),
    ):
        pytest.fail("there are no workers")
    # Both, once each, and nothing is left to cancel.
    assert submitted.read_text() == "job\njob\n"
    assert not cancelled.exists()
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_queue_that_takes_one_of_two_jobs_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tmp_path / "first"
    program(
        tmp_path / "sbatch",
        f"if mkdir {first}; then echo Submitted batch job 7; else echo '{REASON}' >&2; exit 1; fi",
    )
    program(tmp_path / "scancel", f"echo $1 >> {tmp_path / 'cancelled'}")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    given = {"kind": "slurm", "workers": 2, "memory": "1GiB", "wait": 1.0}
    with (
        pytest.raises(ClusterError, match=r"^There has been no worker for 1 s\."),
        connect(Queue.model_validate(given)),
    ):
        pytest.fail("there are no workers")
    assert (tmp_path / "cancelled").read_text() == "7\n"

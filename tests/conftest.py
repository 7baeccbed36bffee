"""What rooms share: small problems, runs that report, the command, workers, and a small disk."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import typer
from hypothesis import HealthCheck, settings

from hessian_tasks.frozen import FrozenInputs
from hessian_tasks.problem import Problem
from hessian_tasks.process import configure_tensorflow
from hessian_tasks.source import ProblemSource
from tests.helpers.runs import Cli, Run, connected, processes

if TYPE_CHECKING:
    from pipeline.run.cluster.workers import Workers

# How long an example takes depends on what else the machine does, and is not what is tested.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Size TensorFlow's thread pools once, before any test or doctest starts it.

    The processor is two devices to it, the second of which stands for a GPU.
    """
    if "tensorflow" in sys.modules:
        configure_tensorflow(2)
        tf = sys.modules["tensorflow"]
        cpu = tf.config.list_physical_devices("CPU")[0]
        halves = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, halves)
    # Half a million objects of libraries, which each full collection would look through: graphs are
    # made of so many small ones that this took a seventh of the time of tests.
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Which files were named is remembered for these tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def tiny_problem() -> Callable[..., Problem]:
    """A factory of Poisson problems with one hidden layer and random biases, float64."""

    def make(width: int = 6, num_points: int = 12, seed: int = 0) -> Problem:
        from hessian_tasks.networks.models import get_theta, set_theta
        from hessian_tasks.problems import poisson

        problem = poisson.problem(width, 1, num_points, num_points, seed, "float64")
        # Built-in biases are 0, where tanh'' = 0 hides much.
        shift = np.random.default_rng(seed).normal(0.0, 0.3, problem.model.count_params())
        set_theta(problem.model, get_theta(problem.model) + shift)
        return problem

    return make


@pytest.fixture(scope="session")
def inputs() -> FrozenInputs:
    """Frozen inputs of the cheapest built-in problem: 37 parameters, one term, float64."""
    from pipeline.run.inputs import freeze_source

    options = {"width": 12, "depth": 1, "num_samples": 20, "dtype": "float64"}
    return freeze_source(ProblemSource("regression", options))


@pytest.fixture(scope="session")
def run() -> Run:
    """Execute a run with at most 16 GiB and return its events."""

    def run(
        path: Path,
        frozen: FrozenInputs,
        callbacks: Sequence[Callable[[Any], None]] = (),
        stop: Any = None,
        workers: Any = None,
        **options: Any,
    ) -> list[Any]:
        from pipeline.run.execute import execute
        from pipeline.run.options import RunOptions

        events: list[Any] = []
        options = {"num_threads": 2, "allowed_bytes": 2**34, **options}
        execute(path, frozen, RunOptions(**options), [events.append, *callbacks], stop, workers)
        return events

    return run


@pytest.fixture(scope="session")
def commands() -> Callable[[], Any]:
    """The commands of ``hessian``; typer would build all of them for every call, for 20 ms."""
    from pipeline.cli import app

    return typer.main.get_command(app)


@pytest.fixture
def hessian(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    commands: Callable[[], Any],
) -> Cli:
    """The command ``hessian`` in this process: its exit code, output and errors."""
    from pipeline import cli

    monkeypatch.setattr(cli, "app", commands)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hessian", *map(str, arguments)])
        capsys.readouterr()
        code: Any = 0
        try:
            cli.main()
        except SystemExit as left:
            code = left.code or 0
        output, errors = capsys.readouterr()
        return int(code), output, errors

    return call


@pytest.fixture(scope="session")
def workers() -> Iterator[Workers]:
    """A worker process: each imports TensorFlow, which takes longer than most tests."""

    with connected(processes(workers=1)) as found:
        yield found


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system of a given size."""
    mount_point = tmp_path / "disk"
    mount_point.mkdir()

    def mount(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(mount_point)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
        return mount_point

    if shutil.which("mount") is None:
        pytest.skip("there is no mount command")
    yield mount
    subprocess.run(["umount", "--lazy", str(mount_point)], capture_output=True, check=False)

"""The profile of the command: its stages exist, and what they call counts once."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

FILE = Path(__file__).parents[1] / "benchmarks" / "commands.py"


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("stages", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_stages_begin_with_functions_that_the_command_calls(stages: Any) -> None:
    for place in stages.STAGES:
        module, name = place.split(":")
        assert callable(getattr(importlib.import_module(module), name)), place


def test_time_is_booked_to_the_innermost_stage(
    stages: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every look at a clock is a second later than the last.
    ticks, other = count(), count(0, 10)
    clocks = SimpleNamespace(perf_counter=lambda: next(ticks), process_time=lambda: next(other))
    monkeypatch.setattr(stages, "time", clocks)
    home = SimpleNamespace(inner=lambda: clock.turn())
    monkeypatch.setitem(sys.modules, "home", home)
    clock = stages.Clock()
    clock.watch("home:inner", "inner")
    with clock.stage("outer"):
        home.inner()
        home.inner()
    clock.turn()
    # Entered and left, twice; the outer one before, between and after.
    assert clock.spent == {
        "inner": [4, 40],
        "outer": [3, 30],
        stages.REST: [2, 10],
    }

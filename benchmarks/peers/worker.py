"""The process of one peer: answers one JSON line on stdin by one on stdout.

{"do": "tune", "batches": [1, 8]}                times every way once
{"do": "start", "batches": [1, 8], "way": "8"}   builds it and calls it for the first time
{"do": "check", "rows": [0, 7], "path": "…"}     writes these rows of H to a file
{"do": "measure", "rows": 128}                   times the matrix
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from case import Case, load_case
from ways import Way


class Worker:
    def __init__(self, module: str, function: str, case: Case) -> None:
        self.module, self.function, self.case = module, function, case
        self.way: Way | None = None

    def tune(self, batches: list[int]) -> dict[str, Any]:
        """Seconds of the whole matrix by way, extrapolated from one batch."""
        seconds: dict[str, float] = {}
        failures: dict[str, str] = {}
        for label, way in self._ways(batches).items():
            try:
                way.measure(1)
                seconds[label] = way.measure(1).seconds
            except Exception as error:
                failures[label] = f"{type(error).__name__}: {str(error).strip()[:200]}"
        return {"seconds": seconds, "failures": failures}

    def start(self, batches: list[int], way: str | None) -> dict[str, Any]:
        """Import, then build and call: what a user waits for before the first rows."""
        begun = time.perf_counter()
        importlib.import_module(self.module)
        imported = time.perf_counter()
        ways = self._ways(batches)
        label = way or next(iter(ways))
        self.way = ways[label]
        self.way.measure(1)
        first = time.perf_counter() - imported
        return {"way": label, "import": imported - begun, "first": first}

    def check(self, rows: list[int], path: str) -> dict[str, Any]:
        assert self.way is not None
        np.save(path, self.way.rows(np.asarray(rows, np.int64)))
        return {}

    def measure(self, rows: int) -> dict[str, Any]:
        assert self.way is not None
        found = dataclasses.asdict(self.way.measure(rows))
        return {**found, "peak": _peak_bytes()}

    def _ways(self, batches: list[int]) -> dict[str, Way]:
        make = getattr(importlib.import_module(self.module), self.function)
        ways: dict[str, Way] = make(self.case, batches)
        return ways


def _peak_bytes() -> int:
    # Not getrusage: its maximum starts at that of the process that started this one.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


def main() -> None:
    module, function, path = sys.argv[1:]
    # Libraries print what they like; only this module writes answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker(module, function, load_case(Path(path)))
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(worker, request.pop("do"))(**request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {str(error).strip()[:300]}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()

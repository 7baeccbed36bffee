"""Wall time of the main job by width, split into what it is spent on.

Every width runs in a process of its own, from import to stored array, so that importing, preparing
(rebuilding, reading the network, compiling, a trial of a few rows), computing and storing are each
paid once and told apart. Memory is that of the process, and what it had after importing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time


def measure(width: int, dtype: str, directory: str | None) -> dict[str, float]:
    """Run the main job in this process."""
    begun = time.perf_counter()
    from hessian_tasks.process import configure_tensorflow, peak_bytes, reset_peak, resident_bytes

    num_threads = configure_tensorflow()
    from hessian_tasks.source import ProblemSource
    from pipeline.run.events import BlockRowStored, RunStarted
    from pipeline.run.execute import execute
    from pipeline.run.inputs import freeze_source
    from pipeline.run.options import RunOptions
    from pipeline.store.records import BlockRecord

    imported, reserved_bytes = time.perf_counter(), resident_bytes()
    frozen = freeze_source(ProblemSource("poisson", {"width": width, "dtype": dtype}))
    reset_peak()
    records: list[BlockRecord] = []
    startup: list[float] = []

    def listen(event: object) -> None:
        if isinstance(event, RunStarted):
            startup.append(event.startup_seconds)
            startup.append(time.perf_counter())
        if isinstance(event, BlockRowStored):
            records.append(event.record)

    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        store = execute(f"{scratch}/h.zarr", frozen, RunOptions(), [listen])
        finished = time.perf_counter()
    storing = sum(r.store_seconds for r in records) / num_threads
    return {
        "width": width,
        "P": store.num_params,
        "import": imported - begun,
        "prepare": startup[0],
        "compute": finished - startup[1] - storing,
        "store": storing,
        "total": finished - begun,
        "reserved_gib": reserved_bytes / 2**30,
        "peak_gib": peak_bytes() / 2**30,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[10, 20, 50])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--directory", help="where stores are written, and removed again")
    parser.add_argument("--one", action="store_true", help="this process measures one width")
    arguments = parser.parse_args()
    if arguments.one:
        found = measure(arguments.widths[0], arguments.dtype, arguments.directory)
        print(json.dumps(found))
        return
    print("width      P  import  prepare  compute     I/O    total  memory: idle    peak")
    for width in arguments.widths:
        command = [sys.executable, __file__, "--one", "--dtype", arguments.dtype]
        command += ["--directory", arguments.directory] if arguments.directory else []
        command += ["--widths", str(width)]
        output = subprocess.run(command, check=True, capture_output=True, text=True)
        r = json.loads(output.stdout.splitlines()[-1])
        print(
            f"{width:>5} {r['P']:>6.0f} {r['import']:>5.1f} s {r['prepare']:>6.1f} s "
            f"{r['compute']:>6.1f} s {r['store']:>5.1f} s {r['total']:>6.1f} s "
            f"{r['reserved_gib']:>8.2f} GiB {r['peak_gib']:.2f} GiB",
            flush=True,
        )


if __name__ == "__main__":
    main()

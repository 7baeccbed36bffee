"""Wall time of the main job by width, split into what it is spent on.

Every width runs in a process of its own, from import to verified store, so that import,
compilation, computing and storing are each paid once and told apart.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time


def measure(width: int, dtype: str) -> dict[str, float]:
    """Run the main job in this process."""
    begun = time.perf_counter()
    from hessian_tasks.process import configure_tensorflow, peak_bytes, reset_peak

    num_threads = configure_tensorflow()
    from hessian_tasks.source import ProblemSource
    from pipeline.events import BlockRowStored
    from pipeline.inputs import freeze_source
    from pipeline.run import RunOptions, execute

    imported = time.perf_counter()
    frozen = freeze_source(ProblemSource("poisson", {"width": width, "dtype": dtype}))
    reset_peak()
    records = []

    def listen(event: object) -> None:
        if isinstance(event, BlockRowStored):
            records.append(event.record)

    with tempfile.TemporaryDirectory() as directory:
        store = execute(f"{directory}/h.zarr", frozen, RunOptions(), [listen])
    finished = time.perf_counter()
    storing = sum(r.store_seconds for r in records) / num_threads
    return {
        "width": width,
        "P": store.num_params,
        "import": imported - begun,
        "compile": _compile_seconds(frozen),
        "store": storing,
        "total": finished - begun,
        "peak_gib": peak_bytes() / 2**30,
    }


def _compile_seconds(frozen: object) -> float:
    """Time to trace the graphs of all layers anew, without computing a row."""
    from hessian_tasks.autodiff import AutodiffEngine
    from hessian_tasks.rebuild import rebuild
    from hessian_tasks.spec import BlockRow

    begun = time.perf_counter()
    engine = AutodiffEngine(rebuild(frozen))
    for variable in engine.layout.variables:
        engine.block_row(BlockRow(0, variable.offset, variable.offset + 1))
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[10, 20, 50])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--one", action="store_true", help="this process measures one width")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.widths[0], arguments.dtype)))
        return
    print(
        f"{'width':>5} {'P':>6} {'import':>8} {'compile':>8} {'compute':>8} {'I/O':>6} {'total':>7}"
    )
    for width in arguments.widths:
        command = [sys.executable, __file__, "--one", "--dtype", arguments.dtype, "--widths"]
        output = subprocess.run([*command, str(width)], check=True, capture_output=True, text=True)
        r = json.loads(output.stdout.splitlines()[-1])
        compute = r["total"] - r["import"] - r["compile"] - r["store"]
        print(
            f"{width:>5} {r['P']:>6.0f} {r['import']:>6.1f} s {r['compile']:>6.1f} s "
            f"{compute:>6.1f} s {r['store']:>4.2f} s {r['total']:>5.1f} s, "
            f"peak {r['peak_gib']:.2f} GiB"
        )


if __name__ == "__main__":
    main()

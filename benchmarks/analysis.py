"""Analysis of a stored Hessian: one pass, products, eigenpairs out of core and in memory.

    python benchmarks/analysis.py --width 100

Makes the Poisson problem's store if it is not there (1.7 GB for width 100), then times everything
on the same threads. The out-of-core part runs in a process of its own whose data may grow by 1 GiB
beyond what it has after importing; it fails if that is not enough.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
from scipy.sparse.linalg import eigsh, lobpcg

from hessian_tasks.process import peak_bytes, resident_bytes
from pipeline.analysis._dense import read_symmetric
from pipeline.analysis._tiles import Tile, TiledMatrix, complete_matrix, map_shares
from pipeline.analysis.density import spectral_density
from pipeline.analysis.eigenpairs import extreme_eigenpairs
from pipeline.analysis.operator import HessianOperator, open_operator
from pipeline.analysis.statistics import matrix_statistics
from pipeline.units import format_bytes

LIMIT = 2**30
NUM_EXTREME = 10


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--width", type=int, default=100)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--part", choices=["limited"], help="for the script itself")
    arguments = parser.parse_args()
    store = arguments.store or Path(f"runs/analysis-{arguments.width}.zarr")
    if arguments.part:
        limited(store)
        return
    if not store.exists():
        hessian = str(Path(sys.executable).with_name("hessian"))
        option = f"width={arguments.width}"
        subprocess.run([hessian, "run", "poisson", "-o", option, "--store", store], check=True)
    one_pass(store)
    command = [sys.executable, __file__, "--store", store, "--part", "limited"]
    out_of_core = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    in_memory(store, out_of_core)


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


def read_all(tiles: Sequence[Tile], matrix: TiledMatrix) -> None:
    """What reading every tile takes, with nothing done to it."""
    for row, col in tiles:
        matrix.read(row, col)
        if row != col:
            matrix.read(col, row)


def one_pass(store: Path) -> None:
    _, matrix = complete_matrix(store)
    operator = open_operator(store)
    vectors = np.random.default_rng(0).standard_normal((matrix.num_params, 32))
    tasks: dict[str, Callable[[], Any]] = {
        "plain read of all tiles": lambda: map_shares(read_all, matrix.upper(), matrix=matrix),
        "statistics": lambda: matrix_statistics(store),
        "product with 1 vector": lambda: operator @ vectors[:, 0],
        "product with 32 vectors": lambda: operator @ vectors,
    }
    # Taken in turns, so that what else the machine does meets all of them.
    rounds = [{name: timed(task)[0] for name, task in tasks.items()} for _ in range(5)]
    best = {name: min(times[name] for times in rounds) for name in tasks}
    print(f"P = {matrix.num_params:,}, {format_bytes(matrix.array.nbytes)}, best of 5")
    for name, seconds in best.items():
        share = best["plain read of all tiles"] / seconds
        print(f"{name:28} {seconds:7.2f} s  {share:6.0%} of the speed of a plain read")


def limited(store: Path) -> None:
    _, matrix = complete_matrix(store)
    first = matrix.block_rows[0]
    matrix.read(first, first)  # starts the store's event loop and codecs
    before = resident_bytes()
    data = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (data + LIMIT, data + LIMIT))
    operator = open_operator(store)
    seconds, pairs = timed(lambda: extreme_eigenpairs(operator, NUM_EXTREME))
    density_seconds, _ = timed(lambda: spectral_density(operator, known=pairs))
    statistics_seconds, _ = timed(lambda: matrix_statistics(store))
    result = {
        "seconds": seconds,
        "num_passes": pairs.num_passes,
        "values": pairs.values.tolist(),
        "residual": pairs.residuals.max(),
        "tolerance": pairs.tolerance,
        "density": density_seconds,
        "statistics": statistics_seconds,
        "above_baseline": peak_bytes() - before,
    }
    print(json.dumps(result))


def in_memory(store: Path, found: dict[str, Any]) -> None:
    report("out of core, block Lanczos", found["seconds"], found["num_passes"], found["residual"])
    above = format_bytes(found["above_baseline"])
    print(f"  memory above the baseline: {above}, limit {format_bytes(LIMIT)}")
    for task in ("density", "statistics"):
        print(f"  then {task:10} {found[task]:7.2f} s")
    opened, tiles = complete_matrix(store)
    seconds, matrix = timed(lambda: read_symmetric(tiles))
    print(f"in memory: {format_bytes(matrix.nbytes)} in float64, read in {seconds:.1f} s")
    operator, tolerance = counting(matrix, opened.layout), found["tolerance"]
    seconds, pairs = timed(lambda: extreme_eigenpairs(operator, NUM_EXTREME, tolerance=tolerance))
    report("in memory, block Lanczos", seconds, pairs.num_passes, pairs.residuals.max())
    moved = np.abs(pairs.values - found["values"]).max()
    print(f"  from the eigenvalues out of core: {moved:.1e} (allowed {2 * tolerance:.1e})")
    arpack(matrix, opened.layout, tolerance)
    block_lobpcg(matrix, opened.layout, tolerance)
    if opened.num_params <= 6000:
        drivers(matrix)


def counting(matrix: Any, layout: Any) -> HessianOperator:
    return HessianOperator(lambda v: matrix @ v, layout, relative_error=0.0)


def arpack(matrix: Any, layout: Any, tolerance: float) -> None:
    operator = counting(matrix, layout)
    scale = np.abs(matrix.diagonal()).max()
    seconds, (values, vectors) = timed(
        lambda: eigsh(operator, k=2 * NUM_EXTREME, which="BE", tol=tolerance / scale)
    )
    residual = np.linalg.norm(matrix @ vectors - vectors * values, axis=0).max()
    report("in memory, eigsh (ARPACK)", seconds, operator.num_products, residual)


def block_lobpcg(matrix: Any, layout: Any, tolerance: float) -> None:
    passes, worst, total = 0, 0.0, 0.0
    # It goes on until all of a block have converged, so some, but not many, more than are wanted.
    start = np.random.default_rng(0).standard_normal((len(matrix), NUM_EXTREME + 6))
    warnings.simplefilter("ignore")  # of vectors that have not
    for largest in (True, False):
        operator = counting(matrix, layout)
        options = {"tol": tolerance, "maxiter": 40, "largest": largest}
        seconds, (values, vectors) = timed(lambda o=operator, k=options: lobpcg(o, start, **k))
        order = np.argsort(values)[:: -1 if largest else 1][:NUM_EXTREME]
        values, vectors = values[order], vectors[:, order]
        worst = max(worst, np.linalg.norm(matrix @ vectors - vectors * values, axis=0).max())
        passes += operator.num_products // start.shape[1]
        total += seconds
    report("in memory, lobpcg, both ends", total, passes, worst)


def report(name: str, seconds: float, passes: int, residual: float) -> None:
    print(f"{name:28} {seconds:7.2f} s  {passes:5} passes  largest residual {residual:.1e}")


def drivers(matrix: Any) -> None:
    for vectors, driver in [(v, d) for v in (False, True) for d in ("ev", "evd", "evr")]:
        work = matrix.copy()
        seconds, _ = timed(
            lambda work=work, driver=driver, vectors=vectors: scipy.linalg.eigh(
                work.T,
                eigvals_only=not vectors,
                driver=driver,
                overwrite_a=True,
                check_finite=False,
            )
        )
        print(
            f"eigh, {driver:3}, {'with vectors' if vectors else 'values only':12} {seconds:7.2f} s"
        )


if __name__ == "__main__":
    main()

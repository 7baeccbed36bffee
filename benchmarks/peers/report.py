"""A table and a picture of the measurements, of one run or of several together.

python benchmarks/peers/report.py runs/*/peers_float64.json --picture time.png
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["draw", "markdown"]

# Okabe and Ito's colours, told apart by the colour-blind; a marker each besides.
COLOURS = ["#D55E00", "#0072B2", "#009E73", "#56B4E9", "#E69F00", "#CC79A7", "#000000", "#999999"]
MARKERS = "os^vD<>Ph*Xd"

HEADER = """\
| peer | way | time | spread | rows measured | first call | peak memory | GFLOP/s | of the limit | relative error |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""  # noqa: E501


def markdown(results: dict[str, Any]) -> str:
    """One table a width, with the limit above it."""
    parts = [_machine(results)]
    for width, found in results["widths"].items():
        limit = best_limit(found)
        parts.append(f"## Width {width}, P = {found['P']:,}, {results['dtype']}\n")
        parts.append(_limits(found) + "\n")
        measured = [r for r in found["peers"].values() if "failure" not in r]
        measured.sort(key=lambda record: statistics.median(record["seconds"]))
        rows = "".join(_row(record, found, limit) for record in measured)
        parts.append(HEADER + rows)
        failed = [r for r in found["peers"].values() if "failure" in r]
        parts.extend(f"- {r['name']}: not measured, {_one_line(r['failure'])}." for r in failed)
    return "\n".join(parts) + "\n"


def best_limit(found: dict[str, Any]) -> float:
    """FLOP/s of the faster matrix product, the median of the rounds."""
    from limits import LIMIT_FLOP

    seconds = [statistics.median(r["seconds"]) for r in found["limits"].values() if r["seconds"]]
    return LIMIT_FLOP / min(seconds) if seconds else float("nan")


def _machine(results: dict[str, Any]) -> str:
    machine = results["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in machine["versions"].items() if v)
    hardware = f"{machine['processor']}, {machine['cores']} cores"
    return f"{hardware}, Python {machine['python']}, {versions}.\n"


def _limits(found: dict[str, Any]) -> str:
    from limits import LIMIT_FLOP

    shown = [
        f"{r['name']} {LIMIT_FLOP / statistics.median(r['seconds']) / 1e9:.0f} GFLOP/s"
        for r in found["limits"].values()
        if r["seconds"]
    ]
    return "Limit: " + ", ".join(shown) + "."


def _row(record: dict[str, Any], found: dict[str, Any], limit: float) -> str:
    seconds = record["seconds"]
    median = statistics.median(seconds)
    rate = found["useful_flop"] / median
    rows = "all" if record["rows"] >= found["P"] else f"{record['rows']}, extrapolated"
    threads = record["environment"].get("TF_NUM_INTRAOP_THREADS")
    way = record["way"] + (f", {threads} thread an operation" if threads else "")
    cells = [
        record["name"],
        way,
        f"{median:.3g} s",
        f"{min(seconds):.3g} to {max(seconds):.3g} s",
        rows,
        f"{record['first']:.1f} s",
        f"{record['peak'] / 2**30:.2f} GiB",
        f"{rate / 1e9:.2f}",
        f"{rate / limit:.1%}",
        f"{record['error']:.1e}",
    ]
    return f"| {' | '.join(cells)} |\n"


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")


def draw(results: dict[str, Any], path: Path) -> None:
    """Time against P, both logarithmic; lines end where a peer does."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    widths = results["widths"].values()
    measured = [(k, r) for found in widths for k, r in found["peers"].items() if r["seconds"]]
    peers = {key: record["name"] for key, record in measured}
    for number, (key, name) in enumerate(peers.items()):
        points = [
            (found["P"], statistics.median(found["peers"][key]["seconds"]))
            for found in widths
            if key in found["peers"] and found["peers"][key]["seconds"]
        ]
        ours = name.startswith("ours")
        axes.plot(
            *zip(*points, strict=True),
            marker=MARKERS[number % len(MARKERS)],
            color=COLOURS[number % len(COLOURS)],
            linestyle="-" if ours or number < len(COLOURS) else "--",
            linewidth=2.8 if ours else 1.2,
            label=name,
        )
    sizes = [found["P"] for found in widths]
    bound = [found["useful_flop"] / best_limit(found) for found in widths]
    axes.plot(sizes, bound, color="black", linestyle=":", label="N·S·P² at the limit of matmul")
    axes.set(xscale="log", yscale="log", xlabel="number of parameters P", ylabel="seconds")
    axes.set_title(f"Exact Hessian of a Poisson PINN, {results['dtype']}", fontsize=11)
    axes.grid(True, which="major", alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def merge(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Runs of one dtype as if they were one; of widths measured twice the last counts."""
    dtypes = {run["dtype"] for run in runs}
    if len(dtypes) > 1:
        raise SystemExit(f"These runs are in {' and '.join(sorted(dtypes))}; give those of one.")
    widths = {width: found for run in runs for width, found in run["widths"].items()}
    return {**runs[-1], "widths": dict(sorted(widths.items(), key=lambda item: int(item[0])))}


def main() -> None:
    """Tables to standard output, and a picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, nargs="+", help="what runs have written, .json")
    parser.add_argument("--picture", type=Path, help="where to draw time against P")
    arguments = parser.parse_args()
    merged = merge([json.loads(path.read_text()) for path in arguments.results])
    print(markdown(merged))
    if arguments.picture:
        draw(merged, arguments.picture)


if __name__ == "__main__":
    main()

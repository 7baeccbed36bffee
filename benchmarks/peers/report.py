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

__all__ = ["draw", "markdown", "summary"]

# Okabe and Ito's colours, told apart by the colour-blind; a marker each besides.
COLOURS = ["#D55E00", "#0072B2", "#009E73", "#56B4E9", "#E69F00", "#CC79A7", "#000000", "#999999"]
MARKERS = "os^vD<>Ph*Xd"

OURS = "layered"

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


def summary(runs: Sequence[dict[str, Any]]) -> str:
    """One table of runs of several dtypes: our time, and how many times as long others took.

    A ratio is that of the medians; between brackets, the smallest and largest of the rounds'.
    """
    columns = [
        (run["dtype"], width, run["widths"][width]) for run in runs for width in run["widths"]
    ]
    keys = dict.fromkeys(key for *_, found in columns for key in found["peers"])
    lines = [
        "| peer | " + " | ".join(f"{width}, {dtype}" for dtype, width, _ in columns) + " |",
        "| --- " * (len(columns) + 1) + "|",
    ]
    for key in keys:
        name = next(f["peers"][key]["name"] for *_, f in columns if key in f["peers"])
        cells = [_summarized(found["peers"], key) for *_, found in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    bounds = [f["useful_flop"] / best_limit(f) for *_, f in columns]
    ours = [_seconds(f["peers"], OURS) for *_, f in columns]
    cells = [
        f"{statistics.median(o) / b:.2f}" if o else "" for o, b in zip(ours, bounds, strict=True)
    ]
    return "\n".join([*lines, f"| ours, times the limit | {' | '.join(cells)} |"]) + "\n"


def _summarized(peers: dict[str, Any], key: str) -> str:
    seconds, ours = _seconds(peers, key), _seconds(peers, OURS)
    if not seconds or key == OURS or not ours:
        return f"{statistics.median(seconds):.3g} s" if seconds else "-"
    # Rounds pair up: what slows the machine down slows both.
    ratios = [other / own for other, own in zip(seconds, ours, strict=False)]
    ratio = statistics.median(seconds) / statistics.median(ours)
    return f"{ratio:.1f} ({min(ratios):.1f} to {max(ratios):.1f})"


def _seconds(peers: dict[str, Any], key: str) -> list[float]:
    record = peers.get(key, {"failure": "not asked for"})
    return [] if "failure" in record else list(record["seconds"])


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
    parser.add_argument("--summary", action="store_true", help="one table of all, of any dtype")
    parser.add_argument("--picture", type=Path, help="where to draw time against P")
    arguments = parser.parse_args()
    runs = [json.loads(path.read_text()) for path in arguments.results]
    if arguments.summary:
        print(summary(runs))
        return
    merged = merge(runs)
    print(markdown(merged))
    if arguments.picture:
        draw(merged, arguments.picture)


if __name__ == "__main__":
    main()

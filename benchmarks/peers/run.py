"""Exact dense Hessians of a PINN's loss: our engines and what else there is, in one run.

Every peer has a process of its own, with the same weights and points. First each is tried with
several row batches, with and without compilation, and keeps its fastest way. Then rounds: in
each, every peer measures once while the others wait. Its rows are compared with ours.

    python benchmarks/peers/run.py --widths 10 20 50 --dtypes float32 float64
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from case import Case, Indices, spread
from catalogue import LIMITS, PEERS, Peer
from client import Client, PeerError
from report import markdown, summary
from ways import MAX_PARAMS_AT_ONCE

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = [
    "numpy", "tensorflow", "keras", "jax", "jaxlib", "torch", "curvlinops-for-pytorch", "pyhessian"
]  # fmt: skip
CHECKED_ROWS = 24


def main() -> None:
    arguments = _parse()
    arguments.output.mkdir(parents=True, exist_ok=True)
    shared = {"machine": _machine(), "arguments": {k: str(v) for k, v in vars(arguments).items()}}
    runs: list[dict[str, Any]] = [
        {**shared, "dtype": dtype, "widths": {}} for dtype in arguments.dtypes
    ]
    # The dtypes of a width follow each other, so that their machine is the same.
    for width in arguments.widths:
        for run in runs:
            run["widths"][str(width)] = measure_width(width, run["dtype"], arguments)
            path = arguments.output / f"peers_{run['dtype']}.json"
            path.write_text(json.dumps(run, indent=1) + "\n")
    for run in runs:
        text = markdown(run)
        (arguments.output / f"peers_{run['dtype']}.md").write_text(text)
        print(text)
    print(summary(runs))


def measure_width(width: int, dtype: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything about one size: ways, first calls, errors, and the times of all rounds."""
    # Imported by a process of its own: this one stays small and computes nothing.
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "case.npz"
        case, rows, reference = _prepare(width, dtype, path)
        print(f"width {width}, {dtype}, P = {case.num_params}", file=sys.stderr)
        found = {"P": case.num_params, "useful_flop": case.useful_flop, "peers": {}, "limits": {}}
        clients: dict[tuple[str, str], Client] = {}
        chosen = {("limits", k): p for k, p in LIMITS.items()}
        chosen |= {("peers", k): PEERS[k] for k in arguments.peers}
        try:
            for (kind, key), peer in chosen.items():
                record = found[kind][key] = {"name": peer.name, "seconds": []}
                try:
                    _admit(peer, case.num_params)
                    clients[kind, key] = _start(peer, path, arguments, record)
                    if kind == "peers":
                        record["error"] = _error(clients[kind, key], rows, reference, path)
                except PeerError as error:
                    _give_up(clients, (kind, key), record, error)
                _tell(record)
            _measure_rounds(clients, found, arguments)
        finally:
            for client in clients.values():
                client.close()
    return found


def _measure_rounds(
    clients: dict[tuple[str, str], Client], found: dict[str, Any], arguments: argparse.Namespace
) -> None:
    whole = found["P"] <= MAX_PARAMS_AT_ONCE
    num_rows = found["P"] if whole else arguments.rows
    for number in range(arguments.rounds):
        # Every second round in reverse: no peer always follows the same other one.
        for kind, key in list(clients)[:: 1 if number % 2 == 0 else -1]:
            record = found[kind][key]
            try:
                measured = clients[kind, key].ask("measure", rows=num_rows)
                record["seconds"].append(measured.pop("seconds"))
                record.update(measured)
            except PeerError as error:
                _give_up(clients, (kind, key), record, error)
            _tell(record)


def _give_up(
    clients: dict[tuple[str, str], Client],
    key: tuple[str, str],
    record: dict[str, Any],
    error: PeerError,
) -> None:
    record["failure"] = str(error)
    if key in clients:
        clients.pop(key).close()


def _prepare(width: int, dtype: str, path: Path) -> tuple[Case, Indices, Any]:
    from multiprocessing import get_context

    with get_context("spawn").Pool(1) as pool:
        case, rows, reference = pool.apply(_make_reference, (width, dtype))
    case.save(path)
    return case, rows, reference


def _make_reference(width: int, dtype: str) -> tuple[Case, Indices, Any]:
    import ours

    case = ours.make_case(width, dtype)
    rows = spread(case.num_params, CHECKED_ROWS)
    return case, rows, ours.reference_rows(case, rows)


def _admit(peer: Peer, num_params: int) -> None:
    if num_params > peer.max_params:
        raise PeerError(peer.reason)


def _start(peer: Peer, path: Path, arguments: argparse.Namespace, record: dict[str, Any]) -> Client:
    """Start the process that stays, with the fastest of the ways that a first process tried."""
    best: tuple[float, str | None, dict[str, str]] = (float("inf"), None, peer.environments[0])
    tuned = record["tuned"] = []
    if peer in PEERS.values() and not peer.single:
        for environment in peer.environments:
            with Client(peer, path, environment, arguments.timeout) as client:
                answer = client.ask("tune", batches=arguments.batches)
            tuned.append({"environment": environment, **answer})
            for label, seconds in answer["seconds"].items():
                best = min(best, (seconds, label, environment), key=lambda entry: entry[0])
        if best[1] is None:
            failures = [text for entry in tuned for text in entry["failures"].values()]
            raise PeerError(failures[0])
    record["environment"] = best[2]
    client = Client(peer, path, best[2], arguments.timeout)
    try:
        record.update(client.ask("start", batches=arguments.batches, way=best[1]))
    except PeerError:
        client.close()
        raise
    return client


def _error(client: Client, rows: Indices, reference: Any, path: Path) -> float:
    """Relative error of the checked rows, where the peer computes them."""
    target = path.with_name("rows.npy")
    client.ask("check", rows=rows.tolist(), path=str(target))
    computed = np.load(target)
    known = ~np.isnan(computed)
    difference = np.where(known, computed - reference, 0)
    return float(np.linalg.norm(difference) / np.linalg.norm(np.where(known, reference, 0)))


def _tell(record: dict[str, Any]) -> None:
    if "failure" in record:
        text = f"fails, {record['failure']}"
    elif record["seconds"]:
        text = f"{record['seconds'][-1]:.3g} s"
    else:
        text = f"{record['way']} {record['environment'] or ''}, first call {record['first']:.1f} s"
    print(f"  {record['name']}: {text}", file=sys.stderr, flush=True)


def _machine() -> dict[str, Any]:
    models = [x for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x]
    return {
        "processor": models[0].partition(":")[2].strip() if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "openblas_coretype": os.environ.get("OPENBLAS_CORETYPE"),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--widths", type=int, nargs="+", default=[10, 20, 50])
    parser.add_argument(
        "--dtypes", nargs="+", choices=["float32", "float64"], default=["float32", "float64"]
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=128, help="of larger matrices, measured")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--timeout", type=float, default=1800, help="seconds of one answer")
    parser.add_argument("--output", type=Path, default=ROOT / "runs", help="folder of the results")
    return parser.parse_args()


if __name__ == "__main__":
    main()

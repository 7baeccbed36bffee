"""Optimisers after the same 500 steps of Adam: loss, error and seconds, for three problems.

    python benchmarks/optimizers.py

Poisson's equation, Kovasznay's flow, and the inverse problem of the examples without noise, whose
error is that of its rate. Every training begins from the same weights, and includes what it
compiles. Prints a table, and writes the same as JSON.
"""

from __future__ import annotations

import argparse
import json
import runpy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hessian_tasks import Problem, load_problem
from hessian_tasks.networks.models import parameter_layout
from hessian_tasks.networks.trainables import parameters_of
from hessian_tasks.process import configure_tensorflow
from pipeline.training import train

EXAMPLE = Path(__file__).parents[1] / "examples" / "inverse_problem.py"
RATE = 2.0
SIZES = {"width": 16, "depth": 2, "num_interior": 500, "num_boundary": 200, "dtype": "float64"}
ADAM = 500
OPTIMISERS: dict[str, dict[str, int]] = {
    "L-BFGS": {"lbfgs_steps": 1500},
    "self-scaled Broyden": {"ssbroyden_steps": 1000},
    "Levenberg-Marquardt": {"levenberg_marquardt_steps": 100},
}


def inverse() -> Problem:
    made: Problem = runpy.run_path(str(EXAMPLE))["problem"](noise=0.0)
    return made


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "poisson": lambda: load_problem("poisson", **SIZES),
    "kovasznay": lambda: load_problem("kovasznay", **SIZES),
    "inverse": inverse,
}


def measure(name: str, optimiser: str) -> dict[str, Any]:
    """Train once."""
    steps = dict.fromkeys(["adam", "last"], 0)

    def count(phase: str, step: int, loss: float) -> None:
        steps["adam" if phase == "adam" else "last"] = step

    before = time.process_time()
    result = train(PROBLEMS[name](), adam_steps=ADAM, on_step=count, **OPTIMISERS[optimiser])
    spent = time.process_time() - before
    parameters = parameters_of(result.problem.model)
    error = abs(float(parameters["rate"].numpy()) - RATE) / RATE if parameters else result.error
    return {
        "problem": name,
        "P": parameter_layout(result.problem.model).num_params,
        "optimiser": optimiser,
        "steps": steps["last"],
        "loss": result.loss,
        "error": error,
        "seconds": result.seconds,
        "processor_seconds": spent,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/optimizers.json"))
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    arguments = parser.parse_args()
    configure_tensorflow(2)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    print("| problem | P | after Adam | steps | loss | relative error | time | of the processor |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in arguments.problems:
        for optimiser in OPTIMISERS:
            r = measure(name, optimiser)
            found.append(r)
            arguments.out.write_text(json.dumps(found, indent=1) + "\n")
            print(
                f"| {name} | {r['P']} | {optimiser} | {r['steps']:,} | {r['loss']:.1e} | "
                f"{r['error']:.1e} | {r['seconds']:.1f} s | {r['processor_seconds']:.1f} s |",
                flush=True,
            )


if __name__ == "__main__":
    main()

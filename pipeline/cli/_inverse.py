"""Commands that need the inverse of a stored matrix."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hessian_tasks.process import configure_tensorflow
from pipeline.cli import render
from pipeline.cli._app import app, print_answer
from pipeline.cli._parameters import (
    DataTerm,
    Json,
    MatrixName,
    Memory,
    Picture,
    ProblemFile,
    Store,
    Term,
    finite,
)
from pipeline.errors import ConfigError
from pipeline.units import parse_bytes

if TYPE_CHECKING:
    from pipeline.store.store import HessianStore

__all__ = ["influence", "solve", "uncertainty"]

Damping = Annotated[
    float, typer.Option(min=0.0, callback=finite, help="What is added to the diagonal.")
]


@app.command()
def solve(
    store: Store,
    right: Annotated[
        str, typer.Option(help="Right-hand side: gradient, or an .npy file [P] or [P, K].")
    ] = "gradient",
    damping: Damping = 0.0,
    out: Annotated[Path | None, typer.Option(help="Write the solution, .npy.")] = None,
    term: Term = None,
    matrix: MatrixName = None,
    memory: Memory = None,
    as_json: Json = False,
) -> None:
    """Solve with a complete store, leaving out what cannot be told from singular."""
    from pipeline.analysis.parts import select_matrix
    from pipeline.analysis.solve import solve as compute

    opened = select_matrix(store, matrix)
    limit = None if memory is None else parse_bytes(memory)
    found = compute(opened, _right_hand_side(opened, right), damping, term, memory=limit)
    if out is not None:
        _save(out, found.x)
    print_answer([opened], render.solution(found), found.to_json(), as_json)


@app.command()
def uncertainty(
    store: Store,
    data: DataTerm = None,
    sigma: Annotated[
        float | None,
        typer.Option(callback=finite, help="Standard deviation of their errors (estimated)."),
    ] = None,
    damping: Damping = 0.0,
    matrix: MatrixName = None,
    problem: ProblemFile = None,
    picture: Picture = None,
    as_json: Json = False,
) -> None:
    """Error bars of the parameters and of the solution, from noisy measurements."""
    configure_tensorflow()
    from pipeline.analysis.parts import select_matrix
    from pipeline.analysis.pictures import band_picture, save
    from pipeline.curvature.uncertainty import uncertainty as compute

    opened = select_matrix(store, matrix)
    found = compute(opened, data, sigma, damping=damping, problem=problem)
    if picture is not None:
        save(band_picture(found.band, "How well the solution is known"), picture)
    print_answer([opened], render.uncertainty(found), found.to_json(), as_json)


@app.command()
def influence(
    store: Store,
    data: DataTerm = None,
    of: Annotated[
        str | None, typer.Option(help="What is ordered by and drawn: a parameter, or solution.")
    ] = None,
    number: Annotated[int, typer.Option(min=1, help="Points to print.")] = 10,
    damping: Damping = 0.0,
    matrix: MatrixName = None,
    problem: ProblemFile = None,
    picture: Picture = None,
    as_json: Json = False,
) -> None:
    """What changes where one point, or one measurement, is left out."""
    configure_tensorflow()
    from pipeline.analysis.parts import select_matrix
    from pipeline.analysis.pictures import residual_picture, save
    from pipeline.curvature.influence import influence as compute

    opened = select_matrix(store, matrix)
    found = compute(opened, data, damping=damping, problem=problem)
    if of is not None and of not in found.changes:
        raise ConfigError(f"--of is {of}; expected one of: {', '.join(found.changes)}.")
    name = of or next(iter(found.changes))
    if picture is not None:
        shown, names = found.points[:, :2], list(found.coordinates[:2])
        title = f"Without one point of {found.term}"
        save(
            residual_picture(shown, names, found.changes[name], title, f"change of {name}"), picture
        )
    print_answer([opened], render.influence(found, name, number), found.to_json(), as_json)


def _right_hand_side(store: HessianStore, right: str) -> Any:
    import numpy as np

    if right == "gradient":
        return store.read("gradient")
    try:
        # A pickle would run code.
        with Path(right).open("rb") as file:
            found = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(
            f"--right is {right}, which cannot be read ({type(error).__name__}: {error}); expected "
            "gradient, or an .npy file of numbers."
        ) from error
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiu":
        raise ConfigError(f"--right is {right}, which is no .npy file of real numbers.")
    return found


def _save(path: Path, x: Any) -> None:
    import numpy as np

    from pipeline.store.places import writing

    with writing(path), path.open("wb") as file:
        np.save(file, x)

"""Commands that ask which part of a Hessian does what, and where its steps lead."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hessian_tasks.errors import NotLayeredError
from hessian_tasks.process import configure_tensorflow
from pipeline.cli import render
from pipeline.cli._app import app, print_answer, say
from pipeline.cli._parameters import Json, MatrixName, Picture, ProblemFile, Store, finite

if TYPE_CHECKING:
    from pipeline.analysis.approximations import KroneckerFactors
    from pipeline.store.store import HessianStore

__all__ = ["approximations", "steps", "terms"]

Ggn = Annotated[
    Path | None,
    typer.Option(help="Store of the Gauss-Newton matrix of the same inputs (its own)."),
]


@app.command()
def terms(
    store: Store,
    ggn: Ggn = None,
    number: Annotated[int, typer.Option(min=1, help="Dominant eigenvectors of each part.")] = 10,
    with_gradients: Annotated[
        bool, typer.Option("--gradients", help="Also the terms' gradients, from the problem.")
    ] = False,
    history: Annotated[
        Path | None,
        typer.Option(help="Also spectra preconditioned by L-BFGS, from hessian train --history."),
    ] = None,
    problem: ProblemFile = None,
    as_json: Json = False,
) -> None:
    """Compare the loss terms of a Hessian, its Gauss-Newton part and the rest, as far as stored."""
    from pipeline.analysis.terms import analyse_terms
    from pipeline.store.store import HessianStore

    opened = HessianStore(store)
    analysis = analyse_terms(opened, ggn, number)
    text, data = render.terms(analysis), analysis.to_json()
    if history is not None:
        from pipeline.analysis.lbfgs import LbfgsHistory
        from pipeline.analysis.preconditioned import preconditioned_spectra

        spectra = preconditioned_spectra(analysis.parts, LbfgsHistory.load(history))
        text += "\n\n" + render.preconditioned(analysis.parts, spectra)
        data["preconditioned"] = [found.to_json() for found in spectra]
    if with_gradients:
        configure_tensorflow()
        from pipeline.curvature.steps import term_gradients

        gradients = term_gradients(store, problem)
        text += "\n\n" + render.gradients(gradients)
        data["gradients"] = {term: gradient.tolist() for term, gradient in gradients.items()}
    print_answer(_asked(opened, ggn), text, data, as_json)


@app.command()
def steps(
    store: Store,
    ggn: Ggn = None,
    damping: Annotated[
        list[float],
        typer.Option(min=0.0, callback=finite, help="Damping; can be given several times."),
    ] = [],  # noqa: B006  (typer copies it)
    problem: ProblemFile = None,
    as_json: Json = False,
) -> None:
    """Take Newton, saddle-free and, where G is stored, Gauss-Newton steps; look at the loss."""
    configure_tensorflow()
    from pipeline.curvature.steps import try_steps
    from pipeline.store.store import HessianStore

    opened = HessianStore(store)
    tried = try_steps(opened, ggn, dampings=damping, problem=problem)
    data = {"steps": [step.to_json() for step in tried]}
    print_answer(_asked(opened, ggn), render.steps(tried), data, as_json)


@app.command()
def approximations(
    store: Store,
    ggn: Ggn = None,
    rank: Annotated[
        list[int], typer.Option(min=1, help="Rank of one of low rank; can be given several times.")
    ] = [10, 100],  # noqa: B006  (typer copies it)
    damping: Annotated[
        float | None,
        typer.Option(min=0.0, callback=finite, help="Damping of the steps (chosen)."),
    ] = None,
    with_kfac: Annotated[
        bool, typer.Option("--kfac", help="Also K-FAC and EKFAC, from the problem.")
    ] = False,
    problem: ProblemFile = None,
    matrix: MatrixName = None,
    picture: Picture = None,
    as_json: Json = False,
) -> None:
    """How far diagonals, blocks, Kronecker factors and low ranks are from the matrix."""
    from pipeline.analysis.approximations import compare_approximations
    from pipeline.analysis.parts import select_matrix

    opened = select_matrix(store, matrix)
    factors = _factors(opened, problem) if with_kfac else None
    found = compare_approximations(opened, ggn, ranks=rank, damping=damping, factors=factors)
    if picture is not None:
        from pipeline.analysis.pictures import approximations_picture, save

        save(approximations_picture(found, f"approximations of the {found.title}"), picture)
    print_answer(_asked(opened, ggn), render.approximations(found), found.to_json(), as_json)


def _asked(opened: HessianStore, ggn: Path | None) -> list[HessianStore]:
    """The stores that an answer comes from."""
    from pipeline.store.store import HessianStore

    # What it warns of was said when it was read.
    return [opened] if ggn is None else [opened, HessianStore(ggn, warn=False)]


def _factors(store: HessianStore, problem: str | None) -> KroneckerFactors | None:
    configure_tensorflow()
    from pipeline.curvature.kfac import kronecker_factors

    try:
        return kronecker_factors(store, problem)
    except NotLayeredError as error:
        say(f"hessian: {error} They are left out.", err=True)
        return None

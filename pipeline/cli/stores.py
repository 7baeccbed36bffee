"""Commands that ask something of a store."""

from __future__ import annotations

from typing import Annotated

import typer

from hessian_tasks.process import configure_tensorflow
from pipeline import render
from pipeline.cli.app import EXIT_NOT_VERIFIED, app, print_result
from pipeline.cli.parameters import Json, Picture, Store, Term

__all__ = ["info", "spectrum", "verify"]


@app.command()
def verify(
    store: Store,
    problem: Annotated[
        str | None, typer.Option(help="The problem's file, if it has moved since.")
    ] = None,
    num_vectors: Annotated[int, typer.Option(min=1, help="Number of random vectors.")] = 3,
    as_json: Json = False,
) -> None:
    """Compare the store with the loss it came from, and record the certificate."""
    from pipeline.api import verify_hessian

    configure_tensorflow()
    certificate = verify_hessian(store, problem, num_vectors)
    print_result(render.certificate(certificate), certificate.to_json(), as_json)
    if not certificate.passed:
        raise typer.Exit(EXIT_NOT_VERIFIED)


@app.command()
def spectrum(
    store: Store, term: Term = None, picture: Picture = None, as_json: Json = False
) -> None:
    """Eigenvalues of a complete store, with the floor below which they are noise."""
    from pipeline.analysis.pictures import eigenvalue_picture, save
    from pipeline.analysis.spectrum import spectrum as compute
    from pipeline.store import HessianStore

    opened = HessianStore(store)
    found = compute(opened, term)
    if picture is not None:
        title = f"Spectrum of the {opened.matrix.title}, P = {opened.num_params:,}"
        save(eigenvalue_picture(found, title), picture)
    print_result(render.spectrum(found), found.to_json(), as_json)


@app.command()
def info(store: Store, picture: Picture = None, as_json: Json = False) -> None:
    """Say what a store holds and where it came from; optionally draw the matrix."""
    from pipeline.analysis.pictures import matrix_picture, save
    from pipeline.store import HessianStore

    opened = HessianStore(store)
    if picture is not None:
        save(matrix_picture(opened), picture)
    print_result(render.info(opened), opened.attributes, as_json)

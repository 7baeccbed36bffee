"""Commands that ask something of a store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hessian_tasks.process import configure_tensorflow
from pipeline.cli import render
from pipeline.cli._app import (
    EXIT_NOT_VERIFIED,
    app,
    print_answer,
    print_result,
    say,
    say_if_unverified,
)
from pipeline.cli._parameters import (
    Json,
    MatrixName,
    Memory,
    Option,
    Picture,
    Store,
    Term,
    finite,
    named_source,
)
from pipeline.errors import ConfigError
from pipeline.units import parse_bytes

if TYPE_CHECKING:
    from pipeline.analysis.spectrum import Spectrum
    from pipeline.store.store import HessianStore

__all__ = ["export", "info", "spectrum", "statistics", "verify"]

# Eigenvalues at each end that a density counts exactly.
NUM_ENDS = 20


@app.command()
def verify(
    store: Store,
    problem: Annotated[
        str | None, typer.Option(help="The problem's file, if it has moved since.")
    ] = None,
    option: Option = None,
    num_vectors: Annotated[int, typer.Option(min=1, help="Number of random vectors.")] = 3,
    memory: Memory = None,
    as_json: Json = False,
) -> None:
    """Compare the store with the loss it came from, and record the certificate."""
    from pipeline.api import verify_hessian

    source = named_source(problem, option)
    configure_tensorflow()
    budget = None if memory is None else parse_bytes(memory)
    certificate = verify_hessian(store, source, num_vectors, memory=budget)
    print_result(render.certificate(certificate), certificate.to_json(), as_json)
    if not certificate.passed:
        raise typer.Exit(EXIT_NOT_VERIFIED)


@app.command()
def spectrum(
    store: Store,
    term: Term = None,
    matrix: MatrixName = None,
    extreme: Annotated[
        int | None, typer.Option(min=1, help="Only so many eigenvalues at each end.")
    ] = None,
    interval: Annotated[
        tuple[float, float] | None,
        typer.Option(callback=finite, help="Only eigenvalues above A and up to B."),
    ] = None,
    density: Annotated[
        bool, typer.Option("--density", help="Ends, and an estimate of all between them.")
    ] = False,
    vectors: Annotated[
        Path | None, typer.Option(help="Write eigenvalues and eigenvectors, .npz.")
    ] = None,
    memory: Memory = None,
    picture: Picture = None,
    as_json: Json = False,
) -> None:
    """Eigenvalues of a complete store, with the floor below which they are noise."""
    from pipeline.analysis.parts import select_matrix
    from pipeline.analysis.spectrum import eigenvalues_between
    from pipeline.analysis.spectrum import spectrum as compute

    if interval is not None and (extreme is not None or density):
        raise ConfigError("--interval goes neither with --extreme nor with --density.")
    opened = select_matrix(store, matrix)
    options: dict[str, Any] = {
        "vectors": vectors is not None,
        "memory": None if memory is None else parse_bytes(memory),
    }
    if interval is not None:
        found = eigenvalues_between(opened, interval, term, **options)
    else:
        found = compute(opened, term, extreme or (NUM_ENDS if density else None), **options)
    if vectors is not None:
        _save_pairs(vectors, found)
    text, data = render.spectrum(found), found.to_json()
    described = _density(opened, term, found) if density else None
    if described is not None:
        text, data = f"{text}\n{render.density(described)}", data | {"density": described}
    if picture is not None:
        from pipeline.analysis.pictures import eigenvalue_picture, estimated_density_picture, save

        title = f"Spectrum of the {opened.matrix.title}, P = {opened.num_params:,}"
        drawn = (
            eigenvalue_picture(found, title)
            if described is None
            else estimated_density_picture(described, title)
        )
        save(drawn, picture)
    print_answer([opened], text, data, as_json)


def _density(store: HessianStore, term: str | None, found: Spectrum) -> dict[str, Any]:
    from pipeline.analysis.density import spectral_density
    from pipeline.analysis.operator import open_operator

    estimate = spectral_density(open_operator(store, term), known=found.pairs)
    return estimate.to_json(found.noise_floor)


def _save_pairs(path: Path, found: Spectrum) -> None:
    import numpy as np

    from pipeline.store.places import writing

    arrays: dict[str, Any] = {"eigenvalues": found.eigenvalues, "vectors": found.vectors}
    if found.pairs is not None:
        arrays["residuals"] = found.pairs.residuals
    with writing(path):
        np.savez(path, **arrays)


@app.command()
def statistics(
    store: Store, term: Term = None, matrix: MatrixName = None, as_json: Json = False
) -> None:
    """Exact norms, trace, bounds and shares of layers, from one pass over a complete store."""
    from pipeline.analysis.parts import select_matrix
    from pipeline.analysis.statistics import matrix_statistics

    opened = select_matrix(store, matrix)
    found = matrix_statistics(opened, term)
    print_answer([opened], render.statistics(found), found.to_json(), as_json)


@app.command()
def export(
    store: Store,
    path: Annotated[Path, typer.Argument(help="File to write: .npy, .npz, .h5 or .mat.")],
    term: Term = None,
    matrix: MatrixName = None,
) -> None:
    """Write the matrix of a complete store to a file for NumPy, HDF5 or MATLAB."""
    from pipeline.analysis.export import export_matrix
    from pipeline.analysis.parts import select_matrix
    from pipeline.units import format_bytes

    opened = select_matrix(store, matrix)
    written = export_matrix(opened, path, term)
    say_if_unverified(opened)
    say(f"wrote {written}, {format_bytes(written.stat().st_size)}")


@app.command()
def info(
    store: Store, picture: Picture = None, matrix: MatrixName = None, as_json: Json = False
) -> None:
    """Say what a store holds and where it came from; optionally draw the matrix."""
    from pipeline.store.store import HessianStore

    opened = HessianStore(store)
    if picture is not None:
        from pipeline.analysis.parts import select_matrix
        from pipeline.analysis.pictures import matrix_picture, save

        save(matrix_picture(select_matrix(opened, matrix)), picture)
    print_answer([opened], render.info(opened), render.info_data(opened), as_json)

"""Commands that write pages: the report of a store, and several stores side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli import render
from pipeline.cli._app import app, print_result, say
from pipeline.cli._parameters import DataTerm, Json, Option, Store, named_source

__all__ = ["compare", "report"]


@app.command()
def report(
    store: Store,
    out: Annotated[
        Path | None, typer.Option(help="Directory of the report (<store>-report).")
    ] = None,
    ggn: Annotated[
        Path | None,
        typer.Option(help="Store of the Gauss-Newton matrix, to compare with (its own)."),
    ] = None,
    problem: Annotated[
        str | None, typer.Option(help="The problem's file, if it has moved since.")
    ] = None,
    option: Option = None,
    stored_only: Annotated[
        bool, typer.Option("--stored-only", help="Evaluate nothing: no slices, no fields.")
    ] = False,
    data: DataTerm = None,
) -> None:
    """Write one HTML page on a store, kept estimates or a watched training, and its files.

    Slices, changes of the solution, uncertainty and influence evaluate the problem again, which
    needs TensorFlow and runs the problem's file.
    """
    from pipeline.report import write_report

    source = named_source(problem, option)
    written = write_report(store, out, ggn=ggn, problem=source, stored_only=stored_only, data=data)
    say(written)


@app.command()
def compare(
    stores: Annotated[
        list[Path], typer.Argument(help="Directories of two or more stores, or kept estimates.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Directory for a page with pictures and tables.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Also say which eigenvectors continue which.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare stores in numbers: checkpoints along training, widths, or problems."""
    from pipeline.report import compare as comparing

    opened = comparing.open_all(stores)
    summaries = comparing.summarise_all(opened)
    continued = comparing.continued_tables(opened) if follow else None
    table = comparing.comparison_table(summaries)
    # One column a store.
    texts = [render.columns(list(zip(table.columns, *table.shown_rows(), strict=True)))]
    for found in continued or []:
        rows = [list(found.columns), *found.shown_rows()]
        texts.append(f"{found.caption}\n{render.columns(rows)}")
    data: dict[str, Any] = {"stores": [summary.to_json() for summary in summaries]}
    if continued is not None:
        data["eigenvectors"] = [found.to_json() for found in continued]
    print_result("\n\n".join(texts), data, as_json)
    if out is not None:
        say(comparing.write_comparison(summaries, continued, out), err=as_json)

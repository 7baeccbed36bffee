"""Commands that write pages: the report of a store, and several stores side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli import render
from pipeline.cli._app import app, print_result, say
from pipeline.cli._parameters import Json, Option, Store, named_source

__all__ = ["compare", "report"]


@app.command()
def report(
    store: Store,
    out: Annotated[
        Path | None, typer.Option(help="Directory of the report (<store>-report).")
    ] = None,
    ggn: Annotated[
        Path | None, typer.Option(help="Store of the Gauss-Newton matrix, to compare with.")
    ] = None,
    problem: Annotated[
        str | None, typer.Option(help="The problem's file, if it has moved since.")
    ] = None,
    option: Option = None,
    stored_only: Annotated[
        bool, typer.Option("--stored-only", help="Evaluate nothing: no slices, no fields.")
    ] = False,
) -> None:
    """Write one HTML page on a store, or on kept estimates, with its pictures and tables beside it.

    Slices and changes of the solution evaluate the problem again, which needs TensorFlow and
    runs the problem's file.
    """
    from pipeline.report import write_report

    source = named_source(problem, option)
    say(write_report(store, out, ggn=ggn, problem=source, stored_only=stored_only))


@app.command()
def compare(
    stores: Annotated[list[Path], typer.Argument(help="Directories of two or more stores.")],
    out: Annotated[
        Path | None, typer.Option(help="Directory for a page with pictures and tables.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare stores in numbers: checkpoints along training, widths, or problems."""
    from pipeline.report.compare import comparison_table, summarise_all, write_comparison

    summaries = summarise_all(stores)
    table = comparison_table(summaries)
    data = {"stores": [summary.to_json() for summary in summaries]}
    # One column a store.
    text = render.columns(list(zip(table.columns, *table.shown_rows(), strict=True)))
    print_result(text, data, as_json)
    if out is not None:
        say(write_comparison(summaries, out), err=as_json)

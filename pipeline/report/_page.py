"""A page: sections of pictures and tables as one HTML file, and as files beside it.

Whatever a page shows may come from a stranger's store. So all text is escaped, names become
harmless before they name files, control characters are written out, and the page forbids itself
scripts and the network.
"""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import jinja2
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from pipeline.analysis.pictures import encode
from pipeline.store.places import writing
from pipeline.text import printable

__all__ = ["Page", "Picture", "Section", "Table", "file_name", "write_page"]

Column: TypeAlias = Sequence[Any] | npt.NDArray[Any]

# Larger drawings, such as those with a mark for each of thousands of eigenvalues, are shown as
# PNG; both are beside the page.
MAX_DRAWING_BYTES = 120_000
DPI = 160
# What spreadsheets would run as a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Picture:
    """A picture of a page.

    Attributes:
        name: Stem of its files.
        figure: The picture.
        caption: What it shows, and how to read it.
    """

    name: str
    figure: Figure
    caption: str

    @cached_property
    def svg(self) -> bytes:
        """The picture as a drawing."""
        return encode(self.figure, "svg", DPI)

    @cached_property
    def png(self) -> bytes:
        """The picture in pixels."""
        return encode(self.figure, "png", DPI)

    @property
    def source(self) -> str:
        """The picture as the source of an ``img``, a data URI."""
        drawn = len(self.svg) <= MAX_DRAWING_BYTES
        data, kind = (self.svg, "svg+xml") if drawn else (self.png, "png")
        return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in CSS pixels, 96 to the inch."""
        width, height = self.figure.get_size_inches()
        return round(96 * width), round(96 * height)


@dataclass(frozen=True)
class Table:
    """A table of a page.

    Attributes:
        name: Stem of its file.
        caption: What it holds.
        columns: Text, numbers or None, by heading; all of one length.
        shown: How many rows the page shows, from the first; the file has them all.
    """

    name: str
    caption: str
    columns: Mapping[str, Column]
    shown: int | None = None

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """The rows, as text and Python numbers."""
        values = [
            np.asarray(c).tolist() if isinstance(c, np.ndarray) else c
            for c in self.columns.values()
        ]
        return zip(*values, strict=True)

    def shown_rows(self) -> list[list[str]]:
        """The rows that the page shows, as text."""
        return [[show(value) for value in row] for row in list(self.rows())[: self.shown]]

    def numeric(self) -> list[bool]:
        """Which columns hold numbers."""
        return [
            not any(isinstance(v, str) for v in column) for column in zip(*self.rows(), strict=True)
        ]

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(next(iter(self.columns.values())))

    def to_json(self) -> list[dict[str, Any]]:
        """The rows as JSON data."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows()]

    def csv(self) -> str:
        """The table as CSV, numbers with all their digits."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow([_harmless(heading) for heading in self.columns])
        writer.writerows([[_harmless(value) for value in row] for row in self.rows()])
        return buffer.getvalue()


@dataclass(frozen=True)
class Section:
    """A section of a page.

    Attributes:
        title: Its heading.
        text: Paragraphs: what it answers, and how to read it.
        pictures: Its pictures.
        tables: Its tables.
        left_out: Why there is nothing, or less than there could be.
    """

    title: str
    text: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    left_out: str = ""


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        title: Its heading.
        subtitle: The line below.
        warnings: What a reader has to know before anything else.
        facts: The headline: name, value, and how sure it is.
        sections: The sections.
        source: Text of the problem, shown folded at the end.
    """

    title: str
    subtitle: str
    sections: Sequence[Section]
    warnings: Sequence[str] = ()
    facts: Sequence[tuple[str, str, str]] = ()
    source: str = ""


def write_page(page: Page, out: Path, name: str) -> Path:
    """Write a page, its pictures as PNG and SVG and its tables as CSV.

    Args:
        page: The page.
        out: Directory; made if need be. What is there under the same names is replaced.
        name: Stem of the page's file.

    Returns:
        Path of the page.

    Raises:
        StoreError: If something cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.report"),
        autoescape=True,
        # After it comes the escaping of what HTML means.
        finalize=lambda value: printable(value) if isinstance(value, str) else value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("page.html").render(page=page)
    path = out / f"{name}.html"
    with writing(out):
        for folder in ("pictures", "tables"):
            (out / folder).mkdir(parents=True, exist_ok=True)
        for section in page.sections:
            for picture in section.pictures:
                (out / "pictures" / f"{picture.name}.svg").write_bytes(picture.svg)
                (out / "pictures" / f"{picture.name}.png").write_bytes(picture.png)
            for table in section.tables:
                (out / "tables" / f"{table.name}.csv").write_text(table.csv(), encoding="utf-8")
        path.write_text(html, encoding="utf-8")
    return path


def file_name(*parts: str) -> str:
    """The stem of a file's name from words that may hold anything.

    Example:
        >>> file_name("residual", "../../pde <b>"), file_name("ψ")
        ('residual-pde-b', 'unnamed')
    """
    words = [re.sub(r"[^A-Za-z0-9_]+", "-", part).strip("-")[:60] for part in parts]
    return "-".join(word for word in words if word) or "unnamed"


def show(value: Any) -> str:
    """A cell as people read it.

    Example:
        >>> show(5301), show(0.000123456), show(None), show("pde")
        ('5,301', '0.0001235', '', 'pde')
    """
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _harmless(cell: Any) -> Any:
    if isinstance(cell, float):
        return repr(cell)
    if not isinstance(cell, str):
        return cell
    # As it was, since what is escaped begins with nothing that a spreadsheet would run.
    return f"'{printable(cell)}" if cell.startswith(_FORMULA) else printable(cell)

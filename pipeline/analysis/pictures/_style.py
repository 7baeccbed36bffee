"""What all pictures share: sizes, colours that colour-blind readers tell apart, and encoding."""

from __future__ import annotations

import io
import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backend_bases import get_registered_canvas_class
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, ScalarFormatter

from pipeline.store.places import writing

__all__ = [
    "BLUE",
    "COLOURS",
    "GREY",
    "LINES",
    "MAGNITUDES",
    "ORANGE",
    "SIGNED",
    "colour_bar",
    "encode",
    "name_powers",
    "new_figure",
    "plain",
    "save",
    "stacked",
    "styled",
]

# From the palette of M. Okabe and K. Ito, which colour-blind readers can tell apart; lines
# also differ by their dashes, for print.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"
COLOURS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":")
MAGNITUDES, SIGNED = "cividis", "PuOr"

_MAX_NAME = 24


def styled() -> AbstractContextManager[None]:
    """The settings of Matplotlib that pictures are drawn and encoded with."""
    return mpl.rc_context(
        {
            "font.size": 11,
            "axes.titlesize": 11,
            "legend.frameon": False,
            # The same picture is the same bytes.
            "svg.hashsalt": "hessian",
        }
    )


def new_figure(
    width: float = 6.0, height: float = 4.2, square: bool = False
) -> tuple[Figure, Axes]:
    """An empty picture with one pair of axes; sides in inches.

    Args:
        width: Width of the picture.
        height: Height of the picture.
        square: Whether the axes keep their shape, whatever room there is.
    """
    figure = Figure(figsize=(width, height), layout="compressed" if square else "constrained")
    return figure, figure.subplots()


def stacked(number: int, width: float = 6.0, height: float = 2.4) -> tuple[Figure, list[Axes]]:
    """An empty picture with pairs of axes above each other, which share the horizontal one.

    Args:
        number: How many.
        width: Width of the picture in inches.
        height: Height of each in inches.
    """
    figure = Figure(figsize=(width, number * height), layout="constrained")
    return figure, list(figure.subplots(number, 1, sharex=True, squeeze=False)[:, 0])


def colour_bar(figure: Figure, shown: ScalarMappable, label: str) -> None:
    """A bar that says which colour stands for which value, with one power of ten for all."""
    values = ScalarFormatter(useMathText=True)
    values.set_powerlimits((-2, 3))
    figure.colorbar(shown, label=label, format=values)


def name_powers(axis: Axis, floor: float, largest: float) -> None:
    """Name zero and a few powers of ten of either sign on a logarithmic axis of both signs.

    Args:
        axis: The axis.
        floor: Within it the axis is linear.
        largest: Largest magnitude on the axis.
    """
    # Half a decade from the noise floor, where the names would meet that of zero.
    exponents = np.arange(np.ceil(np.log10(floor) + 0.5), np.log10(largest))
    exponents = exponents[:: max(1, -(-len(exponents) // 4))]
    ticks = [*(-(10.0 ** exponents[::-1])), 0.0, *10.0**exponents]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: _power(value)))


def _power(value: float) -> str:
    """A power of ten as ``-10⁻³``.

    Example:
        >>> _power(-0.001), _power(0.0), _power(100.0)
        ('-10⁻³', '0', '10²')
    """
    if value == 0:
        return "0"
    exponent = str(round(np.log10(abs(value))))
    raised = exponent.translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{'-' if value < 0 else ''}10{raised}"


def plain(name: str) -> str:
    r"""A name from a store as a picture can show it: printable and not too long.

    Example:
        >>> plain("hidden_1"), plain("_x\x00y"), plain("$a$")
        ('hidden_1', ' _x?y', '\\$a\\$')
    """
    shown = "".join(c if c.isprintable() else "?" for c in name)
    if len(shown) > _MAX_NAME:
        shown = f"{shown[: _MAX_NAME - 1]}…"
    # Between dollar signs Matplotlib would read a formula.
    shown = shown.replace("$", r"\$")
    # Matplotlib leaves labels with an underscore in front out of legends.
    return f" {shown}" if shown.startswith("_") else shown


def encode(figure: Figure, kind: str, dpi: int = 150) -> bytes:
    """A picture as the bytes of a file.

    Args:
        figure: The picture.
        kind: ``"png"``, ``"svg"`` or ``"pdf"``.
        dpi: Pixels to the inch, of PNG and of what is rastered in the others.
    """
    buffer = io.BytesIO()
    # Dates would make every file another one.
    dateless = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    with styled(), warnings.catch_warnings():
        # A layer's name may need a letter that no font at hand has; a box stands for it.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        engine = figure.get_layout_engine()
        if engine is not None and not isinstance(engine, PlaceHolderLayoutEngine):
            # Everything gets its place, in shares of the picture, once for all kinds of files.
            engine.execute(figure)
            figure.set_layout_engine("none")
        # Figure.savefig would draw it twice, the first time for a layout that it has by now.
        canvas: Any = get_registered_canvas_class(kind)(figure)
        figure.set_dpi(dpi)
        getattr(canvas, f"print_{kind}")(buffer, metadata=dateless)
    return buffer.getvalue()


def save(figure: Figure, path: str | Path) -> None:
    """Write a picture.

    Args:
        figure: The picture.
        path: Where; its ending decides the format.

    Raises:
        StoreError: If it cannot be written.
    """
    path = Path(path)
    with writing(path):
        path.write_bytes(encode(figure, path.suffix.removeprefix(".").lower()))

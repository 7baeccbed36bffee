"""What the scripts of the gallery share: their arguments, and how their pictures look."""

import argparse
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
"""Colours that colour-blind readers tell apart; markers and line styles differ as well."""


def arguments(description):
    """``--small`` for a minute's trial, ``--out`` for the pictures."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="small networks, for the tests")
    parser.add_argument("--out", type=Path, default=Path("runs/gallery"), help="for the pictures")
    return parser.parse_args()


def figure(columns=1, width=4.6, **options):
    """A figure and its axes, side by side, each ``width`` inches wide."""
    with mpl.rc_context({"font.size": 10}):
        drawn = Figure(figsize=(width * columns, 3.7), layout="constrained")
        return drawn, drawn.subplots(1, columns, **options)


def magnitudes(spectrum):
    """Magnitudes of the eigenvalues, largest first, down to the noise floor."""
    values = np.sort(np.abs(spectrum.eigenvalues))[::-1]
    return values[values > spectrum.noise_floor]


def save(drawn, path):
    """Write a picture and say so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path, dpi=130)
    print(f"picture {path.name}")

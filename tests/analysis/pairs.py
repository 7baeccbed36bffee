"""A Hessian and the Gauss-Newton matrix of the same problem, stored and dense."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hessian_tasks.problem import Problem
from pipeline.analysis.terms import TermAnalysis
from pipeline.api import compute_hessian, open_store
from pipeline.run.options import RunOptions

__all__ = ["Pair", "compute_pair", "expect_spectra"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Pair:
    """Stores of H and G of one problem, in different tiles, and what they hold, dense."""

    problem: Problem
    hessian: Path
    ggn: Path
    dense: dict[str, Array]


def compute_pair(problem: Problem, place: Path, tiles: tuple[int, int] = (16, 9)) -> Pair:
    for name, tile, engine in zip("hg", tiles, ("auto", "ggn"), strict=True):
        options = RunOptions(per_term=True, tile=tile, engine=engine)  # type: ignore[arg-type]
        compute_hessian(problem, place / f"{name}.zarr", options=options)
    dense = {}
    hessians, ggns = open_store(place / "h.zarr"), open_store(place / "g.zarr")
    for term in [None, *(term.name for term in problem.terms)]:
        end, suffix = (f"_{term}", f" {term}") if term else ("", "")
        dense[f"H{suffix}"] = hessians[f"hessian{end}"].to_numpy()
        dense[f"G{suffix}"] = ggns[f"ggn{end}"].to_numpy()
        dense[f"H-G{suffix}"] = dense[f"H{suffix}"] - dense[f"G{suffix}"]
    return Pair(problem, place / "h.zarr", place / "g.zarr", dense)


def expect_spectra(pair: Pair, found: TermAnalysis) -> None:
    """Eigenvalues and dominant eigenpairs of every part are those of dense LAPACK."""
    for part, spectrum, dominant in zip(found.parts, found.spectra, found.dominant, strict=True):
        matrix = pair.dense[part.label]
        expected = np.linalg.eigvalsh((matrix + matrix.T) / 2)
        scale = np.abs(expected).max()
        # Errors of a symmetric eigenvalue problem are a few eps times the norm.
        np.testing.assert_allclose(spectrum.eigenvalues, expected, rtol=0, atol=1e-12 * scale)
        largest = expected[np.argsort(-np.abs(expected))[:4]]
        np.testing.assert_allclose(dominant.eigenvalues, largest, rtol=0, atol=1e-12 * scale)
        images = matrix @ dominant.vectors
        residual = images - dominant.vectors * dominant.eigenvalues
        assert np.abs(residual).max() < 1e-10 * scale

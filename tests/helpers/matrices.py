"""Stores of any symmetric matrix, made without TensorFlow, and matrices of known spectra."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from hessian_tasks.frozen import FrozenInputs, FrozenTerm
from hessian_tasks.parameters import ParameterLayout
from hessian_tasks.source import LIVE, ProblemSource
from hessian_tasks.spec import BlockRow, EngineChoice
from pipeline.run._blocks import BlockTask
from pipeline.run.plan import Cost, Request, make_plan
from pipeline.store.places import locate
from pipeline.store.places.chunks import checksum
from pipeline.store.records import Statistics
from pipeline.store.store import HessianStore
from pipeline.store.template import create_template

__all__ = ["matrix_of_spectrum", "reflected", "store_matrix", "two_layers"]

Array = npt.NDArray[Any]


def matrix_of_spectrum(eigenvalues: Array, seed: int = 0) -> Array:
    """A symmetric matrix with these eigenvalues and random eigenvectors."""
    size = len(eigenvalues)
    basis, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))
    matrix = (basis * eigenvalues) @ basis.T
    return (matrix + matrix.T) / 2


def reflected(eigenvalues: Array, seed: int = 0) -> Array:
    """A matrix with these eigenvalues, exactly similar to their diagonal: (I - 2vvᵀ) Λ (I - 2vvᵀ).

    In O(P²) operations, so for any P, and rows of it do not need the others.
    """
    v = np.random.default_rng(seed).standard_normal(len(eigenvalues))
    v /= np.linalg.norm(v)
    scaled = eigenvalues * v
    shift = 2 * scaled - 2 * (v @ scaled) * v
    matrix = -np.outer(v, shift) - np.outer(shift, v)
    matrix[np.diag_indices_from(matrix)] += eigenvalues
    return matrix


def two_layers(num_params: int) -> ParameterLayout:
    """A layer with a kernel and a bias, and one with a kernel, for any P > 2."""
    kernel = num_params // 2
    shapes = [("first/kernel", (kernel,)), ("first/bias", (1,))]
    return ParameterLayout.of([*shapes, ("second/kernel", (num_params - kernel - 1,))])


def store_matrix(
    path: Path,
    matrix: Array,
    tile: int,
    terms: Mapping[str, Array] | None = None,
    layout: ParameterLayout | None = None,
) -> HessianStore:
    """Store a matrix as if it were a Hessian; those of terms, if any, have to add up to it."""
    size, terms = len(matrix), dict(terms or {})
    theta = np.zeros(size, matrix.dtype)
    frozen = FrozenInputs(
        theta=theta,
        state=np.zeros(0),
        gradient=theta,
        layout=layout or two_layers(size),
        terms=tuple(FrozenTerm(name, "loss", 1.0, 1.0, {}) for name in terms or ["all"]),
        coordinates=("x",),
        source=ProblemSource(LIVE),
        source_digest="",
        model_config=None,
    )
    request = Request(size, matrix.itemsize, 1 + len(terms), 1, 2**40, tile)
    tiling = make_plan(request, Cost(0, 0, 0, 1.0)).tiling
    create_template(locate(path), frozen, tiling, EngineChoice("autodiff", ""))
    store = HessianStore(path)
    engine = _Rows({None: matrix, **terms})
    task = BlockTask([engine], store, threading.Event(), lambda record: None)
    for row in store.block_rows:
        task(row)
    return HessianStore(path)


def change_entry(store: HessianStore, place: tuple[int, int], value: float) -> None:
    """Change an entry and not its transpose, as if it had been computed so."""
    array = zarr.open_group(str(store.location), mode="r+")["hessian"]
    assert isinstance(array, zarr.Array)
    array[place] = value
    stored = np.asarray(array[...])
    for record in store.records().values():
        row = record.row
        sums = {key: checksum(store.location.read(key)) for key in record.checksums}
        statistics = {"hessian": Statistics.of(stored[row.start : row.stop, row.start :])}
        replace(record, checksums=sums, statistics=statistics).save(store.location)


@dataclass
class _Rows:
    """An engine that knows the answer."""

    matrices: Mapping[str | None, Array]
    name: str = "autodiff"

    def block_row(
        self, row: BlockRow, term: str | None = None, check: Callable[[], None] = lambda: None
    ) -> Array:
        return self.matrices[term][row.start : row.stop, row.start :]

"""What can be said exactly of a stored matrix after reading it once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import xarray as xr

from hessian_tasks.parameters import ParameterLayout
from pipeline.analysis._tiles import Tile, TiledMatrix, complete_matrix, map_shares
from pipeline.analysis.operator import noise_floor, relative_error
from pipeline.analysis.sums import exact_sums
from pipeline.store.places import Place
from pipeline.store.records import Statistics
from pipeline.store.store import HessianStore
from pipeline.store.transposing import copy_entries

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["MatrixStatistics", "matrix_statistics"]

Array: TypeAlias = npt.NDArray[Any]

# Entries that are looked at together: in float64 they stay in the second-level cache, so that
# several sums over them cost little more than one.
STRIP_ENTRIES = 2**17


@dataclass(frozen=True)
class MatrixStatistics:
    """Exact quantities of a symmetric matrix H ``[P, P]``, summed in float64.

    Attributes:
        layout: Which parameter each row is.
        diagonal: ``H_ii`` ``[P]``.
        row_norms: ``‖H_i·‖₂`` ``[P]``; 0 for parameters that the loss does not see.
        radii: Gershgorin's ``Σ_{j≠i} |H_ij|`` ``[P]``.
        variable_norms: ``‖·‖_F`` of the block of each pair of variables ``[V, V]``.
        max_abs: Largest ``|H_ij|``.
        asymmetry: ``‖H - Hᵀ‖_F``.
        noise_floor: Eigenvalues of smaller magnitude cannot be told from zero.
    """

    layout: ParameterLayout
    diagonal: Array
    row_norms: Array
    radii: Array
    variable_norms: Array
    max_abs: float
    asymmetry: float
    noise_floor: float

    @property
    def trace(self) -> float:
        """``Σ_i H_ii``, the sum of all eigenvalues."""
        return float(self.diagonal.sum())

    @property
    def frobenius_norm(self) -> float:
        """``‖H‖_F``, the root of the sum of all squared eigenvalues."""
        return float(np.linalg.norm(self.row_norms))

    @property
    def symmetry_defect(self) -> float:
        """``‖H - Hᵀ‖_F / ‖H‖_F``; 0 for the zero matrix."""
        return self.asymmetry / self.frobenius_norm if self.asymmetry else 0.0

    @property
    def gershgorin_bounds(self) -> tuple[float, float]:
        """An interval that holds all eigenvalues (S. Gershgorin, 1931).

        The smallest ``H_ii - r_i`` and the largest ``H_ii + r_i`` over all rows, r the radii.
        """
        lower, upper = self.diagonal - self.radii, self.diagonal + self.radii
        return float(lower.min()), float(upper.max())

    @property
    def zero_rows(self) -> Array:
        """Rows all of whose entries are 0: parameters that the loss does not depend on."""
        return np.flatnonzero(self.row_norms == 0)

    @property
    def layer_norms(self) -> xr.DataArray:
        """``‖·‖_F`` of the block of each pair of layers ``[row_layer, col_layer]``.

        Their squares add up to ``‖H‖_F²``.
        """
        layers = self.layout.layers()
        codes = [layers.index(variable.owner) for variable in self.layout.variables]
        squares = np.zeros((len(layers),) * 2)
        np.add.at(squares, np.ix_(codes, codes), self.variable_norms**2)
        labels = {"row_layer": layers, "col_layer": layers}
        return xr.DataArray(np.sqrt(squares), labels, ("row_layer", "col_layer"), "layer_norms")

    @property
    def layer_traces(self) -> dict[str, float]:
        """Each layer's share of the trace."""
        parts = np.add.reduceat(self.diagonal, [v.offset for v in self.layout.variables])
        traces = dict.fromkeys(self.layout.layers(), 0.0)
        for variable, part in zip(self.layout.variables, parts, strict=True):
            traces[variable.owner] += float(part)
        return traces

    def to_json(self) -> dict[str, Any]:
        """All of it but the vectors, as JSON data."""
        norms = self.layer_norms
        return {
            "trace": self.trace,
            "frobenius_norm": self.frobenius_norm,
            "symmetry_defect": self.symmetry_defect,
            "max_abs": self.max_abs,
            "gershgorin_bounds": self.gershgorin_bounds,
            "noise_floor": self.noise_floor,
            "num_zero_rows": len(self.zero_rows),
            "layers": self.layout.layers(),
            "layer_norms": norms.to_numpy().tolist(),
            "layer_traces": self.layer_traces,
        }


def matrix_statistics(
    store: HessianStore | Place, term: str | None = None, *, client: Client | None = None
) -> MatrixStatistics:
    """Read a stored matrix once, and say what can be said exactly.

    Each tile is read together with its transpose, so that the symmetry defect comes with it.
    Memory: two tiles a thread.

    Args:
        store: A complete store, or where it is.
        term: A loss term's matrix instead of the total's.
        client: A Dask cluster that can read the store; threads of this process by default.

    Raises:
        StoreError: If block rows are missing or damaged, or there is no such array.

    Example:
        >>> import tempfile
        >>> from pipeline import compute_hessian, load_problem
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     small = load_problem("regression", width=4, depth=1, num_samples=10)
        ...     _ = compute_hessian(small, f"{directory}/h.zarr")
        ...     found = matrix_statistics(f"{directory}/h.zarr")
        >>> found.layer_norms.sel(row_layer="output", col_layer="output").item() > 0
        True
        >>> low, high = found.gershgorin_bounds
        >>> bool(low <= found.diagonal.min() and found.diagonal.max() <= high)
        True
    """
    opened, matrix = complete_matrix(store, term)
    edges = np.array([variable.offset for variable in opened.layout.variables])
    parts = map_shares(_add_up, matrix.upper(), client, matrix=matrix, edges=edges)
    total = parts[0]
    for part in parts[1:]:
        total.add(part)
    _compare(opened, term, total)
    variables = np.add.reduceat(total.squares, edges, axis=0)
    norm = float(np.sqrt(variables.sum()))
    return MatrixStatistics(
        layout=opened.layout,
        diagonal=total.diagonal,
        row_norms=np.sqrt(total.squares.sum(axis=1)),
        radii=total.magnitudes - np.abs(total.diagonal),
        variable_norms=np.sqrt(variables),
        max_abs=total.max_abs,
        asymmetry=float(np.sqrt(total.asymmetry)),
        noise_floor=noise_floor(matrix.num_params, relative_error(opened), norm),
    )


@dataclass
class _Sums:
    """What a share of the tiles adds up to.

    Attributes:
        diagonal: ``[P]``, 0 where other shares have it.
        squares: Sums of squares along rows, by the variable of the column ``[P, V]``.
        magnitudes: Sums of magnitudes along rows ``[P]``.
        max_abs: Largest magnitude.
        asymmetry: Sum of ``(H_ij - H_ji)²``.
    """

    diagonal: Array
    squares: Array
    magnitudes: Array
    max_abs: float = 0.0
    asymmetry: float = 0.0

    def add(self, other: _Sums) -> None:
        self.diagonal += other.diagonal
        self.squares += other.squares
        self.magnitudes += other.magnitudes
        self.max_abs = max(self.max_abs, other.max_abs)
        self.asymmetry += other.asymmetry


def _compare(store: HessianStore, term: str | None, found: _Sums) -> None:
    """Refuse sums that are not the recorded ones, or no numbers, naming the block rows.

    Raises:
        StoreError: If so.
    """
    recorded = store.recorded_statistics(store.arrays[term])
    own = Statistics(float(found.diagonal.sum()), float(found.squares.sum()), float(found.max_abs))
    if not recorded.agree(own):
        exact_sums(store, term)


def _add_up(tiles: Sequence[Tile], matrix: TiledMatrix, edges: Array) -> _Sums:
    size = matrix.num_params
    sums = _Sums(np.zeros(size), np.zeros((size, len(edges))), np.zeros(size))
    for row, col in tiles:
        tile = matrix.read(row, col)
        mirror = tile if row == col else matrix.read(col, row)
        if row == col:
            sums.diagonal[row.start : row.stop] = tile.diagonal()
        height = max(1, STRIP_ENTRIES // tile.shape[1])
        columns = slice(col.start, col.stop)
        for start in range(0, len(tile), height):
            strip, across = tile[start : start + height], mirror[:, start : start + height]
            rows = slice(row.start + start, row.start + start + len(strip))
            turned = np.empty_like(strip)
            copy_entries(turned, across.T)
            symmetric = not (strip != turned).any()
            if not symmetric:
                difference = (strip - turned).astype(np.float64)
                sums.asymmetry += (1 if row == col else 2) * float(np.vdot(difference, difference))
            _add_strip(sums, strip, (rows, columns), edges, symmetric and row != col)
            if not symmetric and row != col:
                _add_strip(sums, across, (columns, rows), edges, False)
    return sums


def _add_strip(
    sums: _Sums, strip: Array, at: tuple[slice, slice], edges: Array, both: bool
) -> None:
    """Add the entries of a strip and, if ``both``, of its transpose, which are the same."""
    rows, columns = at
    magnitudes = np.abs(strip)
    sums.max_abs = max(sums.max_abs, float(magnitudes.max()))
    values = magnitudes.astype(np.float64)
    # Products with ones are the fastest way to add up that NumPy has.
    ones = np.ones(max(values.shape))
    sums.magnitudes[rows] += values @ ones[: values.shape[1]]
    if both:
        sums.magnitudes[columns] += ones[: len(values)] @ values
    np.multiply(values, values, out=values)
    for variable, part in _split(columns, edges):
        sums.squares[rows, variable] += values[:, part] @ ones[: part.stop - part.start]
    if both:
        for variable, part in _split(rows, edges):
            sums.squares[columns, variable] += ones[: part.stop - part.start] @ values[part]


def _split(parameters: slice, edges: Array) -> Iterator[tuple[int, slice]]:
    # The variables that these parameters belong to, and where in them.
    first = int(np.searchsorted(edges, parameters.start, side="right")) - 1
    for variable in range(first, len(edges)):
        if edges[variable] >= parameters.stop:
            return
        stop = edges[variable + 1] if variable + 1 < len(edges) else parameters.stop
        part = slice(max(int(edges[variable]), parameters.start), min(int(stop), parameters.stop))
        yield variable, slice(part.start - parameters.start, part.stop - parameters.start)

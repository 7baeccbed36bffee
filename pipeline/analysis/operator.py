"""A symmetric matrix as what it does to vectors, whatever it is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.sparse.linalg import LinearOperator

from hessian_tasks.parameters import ParameterLayout
from pipeline.analysis._tiles import Tile, TiledMatrix, complete_matrix, map_shares
from pipeline.store.places import Place
from pipeline.store.store import HessianStore

if TYPE_CHECKING:
    from distributed import Client

__all__ = [
    "HessianOperator",
    "SymmetricOperator",
    "noise_floor",
    "open_operator",
    "relative_error",
]

Array: TypeAlias = npt.NDArray[Any]


class SymmetricOperator(LinearOperator):  # type: ignore[misc]
    """A symmetric matrix that only has to say how it multiplies several vectors, ``_matmat``."""

    def _matvec(self, vector: Array) -> Array:
        return np.asarray(self._matmat(vector.reshape(-1, 1)))

    def _rmatmat(self, vectors: Array) -> Array:
        return np.asarray(self._matmat(vectors))

    def _rmatvec(self, vector: Array) -> Array:
        return self._matvec(vector)

    def _adjoint(self) -> Self:
        return self

    def _transpose(self) -> Self:
        return self


class HessianOperator(SymmetricOperator):
    """A symmetric matrix A ``[P, P]`` that is known by its products, for SciPy and for us.

    Where A comes from is up to ``product``: tiles of a store, automatic differentiation, a sum of
    other operators.

    Attributes:
        layout: Which parameter each row is.
        relative_error: Estimate of ``‖E‖_F / ‖A‖_F``, if the products are those of A + E.
        norm: ``‖A‖_F``, or None where it is not known.
        semidefinite: Whether A is known to have no negative eigenvalue.
        title: Name of the matrix in a sentence.
        num_products: How many vectors have been multiplied so far.

    Example:
        >>> layout = ParameterLayout.of([("a/kernel", (2,))])
        >>> matrix = np.array([[2.0, 1.0], [1.0, 3.0]])
        >>> operator = HessianOperator(lambda v: matrix @ v, layout, relative_error=1e-16)
        >>> (operator @ np.array([1.0, 1.0])).tolist(), operator.num_products
        ([3.0, 4.0], 1)
    """

    def __init__(
        self,
        product: Callable[[Array], Array],
        layout: ParameterLayout,
        *,
        dtype: npt.DTypeLike = np.float64,
        relative_error: float,
        norm: float | None = None,
        semidefinite: bool = False,
        title: str = "Hessian",
    ) -> None:
        """Wrap ``product``, which maps V ``[P, K]`` to A V ``[P, K]``, both of ``dtype``."""
        super().__init__(np.dtype(dtype), (layout.num_params,) * 2)
        self._product = product
        self.layout = layout
        self.relative_error = relative_error
        self.norm = norm
        self.semidefinite = semidefinite
        self.title = title
        self.num_products = 0

    @property
    def noise_floor(self) -> float | None:
        """Eigenvalues of smaller magnitude cannot be told from zero; None without the norm."""
        if self.norm is None:
            return None
        return noise_floor(self.shape[0], self.relative_error, self.norm)

    def _matmat(self, vectors: Array) -> Array:
        self.num_products += vectors.shape[1]
        return np.asarray(self._product(np.asarray(vectors, self.dtype)), self.dtype)


def noise_floor(num_params: int, relative_error: float, norm: float) -> float:
    """Bound on the error of the computed eigenvalues.

    If the stored matrix is H + E, no eigenvalue is off by more than ``‖E‖₂ ≤ ‖E‖_F``
    (Weyl's theorem; G. Golub, C. Van Loan, Matrix Computations, section 8.1). A
    dense float64 solver adds about ``P eps64 ‖H‖₂``.

    Args:
        num_params: P.
        relative_error: ``‖E‖_F / ‖H‖_F``.
        norm: ``‖H‖_F``.

    Example:
        >>> f"{noise_floor(5301, 1.2e-7, 100.0):.1e}"
        '1.2e-05'
    """
    return float(norm * (relative_error + num_params * np.finfo(np.float64).eps))


def relative_error(store: HessianStore) -> float:
    """Estimate of ``‖E‖_F / ‖H‖_F`` for the stored matrix H + E.

    The largest of: the rounding of entries, ``eps``; the certificate's root mean square of
    ``‖E v‖`` over ``‖H‖_F``, for Gaussian v has ``E‖E v‖² = ‖E‖_F²``; and its symmetry defect.
    Certificates of earlier versions have ``‖E v‖ / ‖H v‖`` alone, of which the largest counts.
    """
    certificate = store.attributes.get("certificate") or {}
    eps = float(np.finfo(store.dtype).eps)
    errors: list[float] = certificate.get("product_errors", [])
    # Those of its matrix, where there are two.
    name = store.matrix.name
    errors = certificate.get("matrix_errors", {}).get(name, errors)
    if name in certificate.get("rms_errors", {}):
        errors = [certificate["rms_errors"][name]]
    return max([eps, *errors, certificate.get("symmetry_defect") or 0.0])


def open_operator(
    store: HessianStore | Place, term: str | None = None, *, client: Client | None = None
) -> HessianOperator:
    """A stored matrix as an operator that reads it once for each block of vectors.

    Memory: two tiles in float64 and ``[P, K]`` a thread. Only the tiles on and right of the
    diagonal are read, half of the array, since those left of it are their transposes; the diagonal
    tiles are symmetrised, ``(T + Tᵀ)/2``. Sums are in float64.

    Args:
        store: A complete store, or where it is.
        term: A loss term's matrix instead of the total's.
        client: A Dask cluster that can read the store; threads of this process by default.

    Raises:
        StoreError: If block rows are missing or damaged, or there is no such array.

    Example:
        >>> import tempfile
        >>> from pipeline import compute_hessian, load_problem
        >>> small = load_problem("regression", width=4, depth=1, dtype="float64")
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     hessian = compute_hessian(small, f"{directory}/h.zarr").hessian
        ...     operator = open_operator(f"{directory}/h.zarr")
        ...     np.allclose(operator @ np.ones(13), hessian.to_numpy().sum(axis=1))
        True
    """
    opened, matrix = complete_matrix(store, term)

    def product(vectors: Array) -> Array:
        arguments = {"matrix": matrix, "vectors": vectors}
        parts = map_shares(_multiply, matrix.upper(), client, **arguments)
        result = np.asarray(np.sum(parts, axis=0))
        matrix.check_finite(result)
        return result

    return HessianOperator(
        product,
        opened.layout,
        relative_error=relative_error(opened),
        # It decides when iterations end, and nothing else.
        norm=float(np.sqrt(opened.recorded_statistics(matrix.name).squares)),
        title=opened.matrix.title + (f" of term {term}" if term else ""),
    )


def _multiply(tiles: Sequence[Tile], matrix: TiledMatrix, vectors: Array) -> Array:
    # What these tiles and their transposes add to the product.
    result = np.zeros(vectors.shape)
    for row, col in tiles:
        tile = matrix.read(row, col).astype(np.float64, copy=False)
        above, below = slice(row.start, row.stop), slice(col.start, col.stop)
        if row == col:
            result[above] += (tile @ vectors[above] + tile.T @ vectors[above]) / 2
        else:
            result[above] += tile @ vectors[below]
            result[below] += tile.T @ vectors[above]
    return result

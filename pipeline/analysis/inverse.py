"""The inverse of a stored matrix, as what it does to vectors, and where it is not known.

With eigenpairs (λ_i, v_i) of A, and damping μ, it is Σ v_i v_iᵀ / (λ_i + μ) over the directions
whose λ_i + μ can be told from zero. The stored matrix is A + E with ``‖E‖₂`` at most the noise
floor ε, and to first order

    (A + E + μ I)⁻¹ b - (A + μ I)⁻¹ b = -(A + μ I)⁻¹ E x,    ‖·‖ ≤ ε / min |λ_i + μ| ‖x‖

(N. Higham, Accuracy and Stability of Numerical Algorithms, chapter 7). So where the smallest
``|λ + μ|`` is not well above ε, its direction is left out and named, never inverted unseen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import psutil
from scipy.linalg import lapack
from scipy.sparse.linalg import LinearOperator

from hessian_tasks.parameters import ParameterLayout
from pipeline.analysis._dense import dense_bytes, dense_eigenpairs, read_symmetric
from pipeline.analysis._tiles import TiledMatrix, complete_matrix
from pipeline.analysis.eigenpairs import extreme_eigenpairs
from pipeline.analysis.operator import (
    SymmetricOperator,
    noise_floor,
    open_operator,
    relative_error,
)
from pipeline.analysis.steps import iterative_step
from pipeline.analysis.sums import exact_sums
from pipeline.errors import PlanError
from pipeline.store.places import Place
from pipeline.store.store import HessianStore
from pipeline.units import format_bytes

__all__ = ["HessianInverse", "open_inverse"]

Array: TypeAlias = npt.NDArray[Any]
Product: TypeAlias = Callable[[Array], Array]

# A factorisation only estimates how near to singular the matrix is, within a factor of 3 or so;
# nearer to the noise than this, all eigenvalues are looked at.
SAFE = 10.0
# Eigenpairs at each end that precondition MINRES.
NUM_ENDS = 16


class HessianInverse(SymmetricOperator):
    """``(A + μ I)⁻¹`` ``[P, P]`` for a symmetric matrix A, for SciPy and for us.

    Attributes:
        layout: Which parameter each row is.
        damping: μ.
        smallest: The smallest ``|λ + μ|`` that is inverted; of a factorisation an estimate, by
            which it is well above the noise floor.
        noise_floor: ε, the bound on the error of A's eigenvalues.
        left_out: Orthonormal directions ``[P, K]`` that are not inverted, since their ``λ + μ``
            cannot be told from zero.
        num_negative: Number of negative ``λ + μ`` that are inverted.
        method: ``"LDLᵀ"``, ``"eigenpairs"`` or ``"MINRES"``.

    Example:
        >>> layout = ParameterLayout.of([("a/kernel", (2,))])
        >>> inverse = HessianInverse(lambda v: v / 4, layout, smallest=4.0, noise_floor=0.004)
        >>> (inverse @ np.array([2.0, 4.0])).tolist(), inverse.relative_error
        ([0.5, 1.0], 0.001)
    """

    def __init__(
        self,
        product: Product,
        layout: ParameterLayout,
        *,
        damping: float = 0.0,
        smallest: float,
        noise_floor: float,
        left_out: Array | None = None,
        num_negative: int = 0,
        method: str = "LDLᵀ",
    ) -> None:
        """Wrap ``product``, which maps B ``[P, K]`` to ``(A + μ I)⁻¹ B``, in float64."""
        size = layout.num_params
        super().__init__(np.dtype(np.float64), (size, size))
        self._product = product
        self.layout, self.damping, self.method = layout, damping, method
        self.smallest, self.noise_floor = smallest, noise_floor
        self.num_negative = num_negative
        self.left_out = np.zeros((size, 0)) if left_out is None else left_out

    @property
    def relative_error(self) -> float:
        """Bound on ``‖x̂ - x‖ / ‖x‖``, to first order in ε; infinite if nothing is inverted."""
        return self.noise_floor / self.smallest if self.smallest else np.inf

    def _matmat(self, vectors: Array) -> Array:
        return np.asarray(self._product(np.asarray(vectors, np.float64)))


def open_inverse(
    store: HessianStore | Place,
    damping: float = 0.0,
    term: str | None = None,
    *,
    memory: int | None = None,
) -> HessianInverse:
    """The inverse of a stored matrix, damped by μ: ``(A + μ I)⁻¹``.

    While the matrix fits into memory it is factorised, LDLᵀ with Bunch's and Kaufman's pivots
    (LAPACK's ``dsytrf``), in P³/3 multiply-adds; near the noise floor all eigenpairs are computed
    instead, and directions left out. Beyond that it is solved by MINRES, preconditioned by
    eigenpairs from both ends of the spectrum, if the damped matrix is positive definite.

    Args:
        store: A complete store, or where it is.
        damping: μ.
        term: A loss term's matrix instead of the total's.
        memory: Bytes that may be taken; what is free by default.

    Raises:
        PlanError: If it is too near to singular for the memory that there is; says what would do.
        StoreError: If block rows are missing or damaged, or there is no such array.

    Example:
        >>> import tempfile
        >>> from pipeline import compute_hessian, load_problem
        >>> small = load_problem("regression", width=4, depth=1, num_samples=9, dtype="float64")
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     hessian = compute_hessian(small, f"{directory}/h.zarr").hessian.to_numpy()
        ...     inverse = open_inverse(f"{directory}/h.zarr", damping=2.0)
        >>> np.allclose(inverse @ (hessian + 2 * np.eye(13)), np.eye(13))
        True
    """
    opened, matrix = complete_matrix(store, term)
    norm = exact_sums(opened, term)[1]
    floor = noise_floor(opened.num_params, relative_error(opened), norm)
    free = psutil.virtual_memory().available if memory is None else memory
    options: dict[str, Any] = {"damping": damping, "noise_floor": floor}
    if dense_bytes(opened.num_params) > free:
        return _iterated(opened, term, options)
    factorised = _factorised(matrix, options)
    if factorised is not None:
        return factorised
    needed = dense_bytes(opened.num_params, vectors=True)
    if needed > free:
        raise PlanError(
            f"The {opened.matrix.title} with damping {damping:g} is singular within its noise, "
            f"{floor:.2g}, or nearly so. To find the directions that are takes "
            f"{format_bytes(needed)} of memory, where {format_bytes(free)} are free. Damp it more."
        )
    return _of_eigenpairs(matrix, options)


def _factorised(matrix: TiledMatrix, options: dict[str, Any]) -> HessianInverse | None:
    """By LDLᵀ, or None if the matrix is too near to singular for that."""
    dense = read_symmetric(matrix)
    dense[np.diag_indices_from(dense)] += options["damping"]
    norm = float(np.abs(dense).sum(axis=0).max())
    work = int(lapack.dsytrf_lwork(len(dense), lower=1)[0])
    # The transpose of an array in C order is in Fortran's, which LAPACK overwrites in place.
    factor, pivots, singular = lapack.dsytrf(dense.T, lower=1, lwork=work, overwrite_a=1)
    if singular:
        return None
    # 1 / ‖(A + μ I)⁻¹‖₁, which is at most the smallest |λ + μ|.
    smallest = norm * float(lapack.dsycon(factor, pivots, norm, lower=1)[0])
    if not smallest > SAFE * options["noise_floor"]:
        return None

    def product(vectors: Array) -> Array:
        return np.asarray(lapack.dsytrs(factor, pivots, vectors, lower=1)[0])

    options["num_negative"] = _num_negative(factor, pivots)
    return HessianInverse(product, matrix.store.layout, smallest=smallest, **options)


def _num_negative(factor: Array, pivots: Array) -> int:
    """How many eigenvalues are negative: by Sylvester, as many as D of LDLᵀ has.

    Blocks of two rows, whose pivots LAPACK negates, are those of negative determinant (J. Bunch,
    L. Kaufman, 1977): one eigenvalue of either sign.
    """
    single = pivots > 0
    return int(np.count_nonzero(np.diag(factor)[single] < 0) + np.count_nonzero(~single) // 2)


def _of_eigenpairs(matrix: TiledMatrix, options: dict[str, Any]) -> HessianInverse:
    values, vectors = dense_eigenpairs(read_symmetric(matrix), vectors=True)
    assert vectors is not None  # they were asked for
    divisors = values + options["damping"]
    kept = np.abs(divisors) > options["noise_floor"]
    basis, divisors = vectors[:, kept], divisors[kept, np.newaxis]
    return HessianInverse(
        lambda right: basis @ ((basis.T @ right) / divisors),
        matrix.store.layout,
        smallest=float(np.abs(divisors).min(initial=np.inf)) if kept.any() else 0.0,
        left_out=vectors[:, ~kept],
        num_negative=int(np.count_nonzero(divisors < 0)),
        method="eigenpairs",
        **options,
    )


def _iterated(store: HessianStore, term: str | None, options: dict[str, Any]) -> HessianInverse:
    operator = open_operator(store, term)
    damping, floor = options["damping"], options["noise_floor"]
    pairs = extreme_eigenpairs(operator, NUM_ENDS)
    lowest = float(pairs.values[0] - pairs.errors(floor)[0])
    if not lowest + damping > floor:
        raise PlanError(
            f"The {store.matrix.title} does not fit into memory, and its eigenvalues reach down to "
            f"{lowest:.4g}: beyond memory it is inverted only where it is positive definite. "
            f"Give a damping above {floor - lowest:.4g}, or memory: "
            f"{format_bytes(dense_bytes(store.num_params))}."
        )
    precondition = _preconditioner(pairs.vectors, pairs.values + damping)

    def product(vectors: Array) -> Array:
        columns = [-iterative_step(operator, b, damping, 1e-10, precondition) for b in vectors.T]
        return np.stack(columns, axis=1)

    smallest = lowest + damping
    return HessianInverse(product, store.layout, smallest=smallest, method="MINRES", **options)


def _preconditioner(vectors: Array, divisors: Array) -> LinearOperator:
    """``V D⁻¹ Vᵀ + (I - V Vᵀ) / d``: the rest as if all of it were the inner end's, d."""
    half = len(divisors) // 2
    rest = float(min(divisors[half - 1], divisors[-half]))
    scale = 1 / divisors - 1 / rest

    def product(vector: Array) -> Array:
        return np.asarray(vector / rest + vectors @ (scale * (vectors.T @ vector)))

    return LinearOperator((len(vectors),) * 2, matvec=product, dtype=np.float64)

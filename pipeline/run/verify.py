"""Verification: is the stored array the matrix of the recorded loss?

Five questions, from cheap to dear: are all block rows there, are their stored objects
undamaged, are their recorded sums those of their tiles, is the array symmetric, and does it
act on random vectors as the Hessian does,

    ‖H v - ∇⟨∇L(θ), v⟩‖ / ‖∇⟨∇L(θ), v⟩‖ ≤ tolerance,

where the right-hand side is computed by automatic differentiation along another path
than the engine's. An array that differs from the Hessian in any entry passes this with
probability 0 for Gaussian v up to the tolerance, which is √eps of the dtype. A
Gauss-Newton matrix G is compared with Jᵀ(J v) in the same way, and so are the stored
Jacobians with J v, since G does not decide them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.store.checking import examine
from pipeline.store.store import HessianStore

__all__ = ["Certificate", "JacobianProduct", "Product", "certify", "reading_bytes"]

Product = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
JacobianProduct = Callable[[npt.NDArray[Any]], Mapping[str, npt.NDArray[Any]]]


@dataclass(frozen=True)
class Certificate:
    """The result of a verification.

    Attributes:
        matrix: Name of the matrix, ``"hessian"`` or ``"ggn"``; of both, ``"hessian"``.
        passed: Whether everything below is as it should be.
        num_missing: Block rows that are not stored.
        damaged: Keys of stored objects that are missing or altered.
        misstated: Indices of block rows whose recorded sums are not those of their tiles.
        product_errors: Relative error of ``H v`` for each random ``v``, the largest of all
            arrays; empty if block rows are missing or damaged.
        matrix_errors: The same of each matrix's arrays, by its name.
        rms_errors: Estimate of ``‖E‖_F / ‖H‖_F`` for stored H + E, by matrix, the largest of its
            arrays: the root mean square of ``‖E v‖`` over the random v, whose square has the mean
            ``‖E‖_F²``, over the norm of what is stored.
        jacobian_errors: Relative error of ``J v``, the largest of all terms; empty without
            Jacobians.
        tolerance: Largest error that passes.
        symmetry_defect: ``‖H - Hᵀ‖_F / ‖H‖_F``, or None. Tiles off the diagonal are stored
            with their transposes, so this is the rounding error within the diagonal
            tiles, each entry of which is computed twice.
        seed: Seed of the random vectors.
        dtype: Dtype of the array.
        created: Time in UTC.
    """

    matrix: str
    passed: bool
    num_missing: int
    damaged: list[str]
    misstated: list[int]
    product_errors: list[float]
    matrix_errors: dict[str, list[float]]
    rms_errors: dict[str, float]
    jacobian_errors: list[float]
    tolerance: float
    symmetry_defect: float | None
    seed: int
    dtype: str
    created: str

    def to_json(self) -> dict[str, Any]:
        """The certificate as JSON data."""
        return asdict(self)


def certify(
    store: HessianStore,
    products: Mapping[str, Product],
    num_vectors: int = 3,
    jacobian_product: JacobianProduct | None = None,
) -> Certificate:
    """Verify a store.

    Args:
        store: The store; it is not changed.
        products: For every array of a matrix, by its name, what maps vectors ``[K, P]``, one a
            row, to ``H v`` ``[K, P]``.
        num_vectors: Number K of random vectors.
        jacobian_product: Maps them to ``J v`` ``[K, N C]`` by term, if the store has Jacobians.
    """
    records = store.records()
    num_missing = len(store.block_rows) - len(records)
    examined = examine(store, records.values())
    damaged = sorted(examined.damaged)
    tolerance = float(np.sqrt(np.finfo(store.dtype).eps))
    errors: dict[str, list[float]] = {}
    spread: dict[str, float] = {}
    jacobian_errors: list[float] = []
    symmetry_defect: float | None = None
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    if not num_missing and not damaged:
        vectors = np.random.default_rng(seed).standard_normal((num_vectors, store.num_params))
        vectors = vectors.astype(store.dtype)
        found, rms, defects = {}, {}, []
        for name, product in products.items():
            stored, norm, defect = _read_once(store, vectors, name)
            expected = product(vectors)
            found[name] = _relative(stored, expected)
            rms[name] = _root_mean_square(stored - expected, norm)
            defects.append(defect)
        errors = {one.matrix.name: _largest(found, one) for one in store.each()}
        spread = {one.matrix.name: float(_largest(rms, one)) for one in store.each()}
        symmetry_defect = float(np.max(defects))
        jacobian_errors = _jacobian_errors(store, vectors, jacobian_product)
    # NaN compares false, so a NaN error or defect does not pass.
    largest = np.max(list(errors.values()), axis=0).tolist() if errors else []
    off = [*largest, *jacobian_errors, symmetry_defect or 0.0]
    return Certificate(
        matrix=store.matrix.name,
        passed=bool(largest)
        and not examined.misstated
        and all(defect <= tolerance for defect in off),
        num_missing=num_missing,
        damaged=damaged,
        misstated=[row.index for row in examined.misstated],
        product_errors=largest,
        matrix_errors=errors,
        rms_errors=spread,
        jacobian_errors=jacobian_errors,
        tolerance=tolerance,
        symmetry_defect=symmetry_defect,
        seed=seed,
        dtype=str(store.dtype),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def reading_bytes(store: HessianStore) -> int:
    """Memory that :func:`certify` takes for the block rows that it reads.

    Args:
        store: The store.

    Returns:
        Bytes of a block row and its mirror image, each as it is stored and in float64.
    """
    return 2 * store.tile * store.num_params * (store.dtype.itemsize + np.dtype(float).itemsize)


def _largest(found: Mapping[str, Any], store: HessianStore) -> Any:
    """The largest of a matrix's arrays: of each vector, or of all."""
    # NaN stays.
    return np.max([found[name] for name in store.arrays.values()], axis=0).tolist()


def _read_once(
    store: HessianStore, vectors: npt.NDArray[Any], name: str
) -> tuple[npt.NDArray[np.float64], float, float]:
    """Products with an array, its norm, and its symmetry defect."""
    # One block row and its mirror image in memory at a time; sums in float64.
    products = np.empty(vectors.shape, np.float64)
    squares = asymmetry = 0.0
    for row in store.block_rows:
        rows, everything = slice(row.start, row.stop), slice(0, store.num_params)
        block = store.read_part(rows, everything, name).astype(np.float64)
        mirror = (
            store.read_part(slice(row.start, store.num_params), rows, name).astype(np.float64).T
        )
        products[:, row.start : row.stop] = vectors @ block.T
        asymmetry += _counted(block[:, row.start :] - mirror, row.num_rows)
        squares += float(np.sum(block**2))
    defect = float(np.sqrt(asymmetry / squares)) if squares else 0.0
    return products, float(np.sqrt(squares)), defect


def _jacobian_errors(
    store: HessianStore, vectors: npt.NDArray[Any], product: JacobianProduct | None
) -> list[float]:
    if product is None:
        return []
    errors = np.zeros(len(vectors))
    for term, expected in product(vectors).items():
        name = store.jacobians[term]
        images = np.zeros(expected.shape, np.float64)
        for row in store.block_rows:
            columns = slice(row.start, row.stop)
            part = store.read_part(slice(0, expected.shape[1]), columns, name).astype(np.float64)
            images += vectors[:, columns] @ part.T
        # NaN stays.
        errors = np.maximum(errors, _relative(images, expected))
    return [float(error) for error in errors]


def _counted(difference: npt.NDArray[np.float64], side: int) -> float:
    # Beyond the diagonal tile each pair is seen once, in it twice.
    return float(np.sum(difference[:, :side] ** 2) + 2 * np.sum(difference[:, side:] ** 2))


def _relative(values: npt.NDArray[Any], references: npt.NDArray[Any]) -> list[float]:
    # A zero Hessian must be reproduced exactly.
    scales = np.linalg.norm(references.astype(np.float64), axis=1)
    defects = np.linalg.norm(values - references, axis=1)
    return [float(d / s if s else d) for d, s in zip(defects, scales, strict=True)]


def _root_mean_square(defects: npt.NDArray[Any], norm: float) -> float:
    size = float(np.sqrt(np.mean(np.sum(defects**2, axis=1))))
    return size / norm if norm else size

"""How far products are from those of the matrix, measured with random vectors."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from hessian_tasks.autodiff.products import ShardProducts
from hessian_tasks.jets import reverse_derivative
from hessian_tasks.problem import LossTerm, Problem
from hessian_tasks.shards import Shard
from pipeline.estimates._products import Array, Product

__all__ = ["MeasuredError"]

# Random vectors that the norm and the symmetry are measured with: the norm to 25 % at worst.
NUM_PROBES = 8


class MeasuredError:
    """Relative error of products, and the matrix's norm, from random vectors.

    If products are those of H + E, then for Gaussian v and w ``E‖H v‖² = ‖H‖_F²`` and
    ``E(vᵀ(H+E)w - wᵀ(H+E)v)² = 2 ‖E‖_F²`` for an E without symmetry. This sees what
    rounding does to a product, but no error that is itself symmetric; so a batch of each term is
    also multiplied along another path, with jets by nested reverse passes, as verification does.
    The error is the largest of these, and of the precision of the dtype.

    Both are measured at the weights that the network has when they are asked for, and nothing is
    compiled again at others.
    """

    def __init__(self, problem: Problem, products: ShardProducts, shards: Sequence[Shard]) -> None:
        """Choose what is computed twice.

        Args:
            problem: The problem, its model resolved to a Keras model.
            products: Multiplies with the matrix of a shard.
            shards: All shards.
        """
        self._products = products
        self._others = ShardProducts(problem, products.matrix, reverse_derivative)
        # The code of a LossTerm is the user's, and has no second path.
        fixed = {term.name for term in problem.terms if isinstance(term, LossTerm)}
        first = {shard.term: shard.head() for shard in reversed(shards) if shard.term not in fixed}
        self._shards = list(first.values())

    def __call__(self, product: Product) -> tuple[float, float]:
        """``‖E‖_F / ‖H‖_F`` and ``‖H‖_F``, of a product with the whole matrix."""
        rng = np.random.default_rng(0)
        vectors = rng.standard_normal((self._products.num_params, NUM_PROBES))
        vectors = vectors.astype(self._products.dtype).astype(np.float64)
        images = product(vectors)
        norm = float(np.sqrt(np.mean(np.sum(images**2, axis=0))))
        forms = vectors.T @ images
        pairs = itertools.combinations(range(NUM_PROBES), 2)
        defects = [(forms[i, j] - forms[j, i]) ** 2 / 2 for i, j in pairs]
        asymmetry = float(np.sqrt(np.mean(defects))) / norm if norm else 0.0
        other = self._error_of_paths(vectors[:, :2])
        return max(float(np.finfo(self._products.dtype).eps), asymmetry, other), norm

    def _error_of_paths(self, vectors: Array) -> float:
        errors = [0.0]
        for shard in self._shards:
            expected = self._others(shard, vectors)
            size = float(np.linalg.norm(expected))
            found = self._products(shard, vectors)
            errors.append(float(np.linalg.norm(found - expected)) / (size or 1.0))
        return max(errors)

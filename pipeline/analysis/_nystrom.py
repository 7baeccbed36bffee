"""XNysTrace: the trace of a positive semidefinite matrix, of which every product counts twice.

With Q an orthonormal basis of random S ``[P, k]``, S = Q R, Nyström's approximation is
``Â = Y K⁻¹ Yᵀ``, ``Y = A Q``, ``K = QᵀA Q``. It takes no further product, unlike the range of
XTrace (E. Epperly, J. Tropp, R. Webber, 2024). Sample i is its trace without vector i, and that
vector's estimate of what is then left out, ``tr Â₍ᵢ₎ + cᵢ sᵢᵀ(A - Â₍ᵢ₎)sᵢ``.

With ``F = √A Q`` is ``Â = √A Π √A``, Π the projection on the range of F, which is that of √A S. Let
dᵢ be column i of R⁻ᵀ, so that ``dᵢᵀ(R eⱼ) = δᵢⱼ``. Without sᵢ that range loses the direction
``F K⁻¹dᵢ``, because ``(√A sⱼ)ᵀ F K⁻¹dᵢ = (R eⱼ)ᵀ K K⁻¹dᵢ = δᵢⱼ``, and its squared length is
``gᵢ = dᵢᵀK⁻¹dᵢ``. So ``Â₍ᵢ₎ = Â - t tᵀ`` with ``t = Y K⁻¹dᵢ / √gᵢ``. Since ``Â sᵢ = A sᵢ`` and
``tᵀsᵢ = 1/√gᵢ``,

    tr Â₍ᵢ₎ = tr Â - ‖t‖²,        sᵢᵀ(A - Â₍ᵢ₎)sᵢ = 1/gᵢ.

A - Â₍ᵢ₎ is zero on the other vectors, so that only the part of sᵢ orthogonal to them counts: dᵢ in
Q's coordinates, of squared length ``1/‖dᵢ‖²``, and Gaussian in P - k + 1 dimensions. As in XTrace,
``cᵢ = (P - k + 1) ‖dᵢ‖²`` brings that length to its mean.

With Cholesky's ``K = C Cᵀ`` and ``B = Y C⁻ᵀ`` is ``Â = B Bᵀ``. For dᵢ of length 1, which nothing
depends on, ``w = C⁻¹dᵢ`` and ``ŵᵢ = w / ‖w‖``, sample i is

    ‖B‖_F² - ‖B ŵᵢ‖² + (P - k + 1) / ‖w‖².

The error. Samples have vectors in common, and where eigenvalues decay fast, what is left out is
much the same for all: the spread of the samples does not see it. The estimates without one of the
vectors do: the sum of their squared deviations has a mean of at least the variance of one of them,
whatever function of the vectors they are (B. Efron, C. Stein, "The jackknife estimate of variance",
1981). They need samples without two: where i is left out, ``ŵⱼ`` loses its part along ŵᵢ, and dⱼ
that along dᵢ.
All of this takes O(k² P) operations.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import solve_triangular

from pipeline.analysis._sampling import (
    Array,
    Estimate,
    MultipliesVectors,
    batches,
    gaussian,
)
from pipeline.errors import ConfigError

__all__ = ["XNysTrace"]

# Rows of B that are in memory together.
ROWS = 4096
# Relative errors of products and of the arithmetic here, by which eigenvalues may seem negative.
MARGIN, ROUNDING = 2.0, 20 * np.finfo(np.float64).eps


class XNysTrace:
    def __init__(self, operator: MultipliesVectors, rng: np.random.Generator) -> None:
        if getattr(operator, "semidefinite", True) is False:
            raise ConfigError(
                "XNysTrace is for positive semidefinite matrices, and nothing says that "
                f"the {getattr(operator, 'title', 'matrix')} is one. Use the method xtrace."
            )
        self.operator, self.rng = operator, rng
        self.basis = self.images = np.empty((operator.shape[0], 0))
        self.factor = np.empty((0, 0))

    def products_for(self, num_samples: int) -> int:
        return num_samples

    def extend(self, total: int) -> Estimate:
        number = min(total, self.operator.shape[0])
        for batch in batches(number - self.basis.shape[1]):
            self._grow(batch)
        norm = float(np.linalg.norm(self.images))
        if not norm:
            return Estimate(0.0, 0.0, number, "xnystrace")
        samples, without = self._samples(norm)
        # With as many vectors as rows nothing is left out.
        whole = number == len(self.basis)
        error = 0.0 if whole else float(np.linalg.norm(without - without.mean()))
        return Estimate(float(samples.mean()), error, number, "xnystrace")

    def _grow(self, batch: int) -> None:
        vectors = gaussian(self.rng, self.operator.shape[0], batch)
        rest, above, corner = vectors, np.zeros((self.basis.shape[1], batch)), np.eye(batch)
        for _ in range(2):  # Twice is enough.
            part = self.basis.T @ rest
            rest, factor = np.linalg.qr(rest - self.basis @ part)
            above, corner = above + part @ corner, factor @ corner
        below = np.zeros((batch, self.basis.shape[1]))
        self.factor = np.block([[self.factor, above], [below, corner]])
        self.basis = np.hstack([self.basis, rest])
        self.images = np.hstack([self.images, self.operator @ rest])

    def _samples(self, norm: float) -> tuple[Array, Array]:
        """The samples, and the estimates without each of the vectors."""
        size, number = self.basis.shape
        # Products are those of A + E. With A + ν I in place of A, of which samples are as good as
        # those of A, and ν P taken off, K stays positive where ν is more than ‖E‖₂ ≤ ‖E‖_F. The
        # mean square of norms of A q is ‖A‖_F² / P.
        relative = max(ROUNDING, MARGIN * getattr(self.operator, "relative_error", 0.0))
        shift = relative * norm * np.sqrt(size / number)
        core = self.basis.T @ self.images
        root = _root((core + core.T) / 2 + shift * np.eye(number))
        gram = self._gram(root, shift)
        duals = solve_triangular(self.factor, np.eye(number)).T
        duals /= np.linalg.norm(duals, axis=0)
        solved = solve_triangular(root, duals, lower=True)
        lengths = np.linalg.norm(solved, axis=0)
        solved /= lengths
        inner = solved.T @ gram @ solved
        trace, lost = np.trace(gram) - shift * size, np.diag(inner)
        samples = trace - lost + (size - number + 1) / lengths**2
        # Of j in columns, without i in rows.
        along, overlap = solved.T @ solved, duals.T @ duals
        left = (size - number + 2) * _rest(overlap) / lengths**2
        left -= lost - 2 * along * inner + along**2 * lost[:, np.newaxis]
        left /= _rest(along)
        np.fill_diagonal(left, 0.0)
        return samples, trace - lost + left.sum(axis=1) / (number - 1)

    def _gram(self, root: Array, shift: float) -> Array:
        """BᵀB."""
        gram = np.zeros_like(root)
        for start in range(0, len(self.basis), ROWS):
            rows = slice(start, start + ROWS)
            images = self.images[rows] + shift * self.basis[rows]
            part = solve_triangular(root, images.T, lower=True)
            gram += part @ part.T
        return gram


def _rest(cosines: Array) -> Array:
    """Squared lengths of what unit vectors have orthogonal to each other; at least rounding."""
    return np.maximum(1 - cosines**2, np.finfo(np.float64).eps)


def _root(core: Array) -> Array:
    """C with ``K = C Cᵀ``.

    Raises:
        ConfigError: If there is none.
    """
    try:
        return np.asarray(np.linalg.cholesky(core), np.float64)
    except np.linalg.LinAlgError as error:
        lowest = np.linalg.eigvalsh(core)[0]
        raise ConfigError(
            "XNysTrace is for positive semidefinite matrices, but the products are those of a "
            f"matrix with negative eigenvalues: qᵀA q is {lowest:.2g} for a q of length 1. Use the "
            "method xtrace."
        ) from error

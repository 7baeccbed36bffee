"""The spectral density of a matrix that is too large for all of its eigenvalues."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.analysis.eigenpairs import Eigenpairs
from pipeline.analysis.operator import HessianOperator

__all__ = ["SpectralDensity", "spectral_density"]

Array: TypeAlias = npt.NDArray[Any]

# 95 % of a Gaussian are within this many standard deviations.
QUANTILE_95 = 1.959964


@dataclass(frozen=True)
class Estimate:
    """Values with their error bars.

    Attributes:
        value: The estimates, of any shape.
        error: Half widths of 95 % confidence intervals, of the same shape: of chance, plus what
            the quadrature may be off.
    """

    value: Array
    error: Array


@dataclass(frozen=True)
class Count:
    """A number of eigenvalues.

    Attributes:
        value: What the nodes say; where they are far apart, anything within the bounds is as good.
        low: What it is at least, with 95 % confidence and never below what is known.
        high: What it is at most, likewise.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class SpectralDensity:
    """Quadratures of the spectrum, one for each random vector.

    ``vᵀ f(A) v ≈ Σ_i w_i f(θ_i)`` for unit vectors v. Eigenvalues that were known beforehand are
    kept apart and count exactly.

    Attributes:
        num_params: P.
        nodes: θ ``[num_vectors, num_steps]``, ascending.
        weights: w ``[num_vectors, num_steps]``, each row adds up to 1.
        half: The same after half of the steps, ``(nodes, weights)``, to see what more steps change.
        known: Eigenvalues that were known ``[K]``.
    """

    num_params: int
    nodes: Array
    weights: Array
    half: tuple[Array, Array]
    known: Array

    def trace_of(self, function: Callable[[Array], Array]) -> Estimate:
        """``tr f(A) = Σ_i f(λ_i)`` for a smooth f; see :meth:`count` for steps.

        The error of the quadrature is taken to be what the second half of the steps changed.

        Args:
            function: f, real; maps eigenvalues ``[..., 1]`` to values ``[..., G]``.
        """
        values = function(self.nodes[..., np.newaxis])
        exact = function(self.known[:, np.newaxis]).sum(axis=0)
        return self._estimate(values, exact, self._change(function, values))

    def count(self, low: float, high: float) -> Count:
        """Number of eigenvalues in ``(low, high]``.

        The weight of a node is that of eigenvalues between its two neighbours (inequalities of
        Chebyshev, Markov and Stieltjes; G. Golub, G. Meurant, 2010, section 6.2). So nodes whose
        neighbours are all inside count for certain, and those with an end of the interval between
        their neighbours may belong to it or not: where most eigenvalues are close to an end, as at
        the noise floor, bounds are far apart. The outermost nodes reach as far beyond as the second
        half of the steps moved them.
        """
        inside = (self.nodes > low) & (self.nodes <= high)
        moved = np.abs(self.nodes[:, [0, -1]] - self.half[0][:, [0, -1]])
        first, last = _neighbours(self.nodes)
        first[:, 0] -= moved[:, 0]
        last[:, -1] += moved[:, 1]
        astride = ((first < low) & (low < last)) | ((first < high) & (high < last))
        known = np.asarray(np.sum((self.known > low) & (self.known <= high), keepdims=True))
        least, value, most = (
            self._estimate(taken[..., np.newaxis].astype(np.float64), known, np.zeros(1))
            for taken in (inside & ~astride, inside, inside | astride)
        )
        rest = self.num_params - len(self.known)
        return Count(
            float(value.value[0]),
            max(float((least.value - least.error)[0]), float(known[0])),
            min(float((most.value + most.error)[0]), float(known[0]) + rest),
        )

    def resolved(self, noise_floor: float) -> float | None:
        """The smallest size beyond which eigenvalues of either sign are counted well.

        Well is within a twentieth of P. Sizes are looked at from the noise floor on, four to a
        decade.

        Returns:
            That, or None where it is the largest eigenvalue's.
        """
        largest = max(np.abs(self.nodes).max(), np.abs(self.known).max(initial=0.0))
        size = noise_floor
        while size < largest:
            counts = self.count(-np.inf, -size), self.count(size, np.inf)
            if all(count.high - count.low <= self.num_params / 20 for count in counts):
                return size
            size *= 10**0.25
        return None

    def on_grid(self, grid: Array, smoothing: float, scale: float | None = None) -> Estimate:
        """The density ``1/P Σ_i N(t; s(λ_i), smoothing²)`` at the points t of a grid.

        To the error of the quadrature, as in :meth:`trace_of`, comes what no node sees: the
        Gaussian's height above its values at a node and its neighbours, if it peaks between them.

        Args:
            grid: Points ``[G]``, in units of s.
            smoothing: Standard deviation of the Gaussians, in units of s.
            scale: None for ``s(λ) = λ``, else ``s(λ) = asinh(λ / scale)``: both signs on an axis
                that is linear within the scale and logarithmic beyond.

        Raises:
            ValueError: If ``smoothing`` or ``scale`` is not positive.
        """
        if smoothing <= 0 or (scale is not None and scale <= 0):
            raise ValueError(f"smoothing is {smoothing} and scale {scale}; expected above 0")
        height = 1 / (smoothing * np.sqrt(2 * np.pi))

        def place(values: Array) -> Array:
            return values if scale is None else np.arcsinh(values / scale)

        def gaussians(values: Array) -> Array:
            distances = (grid - place(values)) / smoothing
            return np.asarray(height * np.exp(-(distances**2) / 2))

        values = gaussians(self.nodes[..., np.newaxis])
        first, last = _neighbours(place(self.nodes))
        peaks = (first[..., np.newaxis] < grid) & (grid < last[..., np.newaxis])
        seen = np.maximum(values, np.maximum(*_neighbours(values)))
        unseen = np.einsum("vs,vsg->g", self.weights, peaks * (height - seen)) / len(self.nodes)
        exact = gaussians(self.known[:, np.newaxis]).sum(axis=0)
        total = self._estimate(values, exact, self._change(gaussians, values) + unseen)
        return Estimate(total.value / self.num_params, total.error / self.num_params)

    def to_json(self, noise_floor: float, num_points: int = 201) -> dict[str, Any]:
        """Counts, and the density on an axis of both signs, as JSON data.

        Args:
            noise_floor: What counts as zero, and the scale of the axis.
            num_points: Points on the axis.
        """
        found = np.append(self.nodes.reshape(-1), self.known)
        low, high = np.arcsinh(np.array([found.min(), found.max()]) / noise_floor)
        smoothing = float(high - low) / 50 or 1.0
        grid = np.linspace(low - 3 * smoothing, high + 3 * smoothing, num_points)
        curve = self.on_grid(grid, smoothing, noise_floor)
        counts = {
            "below": self.count(-np.inf, -noise_floor),
            "within": self.count(-noise_floor, noise_floor),
            "above": self.count(noise_floor, np.inf),
        }
        return {
            "num_vectors": len(self.nodes),
            "num_steps": self.nodes.shape[1],
            "num_known": len(self.known),
            "counts": {name: count.value for name, count in counts.items()},
            "errors": {n: max(c.high - c.value, c.value - c.low) for n, c in counts.items()},
            "ranges": {name: [count.low, count.high] for name, count in counts.items()},
            "resolved": self._resolved_counts(noise_floor),
            "scale": noise_floor,
            "smoothing": smoothing,
            "grid": grid.tolist(),
            "density": curve.value.tolist(),
            "density_error": curve.error.tolist(),
        }

    def _resolved_counts(self, noise_floor: float) -> dict[str, Any] | None:
        size = self.resolved(noise_floor)
        if size is None:
            return None
        below, above = self.count(-np.inf, -size), self.count(size, np.inf)
        return {"size": size, "below": [below.low, below.high], "above": [above.low, above.high]}

    def _estimate(self, values: Array, exact: Array, bias: Array) -> Estimate:
        # For v uniform on the sphere in n dimensions the variance of vᵀ f v is
        # 2 / (n + 2) (tr f² / n - (tr f / n)²). Both traces come from the same quadrature: with
        # few vectors that is more certain than how far these are apart.
        size = self.num_params - len(self.known)
        mean, square = _average(self.weights, values), _average(self.weights, values**2)
        variance = np.maximum(0.0, square - mean**2) * 2 / (size + 2) / len(self.nodes)
        return Estimate(exact + size * mean, size * (QUANTILE_95 * np.sqrt(variance) + bias))

    def _change(self, function: Callable[[Array], Array], values: Array) -> Array:
        nodes, weights = self.half
        before = _average(weights, function(nodes[..., np.newaxis]))
        return np.asarray(np.abs(_average(self.weights, values) - before))


def _neighbours(values: Array) -> tuple[Array, Array]:
    # What the nodes before and after have; the first and the last stand in for what there is not.
    padded = np.concatenate([values[:, :1], values, values[:, -1:]], axis=1)
    return padded[:, :-2].copy(), padded[:, 2:].copy()


def _average(weights: Array, values: Array) -> Array:
    # tr f / n, by the mean over the vectors: [V, S] and [V, S, G] to [G].
    return np.asarray(np.einsum("vs,vsg->g", weights / len(weights), values))


def spectral_density(
    operator: HessianOperator,
    *,
    num_vectors: int = 10,
    num_steps: int = 80,
    known: Eigenpairs | None = None,
    seed: int = 0,
) -> SpectralDensity:
    """The spectral density by stochastic Lanczos quadrature.

    Lanczos' method from a random vector v gives a tridiagonal matrix whose eigenvalues θ and
    squared first components w of eigenvectors are the Gauss quadrature of ``vᵀ f(A) v``, exact for
    polynomials up to degree ``2 num_steps - 1`` (S. Ubaru, J. Chen, Y. Saad, SIAM J. Matrix Anal.
    Appl. 38, 2017; G. Golub, G. Meurant, 1994). It is not orthogonalised again: rounding brings
    copies of nodes, which share the weight of the first, so that sums stay right (A. Greenbaum,
    1989; T. Chen, T. Trogdon, S. Ubaru, 2021).

    Memory: four times ``[P, num_vectors]``. ``num_steps`` passes, each with all vectors.

    Args:
        operator: The matrix A.
        num_vectors: Random vectors, uniform on the sphere.
        num_steps: Steps of Lanczos' method.
        known: Eigenpairs to count exactly; the random vectors are orthogonal to them. Of converged
            outliers this takes away most of the error, of the rest nothing.
        seed: Of the random vectors.

    Raises:
        ValueError: If a number is too small.

    Example:
        >>> from hessian_tasks import ParameterLayout
        >>> diagonal = np.linspace(0.0, 1.0, 500)[:, None]
        >>> layout = ParameterLayout.of([("a/kernel", (500,))])
        >>> operator = HessianOperator(lambda v: diagonal * v, layout, relative_error=0.0)
        >>> trace = spectral_density(operator).trace_of(lambda values: values)
        >>> bool(abs(trace.value[0] - 250) < trace.error[0] < 10)
        True
    """
    if num_vectors < 1 or num_steps < 2:
        raise ValueError(f"num_vectors is {num_vectors}, num_steps {num_steps}; too few")
    size = operator.shape[0]
    sure = None if known is None else known.only(known.converged)
    values = np.zeros(0) if sure is None else sure.values
    apart = np.zeros((size, 0)) if sure is None else sure.vectors
    if len(values) == size:
        nothing = np.zeros((1, 1))
        return SpectralDensity(size, nothing, nothing, (nothing, nothing), values)
    start = np.random.default_rng(seed).standard_normal((size, num_vectors))
    diagonals, off_diagonals = _tridiagonalise(
        operator, start, apart, min(num_steps, size - len(values))
    )
    half = max(1, diagonals.shape[1] // 2)
    nodes, weights = _quadrature(diagonals, off_diagonals)
    return SpectralDensity(
        num_params=size,
        nodes=nodes,
        weights=weights,
        half=_quadrature(diagonals[:, :half], off_diagonals[:, :half]),
        known=values,
    )


def _tridiagonalise(
    operator: HessianOperator, start: Array, apart: Array, num_steps: int
) -> tuple[Array, Array]:
    # Lanczos' three-term recurrence for all vectors side by side: [num_vectors, num_steps] each.
    def orthogonal(vectors: Array) -> Array:
        return np.asarray(vectors - apart @ (apart.T @ vectors))

    current = orthogonal(orthogonal(start))
    current /= np.linalg.norm(current, axis=0)
    previous, beta = np.zeros_like(current), np.zeros(current.shape[1])
    diagonals, off_diagonals = [], []
    for _ in range(num_steps):
        product = np.asarray(operator @ current, np.float64)
        alpha = np.einsum("ij,ij->j", current, product)
        product = orthogonal(product - alpha * current - beta * previous)
        beta = np.linalg.norm(product, axis=0)
        diagonals.append(alpha)
        off_diagonals.append(beta)
        # Where nothing is left the quadrature is exact: its further nodes have no weight.
        previous, current = current, np.divide(product, beta, out=product, where=beta > 0)
    return np.transpose(diagonals), np.transpose(off_diagonals)


def _quadrature(diagonals: Array, off_diagonals: Array) -> tuple[Array, Array]:
    number, steps = diagonals.shape
    tridiagonal = np.zeros((number, steps, steps))
    index = np.arange(steps)
    tridiagonal[:, index, index] = diagonals
    tridiagonal[:, index[1:], index[:-1]] = off_diagonals[:, : steps - 1]
    nodes, vectors = np.linalg.eigh(tridiagonal)  # of the lower triangle
    return nodes, vectors[:, 0] ** 2

"""How well parameters and the solution are known: the Laplace approximation of their posterior.

Let one term be measurements with independent errors of variance σ², ``L_d = w/(N C) Σ r²``. Then
``s L`` with ``s = N C / (2 w σ²)`` is a negative log-likelihood, the other terms count as data of
their own weight, and at a minimum of L

    cov θ = (s H)⁻¹ = 2 w σ² / (N C) H⁻¹

to second order (D. MacKay, A practical Bayesian framework for backpropagation networks, 1992). Its
block of the problem's parameters is the inverse of a Schur complement, in which the networks'
weights are free; and ``u(x)`` has the variance ``J_u cov(θ) J_uᵀ`` to first order. Where σ is not
given, it is ``Σ r² / (N C - γ)``, with the number of parameters that the data determine,
``γ = 2 w / (N C) tr(J H⁻¹ Jᵀ)``.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hessian_tasks.errors import ProblemError
from hessian_tasks.problem import Problem
from pipeline.analysis.fields import Band
from pipeline.analysis.inverse import HessianInverse
from pipeline.analysis.variances import Variances, solved_variances, variances
from pipeline.curvature.measurements import Measured, open_measured
from pipeline.store.places import Place
from pipeline.store.store import HessianStore

__all__ = ["Estimated", "Uncertainty", "uncertainty", "uncertainty_of"]

Array: TypeAlias = npt.NDArray[Any]

# Share of a variance that may be unknown in what counts as identified.
SMALL = 0.01


@dataclass(frozen=True)
class Noise:
    """The errors of the measurements.

    Attributes:
        term: The loss term that holds them.
        count: Number of residuals, N C.
        sigma: Their standard deviation σ.
        effective: γ, the number of parameters that they determine; None where σ was given.
    """

    term: str
    count: int
    sigma: float
    effective: float | None


@dataclass(frozen=True)
class Estimated:
    """An entry of the problem's parameters, and how well it is known.

    Attributes:
        name: Its name, with its index if there are several entries.
        value: Its value in θ.
        standard_error: Its standard error, by what can be inverted.
        rounding: By how much rounding in the stored matrix may move that, to first order.
        at_least: Its standard error at least, with what cannot be told from singular.
        offset: How far the minimum of the quadratic model is from the value, in standard errors.
    """

    name: str
    value: float
    standard_error: float
    rounding: float
    at_least: float
    offset: float

    @property
    def identified(self) -> bool:
        """Whether what is not known of it is a small part."""
        return self.at_least**2 <= (1 + SMALL) * self.standard_error**2


@dataclass(frozen=True)
class Uncertainty:
    """What the measurements leave unknown.

    Attributes:
        noise: Their errors.
        parameters: The problem's parameters, entry by entry.
        correlations: Of these, ``[K, K]``.
        band: The solution.
        inverse: What was inverted: method, damping, noise floor, directions left out.
    """

    noise: Noise
    parameters: tuple[Estimated, ...]
    correlations: Array
    band: Band
    inverse: HessianInverse

    def to_json(self) -> dict[str, Any]:
        """All but the band's fields as JSON data."""
        return {
            "noise": asdict(self.noise),
            "parameters": [
                {**asdict(found), "identified": found.identified} for found in self.parameters
            ],
            "correlations": self.correlations.tolist(),
            "largest_deviation": float(self.band.deviation.max()),
            "method": self.inverse.method,
            "damping": self.inverse.damping,
            "noise_floor": self.inverse.noise_floor,
            "num_left_out": int(self.inverse.left_out.shape[1]),
        }


def uncertainty(
    store: HessianStore | Place,
    data: str | None = None,
    sigma: float | None = None,
    *,
    damping: float = 0.0,
    problem: Problem | str | Path | None = None,
) -> Uncertainty:
    """How well the parameters and the solution are known from noisy measurements.

    Args:
        store: A complete store of the Hessian, or of the Gauss-Newton matrix, at a minimum.
        data: Name of the residual term that holds the measurements; may be left out where only one
            has data.
        sigma: Standard deviation of their errors; from the residuals by default.
        damping: μ, added to the diagonal: as if every entry of θ had a prior.
        problem: The problem, if the store was made from a live object or its file has moved.

    Returns:
        The noise, the parameters with their standard errors, their correlations, and the solution's
        band.

    Raises:
        ProblemError: If no such term holds measurements, or σ cannot be told from them.
        PlanError: If θ is no minimum, the matrix is without a term, or it is too near to singular
            for the memory.
        StoreError: If block rows are missing or damaged.
        ReproductionError: If the problem is not the one that the store was made from.

    Example:
        The slope of ``u = a x`` through data has the variance ``σ² / Σ x²``:

        >>> import tempfile, keras
        >>> from pipeline import Problem, ResidualTerm, compute_hessian
        >>> line = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        >>> x = np.array([[1.0], [2.0], [2.0]])
        >>> fit = ResidualTerm("fit", x, lambda x, u, y: u.value - y, data={"y": 3 * x})
        >>> pull = ResidualTerm("same", x, lambda x, u, a: 1e2 * (u.d("x")[:, 0] - a))
        >>> problem = Problem(line, [fit, pull], coordinates="x", parameters={"a": 3.0})
        >>> line.set_weights([np.array([[3.0]])])
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     _ = compute_hessian(problem, f"{directory}/h.zarr")
        ...     found = uncertainty(f"{directory}/h.zarr", "fit", 0.6, problem=problem)
        >>> round(found.parameters[0].standard_error, 2)
        0.2
    """
    if sigma is not None and not 0 < sigma < math.inf:
        raise ProblemError(f"The standard deviation is {sigma}; expected one above 0.")
    return uncertainty_of(open_measured(store, data, damping, problem), sigma)


def uncertainty_of(at: Measured, sigma: float | None = None) -> Uncertainty:
    """The same of measurements that are open.

    Raises:
        ProblemError: If σ cannot be told from them.
    """
    noise = _noise(at, sigma)
    scale = 2 * at.term.weight * noise.sigma**2 / noise.count
    parameters, correlations = _parameters(at, scale)
    return Uncertainty(noise, parameters, correlations, _band(at, scale), at.inverse)


def _noise(at: Measured, sigma: float | None) -> Noise:
    found, term = at.residuals, at.term
    if sigma is not None:
        return Noise(term.name, found.size, sigma, None)
    known = variances(at.inverse, at.jacobian, found.size)
    effective = 2 * term.weight / found.size * float(known.values.sum())
    if not effective < found.size:
        raise ProblemError(
            f"The {found.size:,} measurements of term {term.name!r} determine {effective:.4g} "
            "parameters, so that their errors cannot be told from them: give σ (--sigma)."
        )
    rss = float(np.sum(found**2))
    return Noise(term.name, found.size, math.sqrt(rss / (found.size - effective)), effective)


def _parameters(at: Measured, scale: float) -> tuple[tuple[Estimated, ...], Array]:
    """The problem's parameters, and their correlations."""
    named, units = at.parameters(), at.units()
    if not named:
        return (), np.zeros((0, 0))
    rows, solved = list(named.values()), at.inverse @ units
    theta, gradient = (at.store.read(name).astype(np.float64) for name in ("theta", "gradient"))
    found = solved_variances(at.inverse, units.T, solved).scaled(scale)
    errors, rounding, at_least = _deviations(found)
    with np.errstate(divide="ignore", invalid="ignore"):
        correlations = scale * solved[rows] / np.outer(errors, errors)
        # Of Newton's step A⁻¹ g, as A⁻¹ is symmetric.
        offsets = np.abs(solved.T @ gradient) / errors
    numbers = zip(theta[rows], errors, rounding, at_least, offsets, strict=True)
    return tuple(
        Estimated(name, *map(float, values)) for name, values in zip(named, numbers, strict=True)
    ), correlations


def _deviations(found: Variances) -> tuple[Array, Array, Array]:
    """Standard deviations, by how much rounding may move them, and these at least."""
    # Rounding may take a variance that is nothing below zero.
    values = np.sqrt(np.maximum(found.values, 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        rounding = np.where(values > 0, found.errors / (2 * values), np.sqrt(found.errors))
    return values, rounding, np.sqrt(values**2 + found.unknown)


def _band(at: Measured, scale: float) -> Band:
    cut, values, rows = at.solution
    found = variances(at.inverse, rows, values.size).scaled(scale)

    def on_cut(flat: Array) -> Array:
        return flat.reshape(values.shape).T.reshape(-1, *cut.shape)

    columns = [at.problem.coordinates.index(name) for name in cut.names]
    data = np.asarray(at.term.points, np.float64)[:, columns]
    return Band(cut, data, on_cut(values), *map(on_cut, _deviations(found)))

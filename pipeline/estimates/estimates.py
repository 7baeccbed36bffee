"""What products alone say of a matrix, each answer with its error."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy.typing as npt

from hessian_tasks.spec import HESSIAN, Matrix
from pipeline.analysis.density import SpectralDensity, spectral_density
from pipeline.analysis.eigenpairs import Eigenpairs, extreme_eigenpairs
from pipeline.analysis.estimators import (
    Estimate,
    TraceMethod,
    estimate_diagonal,
    estimate_frobenius_norm,
    estimate_trace,
)
from pipeline.analysis.layers import LayerMeans, layer_means
from pipeline.analysis.operator import HessianOperator
from pipeline.estimates.fitting import BLOCK, MAX_PASSES, allowed_bytes, best_method

__all__ = ["EstimateOptions", "Estimates", "estimate"]

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class EstimateOptions:
    """What is estimated, and how well.

    Attributes:
        num_pairs: Eigenpairs at each end.
        tolerance: Residuals of eigenpairs to reach, relative to ``‖H‖_F``.
        error: Standard errors to reach for trace and Frobenius norm, relative to ``‖H‖_F``.
        max_products: Products after which an estimate stops, whatever its error.
        num_diagonal: Products for the diagonal; 0 leaves it out.
        num_density: Random vectors for the spectral density, of 80 products each; 0 leaves it out.
        seed: Of the random vectors.
        matrix: Of which matrix.
        term: Of which loss term alone, or None.
        method: How trace and norm are estimated; by default the best whose vectors fit.
    """

    num_pairs: int = 5
    tolerance: float = 1e-8
    error: float = 0.01
    max_products: int = 400
    num_diagonal: int = 0
    num_density: int = 0
    seed: int = 0
    matrix: Matrix = HESSIAN
    term: str | None = None
    method: TraceMethod | None = None

    def to_json(self) -> dict[str, Any]:
        """The options as JSON data."""
        return {**asdict(self), "matrix": self.matrix.name}

    def deciding(self) -> dict[str, Any]:
        """Those of them that change all products, as JSON data; the others say which there are."""
        return {"matrix": self.matrix.name, "term": self.term, "seed": self.seed}


@dataclass(frozen=True)
class Estimates:
    """The answers.

    Attributes:
        title: Name of the matrix.
        asked: What was asked for.
        num_params: P.
        loss: The loss at θ.
        relative_error: Of a product, as measured.
        pairs: Extreme eigenpairs, with the norms of their residuals.
        trace: The trace.
        frobenius_norm: ``‖H‖_F``.
        diagonal: The diagonal ``[P]``, or None.
        layers: Its means over the layers, or None.
        density: The spectral density, or None.
        num_products: Products with single vectors, of all this.
        seconds: Time that this took, in this process.
        num_recorded: How many of the products an earlier, interrupted process had computed.
    """

    title: str
    asked: EstimateOptions
    num_params: int
    loss: float
    relative_error: float
    pairs: Eigenpairs
    trace: Estimate
    frobenius_norm: Estimate
    diagonal: Estimate | None
    layers: LayerMeans | None
    density: SpectralDensity | None
    num_products: int
    seconds: float
    num_recorded: int = 0

    @property
    def noise_floor(self) -> float:
        """Bound on the error of eigenvalues by that of products, ``‖E‖₂ ≤ ‖E‖_F``."""
        return self.relative_error * float(self.frobenius_norm.value)

    @property
    def eigenvalue_errors(self) -> Array:
        """Bounds on the errors of the eigenvalues."""
        return self.pairs.errors(self.noise_floor)

    def density_data(self) -> dict[str, Any] | None:
        """The counts and the curve of the density, if there is one."""
        return None if self.density is None else self.density.to_json(self.noise_floor)

    def diagonal_data(self) -> dict[str, Any] | None:
        """The diagonal by layers, and how it was estimated, if it was."""
        if self.diagonal is None or self.layers is None:
            return None
        how = {"method": self.diagonal.method, "num_products": self.diagonal.num_products}
        return {**how, **self.layers.to_json()}

    def to_json(self) -> dict[str, Any]:
        """The answers as JSON data, without vectors."""
        return {
            "matrix": self.title,
            "asked": self.asked.to_json(),
            "num_params": self.num_params,
            "loss": self.loss,
            "eigenvalues": self.pairs.values.tolist(),
            "eigenvalue_errors": self.eigenvalue_errors.tolist(),
            "trace": self.trace.to_json(),
            "frobenius_norm": self.frobenius_norm.to_json(),
            "diagonal": self.diagonal_data(),
            "relative_error": self.relative_error,
            "noise_floor": self.noise_floor,
            "residuals": self.pairs.residuals.tolist(),
            "tolerance": self.pairs.tolerance,
            "converged": self.pairs.converged.tolist(),
            "num_passes": self.pairs.num_passes,
            "density": self.density_data(),
            "num_products": self.num_products,
            "num_recorded": self.num_recorded,
            "seconds": self.seconds,
        }


def estimate(
    operator: HessianOperator,
    loss: float,
    options: EstimateOptions,
    report: Callable[[str], None] = lambda text: None,
) -> Estimates:
    """Ask everything of an operator.

    Args:
        operator: The matrix.
        loss: The loss at θ.
        options: What, and how well.
        report: Told what is done now.

    Raises:
        ConfigError: If options have no valid value.
    """
    started, before = time.perf_counter(), operator.num_products
    assert operator.norm is not None, operator
    method = options.method or best_method(
        operator.shape[0], options.max_products, allowed_bytes(), operator.semidefinite
    )
    given: dict[str, Any] = {
        "num_products": options.max_products,
        "error": (options.error * operator.norm) or None,
        "seed": options.seed,
    }
    report("trace")
    trace = estimate_trace(operator, method, **given)
    report("Frobenius norm")
    norm = estimate_frobenius_norm(operator, method, **given)
    diagonal = layers = None
    if options.num_diagonal:
        report("diagonal")
        diagonal = estimate_diagonal(
            operator,
            # XDiag keeps its vectors, as XTrace does.
            "hutchinson" if method == "hutchinson" else "xdiag",
            num_products=options.num_diagonal,
            seed=options.seed,
        )
        layers = layer_means(diagonal.value, diagonal.standard_error, operator.layout)
    report("eigenpairs")
    pairs = extreme_eigenpairs(
        operator,
        options.num_pairs,
        tolerance=max(options.tolerance, operator.relative_error) * operator.norm,
        block=BLOCK,
        max_passes=MAX_PASSES,
        seed=options.seed,
    )
    density = None
    if options.num_density:
        report("density")
        density = spectral_density(
            operator, num_vectors=options.num_density, known=pairs, seed=options.seed
        )
    return Estimates(
        operator.title,
        options,
        operator.shape[0],
        loss,
        operator.relative_error,
        pairs,
        trace,
        norm,
        diagonal,
        layers,
        density,
        operator.num_products - before,
        time.perf_counter() - started,
    )

"""K-FAC and EKFAC of a loss, from the streams of its dense layers.

A layer multiplies S streams at a point n: the network's value and its derivatives by the
coordinates, z_ns, with the 1 of the bias at the end of the value and 0 at those of derivatives. Of
rows q of a square root of ℓ'' (of a term of residuals these, times ``(2 w / (N C))^½``) with the
slopes g_ns by what the layer makes, its block of the Gauss-Newton matrix is

    Σ_q Σ_n v vᵀ,    v = Σ_s z_ns ⊗ g_ns.

K-FAC leaves out what couples streams, and takes the mean of products for the product of means:

    A ⊗ B,    A = 1/(N S) Σ_n Σ_s z_ns z_nsᵀ,    B = Σ_q Σ_n Σ_s g_ns g_nsᵀ

(F. Dangel, J. Müller, M. Zeinhofer, "Kronecker-Factored Approximate Curvature for Physics-Informed
Neural Networks", NeurIPS 2024: K-FAC for layers with shared weights, R. Eschenhagen et al., 2023,
"expand"), a product for each term. As there, first derivatives are streams of their own, and of
the highest ones those sums are that the term depends on: u, ∂u and Δu for a Laplacian. EKFAC keeps
the eigenvectors of A and B, and takes the diagonal that is nearest to the block in their basis,
``d = Σ_q Σ_n (vᵀ (U_A ⊗ U_B))²`` (T. George et al., 2018).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hessian_tasks.errors import NotLayeredError
from hessian_tasks.layered.expand.network import Network
from hessian_tasks.layered.expand.rows import RowFactors, slices, times_inputs
from hessian_tasks.layered.expand.terms import expand_curvature, expand_residual
from hessian_tasks.layered.kronecker import Array, LayerFactors, TermFactors
from hessian_tasks.networks.models import parameter_layout
from hessian_tasks.problem import ResidualTerm
from hessian_tasks.reading import Reading

__all__ = ["kronecker_factors"]

# Bytes of the rows that are formed at a time.
BATCH_BYTES = 8 * 2**20
# First derivatives are streams of their own.
MERGED_FROM = 2


def kronecker_factors(readings: Sequence[Reading]) -> list[TermFactors]:
    """K-FAC and EKFAC of terms at θ, in float64.

    Args:
        readings: Terms of one problem, at least one.

    Raises:
        NotLayeredError: If the network is not of dense layers, or a term is not of the kind that
            can be taken by layers; the message says what it found.

    Example:
        >>> import keras
        >>> from hessian_tasks import Problem, ResidualTerm
        >>> from hessian_tasks.reading import read_terms
        >>> net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> fit = ResidualTerm("fit", [[3.0]], lambda x, u: u.value)
        >>> (term,) = kronecker_factors(read_terms(Problem(net, [fit], coordinates="x")))
        >>> term.layers[0].product()  # of one point it is the matrix itself, 2 (x, 1)ᵀ(x, 1)
        array([[18.,  6.],
               [ 6.,  2.]])
    """
    network = Network.of(readings[0].problem)
    layout = parameter_layout(readings[0].problem.model)
    for site in map(network.program.site, network.program.sites):
        if site.source is None:
            raise NotLayeredError(f"{layout.describe(site.offset)} belongs to no dense layer")
    return [_factor(network, reading) for reading in readings]


def _factor(network: Network, reading: Reading) -> TermFactors:
    name = reading.term.name
    try:
        if isinstance(reading.term, ResidualTerm):
            return _of_residuals(network, reading, reading.term)
        return _of_curvature(network, reading)
    except NotLayeredError as error:
        raise NotLayeredError(f"term {name!r} {error}") from error


def _of_residuals(network: Network, reading: Reading, term: ResidualTerm) -> TermFactors:
    found = expand_residual(network, reading, MERGED_FROM)
    direct = found.direct.astype(np.float64)
    scale = 2 * term.weight / (direct.shape[0] * direct.shape[1])
    layers = () if found.factors is None else _layers(network, found.factors, scale)
    corner = scale * np.tensordot(direct, direct, ((0, 1), (0, 1)))
    return TermFactors(term.name, layers, found.entries, corner)


def _of_curvature(network: Network, reading: Reading) -> TermFactors:
    found = expand_curvature(network, reading, MERGED_FROM)
    layers = tuple(layer for rows in found.rows for layer in _layers(network, rows, 1.0))
    if found.border is None:
        return TermFactors(reading.term.name, layers, np.zeros(0, np.intp), np.zeros((0, 0)))
    corner = found.border.corner.astype(np.float64)
    return TermFactors(reading.term.name, layers, found.border.entries, corner)


def _layers(network: Network, rows: RowFactors, scale: float) -> tuple[LayerFactors, ...]:
    signs = scale * rows.signs.astype(np.float64)
    return tuple(
        _layer(network.program.site(wire).offset, rows.inputs[wire], rows.cotangents[wire], signs)
        for wire in network.program.sites
        if rows.cotangents[wire].any()
    )


def _layer(offset: int, inputs: Array, slopes: Array, scales: Array) -> LayerFactors:
    """Factors of rows with inputs ``[N, S, R]``, slopes ``[ρ, N, S, W]``, scales ``[ρ, N]``."""
    inputs, slopes = inputs.astype(np.float64), slopes.astype(np.float64)
    flat = inputs.reshape(-1, inputs.shape[2])
    first = flat.T @ flat / len(flat)
    scaled = scales[..., np.newaxis, np.newaxis] * slopes
    second = scaled.reshape(-1, slopes.shape[3]).T @ slopes.reshape(-1, slopes.shape[3])
    bases = (np.linalg.eigh(first)[1], np.linalg.eigh(second)[1])
    diagonal = _diagonal(inputs @ bases[0], slopes @ bases[1], scales)
    return LayerFactors(offset, (first, second), bases, diagonal)


def _diagonal(inputs: Array, slopes: Array, scales: Array) -> Array:
    """``Σ_q Σ_n (Σ_s z_ns ⊗ g_ns)²``, ``[R, W]``."""
    number, num_points = scales.shape
    shape = (inputs.shape[2], slopes.shape[3])
    found = np.zeros(shape[0] * shape[1])
    step = BATCH_BYTES // (found.nbytes * max(1, number))
    for points in slices(num_points, step):
        rows = times_inputs(inputs[points], slopes[:, points])
        found += scales[:, points].ravel() @ rows**2
    return found.reshape(shape)

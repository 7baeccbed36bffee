"""Hessians known in closed form, in NumPy alone: what the engines are held against.

Rows and columns follow θ: the trainable weights in Keras' order, each flattened in C order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["least_squares", "sine_eigenvalues", "softmax_regression", "tanh_poisson"]

Array = npt.NDArray[Any]


def least_squares(features: Array, num_outputs: int) -> Array:
    """H of the mean of (x̃ᵀK - y)² over N points and C outputs, for ``[kernel, bias]``.

    The bias is one more row of the kernel if each x gets a one appended: x̃ = (x, 1). An
    entry (i, c) of that kernel is at i C + c, so outputs vary fastest, and as they do not
    meet, H = 2/(N C) X̃ᵀX̃ ⊗ I.
    """
    x = _with_ones(features)
    return np.kron(x.T @ x, np.eye(num_outputs)) * 2 / (len(x) * num_outputs)


def softmax_regression(features: Array, logits: Array) -> Array:
    """H of the mean cross-entropy of softmax(x̃ᵀK), for ``[kernel, bias]``.

    The Hessian of log Σ exp z with respect to z is diag(p) - p pᵀ, the labels only enter
    linearly, and z is linear in the kernel: H = mean over points of x̃x̃ᵀ ⊗ (diag(p) - p pᵀ).
    """
    x = _with_ones(features)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = exponentials / exponentials.sum(axis=1, keepdims=True)
    curvature = np.eye(p.shape[1]) * p[:, :, np.newaxis] - p[:, :, np.newaxis] * p[:, np.newaxis]
    entries = np.einsum("ni,nj,ncd->icjd", x, x, curvature) / len(x)
    size = x.shape[1] * p.shape[1]
    return entries.reshape(size, size)


def tanh_poisson(points: Array, weights: list[Array], source: Array) -> Array:
    """H of mean (Δu - f)² for u(x) = Σ_j a_j tanh(w_j·x + b_j) + c.

    Unit j adds h = a s q(z) to Δu, with z = w·x + b, s = |w|² and q = tanh''. Hence, with
    e_i the unit vectors and S = 2w the gradient of s,

        ∂h/∂w = a (S q + s q' x),     ∂h/∂b = a s q',     ∂h/∂a = s q,

    and once more for the second derivatives. With r = Δu - f,

        H = 2/N Σ_n (∇r ∇rᵀ + r ∇²r),

    where ∇²r, the curvature of the residual, is zero between different units. Δu does not
    see c, so that the last row and column are zero.

    Args:
        points: Points ``[N, d]``.
        weights: ``w [d, m]``, ``b [m]``, ``a [m, 1]``, ``c [1]``.
        source: f at the points, ``[N]``.
    """
    w, b, a = weights[0], weights[1], weights[2][:, 0]
    (num_points, d), m = points.shape, len(b)
    q, q1, q2 = _tanh_derivatives(points @ w + b)
    s, x = np.sum(w**2, axis=0), points[:, :, np.newaxis]
    residual = (s * q) @ a - source

    # Axis 1 has the d + 2 parameters of a unit: w, b, a; the last axis has the units.
    first = np.empty((num_points, d + 2, m))
    first[:, :d] = a * (2 * w * q[:, np.newaxis] + s * x * q1[:, np.newaxis])
    first[:, d] = a * s * q1
    first[:, d + 1] = s * q

    second = np.zeros((num_points, d + 2, d + 2, m))
    for i in range(d):
        for k in range(d):
            cross = 2 * w[i] * points[:, [k]] + 2 * w[k] * points[:, [i]]
            both = s * points[:, [i]] * points[:, [k]]
            second[:, i, k] = a * (2 * (i == k) * q + cross * q1 + both * q2)
        second[:, i, d] = second[:, d, i] = a * (2 * w[i] * q1 + s * points[:, [i]] * q2)
        second[:, i, d + 1] = second[:, d + 1, i] = first[:, i] / a
    second[:, d, d] = a * s * q2
    second[:, d, d + 1] = second[:, d + 1, d] = s * q1

    # Parameter slot p of unit j is at p m + j: kernels [d, m] and [m, 1] are in C order.
    gradients = first.reshape(num_points, -1)
    curvature = np.einsum("n,npqj->pqj", residual, second)
    entries = np.einsum("pqj,jk->pjqk", curvature, np.eye(m)).reshape(m * (d + 2), -1)
    hessian = np.zeros((m * (d + 2) + 1, m * (d + 2) + 1))
    hessian[:-1, :-1] = 2 / num_points * (gradients.T @ gradients + entries)
    return hessian


def sine_eigenvalues(order: int) -> Array:
    """Diagonal of H of mean (Δu - f)² for u = Σ c_kl sin(kπx) sin(lπy), k, l = 1..order.

    Δ multiplies a basis function by -π²(k² + l²). On the midpoints of n × n cells of the
    unit square, n > order, the basis is orthogonal in the mean with square 1/4, just as in
    the integral. So H is diagonal with π⁴(k² + l²)²/2, whatever c and f are.
    """
    squares = np.arange(1, order + 1) ** 2
    return np.pi**4 * np.add.outer(squares, squares).reshape(-1) ** 2 / 2.0


def _tanh_derivatives(z: Array) -> tuple[Array, Array, Array]:
    """tanh'', tanh''' and tanh'''', by T' = 1 - T² = s."""
    t = np.tanh(z)
    s = 1 - t**2
    return -2 * t * s, 2 * s * (3 * t**2 - 1), 8 * t * s * (2 - 3 * t**2)


def _with_ones(features: Array) -> Array:
    return np.hstack([features, np.ones((len(features), 1))])

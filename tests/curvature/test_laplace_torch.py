"""Error bars against those of laplace-torch, which shares no line of code with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from pipeline import Problem, ResidualTerm, uncertainty
from tests.helpers.measured import store

torch = pytest.importorskip("torch", reason="PyTorch, of tests/torch.txt, is not installed")
laplace = pytest.importorskip(
    "laplace", reason="laplace-torch, of tests/laplace.txt, is not installed"
)

# What its curvature library takes of PyTorch is going.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated:DeprecationWarning"),
]

WIDTHS = (1, 6, 5, 2)
WEIGHT, SIGMA = 0.7, 0.1
POINTS = np.linspace(-1, 1, 24)[:, np.newaxis]
DATA = np.hstack([np.sin(3 * POINTS), np.cos(2 * POINTS)])


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    """The library makes its matrices in the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def networks() -> tuple[Any, Any]:
    """The same network of Keras and of PyTorch, with biases that are not zero."""
    keras.utils.set_random_seed(3)
    layers = [
        keras.layers.Dense(
            width, activation, bias_initializer=keras.initializers.RandomNormal(), dtype="float64"
        )
        for width, activation in zip(WIDTHS[1:], ("tanh", "tanh", None), strict=True)
    ]
    ours = keras.Sequential([keras.Input((WIDTHS[0],), dtype="float64"), *layers])
    theirs = []
    for layer in layers:
        kernel, bias = layer.get_weights()
        linear = torch.nn.Linear(*kernel.shape)
        linear.load_state_dict({"weight": torch.tensor(kernel.T), "bias": torch.tensor(bias)})
        theirs += [linear, torch.nn.Tanh()]
    return ours, torch.nn.Sequential(*theirs[:-1])


@pytest.mark.parametrize("prior", [0.03, 1.0, 40.0])
def test_the_band_is_that_of_the_linearised_laplace_approximation(
    prior: float, tmp_path: Path
) -> None:
    """``J (Σ JᵀJ / σ² + δ I)⁻¹ Jᵀ`` of both, of a network with a damping that is the prior δ."""
    ours, theirs = networks()
    fit = ResidualTerm("fit", POINTS, lambda x, u, y: u.value - y, WEIGHT, {"y": DATA})
    problem = Problem(ours, [fit], coordinates="x")
    # G = 2w / (N C) Σ JᵀJ, so that G + μ I is as many times the precision as σ² 2w / (N C).
    damping = 2 * WEIGHT * SIGMA**2 * prior / DATA.size
    path = store(problem, tmp_path / "g.zarr", "ggn")
    found = uncertainty(path, "fit", SIGMA, damping=damping, problem=problem)

    data = torch.utils.data.TensorDataset(torch.tensor(POINTS), torch.tensor(DATA))
    posterior = laplace.Laplace(
        theirs, "regression", subset_of_weights="all", hessian_structure="full",
        sigma_noise=SIGMA, prior_precision=prior,
    )  # fmt: skip
    posterior.fit(torch.utils.data.DataLoader(data, batch_size=len(POINTS)))
    mean, variance = posterior(torch.tensor(found.band.cut.points))
    assert posterior.H.dtype == torch.float64
    expected = torch.sqrt(torch.diagonal(variance, dim1=1, dim2=2)).detach().numpy().T
    np.testing.assert_allclose(found.band.solution, mean.detach().numpy().T, atol=1e-12)
    # Each solves with a matrix whose condition is at most that of G + μ I; G's largest eigenvalue
    # is below its trace.
    trace = float(torch.trace(posterior.H)) / SIGMA**2
    rounding = 100 * np.finfo(np.float64).eps * (1 + trace / prior)
    np.testing.assert_allclose(found.band.deviation, expected, rtol=rounding)

"""Steps: a stored matrix and the loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.helpers.measured import PLACES, SIGMA, Features, Refit


@pytest.fixture(scope="module")
def fitted() -> tuple[Features, Refit, Any, Any]:
    features = Features()
    refit = Refit(features)
    y = np.exp(-2 * PLACES) + SIGMA * np.random.default_rng(4).standard_normal(PLACES.shape)
    start = np.append(np.linalg.lstsq(refit.places, y[:, 0], rcond=None)[0], 2.0)
    best = refit.solve(y, start)
    features.model.layers[-1].set_weights([best[:-1, None]])
    return features, refit, y, best

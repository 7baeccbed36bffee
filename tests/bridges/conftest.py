"""DeepXDE's models as problems: their loss and Hessian against DeepXDE's own loss, and as files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import keras
import pytest


@pytest.fixture(scope="session")
def library() -> Any:
    """DeepXDE with the backend that is read, imported by these tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DDE_BACKEND", os.environ.get("DDE_BACKEND", "tensorflow"))
        import deepxde
    return deepxde


@pytest.fixture
def dde(library: Any) -> Iterator[Any]:
    """DeepXDE in float64; the type is Keras' too, and put back."""
    before = keras.backend.floatx(), keras.config.dtype_policy()
    library.config.set_default_float("float64")
    # Layers have that of the first layer of the process otherwise.
    keras.config.set_dtype_policy("float64")
    keras.utils.set_random_seed(3)
    yield library
    library.config.set_default_float(before[0])
    keras.config.set_dtype_policy(before[1])
    assert keras.backend.floatx() == before[0]

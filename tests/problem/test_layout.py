"""Which parameter a row belongs to."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from hessian_tasks.errors import ModelError
from hessian_tasks.networks.models import (
    parameter_layout,
    set_theta,
)
from hessian_tasks.parameters import ParameterLayout
from hessian_tasks.problems.networks import mlp


def network(width: int = 3, depth: int = 1, outputs: int = 1, dtype: str = "float64") -> Any:
    return mlp(2, outputs, width=width, depth=depth, dtype=dtype)


SHAPES = [("a/kernel", (2, 3)), ("a/bias", (3,)), ("gain", ()), ("b/c/kernel", (2, 1, 2))]


def test_labels_number_every_entry() -> None:
    labels = ParameterLayout.of(SHAPES).labels()
    layer_of = [0, 0, 1, 2]
    rows = [
        (layer_of[variable], variable, index)
        for variable, (_, shape) in enumerate(SHAPES)
        for index, _ in enumerate(itertools.product(*map(range, shape)))
    ]
    for column, name in enumerate(("layer", "variable", "index")):
        assert labels[name].dtype == np.int32
        assert labels[name].tolist() == [row[column] for row in rows]


def test_description_names_the_weight_that_an_entry_moves() -> None:
    model = network(depth=2)
    layout = parameter_layout(model)
    for row, unit in enumerate(np.eye(layout.num_params)):
        set_theta(model, unit)
        for weight in model.trainable_weights:
            for index in np.argwhere(weight.numpy()):
                path = weight.path.removeprefix("mlp/")
                assert layout.describe(row) == f"{path}{index.tolist()}"


def test_layers_are_in_the_order_of_theta() -> None:
    layout = ParameterLayout.of(SHAPES)
    assert layout.layers() == ["a", "network", "b/c"]
    assert [layout.layer_start(row) for row in range(layout.num_params)] == [0] * 9 + [2] + [3] * 4
    assert ParameterLayout.from_json(layout.to_json()) == layout


@pytest.mark.parametrize("shapes", [[], [("a/kernel", (0, 3))]])
def test_layout_without_entries_is_refused(shapes: list[Any]) -> None:
    with pytest.raises(ModelError, match="no trainable weights"):
        ParameterLayout.of(shapes)

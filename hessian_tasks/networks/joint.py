"""All networks of a problem as one function of one matrix, the inputs of all side by side."""

from __future__ import annotations

from itertools import accumulate, pairwise

import tensorflow as tf

from hessian_tasks.jets import Tensor
from hessian_tasks.networks.inputs import Inputs
from hessian_tasks.networks.models import dtype_of
from hessian_tasks.networks.trainables import networks_of
from hessian_tasks.problem import Problem

__all__ = ["Joint"]


class Joint:
    """All networks of a problem as one function of a matrix, their outputs side by side.

    Networks that take inputs of the same widths take the same columns of it; others have columns of
    their own.

    Attributes:
        inputs: The inputs of every network.
        columns: Where they are among the matrix' columns.
        width: Number of its columns.
    """

    def __init__(self, problem: Problem) -> None:
        """Put the inputs side by side.

        Args:
            problem: The problem, its model resolved.
        """
        self._networks = networks_of(problem.model)
        self._coordinates = tuple(problem.coordinates)
        number = len(self._coordinates)
        self.inputs = {name: Inputs.of(n, number) for name, n in self._networks.items()}
        different = dict.fromkeys(inputs.widths for inputs in self.inputs.values())
        edges = list(accumulate(map(sum, different), initial=0))
        # A single network that does not say what it takes, takes all.
        places = {
            w: slice(a, b or None) for w, (a, b) in zip(different, pairwise(edges), strict=True)
        }
        self.columns = {name: places[inputs.widths] for name, inputs in self.inputs.items()}
        self.width = edges[-1]

    def __call__(self, matrix: Tensor) -> Tensor:
        """The outputs of all networks ``[N, outputs]``."""
        found = [self._evaluate(name, matrix) for name in self._networks]
        return tf.concat(found, axis=1) if len(found) > 1 else found[0]

    def _evaluate(self, name: str, matrix: Tensor) -> Tensor:
        inputs, columns = self.inputs[name], self.columns[name]
        own = matrix if inputs.width == self.width else matrix[:, columns]
        return self._networks[name](inputs.pack(inputs.split(own)))

    def outputs(self) -> dict[str, slice]:
        """Where the outputs of each network are among those of all."""
        if len(self._networks) == 1:
            return dict.fromkeys(self._networks, slice(None))
        slices, start = {}, 0
        for name, network in self._networks.items():
            point = tf.zeros((1, self.width), dtype_of(network))
            stop = start + int(self._evaluate(name, point).shape[1])
            slices[name], start = slice(start, stop), stop
        return slices

    def column_names(self) -> list[str]:
        """What to call the columns: by coordinates, or inputs' names, numbered."""
        names: dict[int, list[str]] = {}
        for network, inputs in self.inputs.items():
            names.setdefault(self.columns[network].start, self._names(inputs))
        return [name for start in sorted(names) for name in names[start]]

    def _names(self, inputs: Inputs) -> list[str]:
        number = len(self._coordinates)
        if inputs.width == number and not any(inputs.names):
            return list(self._coordinates)
        found: list[str] = []
        for name, width in zip(inputs.names, inputs.widths, strict=True):
            if width == number and not (width == 1 and name):
                found += self._coordinates
            elif name:
                found += [name] if width == 1 else [f"{name}{i}" for i in range(width)]
            else:
                found += [f"x{len(found) + i}" for i in range(width)]
        return found

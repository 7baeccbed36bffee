"""The parameter vector θ: which entry belongs to which variable.

θ is the concatenation of ``model.trainable_weights``, each flattened in C
order. Row ``r`` of the Hessian is entry ``r`` of
``tf.concat([tf.reshape(w, -1) for w in model.trainable_weights], 0)``. Where a problem says
``only=``, it is some of these, in the same order.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hessian_tasks.errors import ModelError

__all__ = ["LAYER", "NETWORK", "Held", "ParameterLayout", "Variable", "owner_of"]

# The layer to which the parameters of a problem belong, which are no weights of a network.
LAYER = "parameters"
# What weights belong to that a network owns itself: the path of their layer is empty.
NETWORK = "network"


def owner_of(path: str) -> str:
    """The layer of a weight by its path, or ``"network"`` where it is in none.

    Example:
        >>> owner_of("block/hidden_1/kernel"), owner_of("scale")
        ('block/hidden_1', 'network')
    """
    return path.rpartition("/")[0] or NETWORK


@dataclass(frozen=True)
class Variable:
    """One trainable variable and its place in θ.

    Attributes:
        layer: Path of the layer that owns it, ``"hidden_1"``; empty if it is in none.
        name: Name within the layer, ``"kernel"``.
        shape: Shape of the variable.
        offset: Index in θ of its first entry.

    Example:
        >>> variable = Variable("hidden_1", "kernel", shape=(2, 50), offset=0)
        >>> variable.path, variable.size, variable.stop
        ('hidden_1/kernel', 100, 100)
    """

    layer: str
    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def stop(self) -> int:
        """One past the index in θ of its last entry."""
        return self.offset + self.size

    @property
    def path(self) -> str:
        """Layer and name, ``"hidden_1/kernel"``."""
        return f"{self.layer}/{self.name}" if self.layer else self.name

    @property
    def owner(self) -> str:
        """The layer, or ``"network"`` where it is in none."""
        return owner_of(self.path)


@dataclass(frozen=True)
class Held:
    """A trainable variable that a problem's ``only`` leaves out of θ.

    Attributes:
        position: Its place among all trainable variables, which no name decides: Keras counts the
            names of layers on with every network that a process builds.
        path: Layer and name, ``"hidden_1/kernel"``.
        shape: Shape of the variable.
    """

    position: int
    path: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class ParameterLayout:
    """The ordered table of variables that make up θ ``[P]``.

    Attributes:
        variables: These.
        held: The trainable variables that are held fixed beside them.

    Example:
        >>> layout = ParameterLayout.of([("a/kernel", (2, 3)), ("a/bias", (3,))])
        >>> layout.num_params
        9
        >>> layout.describe(7)
        'a/bias[1]'
    """

    variables: tuple[Variable, ...]
    # Not in the text of which stores that know no such thing have a digest.
    held: tuple[Held, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, named_shapes: Sequence[tuple[str, Sequence[int]]]) -> ParameterLayout:
        """Lay out variables, given as ``(path, shape)``, one after the other.

        Raises:
            ModelError: If there is no variable with entries.
        """
        variables: list[Variable] = []
        offset = 0
        for path, shape in named_shapes:
            layer, _, name = path.rpartition("/")
            variables.append(Variable(layer, name, tuple(shape), offset))
            offset = variables[-1].stop
        if offset == 0:
            raise ModelError(
                "The model has no trainable weights, so it has no Hessian. "
                "Build it (call it once or give it an Input) and leave at least "
                "one layer trainable."
            )
        return cls(tuple(variables))

    @property
    def num_params(self) -> int:
        """P, the length of θ."""
        return self.variables[-1].stop

    @property
    def count(self) -> str:
        """P, with what belongs to networks and what are parameters beside them; or of how many.

        Example:
            >>> layout = ParameterLayout.of([("a/kernel", (30, 40)), ("parameters/nu", ())])
            >>> layout.count
            '1,200 + 1'
            >>> ParameterLayout(layout.variables, (Held(1, "a/bias", (40,)),)).count
            '1,201 of 1,241'
        """
        if self.held:
            total = self.num_params + sum(variable.size for variable in self.held)
            return f"{self.num_params:,} of {total:,}"
        beside = sum(variable.size for variable in self.variables if variable.layer == LAYER)
        return f"{self.num_params - beside:,}" + (f" + {beside:,}" if beside else "")

    def layer_start(self, row: int) -> int:
        """Position of the first variable of the layer that holds entry ``row``.

        Example:
            >>> layout = ParameterLayout.of([("a/k", (2,)), ("b/k", (3,)), ("b/c", (1,))])
            >>> [layout.layer_start(row) for row in range(6)]
            [0, 0, 1, 1, 1, 1]
        """
        starts = [variable.offset for variable in self.variables]
        position = bisect.bisect_right(starts, row) - 1
        layer = self.variables[position].layer
        while position > 0 and self.variables[position - 1].layer == layer:
            position -= 1
        return position

    def describe(self, row: int) -> str:
        """Name entry ``row`` of θ: ``"hidden_1/kernel[3, 7]"``."""
        starts = [variable.offset for variable in self.variables]
        variable = self.variables[bisect.bisect_right(starts, row) - 1]
        index = np.unravel_index(row - variable.offset, variable.shape)
        inside = ", ".join(str(int(i)) for i in index)
        return f"{variable.path}[{inside}]"

    def layers(self) -> list[str]:
        """Layer paths, each once, in the order of θ; ``"network"`` of weights that are in none.

        Example:
            >>> ParameterLayout.of([("scale", (2,)), ("a/k", (2,)), ("a/b", (1,))]).layers()
            ['network', 'a']
        """
        return list(dict.fromkeys(variable.owner for variable in self.variables))

    def labels(self) -> dict[str, npt.NDArray[np.int32]]:
        """Label every entry of θ.

        Returns:
            ``int32`` arrays ``[P]``: ``layer`` (position in :meth:`layers`),
            ``variable`` (position in :attr:`variables`), ``index`` (position
            within the flattened variable).
        """
        layers = self.layers()
        sizes = [variable.size for variable in self.variables]
        codes = [layers.index(variable.owner) for variable in self.variables]
        return {
            "layer": np.repeat(codes, sizes).astype(np.int32),
            "variable": np.repeat(range(len(sizes)), sizes).astype(np.int32),
            "index": np.concatenate([np.arange(s, dtype=np.int32) for s in sizes]),
        }

    def to_json(self) -> list[dict[str, Any]]:
        """The table as JSON data; :meth:`from_json` reads it back."""
        return [{"layer": v.layer, "name": v.name, "shape": list(v.shape)} for v in self.variables]

    def held_to_json(self) -> list[dict[str, Any]]:
        """What is held fixed, likewise."""
        return [{**asdict(variable), "shape": list(variable.shape)} for variable in self.held]

    @classmethod
    def from_json(
        cls, table: Sequence[Mapping[str, Any]], held: Sequence[Mapping[str, Any]] = ()
    ) -> ParameterLayout:
        """Read what :meth:`to_json` and :meth:`held_to_json` wrote.

        Example:
            >>> layout = ParameterLayout.of([("a/kernel", (2, 3)), ("b", ())])
            >>> ParameterLayout.from_json(layout.to_json(), layout.held_to_json()) == layout
            True
        """
        layout = cls.of([(f"{v['layer']}/{v['name']}", v["shape"]) for v in table])
        fixed = [Held(v["position"], v["path"], tuple(v["shape"])) for v in held]
        return cls(layout.variables, tuple(fixed))

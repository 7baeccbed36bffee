"""Which tensor of a file is which layer's: by their names and shapes, or not at all.

A kernel and a bias belong together where their names differ in the last word alone, as in
``layers.0.weight`` and ``layers.0.bias``. ``weight`` is [out, in], as PyTorch and Equinox write
it, ``kernel`` is [in, out], as Keras and Flax do; ``w`` is either. Names that differ in numbers
alone are in the order of these: JAX puts ``Dense_10`` before ``Dense_2``, so that the order of a
file is no evidence. Among all orders that keep to that there has to be one alone that has the
shapes of the network; of a state dictionary of PyTorch, which keeps the order in which a network
defines its layers, that order decides among several.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hessian_tasks.errors import ModelError

__all__ = ["DenseLayer", "Matched", "match"]

Shape = tuple[int, ...]

# Whether a kernel of that name is stored [out, in]; None where no convention says.
KERNELS = {"weight": True, "kernel": False, "w": None}
BIASES = ("bias", "b")
# What stands before the last word, that word, and a number after it: W1, b1.
_NAME = re.compile(r"(.*?)([A-Za-z]+)(_?[0-9]*)\W*", re.DOTALL)
UNSAID = (
    "its kernels have the same shapes stored [in, out] and [out, in], and their names do not say "
    "which. Call them 'kernel' if they are [in, out], 'weight' if [out, in]"
)
NUMBERS = (
    "Give the layers names that differ in numbers alone, as layers/0/kernel and layers/1/kernel, "
    "in their order"
)
# Orders of the layers that are followed at once; with more there are several that fit.
MOST = 10_000


@dataclass(frozen=True)
class DenseLayer:
    """A layer of the network.

    Attributes:
        name: Its name.
        kernel: Shape ``[in, out]``.
        bias: Whether it has one.
    """

    name: str
    kernel: tuple[int, int]
    bias: bool


@dataclass(frozen=True)
class Matched:
    """The tensors of a layer, by their names.

    Attributes:
        kernel: The kernel.
        turned: Whether it is stored ``[out, in]``.
        bias: The bias, if there is one.
    """

    kernel: str
    turned: bool
    bias: str | None


@dataclass(frozen=True)
class _Group:
    """Tensors that belong together: which, and what is known of them."""

    place: str
    kernel: str
    bias: str | None
    turned: bool | None
    shapes: tuple[Shape, Shape | None]

    @property
    def stem(self) -> str:
        return re.sub("[0-9]+", "#", self.place)

    @property
    def numbers(self) -> list[tuple[int, str]]:
        # Of any length, which int() would refuse.
        found = (number.lstrip("0") for number in re.findall("[0-9]+", self.place))
        return [(len(number), number) for number in found]

    def fits(self, layer: DenseLayer, unsaid: bool) -> bool:
        """Whether the shapes are those of the layer, ``w`` stored [out, in] if ``unsaid``."""
        return self.shapes == (_stored(layer, _or(self.turned, unsaid)), _bias(layer))


def _or(turned: bool | None, unsaid: bool) -> bool:
    return unsaid if turned is None else turned


def _stored(layer: DenseLayer, turned: bool) -> Shape:
    return layer.kernel[::-1] if turned else layer.kernel


def _bias(layer: DenseLayer) -> Shape | None:
    return layer.kernel[1:] if layer.bias else None


def match(
    shapes: Mapping[str, Shape], layers: Sequence[DenseLayer], *, ordered: bool
) -> tuple[list[Matched], str]:
    """The tensors of each layer.

    Args:
        shapes: Shapes of the tensors, by their names.
        layers: The layers, in the order in which they are evaluated.
        ordered: Whether the order of the names is that in which a network defines its layers.

    Returns:
        The tensors by layer, and what of that the order of the file has decided, or nothing.

    Raises:
        ModelError: Saying what does not fit, or fits in several ways; without the file's name.

    Example:
        >>> shapes = {"0.weight": (3, 2), "0.bias": (3,), "2.weight": (1, 3), "2.bias": (1,)}
        >>> layers = [DenseLayer("hidden", (2, 3), True), DenseLayer("output", (3, 1), True)]
        >>> match(shapes, layers, ordered=True)[0][1]
        Matched(kernel='2.weight', turned=True, bias='2.bias')
    """
    groups = _groups(shapes)
    queues = _queues(groups)
    found = [
        (order, unsaid)
        for unsaid in ((False, True) if any(g.turned is None for g in groups) else (False,))
        for order in _orders(queues, layers, unsaid)
    ]
    if not found:
        raise ModelError(_misfit([g for queue in queues for g in queue], layers))
    (order, unsaid), *others = found
    doubt = ""
    if others:
        if {turned for _, turned in others} - {unsaid}:
            raise ModelError(UNSAID)
        doubt = _doubt(order, others[0][0], layers)
        if not ordered or not _decides(groups, queues, layers, unsaid):
            raise ModelError(f"{doubt}. {NUMBERS}")
        order = tuple(groups)
    return [Matched(g.kernel, _or(g.turned, unsaid), g.bias) for g in order], doubt


def _groups(shapes: Mapping[str, Shape]) -> list[_Group]:
    """Kernels with their biases, in the order of the file."""
    kernels: dict[str, tuple[str, str]] = {}
    biases: dict[str, str] = {}
    for name in shapes:
        parts = _NAME.fullmatch(name)
        prefix, word, number = parts.groups() if parts else ("", "", "")
        place, word = prefix + number, word.lower()
        taken = kernels if word in KERNELS else biases
        if (word not in KERNELS and word not in BIASES) or place in taken:
            again = place in taken
            raise ModelError(
                f"{name!a} is {'a second one of its layer' if again else 'no kernel or bias'}; it "
                f"has {_listed(shapes)}"
            )
        if word in KERNELS:
            kernels[place] = (name, word)
        else:
            biases[place] = name
    if alone := biases.keys() - kernels.keys():
        raise ModelError(f"{biases[min(alone)]!a} has no kernel beside it")
    return [
        _Group(
            place,
            name,
            biases.get(place),
            KERNELS[word],
            (shapes[name], shapes[biases[place]] if place in biases else None),
        )
        for place, (name, word) in kernels.items()
    ]


def _queues(groups: Sequence[_Group]) -> list[list[_Group]]:
    """Those whose names differ in numbers alone, in the order of these."""
    found: dict[str, list[_Group]] = {}
    for group in groups:
        found.setdefault(group.stem, []).append(group)
    queues = [sorted(queue, key=lambda group: group.numbers) for queue in found.values()]
    for queue in queues:
        for one, other in itertools.pairwise(queue):
            if one.numbers == other.numbers:
                raise ModelError(f"{one.kernel!a} and {other.kernel!a} have the same number")
    return queues


def _orders(
    queues: Sequence[Sequence[_Group]], layers: Sequence[DenseLayer], unsaid: bool
) -> list[tuple[_Group, ...]]:
    """Up to two orders that have the layers' shapes, and take each queue from its front."""
    if sum(map(len, queues)) != len(layers):
        return []
    # By how many are taken of each queue: up to two orders that lead there.
    reached: dict[tuple[int, ...], list[tuple[_Group, ...]]] = {(0,) * len(queues): [()]}
    for layer in layers:
        after: dict[tuple[int, ...], list[tuple[_Group, ...]]] = {}
        for taken, orders in reached.items():
            for i, queue in enumerate(queues):
                if taken[i] < len(queue) and queue[taken[i]].fits(layer, unsaid):
                    moved = (*taken[:i], taken[i] + 1, *taken[i + 1 :])
                    ways = [*after.get(moved, []), *((*o, queue[taken[i]]) for o in orders)]
                    after[moved] = ways[:2]
        if len(after) > MOST:
            raise ModelError("its layers have too many names for their order to be found")
        reached = after
    return next(iter(reached.values()), [])


def _decides(
    groups: Sequence[_Group],
    queues: Sequence[Sequence[_Group]],
    layers: Sequence[DenseLayer],
    unsaid: bool,
) -> bool:
    """Whether the order of the file is one of those that fit."""
    place = {group.place: i for i, group in enumerate(groups)}
    pairs = (pair for queue in queues for pair in itertools.pairwise(queue))
    return all(place[a.place] < place[b.place] for a, b in pairs) and all(
        group.fits(layer, unsaid) for group, layer in zip(groups, layers, strict=True)
    )


def _doubt(one: Sequence[_Group], other: Sequence[_Group], layers: Sequence[DenseLayer]) -> str:
    a, b, layer = next((a, b, x) for a, b, x in zip(one, other, layers, strict=True) if a != b)
    return f"both {a.kernel!a} and {b.kernel!a} have the shape of layer {layer.name!r}"


def _misfit(groups: Sequence[_Group], layers: Sequence[DenseLayer]) -> str:
    """What differs first, groups in the order of the file and of the numbers in names."""
    names = _listed([group.kernel for group in groups])
    if len(groups) != len(layers):
        return (
            f"it has the kernels of {len(groups)} layers, {names}, and the network has "
            f"{len(layers)}: {', '.join(layer.name for layer in layers)}"
        )
    pairs = list(zip(groups, layers, strict=True))
    if all(g.turned is not None and g.shapes[0] == _stored(x, not g.turned) for g, x in pairs):
        return _contradiction(groups[0])
    for group, layer in pairs:
        turned = _or(group.turned, group.shapes[0] == layer.kernel[::-1])
        wanted, bias = _stored(layer, turned), _bias(layer)
        if group.shapes[0] != wanted:
            stored = "[out, in]" if turned else "[in, out]"
            return (
                f"{group.kernel!a} is {list(group.shapes[0])} where layer {layer.name!r} takes "
                f"{list(wanted)}, {stored}"
            )
        if group.shapes[1] != bias:
            found, expected = (
                "none" if shape is None else str(list(shape)) for shape in (group.shapes[1], bias)
            )
            return (
                f"the bias beside {group.kernel!a} is {found} where that of layer {layer.name!r} "
                f"is {expected}"
            )
    return f"no order of its layers has the shapes of the network; it has {names}"


def _contradiction(group: _Group) -> str:
    said, libraries, other = "[in, out]", "Keras and Flax", "weight"
    if group.turned:
        said, libraries, other = "[out, in]", "PyTorch and Equinox", "kernel"
    return (
        f"the name of {group.kernel!a} says that it is stored {said}, as by {libraries}, but its "
        f"shape, {list(group.shapes[0])}, is the other way round. Call it {other!r} if that is so"
    )


def _listed(names: Sequence[str] | Mapping[str, Shape]) -> str:
    shown = [f"{name[:60]!a}" for name in itertools.islice(names, 12)]
    return ", ".join(shown) + (f" and {len(names) - 12} more" if len(names) > 12 else "")

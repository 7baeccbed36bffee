"""The directive ``mermaid``: flow charts as drawings in the page, which need no script.

Of Mermaid's language it takes what the pages use, ``a["label"] & b --> c --> d`` below
``flowchart LR`` or ``TD``, and refuses the rest. GitHub draws the same blocks by itself.
"""

import html
import itertools
import re
from collections import defaultdict

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

# In the units of the drawing: a letter, a box, and the room between boxes along and across.
LETTER, HEIGHT, ALONG, ACROSS = 7.6, 30, 44, 22
_NODE = re.compile(r'(\w+)(?:\["([^"]*)"\])?')


class Drawing(SphinxDirective):
    """A flow chart."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Draw the content."""
        try:
            drawn = draw("\n".join(self.content))
        except ValueError as error:
            raise self.error(str(error)) from error
        return [nodes.raw("", f'<div class="drawing">{drawn}</div>', format="html")]


def draw(text: str) -> str:
    """A flow chart as SVG: boxes in ranks, each arrow at least one rank long."""
    direction, labels, arrows = read(text)
    ranks = order(rank(labels, arrows), arrows)
    place = layout_down if direction == "TD" else layout_right
    boxes, width, height = place(ranks, labels)
    lines = "".join(arrow(boxes[a], boxes[b], direction) for a, b in arrows)
    shapes = "".join(box(labels[name], *at) for name, at in boxes.items())
    head = (
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z"/></marker></defs>'
    )
    size = f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {size}>{head}{lines}{shapes}</svg>'


def read(text: str) -> tuple[str, dict[str, str], list[tuple[str, str]]]:
    """Direction, labels by name, and arrows.

    Raises:
        ValueError: If there is something else.
    """
    first, *lines = [line.strip() for line in text.splitlines() if line.strip()]
    if first not in ("flowchart LR", "flowchart TD"):
        raise ValueError(f"a drawing starts with flowchart LR or TD, not with {first!r}")
    labels: dict[str, str] = {}
    arrows: list[tuple[str, str]] = []
    for line in lines:
        steps = []
        for step in line.split("-->"):
            found = [_NODE.fullmatch(part.strip()) for part in step.split("&")]
            if None in found:
                raise ValueError(f"not a name, or a name and a label: {step.strip()!r}")
            for match in filter(None, found):
                labels[match[1]] = match[2] or labels.get(match[1], match[1])
            steps.append([match[1] for match in found if match])
        for sources, targets in itertools.pairwise(steps):
            arrows += itertools.product(sources, targets)
    return first.split()[1], labels, arrows


def rank(labels: dict[str, str], arrows: list[tuple[str, str]]) -> dict[str, int]:
    """How far each box is from the start: the longest way to it.

    Raises:
        ValueError: If arrows lead in a circle.
    """
    ranks = dict.fromkeys(labels, 0)
    for _ in labels:
        for a, b in arrows:
            ranks[b] = max(ranks[b], ranks[a] + 1)
    if any(ranks[b] <= ranks[a] for a, b in arrows) or max(ranks.values()) >= len(labels):
        raise ValueError("arrows of a drawing lead in a circle")
    return ranks


def order(ranks: dict[str, int], arrows: list[tuple[str, str]]) -> list[list[str]]:
    """Boxes of each rank, near those they are joined with."""
    rows: list[list[str]] = [[] for _ in range(max(ranks.values()) + 1)]
    for name, number in ranks.items():
        rows[number].append(name)
    joined = defaultdict(list)
    for a, b in arrows:
        joined[a].append(b)
        joined[b].append(a)
    for _ in range(8):
        where = {name: (i + 0.5) / len(row) for row in rows for i, name in enumerate(row)}
        for row in rows:
            row.sort(key=lambda n: sum(where[m] for m in joined[n]) / max(len(joined[n]), 1))
    return rows


Box = tuple[float, float, float]


def wide(label: str) -> float:
    """Width of a box."""
    return LETTER * len(label) + 20


def layout_down(
    rows: list[list[str]], labels: dict[str, str]
) -> tuple[dict[str, Box], float, float]:
    """Ranks one below the other: left, top and width of each box, and the size of all."""
    widths = [sum(wide(labels[n]) for n in row) + ACROSS * (len(row) - 1) for row in rows]
    boxes = {}
    for i, row in enumerate(rows):
        left = (max(widths) - widths[i]) / 2 + 1
        for name in row:
            boxes[name] = (left, i * (HEIGHT + ALONG) + 1, wide(labels[name]))
            left += wide(labels[name]) + ACROSS
    return boxes, max(widths) + 2, len(rows) * (HEIGHT + ALONG) - ALONG + 2


def layout_right(
    rows: list[list[str]], labels: dict[str, str]
) -> tuple[dict[str, Box], float, float]:
    """Ranks beside each other."""
    most = max(len(row) for row in rows)
    boxes, left = {}, 1.0
    for row in rows:
        across = max(wide(labels[name]) for name in row)
        for i, name in enumerate(row):
            top = (i + (most - len(row)) / 2) * (HEIGHT + ACROSS) + 1
            boxes[name] = (left, top, across)
        left += across + ALONG
    return boxes, left - ALONG + 1, most * (HEIGHT + ACROSS) - ACROSS + 2


def box(label: str, left: float, top: float, width: float) -> str:
    """A box with its label."""
    middle, base = left + width / 2, top + HEIGHT / 2 + 5
    return (
        f'<rect x="{left:.0f}" y="{top:.0f}" width="{width:.0f}" height="{HEIGHT}" rx="4"/>'
        f'<text x="{middle:.0f}" y="{base:.0f}">{html.escape(label)}</text>'
    )


def arrow(start: Box, end: Box, direction: str) -> str:
    """A curve from one box to another."""
    if direction == "TD":
        x, y = start[0] + start[2] / 2, start[1] + HEIGHT
        u, v = end[0] + end[2] / 2, end[1]
        bend = (v - y) / 2
        path = f"M{x:.0f} {y:.0f}C{x:.0f} {y + bend:.0f} {u:.0f} {v - bend:.0f} {u:.0f} {v:.0f}"
    else:
        x, y = start[0] + start[2], start[1] + HEIGHT / 2
        u, v = end[0], end[1] + HEIGHT / 2
        bend = (u - x) / 2
        path = f"M{x:.0f} {y:.0f}C{x + bend:.0f} {y:.0f} {u - bend:.0f} {v:.0f} {u:.0f} {v:.0f}"
    return f'<path class="arrow" d="{path}" marker-end="url(#head)"/>'


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("mermaid", Drawing)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

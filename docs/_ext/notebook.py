"""The directive ``notebook``: a notebook as it is stored, with its outputs, and nothing run."""

import html
from typing import Any

import nbformat
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Notebook(SphinxDirective):
    """``{notebook} path``: text, code and outputs in the order of the cells."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Read the notebook, and the page that it makes."""
        relative, absolute = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(relative)
        cells = nbformat.read(absolute, as_version=4).cells
        page = "\n\n".join(block for cell in cells for block in blocks(cell))
        parent = nodes.section()
        self.state.nested_parse(StringList(page.splitlines(), absolute), 0, parent)
        return parent.children


def blocks(cell: Any) -> list[str]:
    """A cell and its outputs in Markdown."""
    if cell.cell_type == "markdown":
        return [cell.source]
    return [fenced("{code-block} python", cell.source), *map(shown, cell.outputs)]


def shown(output: Any) -> str:
    """What a cell printed, drew or was."""
    if output.output_type == "stream":
        return fenced("{code-block} text\n:class: output\n", output.text)
    if "image/png" in output.data:
        source = f"data:image/png;base64,{output.data['image/png'].strip()}"
        alternative = html.escape(output.data["text/plain"])
        return fenced("{raw} html", f'<img src="{source}" alt="{alternative}">')
    return fenced("{code-block} text\n:class: output\n", output.data["text/plain"])


def fenced(kind: str, text: str) -> str:
    """A block of a kind; notebooks hold no fence of four."""
    return f"````{kind}\n{text.rstrip()}\n````"


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("notebook", Notebook)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

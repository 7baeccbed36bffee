"""Formulas as MathML, which browsers draw by themselves: pages need no network and no script.

Docutils has the translator from LaTeX; MathJax and KaTeX would have to be loaded from elsewhere or
be shipped, and pictures would need LaTeX to build.
"""

import re

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator


def drawn(text: str, *, as_block: bool) -> str:
    """A formula in MathML.

    The bars of norms have no sides in LaTeX, so that browsers take them for operators, with space
    around, and stretch the one below an exponent otherwise than its fellow.
    """
    bars = r'<mo\1 stretchy="false" lspace="0" rspace="0">\2</mo>'
    return re.sub(r"<mo( [^>]*)?>([|‖])</mo>", bars, tex2mathml(text, as_block=as_block))


def inline(writer: HTML5Translator, node: nodes.math) -> None:
    """Write a formula within a line."""
    writer.body.append(drawn(node.astext(), as_block=False))
    raise nodes.SkipNode


def block(writer: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula of its own, which scrolls where the page is narrower."""
    writer.body.append(f'<div class="math">{drawn(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer, which the setting ``html_math_renderer`` names."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}

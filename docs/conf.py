"""The site, built by ``make docs``; a page that cannot be built whole is an error."""

import os
import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent / "_ext")]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

project = "hessian-pipeline"
author = "the authors of hessian-pipeline"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "commands",
    "drawing",
    "mathml",
    "notebook",
]
exclude_patterns = ["_build", "_ext"]
nitpicky = True
# Types of other libraries, and modules and classes of ours that no page describes.
nitpick_ignore_regex = [("py:.*", r"(?!hessian_tasks\.|pipeline\.).*"), ("py:.*", r"\w+\.\w+\..*")]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
myst_fence_as_directive = ["mermaid"]

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
# What these stand for is longer than a page is wide.
autodoc_type_aliases = {name: name for name in ("Array", "ArrayLike", "npt.ArrayLike", "Term")}
maximum_signature_line_length = 70
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# The types of attributes stand in the signature.
napoleon_attr_annotations = False

# Blocks that name no language are output.
highlight_language = "text"

copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True

html_theme = "furo"
html_title = "hessian-pipeline"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False


def link_public_name(
    app: Sphinx, env: BuildEnvironment, node: Any, text: nodes.Element
) -> nodes.Element | None:
    """Lead ``pipeline.api.compute_hessian`` to where ``pipeline.compute_hessian`` is described."""
    last = node["reftarget"].rpartition(".")[2]
    found = [
        (name, described)
        for name, described in env.domains.python_domain.objects.items()
        if name.rpartition(".")[2] == last
        and described.objtype in ("class", "exception", "function")
    ]
    if node["refdomain"] != "py" or len(found) != 1:
        return None
    (name, described), page = found[0], node["refdoc"]
    return make_refnode(app.builder, page, described.docname, described.node_id, text, name)


def plain_signature(*signature: Any) -> tuple[str | None, str | None]:
    """Write defaults that a dataclass makes anew, and names of types, as the source does."""
    arguments, returned = signature[-2:]
    if arguments is not None:
        arguments = re.sub(r"TypeAliasForwardRef\('([\w.]+)'\)", r"\1", arguments)
        arguments = re.sub(r"~[\w.]*\b(\w+)", r"\1", arguments).replace("<factory>", "{}")
    return arguments, returned


def mark_options(app: Sphinx, page: nodes.document, name: str) -> None:
    """Tell the style sheet which code has options of the command line."""
    for code in page.findall(nodes.literal):
        if "--" in code.astext():
            code["classes"].append("option")


def setup(app: Sphinx) -> None:
    """Have references to where a name is defined lead to where it is described, and so on."""
    app.connect("doctree-resolved", mark_options)
    app.connect("missing-reference", link_public_name)
    app.connect("autodoc-process-signature", plain_signature)

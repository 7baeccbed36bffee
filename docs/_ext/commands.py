"""The directive ``commands``: every command of the command line, as the program itself has it."""

import re
from typing import Any

import typer
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from pipeline.cli import app as command_line


class Commands(SphinxDirective):
    """A section a command: its call, its help, its arguments and options."""

    def run(self) -> list[nodes.Node]:
        """Make the sections from the Typer application."""
        group = typer.main.get_command(command_line)
        above = group.make_context("hessian", [], resilient_parsing=True)
        return [section(name, command, above) for name, command in group.commands.items()]


def section(name: str, command: Any, above: Any) -> nodes.section:
    """What ``hessian NAME --help`` says."""
    context = command.make_context(name, [], parent=above, resilient_parsing=True)
    title = f"hessian {name}"
    made = nodes.section(ids=[nodes.make_id(title)], names=[title])
    made += nodes.title("", title)
    call = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    made += nodes.literal_block(call, call, language="text")
    for paragraph in command.help.split("\n\n"):
        made += nodes.paragraph("", "", *marked(" ".join(paragraph.split())))
    records = [parameter.get_help_record(context) for parameter in command.params]
    made += nodes.definition_list("", *(item(*record) for record in records if record))
    return made


def marked(text: str) -> list[nodes.Node]:
    """A text with its options as code, so that no two hyphens become a dash."""
    parts = re.split(r"(--[\w-]+)", text)
    return [nodes.literal("", part) if i % 2 else nodes.Text(part) for i, part in enumerate(parts)]


def item(names: str, text: str) -> nodes.definition_list_item:
    """One argument or option: as it is written, and what it means."""
    term = nodes.term("", "", nodes.literal("", names))
    meaning = nodes.definition("", nodes.paragraph("", "", *marked(text)))
    return nodes.definition_list_item("", term, meaning)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

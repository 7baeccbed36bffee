"""Pages whose code runs: what stands in their blocks, and what their commands print.

``python -m tests.helpers.pages README.md …`` runs the commands of pages in a new directory that has
the files of ``examples``, and writes what they print into the pages.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.runs import ROOT

_BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
# What follows stands for lines that are left out.
LEFT_OUT = "[…]"


@dataclass(frozen=True)
class Command:
    """A line after ``$``, and the lines that it prints."""

    words: list[str]
    printed: str


def examples(directory: Path) -> None:
    """Copy what pages call by name."""
    for path in (ROOT / "examples").glob("*.py"):
        shutil.copy(path, directory)


def steps(page: str) -> list[str | Command]:
    """The Python and the commands of a page, in order."""
    found: list[str | Command] = []
    for language, text in _BLOCK.findall(page):
        if language == "python":
            found.append(text)
        else:
            found += [Command(shlex.split(line), said) for line, said in _COMMAND.findall(text)]
    return found


def numbers(text: str) -> list[float]:
    """All numbers of a text."""
    return [float(found.replace(",", "")) for found in _NUMBER.findall(text)]


def words(text: str) -> list[str]:
    """Lines without their numbers, the units of what is measured, and spaces that line up."""
    text = re.sub(r"^created .*$", "created", text, flags=re.MULTILINE)
    masked = _NUMBER.sub("#", text)
    # On a busy machine seconds become "1 min 5 s".
    masked = re.sub(r"# (KiB|MiB|GiB|min # s|s|min)\b", "# of it", masked)
    return [" ".join(line.split()) for line in masked.splitlines()]


def rewrite(page: str, run: Callable[[list[str]], str]) -> str:
    """The page with what its commands print now; blocks with lines left out stay."""

    def block(found: re.Match[str]) -> str:
        if found[1] == "python" or LEFT_OUT in found[2]:
            return found[0]
        lines = [line for line, _ in _COMMAND.findall(found[2])]
        printed = "".join(f"$ {line}\n{run(shlex.split(line))}" for line in lines)
        return f"```console\n{printed}```"

    return _BLOCK.sub(block, page)


def _run(command: list[str]) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(f"{shlex.join(command)}: {ended.stderr}")
    return ended.stdout


def main() -> None:
    """Rewrite the pages that the command line names."""
    pages = [Path(name).resolve() for name in sys.argv[1:]]
    for page in pages:
        with tempfile.TemporaryDirectory() as directory:
            examples(Path(directory))
            os.environ["XDG_STATE_HOME"] = f"{directory}/state"
            os.chdir(directory)
            text = rewrite(page.read_text(), _run)
            os.chdir(ROOT)
        page.write_text(text)


if __name__ == "__main__":
    main()

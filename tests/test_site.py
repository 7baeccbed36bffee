"""The site is built without a warning, and every link within it leads somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import typer

import hessian_tasks
import pipeline
from pipeline.cli import app
from tests.helpers.runs import ROOT


@dataclass
class Page(HTMLParser):
    """Anchors of a page, and what it links to or shows."""

    anchors: set[str] = field(default_factory=set)
    links: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors |= {given[key] or "" for key in ("id", "name") if key in given}
        self.links |= {given[key] or "" for key in ("href", "src") if key in given}


def read(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text())
    return page


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a warning ends the build."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going"]
    built = subprocess.run(
        [*command, str(ROOT / "docs"), str(out)], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    return out


def test_every_link_anchor_and_picture_of_the_site_is_there(site: Path) -> None:
    pages = {path: read(path) for path in site.rglob("*.html")}
    assert {site / "index.html", site / "reference" / "api.html"} <= set(pages)
    checked = 0
    for path, page in pages.items():
        for link in page.links:
            url = urlsplit(link)
            if url.scheme or url.netloc:
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            assert target.is_file(), f"{path.relative_to(site)}: {link}"
            if url.fragment and target.suffix == ".html":
                where = f"{path.relative_to(site)}: {link}"
                assert unquote(url.fragment) in pages[target].anchors, where
            checked += 1
    assert checked > 1000


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        tags = re.findall(r"<(?:script|img|iframe|link|source)\b[^>]*>", path.read_text())
        named = [url for tag in tags for url in re.findall(r'(?:src|href)="([^"]*)"', tag)]
        assert not [url for url in named if url.startswith(("http:", "https:", "//"))], path
        scripts = re.findall(r"<script\b[^>]*>(.*?)</script>", path.read_text(), re.DOTALL)
        assert not [script for script in scripts if "import" in script or "http" in script], path


def test_every_public_name_is_described_once(site: Path) -> None:
    anchors = read(site / "reference" / "api.html").anchors
    for name in {*pipeline.__all__, *hessian_tasks.__all__}:
        described = {f"hessian_tasks.{name}", f"pipeline.{name}"} & anchors
        assert len(described) == 1, name


def test_every_command_is_described(site: Path) -> None:
    text = (site / "reference" / "cli.html").read_text()
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        assert f'id="hessian-{name}"' in text
        for parameter in command.params:
            assert all(option in text for option in parameter.opts), (name, parameter.opts)


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_of_pages_outside_the_site_are_there(name: str) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", (ROOT / name).read_text())
    inside = [link for link in links if "://" not in link]
    assert inside
    for link in inside:
        path, _, anchor = link.partition("#")
        assert (ROOT / path).exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", (ROOT / (path or name)).read_text(), re.MULTILINE)
            assert anchor in map(slug, headings), link


def test_pages_that_the_code_speaks_of_are_there() -> None:
    spoken = 0
    files = [
        path for folder in ("hessian_tasks", "pipeline") for path in (ROOT / folder).rglob("*.py")
    ]
    for path in [*files, *ROOT.glob("*.md"), ROOT / "Makefile", ROOT / "cluster.yaml"]:
        for page in re.findall(r"\bdocs/[\w/]+\.md", path.read_text()):
            assert (ROOT / page).is_file(), f"{path}: {page}"
            spoken += 1
    assert spoken > 5

"""What the packages promise about themselves."""

import ast
import doctest
import importlib
import inspect
import itertools
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import grimp
import pytest

import hessian_tasks
import pipeline
from hessian_tasks.problems import BUILTIN
from tests.helpers.runs import ROOT

# Named by a word that a user writes, and not imported: what the modules define is found by name.
BY_NAME = ("hessian_tasks.problems", "pipeline.run.executors", "pipeline.cli")


def modules() -> dict[str, Path]:
    """The modules of both packages by name; a package is its ``__init__``."""
    paths = [
        path for package in ("hessian_tasks", "pipeline") for path in (ROOT / package).rglob("*.py")
    ]
    names = [path.relative_to(ROOT).with_suffix("").parts for path in paths]
    return {
        ".".join(parts[:-1] if parts[-1] == "__init__" else parts): path
        for parts, path in zip(names, paths, strict=True)
    }


def imported(path: Path) -> set[str]:
    """Modules, and names of modules, that a file imports, as ``module.name``."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, path
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def attributes(path: Path) -> set[str]:
    """What a file reads of modules and other objects."""
    tree = ast.walk(ast.parse(path.read_text()))
    return {node.attr for node in tree if isinstance(node, ast.Attribute)}


def test_public_names_exist_and_are_sorted() -> None:
    for package in (hessian_tasks, pipeline):
        assert package.__all__ == sorted(package.__all__)
        assert all(getattr(package, name) is not None for name in package.__all__)


@pytest.mark.parametrize(
    "name",
    [
        f"{package.__name__}.{name}"
        for package in (hessian_tasks, pipeline)
        for name in package.__all__
    ],
)
def test_every_public_name_has_an_example_that_runs(name: str) -> None:
    package, _, attribute = name.partition(".")
    public = getattr(importlib.import_module(package), attribute)
    # That it runs is for the doctests to say, which are collected where it is defined.
    examples = doctest.DocTestParser().get_examples(inspect.getdoc(public) or "")
    assert examples
    assert not any(example.options.get(doctest.SKIP) for example in examples)
    assert public.__module__.partition(".")[0] in ("hessian_tasks", "pipeline")


def test_every_module_lists_what_it_exports() -> None:
    for package in (hessian_tasks, pipeline):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            loaded = importlib.import_module(module.name)
            assert all(hasattr(loaded, name) for name in loaded.__all__), module.name


def test_modules_list_what_others_use_and_nothing_else() -> None:
    everywhere = [ROOT / folder for folder in ("hessian_tasks", "pipeline", "tests", "benchmarks")]
    files = [path for folder in everywhere for path in folder.rglob("*.py")]
    imports = {path: imported(path) for path in files}
    read = {path: attributes(path) for path in files}
    public = {*hessian_tasks.__all__, *pipeline.__all__}
    for module, path in modules().items():
        if module not in ("hessian_tasks", "pipeline") and not module.startswith(BY_NAME):
            for name in set(importlib.import_module(module).__all__) - public:
                others = (other for other in files if other != path)
                assert any(
                    f"{module}.{name}" in imports[other]
                    or (module in imports[other] and name in read[other])
                    for other in others
                ), f"{module}.__all__ has {name!r}, which no other module uses"


def test_modules_that_no_other_package_imports_have_an_underscore() -> None:
    users = defaultdict(set)
    for name, path in modules().items():
        for used in imported(path):
            users[used].add(name)
    for name, path in modules().items():
        room, _, last = name.rpartition(".")
        # The rooms of the floors have the names that the contracts have, whoever imports them.
        # Each bridge is a door of its own, for users.
        if room == "hessian_tasks.bridges" and not last.startswith("_"):
            continue
        if path.name != "__init__.py" and "." in room and not name.startswith(BY_NAME[:2]):
            outside = {user for user in users[name] if not f"{user}.".startswith(f"{room}.")}
            assert last.startswith("_") == (not outside), f"{name} is imported by {outside}"


def test_every_room_says_what_it_is_for() -> None:
    for package in (hessian_tasks, pipeline):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.ispkg:
                sentence = inspect.getdoc(importlib.import_module(module.name)) or ""
                assert sentence.partition("\n\n")[0].endswith((".", ":")), module.name


def test_builtin_names_are_the_problem_files() -> None:
    import hessian_tasks.problems as problems

    modules = {module.name for module in pkgutil.iter_modules(problems.__path__)}
    assert modules - {"networks", "sampling"} == set(BUILTIN)


@pytest.mark.parametrize(
    "module", ["hessian_tasks", "pipeline", "pipeline.cli", "pipeline.run.plan"]
)
def test_import_needs_no_tensorflow(module: str) -> None:
    code = f"import sys, {module}; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_status_needs_no_tensorflow() -> None:
    modules = "pipeline.store.store, pipeline.cli.render"
    code = f"import sys, {modules}; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_page_on_architecture_has_the_floors_that_are_checked() -> None:
    page = (ROOT / "docs" / "reference" / "architecture.md").read_text()
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = {c["name"]: c for c in settings["tool"]["importlinter"]["contracts"]}
    for package in ("hessian_tasks", "pipeline"):
        floors = contracts[f"{package}: imports run one way"]["layers"]
        rooms = [re.findall(rf"{package}\.(\w+)", floor) for floor in floors]
        table = page.partition(f"| {package} | what it is for |")[2].partition("\n\n")[0]
        rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
        assert [re.findall(r"`(\w+)`", row) for row in rows] == rooms


def _imports(package: str) -> set[tuple[str, str]]:
    graph = grimp.build_graph(package)
    rooms = graph.find_children(package)
    return {
        (a.rpartition(".")[2], b.rpartition(".")[2])
        for a in rooms
        for b in rooms - {a}
        if graph.direct_import_exists(importer=a, imported=b, as_packages=True)
    }


def _drawn(lines: str) -> set[tuple[str, str]]:
    """The arrows of lines such as ``a & b --> c --> d``."""
    found = set()
    for line in lines.splitlines():
        steps = [re.findall(r"\w+", step) for step in line.split("-->")]
        for sources, targets in itertools.pairwise(steps):
            found |= set(itertools.product(sources, targets))
    return found


def _followed(arrows: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """With every arrow that follows from two others."""
    more = {(a, d) for a, b in arrows for c, d in arrows if b == c} - arrows
    return _followed(arrows | more) if more else arrows


@pytest.mark.parametrize("package", ["pipeline", "hessian_tasks"])
def test_the_page_on_architecture_draws_what_imports_what(package: str) -> None:
    page = (ROOT / "docs" / "reference" / "architecture.md").read_text()
    drawings = re.findall(r"```mermaid\nflowchart TD\n(.*?)```", page, re.DOTALL)
    drawn = _drawn(drawings[["pipeline", "hessian_tasks"].index(package)])
    imports = _imports(package)
    assert drawn <= imports
    assert _followed(drawn) == _followed(imports)


def test_folders_of_tests_are_named_as_the_rooms_they_test() -> None:
    tests = ROOT / "tests"
    for folder in {file.parent for file in tests.rglob("*/test_*.py")}:
        room = folder.relative_to(tests)
        places = [ROOT / package / room for package in ("hessian_tasks", "pipeline")]
        assert any(p.is_dir() or p.with_suffix(".py").is_file() for p in places), room
        assert (folder / "conftest.py").read_text().startswith('"""'), room


def test_promises_of_stores_name_tests_that_there_are() -> None:
    page = (ROOT / "docs" / "reference" / "store.md").read_text()
    promises = page.partition("## What is guaranteed")[2].partition("\n## ")[0]
    named = re.findall(r"`(tests/[\w/]+\.py)?(?:::(test_\w+))?`", promises)
    assert len(named) > 20
    file = ROOT
    for path, test in named:
        file = ROOT / path if path else file
        assert f"def {test}(" in file.read_text() if test else file.is_file(), (path, test)
    for promise in promises.split("\n- **")[1:]:
        assert "tests/" in promise, promise

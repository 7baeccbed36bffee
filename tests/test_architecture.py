"""What the packages promise about themselves."""

import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import hessian_tasks
import pipeline
from hessian_tasks.problems import BUILTIN

ROOT = Path(__file__).parents[1]


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
            if module.name != "pipeline.analysis":
                assert all(hasattr(loaded, name) for name in loaded.__all__), module.name


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
    page = (ROOT / "docs" / "architecture.md").read_text()
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = {c["name"]: c for c in settings["tool"]["importlinter"]["contracts"]}
    for package in ("hessian_tasks", "pipeline"):
        floors = contracts[f"{package}: imports run one way"]["layers"]
        rooms = [re.findall(rf"{package}\.(\w+)", floor) for floor in floors]
        table = page.partition(f"| {package} | what it is for |")[2].partition("\n\n")[0]
        rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
        assert [re.findall(r"`(\w+)`", row) for row in rows] == rooms

"""What the packages promise about themselves."""

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib

import pytest

import hessian_tasks
import pipeline
from hessian_tasks.problems import BUILTIN
from tests.helpers.runs import ROOT


def test_public_names_exist_and_are_sorted() -> None:
    for package in (hessian_tasks, pipeline):
        assert package.__all__ == sorted(package.__all__)
        assert all(getattr(package, name) is not None for name in package.__all__)


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


def test_folders_of_tests_are_named_as_the_rooms_they_test() -> None:
    tests = ROOT / "tests"
    for folder in {file.parent for file in tests.rglob("*/test_*.py")}:
        room = folder.relative_to(tests)
        places = [ROOT / package / room for package in ("hessian_tasks", "pipeline")]
        assert any(p.is_dir() or p.with_suffix(".py").is_file() for p in places), room
        assert (folder / "conftest.py").read_text().startswith('"""'), room

"""What is released has what git has, installs by itself, and states one version and its needs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline import compute_hessian, load_problem, open_hessian
from tests.helpers.runs import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# conda-forge's names of packages without what they recommend.
CONDA_NAMES = {"dask": "dask-core", "matplotlib": "matplotlib-base"}


def files_of_git() -> set[str]:
    """What is or would be committed."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this is no checkout: {done.stderr.strip()}")
    return {name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()}


def environment() -> dict[str, str]:
    """Without what leads to this checkout."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of sources, and the wheel that is built from it."""
    source = tmp_path_factory.mktemp("source")
    for name in files_of_git():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", source / "dist", source]
    built = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, env=environment()
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return source / "dist"


def test_the_archive_of_sources_has_what_git_has(dist: Path) -> None:
    (archive,) = dist.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {member.name.partition("/")[2] for member in opened if member.isfile()}
    made = {name for name in names if name.startswith("hessian_pipeline.egg-info/")}
    assert names - made - {"PKG-INFO", "setup.cfg"} == files_of_git()


def test_the_wheel_has_what_git_has_of_both_packages(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    assert wheel.name == f"hessian_pipeline-{PROJECT['version']}-py3-none-any.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    packages = {name for name in files_of_git() if name.startswith(("pipeline/", "hessian_tasks/"))}
    assert {name for name in names if ".dist-info/" not in name} == packages
    assert {"pipeline/py.typed", "pipeline/report/templates/page.css"} <= names


@pytest.mark.slow
def test_the_wheel_computes_where_nothing_else_of_the_checkout_is(
    dist: Path, tmp_path: Path
) -> None:
    venv, (wheel,) = tmp_path / "venv", dist.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    python = venv / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index"]
    subprocess.run([*map(str, pip), "--quiet", str(wheel)], check=True, env=environment())
    # What it needs is taken from here; paths of a .pth file are not searched for others, so that
    # the project itself, as it is installed here, is not found.
    packages = Path(sysconfig.get_path("purelib", vars={"base": venv}))
    (packages / "needs.pth").write_text(sysconfig.get_path("purelib"))

    def call(program: str, *arguments: str) -> str:
        command = [str(venv / "bin" / program), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment()
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = call("python", "-c", "import hessian_tasks, pipeline; print(pipeline.__file__)")
    assert where.startswith(str(packages))
    assert "spectrum" in call("hessian", "--help")
    small = ["-o", "width=4", "-o", "depth=1", "-o", "num_samples=10", "-o", "dtype=float64"]
    call("hessian", "run", "regression", *small, "--store", "h.zarr")
    assert "numerical rank" in call("hessian", "spectrum", "h.zarr")
    call("hessian", "report", "h.zarr", "--out", "report", "--stored-only")
    (page,) = (tmp_path / "report").glob("*.html")
    assert "<style>" in page.read_text()
    here = load_problem("regression", width=4, depth=1, num_samples=10, dtype="float64")
    compute_hessian(here, tmp_path / "here.zarr")
    ours, theirs = (open_hessian(tmp_path / name).hessian for name in ("here.zarr", "h.zarr"))
    # Rounding of float64, where another number of threads adds in another order.
    np.testing.assert_allclose(theirs, ours, rtol=1e-12, atol=1e-12)


def test_there_is_one_version() -> None:
    version = PROJECT["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    assert recipe()["context"]["version"] == version
    heading = re.search(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heading is not None
    assert re.fullmatch(rf"Unreleased|{re.escape(version)} \(\d{{4}}-\d\d-\d\d\)", heading[1])


def test_the_citation_has_what_its_format_asks_for() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    # Required by https://citation-file-format.github.io 1.2.0, and of what type.
    assert citation["cff-version"] == "1.2.0"
    assert all(isinstance(citation[key], str) for key in ("message", "title", "version"))
    # Of a person, or of an entity, whose name is all of it.
    for author in citation["authors"]:
        assert "name" in author or {"family-names", "given-names"} <= set(author)
    assert citation["license"] == PROJECT["license"]
    assert citation["keywords"] == PROJECT["keywords"]


def recipe() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "conda" / "recipe.yaml").read_text())
    return found


def test_the_conda_package_needs_what_the_project_needs() -> None:
    needs = [re.fullmatch(r"([\w-]+)(>=[\w.]+)", need) for need in PROJECT["dependencies"]]
    assert None not in needs
    expected = [f"{CONDA_NAMES.get(need[1], need[1])} {need[2]}" for need in needs if need]
    python = f"python {PROJECT['requires-python']}"
    assert recipe()["requirements"]["run"] == [python, *expected]
    assert python in recipe()["requirements"]["host"]
    (entry,) = recipe()["build"]["python"]["entry_points"]
    assert entry == "hessian = {hessian}".format(**PROJECT["scripts"])


def test_the_oldest_python_is_said_once() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    named = [re.fullmatch(r".* :: (3\.\d+)", line) for line in PROJECT["classifiers"]]
    versions = [found[1] for found in named if found]
    assert versions == sorted(versions, key=lambda version: int(version[2:]))
    assert PROJECT["requires-python"] == f">={versions[0]}"
    assert tools["mypy"]["python_version"] == versions[0]
    assert tools["ruff"]["target-version"] == f"py{versions[0].replace('.', '')}"
    page = (ROOT / "docs" / "start" / "install.md").read_text()
    assert all(f"| {version}" in page for version in versions)


def test_the_container_is_built_from_files_that_are_there() -> None:
    text = (ROOT / "Dockerfile").read_text()
    let_through = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    copied = re.findall(r"^COPY ((?!--from).*) \S+$", text, re.MULTILINE)
    sources = {source for line in copied for source in line.split()}
    assert {"pyproject.toml", "requirements.lock", "pipeline"} <= sources
    assert all((ROOT / source).exists() for source in sources)
    assert all(any(fnmatch(source, name) for name in let_through) for source in sources)
    (extras,) = re.findall(r"^ARG EXTRAS=(.*)$", text, re.MULTILINE)
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
    (image,) = set(re.findall(r"^FROM python:(3\.\d+)-slim", text, re.MULTILINE))
    # That of the lock, whose versions it has.
    assert PROJECT["requires-python"] == f">={image}"

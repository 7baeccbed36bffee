"""The versions that have to be the same in the client and in every worker."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from distributed import Client

from pipeline.errors import ClusterError
from pipeline.run.cluster.ask import ask_workers

__all__ = ["check_versions", "own_versions", "worker_versions"]

# What decides the values, the bytes that are stored, and what client and workers say to each other.
PACKAGES = (
    "dask",
    "distributed",
    "hessian-pipeline",
    "keras",
    "ml-dtypes",
    "numcodecs",
    "numpy",
    "obstore",
    "tensorflow",
    "xarray",
    "zarr",
)
PYTHON = "Python"
NONE = "no version"


def own_versions() -> dict[str, str]:
    """Of Python, major and minor, and of the packages, in this process."""
    return {PYTHON: _minor(platform.python_version()), **{p: _version(p) for p in PACKAGES}}


def worker_versions(client: Client, own: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The same of every worker, by its address; of what this process has, since no more is used.

    A worker logs a traceback for each package that it is asked for and lacks.
    """
    found: dict[str, dict[str, str]] = {}
    # Asked by functions of Python's own, which a worker has that lacks everything else.
    for worker, answer in ask_workers(client, platform.python_version).items():
        found[worker] = {PYTHON: _minor(answer)}
    for package in (package for package in PACKAGES if own[package] != NONE):
        answers = ask_workers(client, version, package, answers=(PackageNotFoundError,))
        for worker, answer in answers.items():
            known = found.setdefault(worker, {})
            known[package] = answer if isinstance(answer, str) else NONE
    return found


def check_versions(worker: str, found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Compare a worker's versions with those of the client.

    Raises:
        ClusterError: If they differ; names the worker, the package and both versions.
    """
    for package, own in expected.items():
        # What the client lacks, such as a library for buckets, it does not use.
        if own != NONE and package in found and found[package] != own:
            raise ClusterError(
                f"Worker {worker} has {found[package]} of {package}, but the client has {own}. "
                "Install the same versions in the Pythons of both, and start again."
            )


def _minor(release: str) -> str:
    return ".".join(release.split(".")[:2])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return NONE

"""How a run is to be done; what to compute is in the frozen inputs."""

from __future__ import annotations

import typing
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from hessian_tasks.spec import EngineName, StoredEngine
from pipeline.errors import ConfigError
from pipeline.run.executors import ExecutorName

__all__ = ["RunOptions"]


@dataclass(frozen=True)
class RunOptions:
    """How to run; what to compute is in the frozen inputs.

    Attributes:
        executor: Name of the executor.
        num_threads: Cores to use; by default those that the process may run on.
        num_workers: Processes that use so many cores each.
        allowed_bytes: Budget of resident memory; by default half of what is free.
        tile: Side of a tile; chosen by default.
        per_term: Also store the matrix of every loss term; by default what an existing
            store has, or no.
        engine: Name of the engine, or ``"auto"``: what an existing store was begun with,
            or the fastest one that applies. ``"ggn"`` computes the Gauss-Newton matrix instead
            of the Hessian, and the Jacobians of residuals.
        with_ggn: Also compute the Gauss-Newton matrix and these Jacobians, beside the Hessian in
            one store; by default what an existing store has, or no.

    Raises:
        ConfigError: If a value is none of those that there are.

    Example:
        >>> import tempfile
        >>> from pipeline import compute_hessian, load_problem
        >>> small = load_problem("poisson", width=4, depth=1, num_interior=6, num_boundary=2)
        >>> options = RunOptions(engine="ggn", per_term=True, num_threads=1)
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     stored = compute_hessian(small, f"{directory}/g.zarr", options=options)
        >>> sorted(name for name in stored if name.startswith("ggn"))
        ['ggn', 'ggn_dirichlet', 'ggn_pde']
        >>> options = RunOptions(with_ggn=True, num_threads=1)
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     stored = compute_hessian(small, f"{directory}/both.zarr", options=options)
        >>> {"hessian", "ggn", "jacobian_pde"} <= set(stored)
        True
    """

    executor: ExecutorName = "threads"
    num_threads: int | None = None
    num_workers: int = 1
    allowed_bytes: int | None = None
    tile: int | None = None
    per_term: bool | None = None
    engine: EngineName = "auto"
    with_ggn: bool | None = None

    def __post_init__(self) -> None:
        _check("executor", self.executor, typing.get_args(ExecutorName), _WORKERS)
        _check("engine", self.engine, ("auto", *typing.get_args(StoredEngine)))
        for name in ("num_threads", "num_workers", "allowed_bytes", "tile"):
            value = getattr(self, name)
            # To Python the truth values are integers.
            if value is not None and (isinstance(value, bool) or not isinstance(value, Integral)):
                raise ConfigError(f"RunOptions.{name} is {value!r}; expected a whole number.")
        for name in ("per_term", "with_ggn"):
            if getattr(self, name) not in (None, True, False):
                raise ConfigError(
                    f"RunOptions.{name} is {getattr(self, name)!r}; expected True, False or None."
                )


_WORKERS = " Processes and other workers are given as a Dask client: compute_hessian(client=...)."


def _check(name: str, value: Any, accepted: tuple[Any, ...], advice: str = "") -> None:
    if value not in accepted:
        names = " or ".join(map(repr, accepted))
        raise ConfigError(f"RunOptions.{name} is {value!r}; expected {names}.{advice}")

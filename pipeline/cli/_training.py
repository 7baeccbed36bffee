"""What ``hessian train`` does along the way: watch the curvature, and save checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hessian_tasks.problem import Problem
from hessian_tasks.rebuild import freeze
from hessian_tasks.source import ProblemSource
from pipeline.errors import ConfigError
from pipeline.estimates.recording import WatchedStore
from pipeline.estimates.watching import Watch
from pipeline.training import Steps

__all__ = ["Along"]

Save = Callable[[Any, Path], None]
ENDINGS = (".weights.h5", ".keras", ".npz")


@dataclass(frozen=True)
class Along:
    """What is asked for.

    Attributes:
        out: Where the trained network is saved.
        every: Steps between observations of the curvature, or 0.
        store: Where these are kept; beside ``out`` by default.
        checkpoints: Networks to save along the way.
        history: Where the pairs of L-BFGS are saved, ``.npz``, or None.
        steps: What is trained by.
    """

    out: Path
    every: int
    store: Path | None
    checkpoints: int
    history: Path | None
    steps: Steps

    def observer(
        self, save: Save, source: ProblemSource
    ) -> Callable[[Problem, str, int], None] | None:
        """What training is to call, or None if nothing is asked for.

        Args:
            save: Saves a model to a path.
            source: Where the problem comes from.

        Raises:
            ConfigError: If a place is given for observations that are not asked for.
        """
        if self.store is not None and not self.every:
            raise ConfigError(
                "--watched says where observations are kept, but --watch asks for none."
            )
        if not self.every and not self.checkpoints:
            return None
        paths, watching = self._paths(), list[tuple[Watch, WatchedStore]]()

        def observe(problem: Problem, phase: str, step: int) -> None:
            if self.every and step % self.every == 0:
                if not watching:
                    kept = WatchedStore(self._watched, freeze(problem, source))
                    watching.append((Watch(problem), kept))
                watch, kept = watching[0]
                kept.append(watch.observe(step, phase))
            if step in paths:
                save(problem.model, paths[step])

        return observe

    def written(self) -> list[Path]:
        """What there is now of what was asked for."""
        watched = [self._watched] if self.every else []
        return [*watched, *(path for path in self._paths().values() if path.exists())]

    @property
    def _watched(self) -> Path:
        stem, _ = _split(self.out)
        return self.store or self.out.with_name(f"{stem}-watched.zarr")

    def _paths(self) -> dict[int, Path]:
        # At equal distances, the last at the end if all steps are taken.
        stem, ending = _split(self.out)
        steps = {self.steps.total * n // self.checkpoints for n in range(1, self.checkpoints + 1)}
        return {s: self.out.with_name(f"{stem}-{s:06d}{ending}") for s in sorted(steps - {0})}


def _split(out: Path) -> tuple[str, str]:
    ending = next((e for e in ENDINGS if out.name.endswith(e)), out.suffix)
    return out.name.removesuffix(ending), ending

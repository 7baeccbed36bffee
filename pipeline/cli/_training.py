"""What ``hessian train`` does: train, watch the curvature along the way, save what was found."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from hessian_tasks.errors import HessianError, plain
from hessian_tasks.problem import Problem
from hessian_tasks.rebuild import freeze
from hessian_tasks.source import ProblemSource
from pipeline.cli._calls import problem_source
from pipeline.cli._progress import LossDisplay
from pipeline.errors import ConfigError, StoreError
from pipeline.estimates.recording import WatchedStore
from pipeline.estimates.watching import Watch
from pipeline.settings.config import Settings
from pipeline.store.places import writing
from pipeline.training import Steps
from pipeline.units import format_seconds

if TYPE_CHECKING:
    from pipeline.analysis.lbfgs import LbfgsHistory

__all__ = ["Along", "train_settings"]

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
            with rescued(problem.model):
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


def train_settings(settings: Settings, along: Along, seed: int, console: Console) -> None:
    """Train the problem's network, show the losses, and save it.

    Args:
        settings: Which problem.
        along: What is trained by, where the network is saved, what is kept on the way.
        seed: Seed of the training.
        console: Where to show progress.

    Raises:
        ConfigError: If the file has another ending, or a history of no steps is wanted.
        StoreError: If it cannot be written, or does not give back what was written.
    """
    from hessian_tasks.networks.trainables import parameters_of, resolve
    from pipeline.training import train

    out, history, steps = along.out, along.history, along.steps
    if not out.name.endswith((".keras", ".weights.h5", ".npz")):
        raise ConfigError(
            f"The trained network is saved as .keras, .weights.h5 or .npz, but --out is {out}."
        )
    if history is not None and steps.lbfgs == 0:
        raise ConfigError(
            "--history keeps the pairs of L-BFGS, which is to make no step. Give it some: "
            "--lbfgs 1000."
        )
    source = problem_source(settings)
    problem = source.load()
    # Whether it can be saved, before it is trained.
    with tempfile.TemporaryDirectory() as directory:
        _save_network(resolve(problem).model, Path(directory) / out.name, source)
    result = train(
        problem,
        adam_steps=steps.adam,
        lbfgs_steps=steps.lbfgs,
        ssbroyden_steps=steps.ssbroyden,
        levenberg_marquardt_steps=steps.levenberg_marquardt,
        seed=seed,
        on_step=LossDisplay(console),
        observe=along.observer(lambda model, path: _save_network(model, path, source), source),
    )
    with rescued(result.problem.model):
        _save_network(result.problem.model, out, source)
    _save_history(result.history, history)
    terms = ", ".join(f"{name} {loss:.3g}" for name, loss in result.losses.items())
    error = "" if result.error is None else f", relative L2 error {result.error:.2e}"
    console.print(f"loss {result.loss:.3e} ({terms}){error}, {format_seconds(result.seconds)}")
    for name, value in parameters_of(result.problem.model).items():
        console.print(f"{name} = {np.array2string(value.numpy(), precision=7, separator=', ')}")
    console.print(f"saved {out}{'' if history is None else f' and {history}'}")
    for path in along.written():
        console.print(f"saved {path}")


@contextmanager
def rescued(model: Any) -> Iterator[None]:
    """Keep the weights elsewhere where they cannot be saved: they may have taken hours.

    Raises:
        StoreError: Of what could not be written or read back, and where the weights are.
    """
    try:
        yield
    except HessianError as error:
        raise StoreError(f"{error} {_keep_elsewhere(model)}") from error


def _keep_elsewhere(model: Any) -> str:
    from hessian_tasks.networks.weights import save_values

    for parent in dict.fromkeys([tempfile.gettempdir(), str(Path.home()), os.getcwd()]):
        try:
            file = Path(tempfile.mkdtemp(prefix="hessian-trained-", dir=parent)) / "trained.npz"
            save_values(file, model)
        except OSError:
            continue  # as full as the other one, or not ours
        return f"The trained weights are kept: --weights {shlex.quote(str(file))}"
    return "Nor can the trained weights be kept in the directories for temporary files or at home."


def _save_network(model: Any, out: Path, source: ProblemSource) -> None:
    """Save all weights, and read them back as a run will: into the problem's network.

    They are made elsewhere and copied: HDF5 on a full disk says more than one line.
    """
    from hessian_tasks.networks.trainables import every_weight
    from hessian_tasks.networks.weights import load_weights

    with tempfile.TemporaryDirectory() as directory:
        made = Path(directory) / out.name
        with writing(made):
            _write_network(model, made)
        found = load_weights(made, source.load()).model
        pairs = zip(every_weight(found), every_weight(model), strict=True)
        if not all(np.array_equal(a.numpy(), b.numpy(), equal_nan=True) for a, b in pairs):
            raise StoreError(f"{out} would not give back the weights. Save as another format.")
        with writing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            _put(made, out)


def _write_network(model: Any, out: Path) -> None:
    from hessian_tasks.networks.trainables import networks_of, parameters_of
    from hessian_tasks.networks.weights import save_values

    network, *others = networks_of(model).values()
    if out.suffix == ".npz":
        save_values(out, model)
        return
    if others or parameters_of(model):
        raise ConfigError(
            f"The problem trains more than one network, which {out.name} cannot hold. Save as .npz."
        )
    try:
        (network.save if out.suffix == ".keras" else network.save_weights)(out)
    # Of a subclassed model Keras may not know the arguments that it was made with.
    except NotImplementedError as error:
        raise ConfigError(
            f"Keras cannot save this network as .keras ({plain(error)[:80]}…). Save its "
            f"weights: --out {out.stem}.weights.h5"
        ) from error


def _put(made: Path, out: Path) -> None:
    half_made = out.with_name(f"{out.name}.partial")
    try:
        shutil.copyfile(made, half_made)
        half_made.replace(out)
    finally:
        half_made.unlink(missing_ok=True)


def _save_history(found: LbfgsHistory | None, path: Path | None) -> None:
    if path is None:
        return
    if found is None:
        raise StoreError(
            f"L-BFGS found nothing to improve and made no step, so there is no history for {path}. "
            "The network is saved. Train with fewer steps of Adam."
        )
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        found.save(path)

"""Two runs that make one store at once where the file system has no locks: one is told so."""

from __future__ import annotations

import errno
import fcntl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from hessian_tasks.frozen import FrozenInputs
from pipeline.errors import StoreError
from pipeline.run import execute
from pipeline.store.places import _directory, locate
from pipeline.store.store import HessianStore
from tests.helpers.runs import WAIT, Run

pytestmark = pytest.mark.filterwarnings("ignore:the file system of:pipeline.errors.StoreWarning")


@pytest.fixture(autouse=True)
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


def at_once(run: Callable[[], Any]) -> list[StoreError]:
    """Two runs, and what they were told."""
    told: list[StoreError] = []

    def client() -> None:
        try:
            run()
        except StoreError as error:
            told.append(error)

    clients = [threading.Thread(target=client) for _ in range(2)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    return told


def meeting(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Let both wait for each other, before or while they write the new store."""
    both = threading.Barrier(2)
    if where == "before":
        create = execute.create_template

        def waiting(*arguments: Any) -> None:
            both.wait(WAIT)
            create(*arguments)

        monkeypatch.setattr(execute, "create_template", waiting)
        return
    filling = _directory.filling

    @contextmanager
    def half_made(path: Path) -> Iterator[Path]:
        with filling(path) as directory:
            both.wait(WAIT)
            yield directory

    monkeypatch.setattr(_directory, "filling", half_made)


@pytest.mark.parametrize("where", ["before", "while"])
def test_the_loser_is_told_in_a_sentence(
    where: str, tmp_path: Path, run: Run, inputs: FrozenInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    meeting(monkeypatch, where)
    path = tmp_path / "h.zarr"
    told = at_once(lambda: run(path, inputs, tile=20))
    assert len(told) == 1
    assert "another run that began at the same time" in str(told[0])
    assert HessianStore(path).pending() == []
    assert [p.name for p in tmp_path.iterdir()] == ["h.zarr"]


class Overtaken(dict[str, bytes]):
    """Objects of a store, while the second of which is written something else happens."""

    def __init__(self, objects: dict[str, bytes], happens: Callable[[], None]) -> None:
        super().__init__(objects)
        self.happens = happens

    def items(self) -> Any:
        for number, item in enumerate(super().items()):
            if number == 1:
                self.happens()
            yield item


OBJECTS = {"zarr.json": b"{}", "a/c/0": b"12", "b/c/0": b"34"}


def test_a_store_that_another_run_has_made_stays_whole(tmp_path: Path) -> None:
    path = tmp_path / "h.zarr"
    objects = Overtaken(OBJECTS, lambda: locate(path).create(OBJECTS))
    with pytest.raises(StoreError, match="another run that began at the same time"):
        locate(path).create(objects)
    assert {key: (path / key).read_bytes() for key in OBJECTS} == OBJECTS
    assert [p.name for p in tmp_path.iterdir()] == ["h.zarr"]


def test_what_another_run_took_for_litter_becomes_no_store(tmp_path: Path) -> None:
    """The other one is slower: without a look the rest of the objects would be the store."""

    def sweep() -> None:
        with suppress(RuntimeError), _directory.filling(path):
            raise RuntimeError

    path = tmp_path / "h.zarr"
    with pytest.raises(StoreError, match="another run that began at the same time"):
        locate(path).create(Overtaken(OBJECTS, sweep))
    assert list(tmp_path.iterdir()) == []

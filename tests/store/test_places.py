"""One store has one lock, whatever it is called, and stays where it was when it was opened."""

import errno
import fcntl
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from hessian_tasks.frozen import FrozenInputs
from pipeline import open_hessian
from pipeline.errors import StoreError, StoreWarning
from pipeline.store.places import Directory, locate
from pipeline.store.store import HessianStore
from tests.helpers.runs import Run


def refused(path: str | Path) -> bool:
    try:
        with locate(path).locked():
            return False
    except StoreError as error:
        return "Another run is at work" in str(error)


def test_links_and_relative_paths_lead_to_the_same_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "folder").symlink_to("inside")
    store = tmp_path / "inside" / "h.zarr"
    (tmp_path / "link.zarr").symlink_to(store)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    names = ["inside/h.zarr", "link.zarr", "folder/h.zarr", "~/inside/../link.zarr", store]
    for made in (False, True):
        if made:
            store.mkdir()
        for name in names:
            with locate(name).locked():
                assert [refused(other) for other in names] == [True] * len(names)
            assert not refused(name)
    assert os.listdir(store.parent) == ["h.zarr"]


def test_a_store_that_is_mounted_elsewhere_has_the_same_lock(tmp_path: Path) -> None:
    store, other = tmp_path / "h.zarr", tmp_path / "elsewhere" / "g.zarr"
    other.mkdir(parents=True)
    with locate(store).locked() as hold:
        store.mkdir()
        hold()
        command = ["mount", "--bind", str(store), str(other)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
        try:
            assert refused(other)
        finally:
            subprocess.run(["umount", str(other)], check=True)
    assert not refused(store)


def test_spellings_of_an_url_are_one_place() -> None:
    spellings = [
        "s3://bucket/runs/h.zarr", "s3://bucket/runs/h.zarr/", "S3://bucket//runs/h.zarr",
        "s3://bucket/runs/./h.zarr", "s3://bucket/runs/other/../h.zarr", "s3a://bucket/runs/h.zarr",
        "s3://bucket/runs/h%2Ezarr",
    ]  # fmt: skip
    assert {locate(url) for url in spellings} == {locate(spellings[0])}


@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/..", "s3:///h.zarr", "ftp://a/h.zarr"])
def test_urls_that_are_no_place(url: str) -> None:
    with pytest.raises(StoreError, match="No store can be at"):
        locate(url)


def test_what_was_opened_stays_where_it_was(
    tmp_path: Path, run: Run, inputs: FrozenInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    run(Path("h.zarr"), inputs, tile=20)
    dataset, store = open_hessian("h.zarr"), HessianStore("h.zarr")
    monkeypatch.chdir(tmp_path / "there")
    assert np.isfinite(dataset.hessian.values).all()
    np.testing.assert_array_equal(dataset.hessian.values, store.read_part(*[slice(0, 37)] * 2))
    assert store.pending() == []
    with pytest.raises(StoreError, match=r"There is no Hessian store at h\.zarr"):
        HessianStore("h.zarr")


def test_a_place_is_shown_as_it_was_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    place = locate("runs/h.zarr")
    assert str(place) == "runs/h.zarr"
    assert place == Directory(tmp_path / "runs" / "h.zarr")


def test_without_locks_it_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    store = locate(tmp_path / "h.zarr")
    locked = store.locked()
    with pytest.warns(StoreWarning, match="has no locks") as said:
        hold = locked.__enter__()
    assert len(said) == 1
    (tmp_path / "h.zarr").mkdir()
    hold()  # nor is there one of the directory, of which nothing more is said
    locked.__exit__(None, None, None)

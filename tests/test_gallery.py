"""The scripts of the gallery run at small size; what they assert themselves is the test."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

GALLERY = Path(__file__).parents[1] / "examples" / "gallery"
PICTURES = {
    "conditioning": ["conditioning", "conditioning_terms"],
    "gauss_newton": ["gauss_newton"],
    "seed_question": ["seed_question"],
    "training": ["training"],
    "watching": ["watching", "watching_gradient"],
    "widths": ["widths"],
}


def test_every_script_and_picture_of_the_gallery_is_in_the_documentation() -> None:
    scripts = {path.stem for path in GALLERY.glob("*.py")}
    assert scripts - {"style"} == set(PICTURES)
    docs = GALLERY.parents[1] / "docs" / "gallery"
    text = (docs / "index.md").read_text()
    for script, pictures in PICTURES.items():
        assert f"examples/gallery/{script}.py" in text
        for picture in pictures:
            assert f"({picture}.png)" in text
            assert (docs / f"{picture}.png").stat().st_size > 10_000


# They start processes, train networks, and compute several Hessians.
@pytest.mark.slow
@pytest.mark.parametrize("script", PICTURES)
def test_script_runs(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(GALLERY))
    monkeypatch.setattr(sys, "argv", [script, "--small", "--out", str(tmp_path)])
    runpy.run_path(str(GALLERY / f"{script}.py"), run_name="__main__")
    assert {path.stem for path in tmp_path.glob("*.png")} == set(PICTURES[script])

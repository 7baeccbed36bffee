"""A store never chooses code: it names only what its user has named before, or what is harmless.

Each hostile store is one that its user has made, and in which somebody has changed what it says.
What must not happen touches a file.
"""

from __future__ import annotations

import json
import py_compile
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import pytest

from hessian_tasks.imports import digests_of, imported_files
from hessian_tasks.source import ProblemSource
from pipeline import compute_hessian, verify_hessian
from pipeline.errors import ProblemError
from pipeline.settings.config import parse_options
from pipeline.store.trust import MAX_COMMAND, as_flags, remember
from tests.helpers.forged import forge
from tests.helpers.runs import Cli

DEFAULTS = {"width": 3, "depth": 1, "num_samples": 8}
FILE = """
import functools
from os import system
from pathlib import Path
from keras.saving import load_model
from hessian_tasks import Problem
from hessian_tasks.problems import regression
from helper import decorated

def problem(width=3, depth=1, num_samples=8, path=None):
    if path is not None:
        Path(path).touch()
    return regression.problem(width, depth, num_samples)

def cleanup(path):
    Path(path).touch()

class Called:
    def __call__(self, path):
        Path(path).touch()

called = Called()
partly = functools.partial(system, command="touch ran")
small = regression.problem(3, 1, 8)

@decorated
def wrapped(width=3):
    return problem(width)

cached = functools.lru_cache(problem)
short = lambda width=3: problem(width)
"""
HELPER = """
import functools

def decorated(function):
    @functools.wraps(function)
    def call(**options):
        return function(**options)
    return call
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, with a problem file that it is of, and what that imports from beside it."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "helper.py").write_text(HELPER)
    (folder / "mine.py").write_text(FILE)
    compute_hessian(folder / "mine.py", folder / "h.zarr")
    return folder


@pytest.fixture
def mine(made: Path, tmp_path: Path) -> Path:
    """A problem file that the user has named, with its default options."""
    file = Path(shutil.copytree(made, tmp_path / "mine")) / "mine.py"
    remember(ProblemSource(str(file), DEFAULTS))
    return file


@pytest.fixture
def store(mine: Path) -> Path:
    """A store that the user has made of it."""
    path = mine.with_name("h.zarr")
    claim(path, f"{mine}:problem", DEFAULTS)
    return path


def claim(store: Path, reference: str, options: dict[str, Any]) -> None:
    """Let a store say that its problem is another, and that nothing else has changed."""
    changed = {"reference": reference, "options": options}
    forge(store, lambda attributes: attributes["source"].update(changed))


def refused(hessian: Cli, *command: object) -> str:
    code, output, errors = hessian(*command)
    assert (code, output, errors.count("\n")) == (1, "", 1)
    return errors


CLAIMS: dict[str, tuple[str, dict[str, Any]]] = {
    "imported function": ("system", {"command": "touch RAN"}),
    "imported loader": ("load_model", {"filepath": "/x.keras", "safe_mode": False}),
    "own function": ("cleanup", {"path": "RAN"}),
    "own options": ("problem", {**DEFAULTS, "path": "RAN"}),
    "object that can be called": ("called", {"path": "RAN"}),
    "dotted": ("os.system", {"command": "touch RAN"}),
    "class": ("Problem", {"model": None, "terms": []}),
    "builtin": ("__builtins__", {}),
}


@pytest.mark.parametrize("what", CLAIMS)
def test_a_store_names_no_function_and_no_options(
    what: str, store: Path, mine: Path, hessian: Cli
) -> None:
    name, options = CLAIMS[what]
    ran = store.with_name("ran")
    options = {
        k: v.replace("RAN", str(ran)) if isinstance(v, str) else v for k, v in options.items()
    }
    claim(store, f"{mine}:{name}", options)
    for command in (["verify", store], ["run", "--store", store]):
        errors = refused(hessian, *command)
        assert "but not with this function and these options" in errors
        problem = shlex.join([f"{mine}:{name}", *as_flags(options)])
        assert f"hessian verify {store} --problem {problem}, or" in errors
    assert not ran.exists()


def test_the_command_of_the_refusal_is_the_one_that_allows_it(
    store: Path, mine: Path, hessian: Cli
) -> None:
    options = {**DEFAULTS, "path": str(mine.with_name("a b; c"))}
    claim(store, f"{mine}:problem", options)
    errors = refused(hessian, "verify", store)
    command = shlex.split(errors.partition("name it: ")[2].partition(", or hessian run")[0])
    assert hessian(*command[1:])[0] == 0
    assert mine.with_name("a b; c").exists()
    assert hessian("verify", store)[0] == 0


@pytest.mark.parametrize("name", ["system", "called", "partly"])
def test_what_a_file_imports_is_not_called_though_it_was_named(
    name: str, store: Path, mine: Path, hessian: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Naming it once by mistake, as somebody suggests who then sends a store, is not enough."""
    monkeypatch.chdir(mine.parent)
    options = {} if name == "partly" else {"path": "ran"}
    flags = [] if name == "partly" else ["-o", "path=ran"]
    hessian("plan", f"{mine}:{name}", *flags)
    mine.with_name("ran").unlink(missing_ok=True)
    claim(store, f"{mine}:{name}", options)
    assert "no function that this file defines itself" in refused(hessian, "verify", store)
    assert not mine.with_name("ran").exists()


@pytest.mark.parametrize("name", ["problem", "wrapped", "cached", "short", "small"])
def test_what_a_file_defines_is_called(name: str, mine: Path, hessian: Cli) -> None:
    """As before: functions, also in decorators of others, and problems."""
    store = mine.with_name("new.zarr")
    assert hessian("run", f"{mine}:{name}", "--store", store)[0] == 0
    assert hessian("verify", store)[0] == 0
    compute_hessian(f"{mine}:{name}", store)
    assert verify_hessian(store).passed


def test_notes_of_earlier_versions_are_not_enough(store: Path, mine: Path, hessian: Cli) -> None:
    from pipeline.store import trust

    note = trust._note(mine)
    note.write_text(f"{trust._digest(ProblemSource(str(mine)))}\n")
    assert "named for an earlier version of this software" in refused(hessian, "verify", store)


def test_options_of_stores_are_harmless_in_a_terminal(
    store: Path, mine: Path, hessian: Cli
) -> None:
    options = {"width": "\x1b[31m\nowned \u202e", "layers": {"a": [1, None, 1e-05, "x: y"]}}
    claim(store, f"{mine}:problem", options)
    errors = refused(hessian, "verify", store)
    assert errors.removesuffix("\n").isprintable()
    assert parse_options(as_flags(options)[1::2]) == options
    for worse in ({"a=b; rm": 1}, {"--flag": 1}, {"deep": json.loads("[" * 150 + "]" * 150)},
                  {"long": "x" * 10**6}):  # fmt: skip
        claim(store, f"{mine}:problem", worse)
        assert len(refused(hessian, "verify", store)) < 2 * MAX_COMMAND


def test_links_in_a_circle_are_no_files(store: Path, hessian: Cli) -> None:
    loop = store / "loop.py"
    loop.symlink_to(loop)
    claim(store, str(loop), {})
    assert "was not named by you before" in refused(hessian, "verify", store)


# ---- what runs is the text that was named -------------------------------------------------------

CHECK = "import sys; from pipeline import verify_hessian; verify_hessian(sys.argv[1])"


def verified_elsewhere(store: Path) -> subprocess.CompletedProcess[str]:
    """Verification by another process, which has imported nothing of it."""
    return subprocess.run(
        [sys.executable, "-c", CHECK, store], capture_output=True, text=True, check=False
    )


def plant(file: Path) -> Path:
    """Put a compiled file beside a Python file, which holds something else and looks up to date."""
    evil = file.with_name("evil.txt")
    evil.write_text(f"open({str(file.with_name('ran'))!r}, 'w')\n{file.read_text()}")
    cache = file.parent / "__pycache__" / f"{file.stem}.{sys.implementation.cache_tag}.pyc"
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(evil), str(cache), dfile=str(file), invalidation_mode=mode)
    return cache


def test_compiled_files_beside_the_text_are_not_run(store: Path, mine: Path) -> None:
    """An archive that is unpacked beside the user's files may bring them."""
    for name in ("mine.py", "helper.py"):
        plant(mine.with_name(name))
    done = verified_elsewhere(store)
    assert done.returncode == 0, done.stderr
    assert not mine.with_name("ran").exists()


@pytest.mark.parametrize("ending", [EXTENSION_SUFFIXES[0], ".pyc"])
def test_compiled_modules_are_part_of_what_was_named(
    ending: str, store: Path, mine: Path, hessian: Cli
) -> None:
    """Python takes an extension before the text, and compiled files where there is no text."""
    before = digests_of(imported_files(mine))
    shutil.copy(plant(mine.with_name("helper.py")), mine.with_name(f"helper{ending}"))
    if ending == ".pyc":
        mine.with_name("helper.py").unlink()
    assert digests_of(imported_files(mine)).keys() == before.keys()
    assert "has changed since you last named it" in refused(hessian, "verify", store)
    assert not mine.with_name("ran").exists()


# ---- built-in problems --------------------------------------------------------------------------


@pytest.fixture
def built_in(store: Path) -> Path:
    """A store that says that its problem is a built-in one, which it is."""
    claim(store, "regression", DEFAULTS)
    return store


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "giant network": ({"width": 10**9}, "width is 1000000000, where"),
    "network that is larger than it says": ({"width": 900, "depth": 8}, "weights, but at most"),
    "deep network": ({"depth": 10**9}, "depth is 1000000000, where"),
    "points": ({"num_samples": 10**11}, "num_samples is 100000000000, where"),
    "negative": ({"num_samples": -1}, "num_samples is -1, where"),
    "type": ({"width": [3]}, "width is a list, expected a int"),
    "truth": ({"width": True}, "width is a bool, expected a int"),
    "unknown": ({"callback": "os.system"}, "there is no 'callback'"),
}


@pytest.mark.parametrize("what", BAD)
def test_options_of_built_in_problems_are_bounded(
    what: str, built_in: Path, hessian: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hessian_tasks.rebuild.rebuild", None)  # nothing comes to be built
    options, reason = BAD[what]
    claim(built_in, "regression", options)
    errors = refused(hessian, "verify", built_in)
    assert reason in errors
    assert f"--problem regression {shlex.join(as_flags(options))}" in errors


def test_built_in_problems_need_not_be_named(built_in: Path, hessian: Cli) -> None:
    """As before, with harmless options."""
    assert hessian("verify", built_in)[0] == 0
    claim(built_in, "regression", {**DEFAULTS, "noise": 0})
    assert hessian("verify", built_in)[0] == 0  # the recorded samples and weights decide


@pytest.mark.parametrize("reference", ["os", "os:system", "networks", "../poisson", "poisson:mlp"])
def test_no_other_module_is_a_built_in_problem(
    reference: str, built_in: Path, hessian: Cli
) -> None:
    """Safe before, too: names of built-in problems are a list."""
    claim(built_in, reference, {})
    assert "There is no built-in problem" in refused(hessian, "verify", built_in)


def test_options_belong_to_a_problem(built_in: Path, hessian: Cli) -> None:
    assert "name the problem, too" in hessian("verify", built_in, "-o", "width=3")[2]


# ---- problem files that end the program ---------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "import sys\nsys.exit(0)",
        "raise SystemExit",
        "def problem():\n    raise SystemExit('no')",
        "from hessian_tasks import Problem, LossTerm\nimport sys\n"
        "problem = Problem(lambda: sys.exit(0), [LossTerm('fit', lambda model: 0.0)])",
    ],
)
def test_a_file_that_ends_the_program_is_an_error(text: str, mine: Path, hessian: Cli) -> None:
    mine.write_text(text)
    code, _, errors = hessian("plan", mine)
    assert (code, errors.count("\n")) == (1, 1)
    assert "SystemExit" in errors


def test_an_interrupt_in_a_file_passes(mine: Path) -> None:
    """As before: it is the user's."""
    mine.write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        ProblemSource(str(mine)).load()


def test_what_only_a_store_names_is_told_from_what_a_user_does(mine: Path) -> None:
    source: Callable[..., ProblemSource] = ProblemSource
    named = source(f"{mine}:partly", advice="name it")
    with pytest.raises(ProblemError, match="name it"):
        named.load()

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from pipeline.errors import ConfigError
from pipeline.settings.config import Settings, load_settings, parse_options
from pipeline.settings.profiles import (
    MODELS,
    NESTED,
    Address,
    Cuda,
    InProcess,
    Kubernetes,
    Processes,
    Queue,
)

CLUSTER_YAML = Path(__file__).parents[2] / "cluster.yaml"


def assert_documented(model: type[BaseModel], indent: str) -> None:
    """Every key of a model stands somewhere in the file, with its description above."""
    lines = CLUSTER_YAML.read_text().splitlines()
    for key, field in model.model_fields.items():
        described = f"{indent}# {field.description}"
        found = [i for i, line in enumerate(lines) if line.startswith(f"{indent}{key}:")]
        assert found, key
        assert key == "kind" or any(lines[i - 1] == described for i in found), described


def test_cluster_yaml_names_every_key_with_its_description() -> None:
    assert list(yaml.safe_load(CLUSTER_YAML.read_text())) == list(Settings.model_fields)
    assert_documented(Settings, "")
    for profile in MODELS:
        assert_documented(profile, 4 * " ")
    for model in NESTED.values():
        assert_documented(model, 6 * " ")


def test_cluster_yaml_is_valid() -> None:
    settings = load_settings(CLUSTER_YAML, {})
    assert settings.problem == "poisson"
    assert settings.options == {"width": 50}
    kinds = {name: type(profile) for name, profile in settings.profiles.items()}
    assert kinds["standing"] is Address
    assert kinds["slurm"] is Queue
    assert kinds["cuda"] is Cuda
    kubernetes = settings.profiles["kubernetes"]
    assert isinstance(kubernetes, Kubernetes)
    assert kubernetes.bounds == (0, 16)
    assert kinds["serial"] is InProcess  # by default


def test_environment_assignments_and_flags_override_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("tile: 1\nthreads: 1\nmemory: 1GiB\nprofiles: {slurm: {kind: slurm}}\n")
    monkeypatch.setenv("HESSIAN__TILE", "2")
    monkeypatch.setenv("HESSIAN__THREADS", "2")
    monkeypatch.setenv("HESSIAN__PROFILES__SLURM__OPTIONS__QUEUE", "gpu")
    assignments = ["threads=3", "profiles.slurm.workers=4", "profiles.processes.memory=2GiB"]
    settings = load_settings(file, {"memory": "4GiB", "tile": None}, assignments)
    assert (settings.tile, settings.threads, settings.memory) == (2, 3, 4 * 2**30)
    slurm, processes = settings.profiles["slurm"], settings.profiles["processes"]
    assert isinstance(slurm, Queue)
    assert isinstance(processes, Processes)
    assert (slurm.workers, slurm.options) == (4, {"queue": "gpu"})
    assert processes.memory == 2 * 2**30


def test_mistaken_assignments_are_named() -> None:
    with pytest.raises(ConfigError, match="--set 'tile' is not of the form key=value"):
        load_settings(None, {}, ["tile"])
    with pytest.raises(ConfigError, match=r"tile\.side cannot be set: tile is 4"):
        load_settings(None, {}, ["tile=4", "tile.side=3"])
    with pytest.raises(ConfigError, match=r"unknown key 'profiles\.slurm.slurm.queue'"):
        load_settings(None, {}, ["profiles.slurm.queue=gpu"])
    with pytest.raises(ConfigError, match="no profile 'fibres'; the profiles are threads, serial"):
        _ = load_settings(None, {"profile": "fibres"}).chosen


def test_flags_override_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("memory: 2GiB\ntile: 128\n")
    settings = load_settings(file, {"tile": 64, "threads": None})
    assert (settings.memory, settings.tile, settings.threads) == (2 * 2**30, 64, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tiel: 4", r"run.yaml: unknown key 'tiel'; the keys are problem, options"),
        ("tile: many", r"run.yaml: tile is 'many'"),
        ("tile: 0", r"run.yaml: tile is 0"),
        ("memory: lots", r"run.yaml: memory is 'lots'"),
        ("profiles: {a: {kind: slrum}}", r"run.yaml: profiles.a is .*'slurm'"),
        ("profiles: {a: {kind: slurm, que: b}}", r"unknown key 'profiles.a.slurm.que'; .*options"),
        ("profiles: {a: {kind: slurm, workers: 0}}", r"profiles.a.slurm.workers is 0"),
        ("profiles: {a: {kind: address}}", r"profiles.a.address.*either address or scheduler_file"),
        (
            "profiles: {a: {kind: address, address: b, tls: {pem: c}}}",
            r"unknown key 'profiles.a.address.tls.pem'; the keys are ca, cert, key",
        ),
        (
            "profiles: {a: {kind: slurm, adapt: {min: 1, maximum: 2}}}",
            r"unknown key 'profiles.a.slurm.adapt.min'; the keys are minimum, maximum",
        ),
        (
            "profiles: {a: {kind: slurm, adapt: {minimum: 3, maximum: 2}}}",
            r"profiles.a.slurm.adapt is .*expected minimum to be at most maximum",
        ),
        ("profiles: {a: {kind: ssh, hosts: [b], adapt: {maximum: 2}}}", r"'profiles.a.ssh.adapt'"),
        ("profiles: {a: {kind: kubernetes}}", r"profiles.a.kubernetes.image"),
        ("just words", r"run.yaml holds no keys"),
        ("a: [", r"run.yaml cannot be read"),
    ],
)
def test_mistakes_name_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_settings(tmp_path / "run.yaml", {})


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.yaml cannot be read"):
        load_settings(tmp_path / "none.yaml", {})


def test_options_are_yaml_scalars() -> None:
    parsed = parse_options(["width=20", "lr=1e-3", "name=a=b", "on=true"])
    assert parsed == {"width": 20, "lr": "1e-3", "name": "a=b", "on": True}
    with pytest.raises(ConfigError, match="'width' is not of the form name=value"):
        parse_options(["width"])

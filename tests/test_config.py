from pathlib import Path

import pytest
import yaml

from pipeline.config import Settings, load_settings, parse_options
from pipeline.errors import ConfigError

CLUSTER_YAML = Path(__file__).parent.parent / "cluster.yaml"


def test_cluster_yaml_names_every_key_with_its_description() -> None:
    lines = CLUSTER_YAML.read_text().splitlines()
    assert list(yaml.safe_load("\n".join(lines))) == list(Settings.model_fields)
    for key, field in Settings.model_fields.items():
        line = next(i for i, text in enumerate(lines) if text.startswith(f"{key}:"))
        assert lines[line - 1] == f"# {field.description}"


def test_cluster_yaml_is_valid() -> None:
    settings = load_settings(CLUSTER_YAML, {})
    assert settings.problem == "poisson"
    assert settings.options == {"width": 50}


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
        ("executor: slrum", r"run.yaml: executor is 'slrum'.*'serial' or 'threads'"),
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

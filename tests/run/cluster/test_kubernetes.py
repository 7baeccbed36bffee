"""Kubernetes: the objects that are created, and what is said where there is no cluster."""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import dask_kubernetes
import jsonschema
import pytest
import yaml

from hessian_tasks.frozen import FrozenInputs
from pipeline.errors import ClusterError, ConfigError
from pipeline.run.cluster.kubernetes import cluster_spec
from pipeline.settings.profiles import Kubernetes as Profile
from tests.helpers.runs import WAIT, Run, connected, objects
from tests.run.cluster.clusters import NUM_BLOCK_ROWS, TILE, Standing
from tests.run.cluster.kubernetes_api import Kubernetes, access_to, kubernetes_api

# The library below dask-kubernetes leaves its connections to the garbage collector, which warns.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

HELM = Path(dask_kubernetes.__file__).parent / "operator/deployment/helm"
SCHEMAS = HELM / "dask-kubernetes-operator" / "crds"


def profile(**keys: Any) -> Profile:
    given = {"kind": "kubernetes", "image": "registry/hessian:1", "namespace": "ours", "wait": WAIT}
    return Profile.model_validate({**given, **keys})


FULL = profile(
    workers=3,
    threads=2,
    memory="16GiB",
    gpus=1,
    env={"TF_FORCE_GPU_ALLOW_GROWTH": "true"},
    volumes={"shared": "/data"},
    pod={"imagePullSecrets": [{"name": "registry"}]},
    worker_pod={
        "nodeSelector": {"gpu": "h100"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "volumes": [{"name": "scratch", "emptyDir": {}}],
    },
)


@cache
def published_schema(kind: str) -> Any:
    """The operator's own, as JSON schema that takes no other keys: Kubernetes would drop them."""
    text = (SCHEMAS / f"{kind}.yaml").read_text()
    definition = yaml.load(text, yaml.CSafeLoader)
    (version,) = definition["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    # What every object has is not repeated there.
    known = {key: {"type": "string"} for key in ("apiVersion", "kind")}
    schema["properties"] |= known | {"metadata": {"type": "object"}}
    return _strict(schema)


def _strict(schema: Any) -> Any:
    """OpenAPI v3 as JSON schema."""
    if not isinstance(schema, dict):
        return schema
    strict = {key: value for key, value in schema.items() if key != "properties"}
    if isinstance(properties := schema.get("properties"), dict):
        strict["properties"] = {key: _strict(value) for key, value in properties.items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            strict.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if key in schema:
            strict[key] = _strict(schema[key])
    if schema.get("x-kubernetes-int-or-string"):
        strict.pop("type", None)
    return strict


@pytest.mark.parametrize("given", [profile(), FULL], ids=["least", "full"])
def test_the_object_is_of_the_published_schema(given: Profile) -> None:
    jsonschema.validate(cluster_spec(given, "hessian-1"), published_schema("daskcluster"))


def test_the_published_schema_refuses_what_kubernetes_would_drop() -> None:
    misspelt = profile(worker_pod={"nodeSelektor": {}})
    with pytest.raises(jsonschema.ValidationError, match="nodeSelektor"):
        jsonschema.validate(cluster_spec(misspelt, "hessian-1"), published_schema("daskcluster"))


def test_workers_alone_have_gpus_volumes_and_resources() -> None:
    spec = cluster_spec(FULL, "hessian-1")["spec"]
    scheduler, worker = spec["scheduler"]["spec"], spec["worker"]["spec"]
    assert "resources" not in scheduler["containers"][0]
    assert "volumes" not in scheduler
    assert worker["containers"][0]["resources"] == {
        "requests": {"cpu": "2", "memory": str(16 * 2**30)},
        "limits": {"memory": str(16 * 2**30), "nvidia.com/gpu": "1"},
    }
    assert [volume["name"] for volume in worker["volumes"]] == ["shared", "scratch"]
    arguments = " ".join(worker["containers"][0]["args"])
    assert arguments.startswith(f"dask-worker --nthreads 2 --memory-limit {16 * 2**30}B ")
    assert spec["worker"]["replicas"] == 3


def test_pods_have_the_settings_that_other_schedulers_have() -> None:
    spec = cluster_spec(FULL, "hessian-1")["spec"]
    for role in ("scheduler", "worker"):
        (container,) = spec[role]["spec"]["containers"]
        variables = {variable["name"]: variable["value"] for variable in container["env"]}
        assert variables["DASK_DISTRIBUTED__SCHEDULER__WORKER_SATURATION"] == "1.0"
        assert variables["DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES"] == "2"
        assert variables["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
        assert spec[role]["spec"]["imagePullSecrets"] == [{"name": "registry"}]


# ---- the way to the API -------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _close_connections() -> Iterator[None]:
    """Now, so that it does not warn during tests of other things."""
    yield
    gc.collect()


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kubernetes]:
    with kubernetes_api(tmp_path) as (state, access):
        monkeypatch.setenv("KUBECONFIG", str(access))
        yield state


def refusal(given: Profile) -> str:
    with pytest.raises(ClusterError) as caught, connected(given):
        pass
    return str(caught.value)


def test_a_missing_cluster_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    access = tmp_path / "kubeconfig"
    monkeypatch.setenv("KUBECONFIG", str(access))
    assert "Unable to find valid credentials" in refusal(profile())
    access.write_text(access_to("http://127.0.0.1:1"))
    assert re.search("ConnectError.*Does kubectl get daskclusters work", refusal(profile()))


def test_a_cluster_that_does_not_know_dask_is_said(api: Kubernetes) -> None:
    api.known = False
    assert re.search("could not find the requested resource.*installing", refusal(profile()))


def test_an_operator_that_does_nothing_is_said_and_nothing_is_left(api: Kubernetes) -> None:
    # Long enough for its object to be made, whatever else the machine does.
    assert "no scheduler within 10 s" in refusal(profile(wait=10))
    (created,) = api.created
    assert created["kind"] == "DaskCluster"
    assert api.deleted == [f"daskclusters/{created['metadata']['name']}"]


def test_a_missing_package_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask_kubernetes.operator", None)
    with (
        pytest.raises(
            ConfigError, match=r"needs dask-kubernetes.*'hessian-pipeline\[kubernetes\]'"
        ),
        connected(profile()),
    ):
        pass


def test_a_run_on_what_the_operator_starts(
    api: Kubernetes, tmp_path: Path, run: Run, inputs: FrozenInputs, expected: dict[str, bytes]
) -> None:
    given = profile(adapt={"maximum": 2 * NUM_BLOCK_ROWS})
    with Standing(tmp_path, 1) as standing:
        _, api.scheduler = standing.address
        with connected(given) as workers:
            run(tmp_path / "h.zarr", inputs, tile=TILE, workers=workers)
    assert objects(tmp_path / "h.zarr") == expected
    cluster, scaler = api.created
    jsonschema.validate(scaler, published_schema("daskautoscaler"))
    # No more workers than there are block rows.
    bounds = {"minimum": 0, "maximum": NUM_BLOCK_ROWS}
    assert scaler["spec"] == {"cluster": cluster["metadata"]["name"], **bounds}
    assert api.deleted == [f"daskclusters/{cluster['metadata']['name']}"]

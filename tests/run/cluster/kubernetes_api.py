"""A Kubernetes API on loopback that keeps objects, and plays the part of the Dask operator."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

__all__ = ["Kubernetes", "kubernetes_api"]

OBJECT = re.compile(
    r"/(?:api/v1|apis/kubernetes\.dask\.org/v1)/namespaces/[^/]+/(\w+)(?:/([^/]+))?"
)
# What a client asks of the API itself.
PODS = {"name": "pods", "singularName": "pod", "kind": "Pod", "namespaced": True, "verbs": ["get"]}
ABOUT: dict[str, dict[str, Any]] = {
    "/version": {"gitVersion": "v1.30.0", "major": "1", "minor": "30"},
    "/api": {"versions": ["v1"]},
    "/api/v1": {"groupVersion": "v1", "resources": [PODS]},
    "/apis": {"groups": []},
}
READY = {
    "phase": "Running",
    "conditions": [{"type": name, "status": "True"} for name in ("Ready", "ContainersReady")],
}


class Kubernetes:
    """The objects by kind and name, and what was created and deleted.

    Attributes:
        scheduler: Port of a scheduler that stands for the pod that an operator would start; None
            where there is no operator.
        known: Whether the cluster knows of the operator's kinds of objects.
    """

    def __init__(self) -> None:
        self.scheduler: int | None = None
        self.known = True
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.created: list[dict[str, Any]] = []
        self.deleted: list[str] = []

    def create(self, kind: str, given: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if not self.known:
            return 404, {"message": "the server could not find the requested resource"}
        self.created.append(given)
        name = given["metadata"]["name"]
        self.objects[kind, name] = given
        if kind == "daskclusters" and self.scheduler is not None:
            self.operate(name, given)
        return 201, given

    def operate(self, name: str, cluster: dict[str, Any]) -> None:
        """What the operator would do."""
        cluster["status"] = {"phase": "Running"}
        pod = {"metadata": {"name": "pod"}, "spec": {}, "status": READY}
        self.objects["pods", "pod"] = pod
        ports = [{"name": port, "port": self.scheduler} for port in ("tcp-comm", "http-dashboard")]
        self.objects["services", f"{name}-scheduler"] = {
            "metadata": {"name": f"{name}-scheduler"},
            "spec": {"type": "LoadBalancer", "ports": ports, "selector": {"part": "scheduler"}},
            "status": {"loadBalancer": {"ingress": [{"ip": "127.0.0.1"}]}},
        }

    def find(self, kind: str, name: str | None) -> tuple[int, dict[str, Any]]:
        if name is None:
            return 200, {"items": [o for (k, _), o in self.objects.items() if k == kind]}
        if (kind, name) not in self.objects:
            return 404, {"message": f"{kind} {name} not found"}
        return 200, self.objects[kind, name]

    def delete(self, kind: str, name: str) -> tuple[int, dict[str, Any]]:
        self.deleted.append(f"{kind}/{name}")
        self.objects.pop((kind, name), None)
        return 200, {}


def _handler(state: Kubernetes) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def answer(self, status: int, data: dict[str, Any]) -> None:
            text = json.dumps(data).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def target(self) -> tuple[str, str | None]:
            url = urlsplit(self.path)
            match = OBJECT.fullmatch(url.path)
            if match is None:
                return "", None
            fields = parse_qs(url.query).get("fieldSelector", [""])[0]
            named = re.search(r"metadata\.name=([^,]+)", fields)
            return match[1], match[2] or (named and named[1])

        def body(self) -> dict[str, Any]:
            read: dict[str, Any] = json.loads(
                self.rfile.read(int(self.headers["Content-Length"] or 0)) or "{}"
            )
            return read

        def do_GET(self) -> None:
            path = urlsplit(self.path).path.rstrip("/")
            if path in ABOUT:
                return self.answer(200, ABOUT[path])
            kind, name = self.target()
            status, data = state.find(kind, name)
            if name is not None and "fieldSelector" in self.path:
                status, data = 200, {"items": [data] if status == 200 else []}
            self.answer(status, data)

        def do_POST(self) -> None:
            self.answer(*state.create(self.target()[0], self.body()))

        def do_PATCH(self) -> None:
            kind, name = self.target()
            self.body()
            self.answer(*state.find(kind, name))

        def do_DELETE(self) -> None:
            kind, name = self.target()
            self.body()
            self.answer(*state.delete(kind, str(name)))

    return Handler


@contextmanager
def kubernetes_api(directory: Path) -> Iterator[tuple[Kubernetes, Path]]:
    """Serve it; the second value is a file of access to it, for KUBECONFIG."""
    state = Kubernetes()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    access = directory / "kubeconfig"
    access.write_text(access_to(f"http://127.0.0.1:{server.server_port}"))
    try:
        yield state, access
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def access_to(server: str) -> str:
    """The file of access to a server, YAML."""
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
    )

"""As much of an API server as `kubectl apply --dry-run=client` asks for: which kinds there are, and nothing stored."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KINDS = {
    "v1": ["PersistentVolumeClaim", "Service", "ConfigMap"],
    "batch/v1": ["Job"],
    "networking.k8s.io/v1": ["NetworkPolicy"],
    "leaderworkerset.x-k8s.io/v1": ["LeaderWorkerSet"],
    "monitoring.coreos.com/v1": ["PodMonitor"],
}


def plural(kind: str) -> str:
    return f"{kind.lower()[:-1]}ies" if kind.endswith("y") else f"{kind.lower()}s"


def resources(version: str) -> dict[str, object]:
    verbs = ["create", "get", "list", "patch"]
    found = [
        {"name": plural(kind), "kind": kind, "namespaced": True, "verbs": verbs} for kind in KINDS[version]
    ]
    return {"kind": "APIResourceList", "groupVersion": version, "resources": found}


def groups() -> dict[str, object]:
    named = [
        {"name": version.partition("/")[0], "versions": [preferred], "preferredVersion": preferred}
        for version in KINDS
        if "/" in version
        for preferred in [{"groupVersion": version, "version": version.partition("/")[2]}]
    ]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": named}


ANSWERS = {
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": groups(),
    "/api/v1": resources("v1"),
    **{f"/apis/{version}": resources(version) for version in KINDS if "/" in version},
}
NOTHING = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        answer = ANSWERS.get(self.path.partition("?")[0])
        body = json.dumps(answer or NOTHING).encode()
        self.send_response(200 if answer else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def api_server() -> Iterator[str]:
    """The address of a server on the loopback interface, for as long as the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

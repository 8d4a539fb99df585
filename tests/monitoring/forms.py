"""Requests that `init --monitoring` takes, for every test of it."""

from typing import Any

FORMS: list[tuple[str, dict[str, Any]]] = [
    ("h100", {}),
    ("h100", {"gateway": True, "node_exporter": True}),
    ("h100", {"gpus_cdi": True, "weights": "/data/ernie", "node_exporter": True}),
    ("mi300x", {"node_exporter": True, "security": "strict"}),
    ("mi300x", {"gateway": True, "gpus_cdi": True, "security": "strict"}),
    ("cpu", {"gateway": True}),
    ("h100", {"gateway": True, "replicas": 2}),
    ("cpu", {"api_key_file": True}),
    ("h100", {"gateway": True, "tls": "files"}),
]

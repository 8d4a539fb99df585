"""Renders the manifests of a request and reads them as Kubernetes does."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from conftest import planned
from test_render import interpolated

from ernie_deploy.catalog import Catalog
from ernie_deploy.render.kubernetes import manifests

CATALOG = Catalog()
Document = dict[str, Any]
FORMS: list[tuple[str, dict[str, object]]] = [
    ("h100", {}),
    ("mi300x", {}),
    ("cpu", {}),
    ("h100", {"model": "vl-28b", "api_key_file": True, "user": "1000:1000"}),
    ("h100", {"weights": "/data/we ird'$PATH", "engine": "0.32.0", "cuda": "12.9", "security": "vendor"}),
    ("mi300x", {"dp": 2, "user": "1000:1000", "security": "vendor", "api_key_file": True}),
]
TWO_NODES: list[tuple[str, dict[str, object]]] = [
    ("h100", {"model": "300b"}),
    ("h100", {"model": "300b", "tp": 16, "pp": 1, "profiles": ("mtp",), "rdma": True}),
    ("mi300x", {"model": "vl-424b", "api_key_file": True, "user": "1000:1000"}),
    ("h100", {"model": "21b", "dp": 16}),
    ("cpu", {"model": "0.3b", "dp": 2, "weights": "/data/ernie"}),
]
SCRIPT = re.compile(r"^( *)- \|\n(?:\1 +.*\n|\n)+", re.MULTILINE)


def written(target: str, **options: object) -> str:
    return manifests(planned(target, **options), CATALOG.defaults)


def read(text: str) -> list[Document]:
    return list(yaml.load_all(text, yaml.CSafeLoader))


def of_kind(documents: list[Document], kind: str) -> Document:
    (found,) = [document for document in documents if document["kind"] == kind]
    return found


def templates(documents: list[Document]) -> dict[str, Document]:
    """The pod templates of the manifests by their component."""
    group = of_kind(documents, "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]
    found = [of_kind(documents, "Job")["spec"]["template"], group["workerTemplate"]]
    found += [group["leaderTemplate"]] if "leaderTemplate" in group else []
    return {template["metadata"]["labels"]["app.kubernetes.io/component"]: template for template in found}


def container(template: Document) -> Document:
    (found,) = template["spec"]["containers"]
    return found  # type: ignore[no-any-return]


def expanded(text: str, **variables: str) -> str:
    """What the kubelet makes of a word: `$(NAME)` where it knows the name, `$$` as `$`."""

    def value(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else variables.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", value, text)


def served(template: Document, **variables: str) -> tuple[list[str], dict[str, str]]:
    """Words and variables of the server as its process sees them."""
    found = container(template)
    environment = {
        one["name"]: expanded(one["value"], **variables)
        if "value" in one
        else one["valueFrom"]["fieldRef"]["fieldPath"]
        for one in found["env"]
    }
    return [expanded(word, **variables) for word in found["args"]], environment


def services(text: str, **env: str) -> dict[str, Document]:
    """The services of a compose file; their scripts, which other tests compare, are shortened for speed."""
    short = SCRIPT.sub(r"\1- script\n", text)
    return yaml.load(interpolated(short, env), yaml.CSafeLoader)["services"]  # type: ignore[no-any-return]


def mounted(words: list[str]) -> list[str]:
    """Words of Compose with each script where pods have it: a ConfigMap has one version of it."""
    return [re.sub(r"^/scripts/[0-9a-f]{12}/", "/scripts/", word) for word in words]


def unpacked(tmp_path: Path, text: str) -> Path:
    """The folder of scripts that the pods have, from the ConfigMap."""
    scripts = tmp_path / "scripts"
    scripts.mkdir(exist_ok=True)
    for name, script in of_kind(read(text), "ConfigMap")["data"].items():
        (scripts / name).write_text(script)
    return scripts


def probe(tmp_path: Path, script: Path, *words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run a probe as the kubelet does."""
    return subprocess.run(
        [sys.executable, "-IS", script, *words],
        capture_output=True, text=True, timeout=300, env={**os.environ, "TMPDIR": str(tmp_path), **variables},
    )  # fmt: skip

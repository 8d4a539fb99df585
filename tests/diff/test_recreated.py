"""Which services are made anew is what Docker Compose's own hashes say, edit by edit."""

import subprocess
from pathlib import Path

import pytest
from conftest import rendered

from ernie_deploy.diff import differences

BASE = rendered("h100", max_model_len=32768)

EDITS = {
    "nothing": ("", ""),
    "a remark": ("  serve:\n", "  # mine\n  serve:\n"),
    "a flag": ("--max-model-len=32768", "--max-model-len=16384"),
    "a flag in other words": ("--max-model-len=32768", '--max-model-len, "32768"'),
    "the order of flags": ("--shutdown-timeout=60, --disable-fastapi-docs", "--disable-fastapi-docs, --shutdown-timeout=60"),
    "an image": ('image: "vllm/vllm-openai-cpu:v0.32.0"', "image: mine:1"),
    "a variable": ('VLLM_USE_RUST_BENCH: "0"', 'VLLM_USE_RUST_BENCH: "1"'),
    "a shared variable": ('HF_HUB_OFFLINE: "1"', 'HF_HUB_OFFLINE: "0"'),
    "a port": ("${PORT:-8000}", "${PORT:-8001}"),
    "a port in other words": ('["${BIND_ADDR:-127.0.0.1}:${PORT:-8000}:8000"]',
                              "[{host_ip: 127.0.0.1, published: '8000', target: 8000, mode: ingress}]"),
    "a size in other words": ("${SHM_SIZE:-16g}", "16384m"),
    "a duration in other words": ("stop_grace_period: 90s", "stop_grace_period: 1m30s"),
    "a duration": ("stop_grace_period: 90s", "stop_grace_period: 30s"),
    "a mount": ("state:/stack,", "state:/stack:ro,"),
    "a limit of all": ("pids_limit: 4096", "pids_limit: 4097"),
    "a capability of all": ("cap_drop: [ALL]", "cap_drop: [NET_RAW]"),
    "a capability of one": ("cap_add: [CHOWN, DAC_OVERRIDE, FOWNER]", "cap_add: [CHOWN, FOWNER]"),
    "a health check": ("interval: 10s", "interval: 11s"),
    "a dependency": ("    depends_on: {fetch: {condition: service_completed_successfully}}\n", ""),
    "a profile": ("profiles: [bench]", "profiles: [bench, measure]"),
    "a label": ("    stop_grace_period: 90s\n", "    stop_grace_period: 90s\n    labels: {a: b}\n"),
    "replicas": ("    deploy:\n", "    deploy:\n      replicas: 1\n"),
    "a GPU": ('device_ids: ["0"]', 'device_ids: ["1"]'),
    "a script": ("[python3, -IS, /scripts", "[python3, -I, /scripts"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for both files: Compose's hashes hold absolute paths."""
    return tmp_path_factory.mktemp("hashes")


def hashes(compose: str, text: str, folder: Path) -> dict[str, str]:
    """Service -> the hash by which Compose knows whether its container is the one it wants."""
    words = [compose, "-f", "-", "--profile", "*", "config", "--hash", "*"]
    done = subprocess.run(words, input=text, capture_output=True, text=True, cwd=folder, check=True)
    return dict(line.split() for line in done.stdout.splitlines())


@pytest.fixture(scope="module")
def of_base(compose: str, folder: Path) -> dict[str, str]:
    """The hashes of the unedited file."""
    return hashes(compose, BASE, folder)


@pytest.mark.parametrize("name", EDITS)
def test_made_anew_is_what_has_another_hash(
    name: str, compose: str, folder: Path, of_base: dict[str, str]
) -> None:
    before, after = EDITS[name]
    assert before in BASE
    text = BASE.replace(before, after)
    edited = hashes(compose, text, folder)
    wanted = {service for service, value in edited.items() if value != of_base[service]}
    assert set(differences(BASE, text).recreated) == wanted


def test_a_volume_of_another_name_is_mounted_anew_though_no_hash_holds_it() -> None:
    text = BASE.replace("{name: ernie-hf-cache}", "{name: mine}")
    assert differences(BASE, text).recreated == ("serve", "bench", "fetch")


def test_in_another_project_everything_is_made_anew() -> None:
    assert differences(BASE, BASE.replace('"ernie-21b"', '"mine"')).recreated == ("serve", "bench", "fetch")

"""The rehearsal's tiny checkpoints and the hub that serves them, without Docker."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from container_scripts import loaded

from ernie_deploy.catalog.schema import Experts, Figures, Model, Vision
from ernie_deploy.plan.memory import parameters

SCRIPTS = ROOT / "docker" / "rehearsal"
MODEL, PULL_REQUEST = "baidu/ERNIE-4.5-21B-A3B-PT", "refs/pr/17"
TOKEN = "hf_" + "secret0" * 5
# SHA-256 over names and contents of all files: whoever changes a checkpoint says so here.
DIGESTS = {
    "dense": "71a47a54d29ed719fced05271736aa0c7adb9ccd594ddde2cd5f79f8ad5f65ac",
    "moe": "082f6c99875ff3968142139027b7b8c9ef471d9a60f0abbcc74250588eecbbc6",
    "moe-untied": "20eb3400d2e2d77a7894323cc07c44dfe522ed3c22eba34072ea0b7ef9c8f24b",
    "vl": "0eeb9cb2a251c3afb020ffae1cedca7047e6f8e5268ce1a48afc168de4673330",
    "vl-untied": "d8f454aa3eb84e791c710b26d96426c13d4f441e391361351be0504989656ffc",
}


checkpoints, hub = loaded("checkpoints", SCRIPTS), loaded("hub", SCRIPTS)
# The modules that the first of them loaded.
tiny, weights = sys.modules["tiny_model"], sys.modules["tiny_weights"]
KINDS = tuple(checkpoints.KINDS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoints")
    checkpoints.main([str(path)])
    return path


def digest(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        total.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def header(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]) | {"length": len(content) - 8 - length}


def catalog_model(kind: str) -> Model:
    """The tiny figures as the catalog would hold them."""
    tiny = checkpoints.KINDS[kind]
    names = ("layers", "hidden_size", "heads", "kv_heads", "head_dim", "intermediate_size", "tied_embeddings")
    figures = {name: getattr(tiny, name) for name in names}
    seen = [tensor.parameters for tensor in weights.tensors(tiny) if is_vision(tensor.name)]
    return Model(
        id=kind, title=kind, hf_id=kind, revision="main", architecture=tiny.architecture, min_vllm="0.32.0",
        context_tokens=checkpoints.CONTEXT_TOKENS, source="test", mtp=tiny.mtp,
        figures=Figures(source="test", vocab_size=len(checkpoints.WORDS), **figures),
        experts=Experts(
            source="test", count=tiny.experts, per_token=tiny.per_token, intermediate_size=tiny.expert_size,
            shared=tiny.shared, first_layer=tiny.first_layer,
            vision_intermediate_size=tiny.vision_expert_size,
        ) if tiny.experts else None,
        vision=Vision(source="test", parameters=sum(seen)) if tiny.vision else None,
    )  # fmt: skip


def is_vision(name: str) -> bool:
    return "vision_model" in name or "resampler" in name


@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_are_those_of_every_machine(kind: str, folder: Path) -> None:
    assert digest(folder / kind) == DIGESTS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_the_memory_plan_counts_the_same_parameters(kind: str) -> None:
    tensors = list(weights.tensors(checkpoints.KINDS[kind]))
    count = parameters(catalog_model(kind))
    assert sum(tensor.parameters for tensor in tensors if "mtp" not in tensor.name) == count.total
    drafting = [tensor for tensor in tensors if "mtp" in tensor.name]
    # The plan leaves the drafting layer's four norms out.
    norms = sum(tensor.parameters for tensor in drafting if len(tensor.shape) == 1)
    assert sum(tensor.parameters for tensor in drafting) - norms == count.mtp
    assert norms == (4 * checkpoints.KINDS[kind].hidden_size if count.mtp else 0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_index_finds_every_tensor_once_in_two_shards(kind: str, folder: Path) -> None:
    index = json.loads((folder / kind / "model.safetensors.index.json").read_text())
    shards = sorted((folder / kind).glob("*.safetensors"))
    assert len(shards) == 2
    held = {}
    for path in shards:
        content = header(path)
        length, _ = content.pop("length"), content.pop("__metadata__")
        assert max(entry["data_offsets"][1] for entry in content.values()) == length
        held |= dict.fromkeys(content, path.name)
    assert held == index["weight_map"]
    assert len(held) == len(list(weights.tensors(checkpoints.KINDS[kind])))
    assert sum(path.stat().st_size for path in shards) < 8e6


def test_weights_are_finite_and_mute_words_have_no_embedding(folder: Path) -> None:
    tensor = next(iter(weights.tensors(checkpoints.KINDS["moe"])))
    content = weights.content(tensor)
    values = struct.unpack(
        f"<{tensor.parameters}f", b"".join(b"\0\0" + content[i : i + 2] for i in range(0, len(content), 2))
    )
    silent = len(tiny.SILENT) * 128
    assert not any(values[:silent])
    assert max(map(abs, values)) < 1
    spread = (sum(value**2 for value in values[silent:]) / (len(values) - silent)) ** 0.5
    assert spread == pytest.approx(tensor.spread, rel=0.02)


def test_any_series_of_words_is_a_text_that_gives_the_series_again(folder: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "moe" / "tokenizer.json"))
    first = len(checkpoints.SPECIAL)
    for start in range(first, len(checkpoints.WORDS), 7):
        words = [first + (start + 13 * number) % (len(checkpoints.WORDS) - first) for number in range(500)]
        assert tokenizer.encode(tokenizer.decode(words)).ids == words


def test_an_unknown_kind_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        checkpoints.main([str(tmp_path), "moo"])
    assert "no such kind: moo; there are dense, moe," in capsys.readouterr().err


# --- the hub ---


@pytest.fixture
def served(folder: Path, tmp_path: Path) -> Iterator[str]:
    """A hub that asks for a token, by the map of a user."""
    map_file = tmp_path / "map.json"
    map_file.write_text(json.dumps({MODEL: {"main": f"{folder}/moe", PULL_REQUEST: f"{folder}/vl"}}))
    server = hub.Hub(("127.0.0.1", 0), hub.read_models(map_file), TOKEN)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


SNAPSHOT = "import sys, huggingface_hub as h; print(h.snapshot_download(sys.argv[1], revision=sys.argv[2]))"


def snapshot(url: str, cache: Path, revision: str, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
    """huggingface_hub in a process of its own: it reads its environment once, on import."""
    settings = {"HF_ENDPOINT": url, "HF_HOME": str(cache), "HF_TOKEN": token, "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", SNAPSHOT, MODEL, revision]
    return subprocess.run(command, env=settings, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(("revision", "kind"), [("main", "moe"), (PULL_REQUEST, "vl")])
def test_huggingface_hub_downloads_a_whole_snapshot(
    revision: str, kind: str, served: str, folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("huggingface_hub")
    done = snapshot(served, tmp_path, revision)
    assert done.returncode == 0, done.stderr
    arrived = Path(done.stdout.strip())
    assert digest(arrived) == digest(folder / kind)
    # The names of the blobs are what `fetch` verifies.
    for path in arrived.glob("*.safetensors"):
        assert path.readlink().name == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("revision", "token", "error"),
    [("nope", TOKEN, "RevisionNotFoundError"), ("main", "hf_wrong", "GatedRepoError")],
)
def test_what_it_does_not_serve_is_an_error_that_huggingface_hub_knows(
    revision: str, token: str, error: str, served: str, tmp_path: Path
) -> None:
    pytest.importorskip("huggingface_hub")
    done = snapshot(served, tmp_path, revision, token)
    assert done.returncode == 1
    assert error in done.stderr


def test_a_range_continues_a_file(served: str, folder: Path) -> None:
    import urllib.request

    name = "model-00002-of-00002.safetensors"
    request = urllib.request.Request(f"{served}/{MODEL}/resolve/main/{name}")
    request.add_header("Authorization", f"Bearer {TOKEN}")
    request.add_header("Range", "bytes=1000-")
    with urllib.request.urlopen(request, timeout=10) as answer:
        content = answer.read()
        assert (answer.status, answer.headers["ETag"]) == (206, answer.headers["X-Linked-Etag"])
    assert content == (folder / "moe" / name).read_bytes()[1000:]

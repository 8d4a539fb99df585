"""A lock is stable text of checked values, and what is rendered with it is pinned and says so in its first line."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import kit, planned, rendered
from hypothesis import given
from hypothesis import strategies as st
from locks import COMMIT, lock_file, lock_of

from ernie_deploy.catalog import Catalog
from ernie_deploy.check import judge_project
from ernie_deploy.check.project import of_file
from ernie_deploy.commands.header import request_of_header
from ernie_deploy.errors import UsageError
from ernie_deploy.plan.lock import Lock, parsed, read_lock, text_of
from ernie_deploy.plan.request import Request
from ernie_deploy.plan.resolve import resolve
from ernie_deploy.render.kubernetes import manifests

REQUEST = Request(target="h100")
LOCK = lock_of(REQUEST)
TEXT = text_of(LOCK)
PLAN = planned("h100")
ENGINE = PLAN.engine
PINNED = re.compile(r'image: "\S+:v[\d.]+(?:-\w+)?@sha256:[0-9a-f]{64}"')


def test_a_lock_is_read_back_and_its_bytes_are_stable() -> None:
    turned = Lock(
        kit=LOCK.kit, engine=LOCK.engine, images=dict(reversed(LOCK.images.items())), models=LOCK.models
    )
    assert parsed(TEXT) == LOCK
    assert text_of(turned) == TEXT


@pytest.mark.parametrize(
    ("there", "instead", "said"),
    [
        ("sha256:1", "sha256:X", "is no digest"),
        ("sha256:" + "1" * 64, "sha256:" + "1" * 63, "is no digest"),
        ("sha256:" + "1" * 64, "sha512:" + "1" * 64, "is no digest"),
        ("sha256:" + "1" * 64, "sha256:" + "1" * 64 + r"\"\n    privileged: true", "is no digest"),
        (PLAN.image, r"x\"\n    privileged: true #", "is no image"),
        (PLAN.image, f"{PLAN.image}@sha256:" + "0" * 64, "is no image"),
        (PLAN.image, "${IMAGE}", "is no image"),
        ('main" = "c0', 'main" = "C0', "is no commit"),
        (f'commit = "{COMMIT}"', 'commit = "main"', "is no commit"),
        ('"main"', '"../../x"', "is no revision"),
        ("baidu/ERNIE", "../ERNIE", "is no model"),
        ("git:aa", "md5:aa", "is no file's digest"),
        ("config.json", "../config.json", "is no file's name"),
        ("config.json", r"a\u0000b", "is no file's name"),
        ("size = 700", "size = -1", "is no size"),
        ("size = 700", 'size = "700"', "Expected `int`"),
        (f'engine = "{ENGINE}"', r'engine = "1.2\nx"', "is no version"),
        ("format = 1", "format = 2", "Invalid enum value 2"),
        ("[images]", "[pictures]", "unknown field `pictures`"),
        ("[images]", "images", "is no lock"),
        ("format = 1", "format = " + "[" * 100_000, "is no lock"),
    ],
)  # fmt: skip
def test_a_lock_that_was_tampered_with_is_refused(
    there: str, instead: str, said: str, tmp_path: Path
) -> None:
    assert there in TEXT
    path = tmp_path / "ernie.lock"
    path.write_text(TEXT.replace(there, instead))
    with pytest.raises(UsageError) as raised:
        read_lock(path)
    assert said in raised.value.what
    assert "lock --upgrade" in raised.value.next_step
    assert raised.value.what.isprintable()


def test_a_lock_that_is_missing_or_huge_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_lock(tmp_path / "ernie.lock")
    (tmp_path / "ernie.lock").write_bytes(b"#" * (5 << 20))
    with pytest.raises(UsageError, match="it is larger than 4 MiB"):
        read_lock(tmp_path / "ernie.lock")


@given(st.text(max_size=40))
def test_whatever_a_lock_says_stays_out_of_the_rendering_or_is_checked(text: str) -> None:
    try:
        lock = parsed(TEXT.replace("1" * 64, text).replace(COMMIT, text))
    except ValueError:
        return
    assert lock == LOCK or set(text) <= set("0123456789abcdef")


def images(text: str) -> list[str]:
    return re.findall(r"^ +(?:BASE|image): .*", text, re.MULTILINE)


@pytest.mark.parametrize(
    "options",
    [
        {"target": "h100"},
        {"target": "mi300x", "model": "vl-28b"},
        {"target": "cpu"},
        {"target": "h100", "cuda": "12.9"},
        {"target": "h100", "model": "300b", "nodes": 2},
        {"target": "h100", "model": "vl-424b", "nodes": 2, "profiles": ("fp8",)},
    ],
)
def test_every_image_has_its_digest_and_every_revision_is_a_commit(options: dict[str, object]) -> None:
    request = Request(**options)  # type: ignore[arg-type]
    text = rendered(**options, lock=lock_file(request))  # type: ignore[arg-type]
    assert len(images(text)) >= 3
    assert all(PINNED.search(line) for line in images(text)), images(text)
    assert set(re.findall(r"--(?:\w+-)?revision=([^\s,\"]+)", text)) == {COMMIT}
    assert f"@{COMMIT}.json" in text
    plan = planned(**options, lock=lock_file(request))  # type: ignore[arg-type]
    code = ["--code-revision"] * plan.model.trust_remote_code
    assert all(f"{name}={COMMIT}" in text for name in ["--revision", "--tokenizer-revision", *code])
    assert not any("which its owner can change" in warning for warning in plan.warnings)


def test_manifests_are_pinned_too() -> None:
    catalog = Catalog()
    text = manifests(resolve(catalog, Request(target="h100", lock=lock_file(REQUEST))), catalog.defaults)
    assert text.count("image: ") == len(re.findall(r"image: \S*vllm-openai:v[\d.]+@sha256:\w{64}", text)) >= 3
    assert f"--revision={COMMIT}" in text


def test_a_model_with_remote_code_warns_until_it_is_locked() -> None:
    said = " ".join(planned("h100", model="vl-28b").warnings)
    assert "refs/pr/17, which its owner can change" in said
    assert "ernie-deploy lock" in said


def test_revisions_of_the_users_are_locked_by_their_own_names() -> None:
    request = Request(target="h100", pairs=("revision=v1", "tokenizer-revision=main"))
    lock = lock_of(request)
    held = lock.models["baidu/ERNIE-4.5-21B-A3B-PT"]
    held.revisions["main"] = "d0" * 20
    plan = planned("h100", pairs=request.pairs, lock=lock_file(request).__class__("ernie.lock", lock))
    assert plan.setting("revision").value == COMMIT  # type: ignore[union-attr]
    assert plan.setting("tokenizer-revision").value == "d0" * 20  # type: ignore[union-attr]


def test_local_weights_need_no_model_in_the_lock() -> None:
    file = lock_file(REQUEST)
    file.lock.models.clear()
    assert planned("h100", weights="/data/w", lock=file).setting("revision") is None
    with pytest.raises(UsageError, match=r"does not hold baidu/ERNIE-4\.5-21B-A3B-PT at main"):
        planned("h100", lock=file)


def test_a_lock_of_another_stack_is_refused() -> None:
    with pytest.raises(UsageError, match="does not hold the image vllm/vllm-openai-rocm") as raised:
        planned("mi300x", lock=lock_file(REQUEST))
    assert f"it holds {PLAN.bench_image}, {PLAN.image}" in raised.value.cause
    assert "--lock none" in raised.value.next_step


@pytest.mark.parametrize("command", ["render", "init"])
def test_the_lock_beside_the_output_is_taken_and_the_first_line_renders_the_same(
    command: str, tmp_path: Path
) -> None:
    folder = tmp_path / "stack"
    folder.mkdir()
    (folder / "ernie.lock").write_text(TEXT)
    out = folder / "compose.yml"
    words: dict[str, Callable[[str], list[str]]] = {
        "render": lambda more: ["render", "h100", "-o", str(out), *more.split()],
        "init": lambda more: ["init", str(folder), "h100", "--force", *more.split()],
    }
    done = kit(*words[command](""))
    assert done.returncode == 0, done.stderr
    text = out.read_text()
    assert text.startswith("# ernie-deploy render h100 --lock ernie.lock\n")
    request = request_of_header(text.splitlines()[0], folder)
    assert request == Request(target="h100", lock=lock_file(REQUEST))
    assert kit("render", "h100", "--lock", "ernie.lock", cwd=folder).stdout == rendered(
        "h100", lock=lock_file(REQUEST)
    )
    assert kit(*words[command]("--lock none")).returncode == 0
    assert out.read_text().startswith("# ernie-deploy render h100\n")


def test_a_lock_elsewhere_is_named_from_the_files_own_folder(tmp_path: Path) -> None:
    (tmp_path / "my.lock").write_text(TEXT)
    assert kit("render", "h100", "-o", "a/b/compose.yml", "--lock", "my.lock", cwd=tmp_path).returncode == 0
    text = (tmp_path / "a/b/compose.yml").read_text()
    assert text.startswith("# ernie-deploy render h100 --lock ../../my.lock\n")
    done = kit("render", "h100", "-o", "a/b/compose.yml", "--lock", "my.lock", cwd=tmp_path)
    assert (done.returncode, (tmp_path / "a/b/compose.yml").read_text()) == (0, text)


def test_a_default_stack_without_a_lock_has_nothing_of_it() -> None:
    text = rendered("h100")
    assert "sha256:" not in text
    assert "IMAGE_REGISTRY" not in text
    assert "ENGINE_IMAGE" not in text


# --- --registry and --image ---


def test_a_registry_stands_before_every_image_and_the_host_may_move_it() -> None:
    text = rendered("h100", registry="mirror.example:5000/dockerhub")
    assert {line.strip() for line in images(text)} == {
        f'image: "${{IMAGE_REGISTRY:-mirror.example:5000/dockerhub}}/{PLAN.image}"',
        f'image: "${{IMAGE_REGISTRY:-mirror.example:5000/dockerhub}}/{PLAN.bench_image}"',
    }
    assert text.startswith("# ernie-deploy render h100 --registry mirror.example:5000/dockerhub\n")
    yaml.safe_load(text)


def test_an_image_of_ones_own_serves_and_fetches_and_the_client_stays() -> None:
    text = rendered("h100", image="registry.example/ai/vllm-openai:v0.32.0-mine", registry="mirror.example")
    assert sorted(line.strip() for line in images(text)) == [
        'image: "${ENGINE_IMAGE:-registry.example/ai/vllm-openai:v0.32.0-mine}"',
        'image: "${ENGINE_IMAGE:-registry.example/ai/vllm-openai:v0.32.0-mine}"',
        f'image: "${{IMAGE_REGISTRY:-mirror.example}}/{PLAN.bench_image}"',
    ]


def test_digest_and_registry_go_together() -> None:
    options = {"registry": "127.0.0.1:5000/hub"}
    request = Request(target="h100", **options)  # type: ignore[arg-type]
    text = rendered("h100", **options, lock=lock_file(request))
    assert all("${IMAGE_REGISTRY:-127.0.0.1:5000/hub}/vllm/" in line for line in images(text))
    assert all(PINNED.search(line.replace("${IMAGE_REGISTRY:-", "")) for line in images(text))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"registry": "mirror"}, "--registry 'mirror' is no registry"),
        ({"registry": "mirror.example/UPPER"}, "is no registry"),
        ({"registry": "https://mirror.example"}, "is no registry"),
        ({"registry": "mirror.example/"}, "is no registry"),
        ({"image": "me/vllm:1@sha256:0"}, "is no image reference"),
        ({"image": "me/vllm:1 # x"}, "is no image reference"),
        ({"image": "${X}"}, "is no image reference"),
        ({"image": "me/vllm:1", "cuda": "12.9"}, "--image and --cuda exclude each other"),
    ],
)
def test_a_registry_or_image_that_docker_would_read_otherwise_is_refused(
    options: dict[str, str], said: str
) -> None:
    with pytest.raises(UsageError) as raised:
        planned("h100", **options)
    assert said in raised.value.what


def test_an_image_with_a_digest_of_its_own_needs_no_lock() -> None:
    image = "me/vllm:1@sha256:" + "f" * 64
    request = Request(target="h100")
    assert planned("h100", image=image, lock=lock_file(request)).image == image


# --- what `check` knows of them ---


@pytest.mark.parametrize(
    ("options", "env", "engine"),
    [
        ({"registry": "mirror.example:5000/dockerhub"}, "", ENGINE),
        ({"registry": "mirror.example"}, "IMAGE_REGISTRY=127.0.0.1:5000/x\n", ENGINE),
        ({"image": f"registry.example/ai/vllm-openai:v{ENGINE}-mine"}, "", ENGINE),
        ({"image": "registry.example/ai/engine:7"}, "", ""),
        ({"image": "registry.example/ai/engine:7"}, "ENGINE_IMAGE=x.example/vllm-openai:v0.28.0\n", "0.28.0"),
    ],
)
def test_check_knows_which_vllm_it_is_or_says_that_it_does_not(
    options: dict[str, str], env: str, engine: str, tmp_path: Path
) -> None:
    path = tmp_path / "compose.yml"
    path.write_text(rendered("h100", **options))
    (tmp_path / ".env").write_text(env)
    verdict = judge_project(of_file(str(path)), Catalog())
    known = verdict.stack.services["serve"].engine
    assert ".".join(map(str, known or ())) == engine
    unknown = [one.sentence for one in verdict.findings if one.id == "ED109"]
    assert [sentence for sentence in unknown if "its vLLM version is unknown" in sentence] == unknown
    assert bool(unknown) is not bool(engine)


def test_check_warns_of_remote_code_until_it_is_locked(tmp_path: Path) -> None:
    path = tmp_path / "compose.yml"
    found = {}
    for lock in (None, lock_file(Request(target="h100", model="vl-28b"))):
        path.write_text(rendered("h100", model="vl-28b", lock=lock))
        if lock:
            (tmp_path / "ernie.lock").write_text(text_of(lock.lock))
        found[bool(lock)] = {one.id for one in judge_project(of_file(str(path)), Catalog()).findings}
    assert "ED119" in found[False]
    assert not found[True] & {"ED119", "ED163"}

"""`ernie-deploy diff`: what its words name, what it prints, line by line, and how it exits."""

import io
import json
import os
import shlex
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import CATALOG, ROOT, planned, rendered

from ernie_deploy.cli import main
from ernie_deploy.render.checksum import digest, is_original, stated, with_checksum
from ernie_deploy.render.kubernetes import manifests

Diff = Callable[..., tuple[int, str, str]]

EDITED = """\
--- my
+++ today's rendering: h100

## yours: edited since the file was rendered

flags
+ serve --max-model-len: 32768

memory per GPU
~ longest context: 131,072 tokens -> 32,768 tokens

! docker compose up recreates: serve
"""

WITH_MTP = """\
--- h100
+++ h100 --profile mtp

flags
+ serve --speculative-config: {"method":"mtp","num_speculative_tokens":1}
+ serve --max-num-batched-tokens: 8192

memory per GPU
~ weights: 40.7 GiB -> 40.9 GiB
~ KV cache (estimated): 28.6 GiB -> 28.3 GiB
~ KV cache of a replica (estimated): 534,689 tokens -> 512,103 tokens

! docker compose up recreates: serve
"""

OPENED = """\
--- h100
+++ h100 --bind 0.0.0.0 --name mine --set revision=abc

model
~ fetch --revision: main -> abc
    fetch downloads 43.9 GB, unless this host has it already
+ serve --revision: abc
+ serve --tokenizer-revision: abc
+ bench --tokenizer: /cache/hf/ernie/ERNIE-4.5-21B-A3B-PT

ports and networks
~ serve port 8000: 127.0.0.1:8000 -> 0.0.0.0:8000
    other hosts reach it

other
~ name: ernie-21b -> mine
    containers of the old one run on until: docker compose -p ernie-21b down

! docker compose up recreates: serve, fetch; at its next run: bench
"""


@pytest.fixture
def diff(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Diff:
    """The command in a folder of its own: exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(["diff", *words])
        return int(str(end.value.code)), *capsys.readouterr()

    return run


@pytest.fixture
def edited(diff: Diff) -> Path:
    """A folder of `init`, whose user gave a flag."""
    with pytest.raises(SystemExit):
        main(["init", "my", "h100"])
    path = Path("my/compose.yml")
    path.write_text(path.read_text().replace("fastapi-docs]", "fastapi-docs, --max-model-len=32768]"))
    return path


def test_an_edit_is_the_users(diff: Diff, edited: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert diff("my") == (1, EDITED, "")
    assert diff("my/compose.yml") == (1, EDITED.replace("--- my", "--- my/compose.yml"), "")


def test_without_an_operand_it_is_this_folder(
    diff: Diff, edited: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(edited.parent)
    capsys.readouterr()
    assert diff() == (1, EDITED.replace("--- my", "--- compose.yml"), "")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [("h100", "h100 --profile mtp", WITH_MTP),
     ("h100", "h100 --bind 0.0.0.0 --name mine --set revision=abc", OPENED)],
)  # fmt: skip
def test_two_plans(diff: Diff, old: str, new: str, expected: str) -> None:
    assert diff(old, new) == (1, expected, "")


@pytest.mark.parametrize("new", ["h100 --model 21b", "ernie-deploy render h100", "plan h100"])
def test_the_same_plan_in_other_words(diff: Diff, new: str) -> None:
    assert diff("h100", new) == (0, f"h100 and {new} mean the same.\n", "")


def test_a_file_as_it_was_rendered_is_equal(diff: Diff) -> None:
    Path("compose.yml").write_text(rendered("h100"))
    assert diff("compose.yml") == (0, "compose.yml and today's rendering: h100 mean the same.\n", "")
    assert diff("compose.yml", "h100") == (0, "compose.yml and h100 mean the same.\n", "")


def test_other_spellings_are_equal_and_still_make_containers_anew(diff: Diff) -> None:
    text = rendered("h100", max_model_len=32768)
    Path("compose.yml").write_text(text)
    Path("spelt.yml").write_text(text.replace("--max-model-len=32768", '--max-model-len, "32K"'))
    code, out, _ = diff("compose.yml", "spelt.yml")
    assert code == 0
    assert out.splitlines()[2:] == [
        "",
        "Both mean the same, in other words.",
        "",
        "! docker compose up recreates: serve",
    ]


def test_an_unedited_file_of_another_kit_differs_by_the_kits_changes(diff: Diff) -> None:
    """What an older kit wrote, with the checksum of its own lines."""
    from ernie_deploy.render.checksum import MARK, with_checksum

    older = rendered("h100").rpartition(MARK)[0].replace("pids_limit: 4096", "pids_limit: 2048")
    Path("compose.yml").write_text(with_checksum(older))
    code, out, _ = diff("compose.yml")
    assert code == 1
    assert out.splitlines()[2:8] == [
        "",
        "## the kit's: what it writes otherwise today",
        "",
        "security",
        "~ serve pids_limit: 2048 -> 4096",
        "~ bench pids_limit: 2048 -> 4096",
    ]


def test_an_edited_file_of_another_kit_is_told_as_what_it_is(diff: Diff) -> None:
    from ernie_deploy.render.checksum import MARK, with_checksum

    older = with_checksum(
        rendered("h100").rpartition(MARK)[0].replace("pids_limit: 4096", "pids_limit: 2048")
    )
    Path("compose.yml").write_text(older.replace("init: true", "init: false"))
    code, out, _ = diff("compose.yml")
    assert code == 1
    assert "yours" not in out
    assert out.splitlines()[-1].startswith(
        "note: the file was edited after another version of the kit wrote it"
    )


def test_with_another_engine_edits_stay_the_users_and_the_rest_is_the_kits(diff: Diff, edited: Path) -> None:
    code, out, _ = diff("my", "--engine", "0.33.0")
    yours, _, kits = out.partition("## the kit's")
    assert code == 1
    assert "+ serve --max-model-len: 32768" in yours
    assert "image" not in yours
    assert "max-model-len" not in kits
    assert "~ vLLM: 0.32.0 -> 0.33.0" in kits
    assert "~ serve image: vllm/vllm-openai:v0.32.0 -> vllm/vllm-openai:v0.33.0" in kits


def test_values_of_env_count_for_both_sides_of_a_file_and_its_rendering(diff: Diff) -> None:
    Path("compose.yml").write_text(rendered("h100"))
    Path(".env").write_text("PORT=9000\n")
    assert diff("compose.yml")[0] == 0
    assert diff("compose.yml", "h100")[0] == 0


def test_two_folders_differ_by_their_env(diff: Diff) -> None:
    for name, port in (("a", "9000"), ("b", "9001")):
        Path(name).mkdir()
        Path(name, "compose.yml").write_text(rendered("h100"))
        Path(name, ".env").write_text(f"PORT={port}\n")
    assert diff("a", "b")[1].splitlines()[3:5] == [
        "ports and networks",
        "~ serve port 8000: 127.0.0.1:9000 -> 127.0.0.1:9001",
    ]


def test_an_override_beside_the_file_counts(diff: Diff) -> None:
    Path("compose.yml").write_text(rendered("h100"))
    Path("compose.override.yml").write_text("services: {serve: {environment: {MY_OWN: '1'}}}\n")
    code, out, _ = diff("compose.yml")
    assert code == 1
    assert "+ serve MY_OWN: 1" in out.splitlines()


def test_standard_input(diff: Diff, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(rendered("h100").encode())))
    assert diff("-", "h100") == (0, "standard input and h100 mean the same.\n", "")


def test_json_holds_every_change_with_its_parts(diff: Diff) -> None:
    code, out, _ = diff("h100", "h100 --profile mtp", "--json")
    data = json.loads(out)
    assert code == 1
    assert not data["equal"]
    assert data["recreated"] == ["serve"]
    assert data["changes"][1] == {
        "section": "flags", "service": "serve", "name": "--max-num-batched-tokens", "kind": "added",
        "old": "", "new": "8192", "new_name": "", "why": "", "by": "",
    }  # fmt: skip


REFUSED = [
    (("nope",), 3, "There is no file, no folder, no target and no engine 'nope'."),
    (("h100",), 2, "diff needs something to compare h100 with."),
    (("h100", "a100", "--engine", "0.33.0"), 2, "--engine goes with one operand"),
    (("h100", "h100 --no-such-option"), 2, "No such option"),
    (("h100", "h100 --model nope"), 3, "There is no model 'nope'."),
    (("h100", "0.99.0"), 3, "no engine '0.99.0'"),
    (("empty",), 2, "There is no compose file in empty."),
    (("text.yml", "h100"), 2, "this is not a compose file"),
    (("plain.yml",), 2, "does not begin with a line"),
    (("broken.yml", "h100"), 2, "broken.yml:1: the file is not YAML"),
    (("binary.yml", "h100"), 2, "the file is not UTF-8 text"),
    (("huge.yml", "h100"), 2, "is larger than 512 KiB"),
    (("pipe", "h100"), 2, "it is a pipe and no file"),
    (("x" * 5000,), 3, "There is no file"),
    (("h100", "h100 'open"), 3, "There is no file"),
]


@pytest.mark.parametrize(("words", "code", "sentence"), REFUSED)
def test_what_cannot_be_compared_is_one_sentence(
    diff: Diff, words: tuple[str, ...], code: int, sentence: str
) -> None:
    Path("empty").mkdir()
    Path("text.yml").write_text("just words\n")
    Path("plain.yml").write_text("services: {a: {image: busybox}}\n")
    Path("broken.yml").write_text("services: [")
    Path("binary.yml").write_bytes(b"\xff\xfe\x00")
    Path("huge.yml").write_bytes(b"#" * (600 << 10))
    os.mkfifo("pipe")
    found, out, err = diff(*words)
    assert (found, out) == (code, "")
    assert sentence in err
    assert "Traceback" not in err


def test_secrets_are_compared_and_never_shown(diff: Diff) -> None:
    for name, key in (("a.yml", "sk-first-0123456789"), ("b.yml", "sk-other-0123456789")):
        Path(name).write_text(
            "services:\n  serve:\n    image: vllm/vllm-openai:v0.32.0\n"
            f"    command: [baidu/ERNIE-4.5-21B-A3B-PT, --api-key={key}]\n"
            f"    environment: {{MY_TOKEN: '{key}', PROXY: 'http://me:{key}@proxy'}}\n"
        )
    code, out, _ = diff("a.yml", "b.yml")
    assert code == 1
    assert "0123456789" not in out
    assert "~ serve --api-key: *** -> *** (another)" in out.splitlines()
    assert "~ serve MY_TOKEN: *** -> *** (another)" in out.splitlines()


def test_what_a_file_says_cannot_steer_the_terminal(diff: Diff) -> None:
    Path("a.yml").write_text('services: {"a\\e[2J": {image: "x\\e[31m"}}\n')
    Path("b.yml").write_text('services: {"a\\e[2J": {image: "y"}}\n')
    code, out, _ = diff("a.yml", "b.yml")
    assert code == 1
    assert "\x1b" not in out


def test_a_service_of_another_name_is_the_same_server(diff: Diff) -> None:
    Path("a.yml").write_text("services: {vllm: {image: vllm/vllm-openai:v0.32.0, command: [m, --seed=1]}}\n")
    Path("b.yml").write_text("services: {llm: {image: vllm/vllm-openai:v0.32.0, command: [m, --seed=2]}}\n")
    assert diff("a.yml", "b.yml")[1].splitlines()[3:] == [
        "flags",
        "~ llm --seed: 1 -> 2",
        "",
        "services",
        "~ vllm -> llm",
    ]


def test_manifests_are_compared_field_by_field(diff: Diff) -> None:
    text = manifests(planned("h100"), CATALOG.defaults)
    Path("k.yml").write_text(text)
    assert diff("k.yml") == (0, "k.yml and today's rendering: h100 mean the same.\n", "")
    Path("k.yml").write_text(text.replace("replicas: 1", "replicas: 2").replace("60", "61"))
    code, out, _ = diff("k.yml", "h100")
    assert code == 1
    assert "~ ernie-21b/vllm --shutdown-timeout: 61 -> 60" in out.splitlines()
    assert "~ LeaderWorkerSet ernie-21b spec.replicas: 2 -> 1" in out.splitlines()
    assert "docker compose" not in out


def test_without_the_checksum_nobody_can_tell_whose_a_change_is(diff: Diff) -> None:
    text = rendered("h100").replace("pids_limit: 4096", "pids_limit: 2048")
    Path("compose.yml").write_text("".join(text.splitlines(keepends=True)[:-1]))
    assert diff("compose.yml")[1].splitlines()[-1].startswith("note: the file does not end with the checksum")


def test_a_plans_words_may_end_like_a_file_of_another_kind(diff: Diff) -> None:
    assert diff("h100 --weights /models/ernie.sh", "h100 --weights /models/ernie.sh")[0] == 0


RENAMED = ("--disable-mm-preprocessor-cache", "--mm-processor-cache-gb=0")


@pytest.mark.parametrize(("old", "new"), [RENAMED, RENAMED[::-1]])
def test_a_flag_that_another_took_the_place_of_is_one_change(diff: Diff, old: str, new: str) -> None:
    for name, flag in (("a.yml", old), ("b.yml", new)):
        image = "vllm/vllm-openai:v0.8.5" if "disable" in flag else "vllm/vllm-openai:v0.32.0"
        Path(name).write_text(f"services: {{serve: {{image: '{image}', command: [m, {flag}]}}}}\n")
    names = [flag.partition("=")[0] for flag in (old, new)]
    assert any(
        line.startswith(f"~ serve {names[0]} -> {names[1]}")
        for line in diff("a.yml", "b.yml")[1].splitlines()
    )


def test_a_flag_that_the_new_engine_refuses_is_told_with_what_to_do(diff: Diff) -> None:
    text = "services: {serve: {image: 'vllm/vllm-openai:v0.32.0', command: [m%s]}}\n"
    Path("a.yml").write_text(text % "")
    Path("b.yml").write_text(text % ", --swap-space=4")
    lines = diff("a.yml", "b.yml")[1].splitlines()
    assert lines[4] == "+ serve --swap-space: 4"
    assert lines[5].startswith("    vLLM 0.32.0 refuses it, it was removed in 0.")


def test_a_secret_of_env_is_compared_and_never_shown(diff: Diff) -> None:
    for name, key in (("a", "first-0123456789"), ("b", "other-0123456789")):
        Path(name).mkdir()
        Path(name, "compose.yml").write_text(
            "services: {a: {image: busybox, environment: {K: '${MY_KEY}'}}}\n"
        )
        Path(name, ".env").write_text(f"MY_KEY={key}\n")
    code, out, _ = diff("a", "b")
    assert (code, out.splitlines()[3:5]) == (1, ["variables", "~ MY_KEY: *** -> *** (another)"])
    assert "0123456789" not in out


def test_an_edited_script_of_a_folder_is_the_users(diff: Diff, edited: Path) -> None:
    with (edited.parent / "scripts/canary.py").open("a") as script:
        script.write("# mine\n")
    yours, _, kits = diff("my")[1].partition("## the kit's")
    assert "~ scripts/canary.py: sha256 " in yours
    assert not kits


LOCK = f"""\
format = 1
kit = "1"
engine = "0.32.0"

[images]
"vllm/vllm-openai-cpu:v0.32.0" = "sha256:{"1" * 64}"
"vllm/vllm-openai:v0.32.0" = "sha256:{"2" * 64}"

[models."baidu/ERNIE-4.5-21B-A3B-PT"]
commit = "{"3" * 40}"

[models."baidu/ERNIE-4.5-21B-A3B-PT".revisions]
"main" = "{"3" * 40}"

[models."baidu/ERNIE-4.5-21B-A3B-PT".files]
"config.json" = {{ size = 700, digest = "git:{"4" * 40}" }}
"""


@pytest.fixture
def locked(diff: Diff, capsys: pytest.CaptureFixture[str]) -> Path:
    """A folder whose stack is rendered with the lock beside it."""
    Path("my").mkdir()
    Path("my/ernie.lock").write_text(LOCK)
    with pytest.raises(SystemExit) as end:
        main(["render", "h100", "-o", "my/compose.yml"])
    assert not end.value.code, capsys.readouterr().err
    assert "sha256:222" in Path("my/compose.yml").read_text()
    return Path("my")


def test_a_locked_stack_is_what_its_first_line_and_its_lock_render(diff: Diff, locked: Path) -> None:
    assert diff("my")[0] == 0
    assert diff("my/compose.yml")[0] == 0


def test_a_lock_is_a_difference_of_images_and_revisions_alone(diff: Diff, locked: Path) -> None:
    code, out, _ = diff("my", "h100")
    assert code == 1
    titles = {line for line in out.splitlines() if line and line[0].isalpha()}
    assert titles == {"images", "model"}
    assert f"~ fetch --revision: {'3' * 40} -> main" in out.splitlines()


def test_another_engine_of_a_locked_stack_is_rendered_without_the_lock(diff: Diff, locked: Path) -> None:
    code, out, _ = diff("my", "--engine", "0.33.0")
    assert code == 1
    assert f"~ serve image: vllm/vllm-openai:v0.32.0@sha256:{'2' * 64} -> vllm/vllm-openai:v0.33.0" in out


def test_the_driver_is_that_of_an_image_from_a_mirror_too(diff: Diff) -> None:
    code, out, _ = diff("h100 --registry mirror:5000", "h100 --registry mirror:5000 --cuda 12.9")
    assert code == 1
    assert "~ driver of the host, at least: 580 -> 525.60.13" in out.splitlines()


def test_a_lock_that_is_gone_is_told(diff: Diff, locked: Path) -> None:
    (locked / "ernie.lock").unlink()
    code, _, err = diff("my")
    assert code == 2
    assert "ernie.lock" in err


def test_the_page_of_the_docs_shows_what_is_printed(diff: Diff) -> None:
    page = (ROOT / "docs/operations.md").read_text()
    words, _, shown = page.partition("    $ ernie-deploy diff ")[2].partition("\n")
    block = shown.partition("\n\n`+`")[0]
    assert diff(*shlex.split(words))[1] == textwrap.dedent(f"{block}\n")


def test_a_line_below_the_checksum_is_somebodys_own() -> None:
    text = with_checksum("a\n")
    assert is_original(text)
    assert is_original(text.replace("\n", "\r\n"))
    assert not is_original(f"{text}# mine\n")
    assert not is_original("a\n")
    assert stated(f"{text}# mine\n") == stated(text) == digest("a\n")
    assert not stated("a\n")

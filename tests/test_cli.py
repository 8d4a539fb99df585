"""The command line: results on stdout, talk on stderr, exit codes of the table, nothing heavy imported."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, kit, rendered

from ernie_deploy import errors
from ernie_deploy.cli import COMMANDS, cli

SECRET = "hf_PlantedSecretPlantedSecretPlanted"


def test_render_prints_the_file_and_nothing_else() -> None:
    done = kit("render", "mi300x")
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout == rendered("mi300x")


def test_render_is_the_same_from_anywhere_with_any_environment(tmp_path: Path) -> None:
    noise = {"PATH": "/usr/bin:/bin", "HF_TOKEN": SECRET, "LANG": "C", "PYTHONHASHSEED": "7", "PORT": "1"}
    done = kit("render", "h100", cwd=tmp_path, env={**noise, "PYTHONPATH": str(ROOT)})
    assert done.stdout == rendered("h100")


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["render"], 2, "TARGET is missing."),
        (["render", "h100", "--no-such"], 2, "No such option"),
        (["render", "h100", "--gpus", "a"], 2, "GPU numbers"),
        (["render", "h100", "--bind", "home"], 2, "not an IP address"),
        (["render", "h100", "--gpu-memory-utilization", "1.5"], 2, "range"),
        (["render", "h100", "--check"], 2, "go with --all"),
        (["render", "h100", "--env-example", "x"], 2, "go with --all"),
        (["render", "--all"], 2, "--all needs --out-dir"),
        (["render", "mi300y"], 3, "did you mean 'mi300x'?"),
        (["render", "h100", "--model", "21bb"], 3, "did you mean '21b'?"),
        (["render", "h100", "--profile", "mpt"], 3, "did you mean 'mtp'?"),
        (["render", "h100", "--tp", "8"], 4, "20 attention heads"),
        (["plan", "cpu", "--model", "300b"], 4, "refused"),
    ],
)
def test_exit_codes_and_sentences(words: list[str], code: int, sentence: str) -> None:
    done = kit(*words)
    assert done.returncode == code
    assert done.stdout == ""
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_exit_codes_are_those_of_the_docs_table() -> None:
    table = dict(
        re.findall(
            r"^\| (\d+) \| (.+) \|$", (ROOT / "docs/exit-codes.md").read_text(encoding="utf-8"), re.MULTILINE
        )
    )
    family = {
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.KitError)
    }
    assert family | {0, 130} <= {int(code) for code in table}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_an_example_and_the_line_of_the_list(name: str) -> None:
    done = kit(name, "--help")
    assert done.returncode == 0
    assert "Example" in done.stdout
    assert f"ernie-deploy {name}" in done.stdout
    command = cli.get_command(None, name)  # type: ignore[arg-type]
    assert command is not None
    assert command.name == name
    assert (command.help or "").splitlines()[0] == COMMANDS[name][1]


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["targets"], "memory_gib"),
        (["models"], "parameters"),
        (["profiles"], "settings"),
        (["plan", "h100"], "argv"),
    ],
)
def test_json_is_json(words: list[str], key: str) -> None:
    data = json.loads(kit(*words, "--json").stdout)
    assert key in (data[0] if isinstance(data, list) else data)


def test_no_colour_in_a_pipe() -> None:
    for words in (["targets"], ["models"], ["profiles"], ["plan", "mi300x"], ["--help"]):
        assert "\x1b" not in kit(*words).stdout


def test_a_reader_that_leaves_early_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -m ernie_deploy render h100 | head -1",
        shell=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.stdout == "# ernie-deploy render h100\n"
    assert done.stderr == ""


@pytest.mark.parametrize(("shell", "current"), [("bash", "2"), ("zsh", "2"), ("fish", "mi3")])
def test_completion_offers_targets(shell: str, current: str) -> None:
    env = {
        "_ERNIE_DEPLOY_COMPLETE": f"{shell}_complete", "COMP_WORDS": "ernie-deploy render mi3", "COMP_CWORD": current,
        "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    assert "mi300x" in kit(env=env).stdout


def test_output_file_is_written_whole_and_never_over_another(tmp_path: Path) -> None:
    path = tmp_path / "compose.yml"
    assert kit("render", "h100", "-o", str(path)).returncode == 0
    assert path.read_text() == rendered("h100")
    assert kit("render", "h100", "-o", str(path)).returncode == 0  # the same bytes: nothing to lose
    path.write_text("mine")
    done = kit("render", "h100", "-o", str(path))
    assert done.returncode == 2
    assert "--force" in done.stderr
    assert path.read_text() == "mine"
    assert kit("render", "h100", "-o", str(path), "--force").returncode == 0
    assert [p.name for p in tmp_path.iterdir()] == ["compose.yml"]


def test_output_into_a_file_as_folder_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    done = kit("render", "h100", "-o", str(tmp_path / "f" / "compose.yml"))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_init_makes_a_folder_or_touches_nothing(tmp_path: Path) -> None:
    done = kit("init", str(tmp_path / "s"), "mi300x", "--env", "PORT=9000")
    assert done.returncode == 0, done.stderr
    names = [".env", ".ernie", ".gitignore", "README.md", "compose.yml", "scripts"]
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == names
    assert "\nPORT=9000\n" in (tmp_path / "s" / ".env").read_text()
    (tmp_path / "s" / "compose.yml").unlink()
    again = kit("init", str(tmp_path / "s"), "h100")
    assert again.returncode == 2
    assert not (tmp_path / "s" / "compose.yml").exists()


def test_init_in_a_folder_that_has_a_stack_loses_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    assert kit("init", str(folder), "h100").returncode == 0
    (folder / ".env").write_text("PORT=9001\n")
    (folder / "mine.txt").write_text("mine")
    edited = (folder / "compose.yml").read_text().replace("stop_grace_period: 90s", "stop_grace_period: 95s")
    (folder / "compose.yml").write_text(edited)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    refused = kit("init", str(folder), "h100", "--profile", "reasoning", "--model", "21b-thinking")
    assert refused.returncode == 2
    assert "+      --reasoning-parser=ernie45,  # " in refused.stderr
    assert f"{folder / 'compose.yml'} exists and was not overwritten." in refused.stderr
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    for number in ("", "1"):
        done = kit("init", str(folder), "h100", "--tp", "2" if number else "1", "--force")
        assert done.returncode == 0, done.stderr
        assert f"kept {folder / '.env'} as it is" in done.stderr
    assert (folder / ".env").read_text() == "PORT=9001\n"
    assert (folder / "mine.txt").read_text() == "mine"
    assert "--tensor-parallel-size=2" in (folder / "compose.yml").read_text()
    assert kit("rollback", str(folder)).returncode == 0
    assert "--tensor-parallel-size=2" not in (folder / "compose.yml").read_text()
    assert kit("rollback", str(folder)).returncode == 0
    assert {path: path.read_bytes() for path in before} == before
    told = kit("init", str(folder), "h100", "--env", "PORT=1")
    assert (told.returncode, f"--env cannot change {folder / '.env'}" in told.stderr) == (2, True)


def test_a_link_to_nothing_is_in_the_way_as_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "compose.yml").symlink_to("/nowhere/compose.yml")
    for more in ((), ("--force",)):
        done = kit("init", str(tmp_path), "h100", *more)
        assert done.returncode == 2
        assert f"{tmp_path / 'compose.yml'} is a link to /nowhere/compose.yml." in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["compose.yml"]
    assert (tmp_path / "compose.yml").is_symlink()


def test_the_scripts_of_a_folder_can_be_read_by_the_serving_user(tmp_path: Path) -> None:
    done = kit("init", str(tmp_path / "a b" / "s"), "h100", umask=0o077)
    assert done.returncode == 0, done.stderr
    assert f"next: cd '{tmp_path / 'a b' / 's'}' && docker compose up -d --wait" in done.stderr
    scripts = tmp_path / "a b" / "s" / "scripts"
    assert scripts.stat().st_mode & 0o777 == 0o755
    assert {path.stat().st_mode & 0o777 for path in scripts.iterdir()} == {0o644}
    nodes = kit("init", str(tmp_path / "n"), "h100", "--model", "300b", "--nodes", "2")
    assert nodes.stderr.endswith(
        "ernie-deploy doctor --write-env --node-rank 0 --head ADDR h100 --model 300b --nodes 2\n"
    )


def test_a_file_that_stands_alone_does_not_take_the_place_of_a_folders(tmp_path: Path) -> None:
    assert kit("init", str(tmp_path / "s"), "h100").returncode == 0
    before = (tmp_path / "s" / "compose.yml").read_bytes()
    for words in (
        ["render", "h100", "--tp", "2", "-o", "compose.yml"],
        ["up", "h100", "--tp", "2", "--no-preflight"],
    ):
        done = kit(*words, cwd=tmp_path / "s", env={"PYTHONPATH": str(ROOT)})
        assert done.returncode == 2
        assert "next:  ernie-deploy init . h100 --tp 2 --force" in done.stderr
    assert (tmp_path / "s" / "compose.yml").read_bytes() == before


def test_init_refuses_a_variable_that_the_stack_does_not_read(tmp_path: Path) -> None:
    done = kit("init", str(tmp_path / "s"), "cpu", "--env", "PROT=9000")
    assert done.returncode == 2
    assert "reads no variable 'PROT'" in done.stderr
    assert not (tmp_path / "s").exists()


def test_a_planted_secret_appears_nowhere(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(SECRET)
    (tmp_path / ".env").write_text(f"HF_TOKEN={SECRET}\nHF_TOKEN_FILE={token}\n")
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HF_TOKEN": SECRET, "VLLM_API_KEY": SECRET,
           "HF_TOKEN_FILE": str(token), "OPENAI_API_KEY": SECRET}  # fmt: skip
    for words in (
        ["render", "mi300x"], ["render", "h100", "--api-key-file"], ["plan", "h100", "--json"], ["models"],
        ["init", "s", "cpu"], ["check", "mi300x"], ["render", "h100", "--set", f"hf-token={SECRET}"],
        ["render", "h100", "--", "--api-key", SECRET],
    ):  # fmt: skip
        done = kit(*words, cwd=tmp_path, env=env)
        assert SECRET not in done.stdout + done.stderr, words
    for path in (tmp_path / "s").rglob("*"):
        assert path.is_dir() or SECRET not in path.read_text()


HEAVY = {"jinja2", "yaml", "rich", "docker", "asyncio", "subprocess", "urllib.request", "dataclasses",
         "importlib.resources", "importlib.metadata", "msgspec", "tomllib"}  # fmt: skip


def imported(*words: str) -> set[str]:
    code = (
        "import sys, io; sys.stdout = io.StringIO()\n"
        "from ernie_deploy.cli import main\n"
        f"try: main({list(words)!r})\nexcept SystemExit: pass\n"
        "print(*sys.modules, file=sys.__stdout__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_help_imports_nothing_heavy() -> None:
    bare = subprocess.run(
        [sys.executable, "-c", "import click, sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not imported("--help") & HEAVY - set(bare.stdout.split())


def test_render_imports_no_more_than_it_needs() -> None:
    loaded = imported("render", "mi300x")
    assert not loaded & {"yaml", "rich", "docker", "hypothesis", "vllm", "subprocess", "urllib.request"}
    assert "ernie_deploy.check" not in loaded
    assert "ernie_deploy.render.explain" not in loaded


def test_nothing_of_the_kit_imports_vllm() -> None:
    for path in (ROOT / "ernie_deploy").rglob("*.py"):
        assert not re.search(r"^\s*(import|from) vllm\b", path.read_text(encoding="utf-8"), re.MULTILINE), (
            path
        )

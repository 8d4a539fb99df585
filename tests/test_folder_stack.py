"""Commands that name no file start, watch and stop what Docker Compose would: an override counts, and COMPOSE_FILE."""

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, kit

RENDERED = ("render", "cpu", "-o", "compose.yml")
OVERRIDE = "services: {serve: {environment: {OVERRIDDEN: here}}}\n"
OTHER = "name: other\nservices: {serve: {image: other}}\n"
OWN = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
FOLDERS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "the file alone": ({}, {}),
    "an override beside it": ({"compose.override.yml": OVERRIDE}, {}),
    "values in .env": ({".env": "PORT=9000\nBIND_ADDR=127.0.0.2\n"}, {}),
    "COMPOSE_FILE of the shell": ({"more.yml": OVERRIDE}, {"COMPOSE_FILE": "compose.yml:more.yml"}),
    "COMPOSE_FILE in .env": ({"more.yml": OVERRIDE, ".env": "COMPOSE_FILE=compose.yml:more.yml\n"}, {}),
    "compose.yaml before compose.yml": ({"compose.yaml": OTHER}, {}),
    "a project name of the shell": ({}, {"COMPOSE_PROJECT_NAME": "mine"}),
}


@pytest.fixture(params=FOLDERS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A folder with a stack, and the shell that stands in it."""
    files, environ = FOLDERS[request.param]
    assert kit(*RENDERED, cwd=tmp_path, env=OWN).returncode == 0
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path, {**OWN, **environ}


def config(compose: str, words: list[str], cwd: Path, env: dict[str, str]) -> dict[str, object]:
    """What Compose makes of the files that a command line of `docker compose` names."""
    done = subprocess.run(
        [compose, *words, "config", "--format", "json"],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=env,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    resolved: dict[str, object] = json.loads(done.stdout)
    return resolved


@pytest.mark.parametrize(
    ("command", "verb"),
    [
        (("up", "--no-preflight"), "up"),
        (("logs", "-f", "serve"), "logs"),
        (("down",), "down"),
        (("status",), "config"),
    ],
)
def test_what_is_started_is_what_compose_sees_in_the_folder(
    compose: str, folder: tuple[Path, dict[str, str]], command: tuple[str, ...], verb: str
) -> None:
    path, env = folder
    done = kit(*command, "--dry-run", cwd=path, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    words = shlex.split(done.stdout.splitlines()[-1])
    assert words[:2] == ["docker", "compose"]
    of_kit = [word for word in words[2 : words.index(verb)] if word not in ("--profile", "*")]
    assert config(compose, of_kit, path, env) == config(compose, [], path, env)


def test_an_override_reaches_what_up_starts(compose: str, tmp_path: Path) -> None:
    assert kit(*RENDERED, cwd=tmp_path, env=OWN).returncode == 0
    (tmp_path / "compose.override.yml").write_text(OVERRIDE)
    done = kit("up", "--no-preflight", "--dry-run", cwd=tmp_path, env=OWN)
    assert done.stdout == "docker compose up --detach --wait --wait-timeout 21600\n"
    serve = config(compose, [], tmp_path, OWN)["services"]["serve"]  # type: ignore[index]
    assert serve["environment"]["OVERRIDDEN"] == "here"


def test_a_file_that_is_named_is_started_alone_and_that_is_said(tmp_path: Path) -> None:
    assert kit(*RENDERED, cwd=tmp_path, env=OWN).returncode == 0
    (tmp_path / "compose.override.yml").write_text(OVERRIDE)
    done = kit("up", "compose.yml", "--no-preflight", "--dry-run", cwd=tmp_path, env=OWN)
    assert done.stdout.startswith("docker compose --file compose.yml up")
    assert "compose.override.yml is left out" in done.stderr


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ({}, "docker compose up --detach"),
        ({"compose.yaml": OTHER}, "docker compose --file compose.yml up --detach"),
        ({"compose.yml": OTHER, "compose.override.yml": OVERRIDE}, "docker compose up --detach"),
    ],
)
def test_what_up_renders_is_what_up_starts(files: dict[str, str], line: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    done = kit("up", "cpu", "--no-preflight", "--dry-run", cwd=tmp_path, env=OWN)
    assert done.stdout.splitlines()[-1].startswith(line)
    assert ("started alone" in done.stderr) == ("--file" in line)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["logs", "-f", "serve"], "docker compose logs --follow --tail all serve"),
        (["logs", "-n", "5", "--since", "10m", "-t"], "docker compose logs --tail 5 --since 10m --timestamps"),
        (["logs", "--file", "compose.yml", "--no-log-prefix"],
         "docker compose --file compose.yml logs --tail all --no-log-prefix"),
        (["down", "-t", "5", "--remove-orphans"], "docker compose --profile '*' down --timeout 5 --remove-orphans"),
        (["up", "-d", "--build", "--force-recreate", "--pull", "never", "--wait-timeout", "9", "--no-preflight"],
         "docker compose up --detach --build --force-recreate --pull never --wait --wait-timeout 9"),
        (["up", "-f", "compose.yml", "--no-preflight", "--wait-timeout", "9"],
         "docker compose --file compose.yml up --detach --wait --wait-timeout 9"),
        (["-p", "mine"], ""),
    ],
)  # fmt: skip
def test_options_are_composes_own(words: list[str], line: str, tmp_path: Path) -> None:
    assert kit(*RENDERED, cwd=tmp_path, env=OWN).returncode == 0
    if not line:
        words, line = (
            ["down", "--project-name", "mine"],
            "docker compose --project-name mine --profile '*' down",
        )
    done = kit(*words, "--dry-run", cwd=tmp_path, env=OWN)
    assert done.stdout.splitlines() == [line], done.stderr


def test_down_takes_v_for_volumes() -> None:
    short, long = (kit("down", word, "--help").stdout for word in ("-v", "--volumes"))
    assert short == long
    assert "-v, --volumes" in long


def test_a_target_and_a_file_are_one_too_many(tmp_path: Path) -> None:
    done = kit("up", "cpu", "-f", "x.yml", "--dry-run", cwd=tmp_path, env=OWN)
    assert done.returncode == 2
    assert "leave out one of them" in done.stderr


@pytest.mark.parametrize(
    ("target", "model", "variables", "rate"),
    [
        ("h100", "21b", {}, 10.0), ("mi300x", "21b", {}, 10000.0), ("mi355x", "300b", {}, 10000.0),
        ("mi300x", "vl-28b", {}, 10.0), ("cpu", "0.3b", {}, 10.0),
        ("mi300x", "21b", {"BENCH_REQUEST_RATE": "3"}, 3.0), ("h100", "21b", {"BENCH_REQUEST_RATE": "inf"}, None),
    ],
)  # fmt: skip
def test_bench_run_has_the_rate_of_the_stacks_own_client(  # noqa: PLR0913, PLR0917 - a stack and its rate
    compose: str, target: str, model: str, variables: dict[str, str], rate: float | None, tmp_path: Path
) -> None:
    """On AMD `docker compose run bench` sent 10,000 requests/s as the recipe has it there, and `bench run` ten."""
    assert kit("render", target, "--model", model, "-o", "compose.yml", cwd=tmp_path, env=OWN).returncode == 0
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    client = config(compose, ["--profile", "bench"], tmp_path, OWN)["services"]["bench"]  # type: ignore[index]
    of_client = next(word for word in client["command"] if word.startswith("--request-rate="))
    assert float(of_client.partition("=")[2]) == (float("inf") if rate is None else rate)
    cells = kit("bench", "plan", "--json", "--num-prompts", "1", cwd=tmp_path, env=OWN)
    assert {row["cell"]["request_rate"] for row in json.loads(cells.stdout)} == {rate}, cells.stderr


def test_a_rate_of_nobodys_is_one_sentence(tmp_path: Path) -> None:
    assert kit(*RENDERED, cwd=tmp_path, env=OWN).returncode == 0
    done = kit("bench", "plan", cwd=tmp_path, env={**OWN, "BENCH_REQUEST_RATE": "fast"})
    assert (done.returncode, done.stdout) == (2, "")
    assert "BENCH_REQUEST_RATE='fast' is no rate." in done.stderr

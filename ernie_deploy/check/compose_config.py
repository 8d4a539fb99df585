"""Asks `docker compose config` what it makes of the files, where Compose is installed: no daemon, no network.

Its words are what Compose refuses; its merge and its variables hold where this reader's differ.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from ernie_deploy.check.interpolate import Variables
from ernie_deploy.check.project import Project
from ernie_deploy.errors import ToolFailed
from ernie_deploy.stack.compose import Done, ask

LIMIT_S = 15
# What finds the program and its plugin; a file that is only named is judged by no other variable of the shell.
KEPT = ("PATH", "HOME", "DOCKER_CONFIG", "TMPDIR", "XDG_CONFIG_HOME", "LANG", "LC_ALL")
CHOSEN_ALREADY = ("COMPOSE_FILE", "COMPOSE_PROFILES", "COMPOSE_ENV_FILES")
# Compose would clone what `include` and `extends` name.
NO_REMOTES = {"COMPOSE_EXPERIMENTAL_GIT_REMOTE": "false", "COMPOSE_EXPERIMENTAL_OCI_REMOTE": "false"}
NOT_INSTALLED = re.compile(
    r"is not a docker command|unknown (?:shorthand )?flag|unknown command|not implemented|no such command"
)
LOG_LINE = re.compile(r'time="[^"]*" level=|level=warning')
ABSENT = (
    "Docker Compose is not installed here: the kit's own reader merged the files, and what Compose itself"
    " would refuse was not looked at."
)
REMOTE = "A part of the stack is remote: it is not fetched, and Docker Compose was not asked about the rest."


class Answer(Struct, frozen=True):
    """The services as Compose has them, or why it refuses them, or why it was not asked."""

    services: dict[str, Any] | None = None
    refusal: str = ""
    unasked: str = ""


def configured(project: Project, *, uncertain: bool) -> Answer:
    """Compose's answer; where the values of some variables are unknown (`uncertain`) only what it refuses anyway."""
    literal = uncertain and not project.exact
    answer = _asked(project, literal=literal)
    if answer.refusal and not project.exact and not literal and "env file" in answer.refusal:
        # A file from elsewhere, whose env_file stayed there.
        answer = _asked(project, literal=True)
    return Answer(unasked=answer.unasked) if literal and "$" in answer.refusal else answer


def _asked(project: Project, *, literal: bool) -> Answer:
    for program in _programs():
        try:
            done = ask(
                [*program, *_words(project, literal=literal)],
                timeout_s=LIMIT_S,
                env=_env(project),
                cwd=_folder(project),
            )
        except ToolFailed as late:
            return Answer(unasked=f"{late.what} What Compose would refuse was not looked at.")
        if done.stdout.strip() or not NOT_INSTALLED.search(done.stderr):
            return _answer(done, project, literal=literal)
    return Answer(unasked=ABSENT)


def _programs() -> Iterator[list[str]]:
    if shutil.which("docker"):
        yield ["docker", "compose"]
    if shutil.which("docker-compose"):
        yield ["docker-compose"]


def _words(project: Project, *, literal: bool) -> list[str]:
    files = [word for name in project.files for word in ("--file", str(Path(name).absolute()))]
    env = [word for name in project.env_files for word in ("--env-file", str(Path(name).absolute()))]
    named = [] if project.exact else ["--project-name", "check"]
    options = ["--format", "json", "--no-path-resolution", *(["--no-interpolate"] if literal else [])]
    return [*named, *env, *files, "--profile", "*", "config", *options]


def _folder(project: Project) -> str | None:
    return None if project.exact else str(Path(project.files[0]).absolute().parent)


def _env(project: Project) -> dict[str, str]:
    environ: Mapping[str, str] = os.environ
    kept = {
        name: value
        for name, value in environ.items()
        if name in KEPT or (project.exact and name not in CHOSEN_ALREADY)
    }
    return {**kept, **NO_REMOTES}


def _answer(done: Done, project: Project, *, literal: bool) -> Answer:
    hide = _Hider(project.variables)
    # Some wrappers of the plugin lose its exit code.
    if done.returncode or not done.stdout.strip():
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        words = (
            " ".join(line for line in lines if not LOG_LINE.match(line)) or f"it ended with {done.returncode}"
        )
        return Answer(refusal=hide.text(_short(words, project)))
    if literal:
        return Answer()
    try:
        services = json.loads(done.stdout).get("services") or {}
    except (ValueError, AttributeError):
        return Answer(unasked="What Docker Compose prints is no JSON: its merge was not looked at.")
    return Answer(services=hide.all(services))


def _short(words: str, project: Project) -> str:
    """The words with the files as they were named."""
    for name in project.files:
        words = words.replace(str(Path(name).absolute()), name)
    return words.replace(f"{Path.cwd()}{os.sep}", "")


class _Hider:
    """Puts `${NAME}` for the values of secrets, so that nobody prints them."""

    def __init__(self, variables: Variables) -> None:
        self.secrets = {value: f"${{{name}}}" for name, value in variables.secrets().items()}

    def text(self, text: str) -> str:
        for value, name in self.secrets.items():
            text = text.replace(value, name)
        return text

    def all(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.all(item) for item in value]
        if isinstance(value, dict):
            return {key: self.all(item) for key, item in value.items()}
        return value

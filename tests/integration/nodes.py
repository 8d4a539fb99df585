"""A node of a rehearsed group that a test starts in its own way."""

import json
import time
from pathlib import Path

from msgspec.structs import replace

from ernie_deploy.rehearsal.group import Member
from ernie_deploy.stack import containers
from ernie_deploy.stack.compose import demand


def with_file(member: Member, more: Path) -> Member:
    """The same node with one more file over its stack."""
    return replace(member, stack=replace(member.stack, files=(*member.stack.files, more)))


def with_env(member: Member, env: Path, **variables: object) -> Member:
    """The same node with other lines at the end of its .env."""
    assert member.stack.env_file
    env.write_text(member.stack.env_file.read_text() + "".join(f"{k}={v}\n" for k, v in variables.items()))
    return replace(member, stack=replace(member.stack, env_file=env))


def start_once(member: Member, folder: Path, *options: str) -> None:
    """Start a node's ranks with further words for the check before them, and no second start."""
    entrypoint = json.loads(demand(member.stack.resolved()))["services"][member.service]["entrypoint"]
    entrypoint[entrypoint.index("--") : entrypoint.index("--")] = options
    more = folder / f"once-{member.rank}.json"
    # Compose would take a `$` of the scripts for a variable.
    text = json.dumps({"services": {member.service: {"entrypoint": entrypoint, "restart": "no"}}})
    more.write_text(text.replace("$", "$$"))
    beside = [] if member.rank else ["beacon"]
    words = ("up", "--detach", "--no-deps", "--force-recreate", member.service, *beside)
    demand(with_file(member, more).stack.words(*words), timeout_s=120)


def log(member: Member) -> str:
    return containers.log(containers.client(), member.state().id)


def wait_for(words: str, member: Member, limit_s: float) -> str:
    """The log once it holds the words."""
    end = time.monotonic() + limit_s
    while words not in (text := log(member)):
        assert time.monotonic() < end, text
        time.sleep(0.5)
    return text


def ended(member: Member, limit_s: float) -> int:
    """The exit code of a node that was started once."""
    end = time.monotonic() + limit_s
    while (state := member.state()).status != "exited":
        assert time.monotonic() < end, state
        time.sleep(0.2)
    return state.exit_code

"""The values a stack will read on this host, and .env edited without losing a byte of the user's."""

import contextlib
import os
import re
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from types import MappingProxyType

from ernie_deploy.catalog import Catalog
from ernie_deploy.errors import UsageError
from ernie_deploy.folder import env_line
from ernie_deploy.host.case import size_of
from ernie_deploy.host.facts import Facts
from ernie_deploy.host.memory_limit import propose
from ernie_deploy.memory import GIB
from ernie_deploy.paths import mode_for, write_whole
from ernie_deploy.plan import Plan
from ernie_deploy.render import defaults_of


def values(plan: Plan, catalog: Catalog, env_text: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Each variable as Compose will see it: the environment, then .env, then the default, which is for empty ones too."""
    from dotenv import dotenv_values

    said = {**dotenv_values(stream=StringIO(env_text)), **environ}
    return {name: said.get(name) or default for name, default in defaults_of(plan, catalog.defaults).items()}


def of_host(facts: Facts, plan: Plan, now: Mapping[str, str]) -> dict[str, str]:
    """The variables that are facts of the host; its memory is one where less than twice SHM_SIZE is there."""
    found = {name: str(gid) for name, gid in facts.amd.groups.items()}
    have, shared = facts.machine.memory_bytes, size_of(now["SHM_SIZE"])
    if have and shared and shared > have / 2:
        found["SHM_SIZE"] = f"{max(1, have // 2 // GIB)}g"
    if proposal := propose(facts, plan, now):
        found["SERVE_MEMORY"] = proposal.value
    return found


def reasons(facts: Facts, plan: Plan, now: Mapping[str, str]) -> dict[str, str]:
    """How a value of this host was derived, for a comment beside it."""
    proposal = propose(facts, plan, now)
    return {"SERVE_MEMORY": proposal.derivation} if proposal else {}


def edited(text: str, new: Mapping[str, str], comments: Mapping[str, str] = MappingProxyType({})) -> str:
    """The text with new values: in their line, below their comment, or at the end; every other byte as it was."""
    from dotenv.parser import parse_stream

    parts = [(binding.key, binding.original.string) for binding in parse_stream(StringIO(text))]
    for name, value in new.items():
        comment = f"  # {comments[name]}" if name in comments else ""
        parts = _with(parts, name, env_line(name, value) + comment)
    return "".join(part for _, part in parts)


Parts = list[tuple[str | None, str]]


def _with(parts: Parts, name: str, line: str) -> Parts:
    # The last one counts, for Compose and python-dotenv alike.
    at = max((i for i, (key, _) in enumerate(parts) if key == name), default=None)
    if at is not None:
        return [*parts[:at], (name, _replaced(parts[at][1], name, line)), *parts[at + 1 :]]
    comment = re.compile(rf"^#\s?{name}=", re.MULTILINE)
    at = max(
        (i for i, (key, part) in enumerate(parts) if key is None and comment.search(part)),
        default=len(parts) - 1,
    )
    before, after = parts[: at + 1], parts[at + 1 :]
    end = "\r\n" if parts and parts[0][1].endswith("\r\n") else "\n"
    if before and not before[-1][1].endswith(("\n", "\r")):
        before[-1] = (before[-1][0], before[-1][1] + end)
    return [*before, (name, line + end), *after]


def _replaced(part: str, name: str, line: str) -> str:
    """One assignment with another value; indent, `export`, a comment behind it and the line's end stay."""
    value = line.partition("=")[2]
    old = re.compile(
        rf"\A(?P<head>\s*(?:export[^\S\r\n]+)?['\"]?{name}['\"]?[^\S\r\n]*=[^\S\r\n]*)"
        r"(?:'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"|\#?(?:[^\s#]++|(?<!\s)\#|[^\S\r\n]++(?!\#))*)(?P<tail>.*)",
        re.DOTALL,
    )
    if found := old.fullmatch(part):
        return f"{found['head']}{value}{found['tail']}"
    body = part.strip()
    return part.replace(body, line, 1)


def write(path: Path, text: str) -> None:
    """Replace a file as a whole; owner and mode stay, and no moment shows a private one to others."""
    place = path.resolve()
    if not place.exists():
        write_whole(place, text, private=True)
        return
    try:
        _replace(place, text)
    except OSError as fault:
        raise UsageError(
            f"{path} could not be written: {fault.strerror}.",
            cause="the file or its folder is not yours, or the disk is full",
            next_step=f"check it with: ls -ld {path} {path.parent}",
        ) from fault


def _replace(place: Path, text: str) -> None:
    import tempfile

    before = place.stat()
    # A folder that only this user can enter: write_whole makes its files readable to all.
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".ernie-deploy-") as private:
        made = Path(private) / place.name
        write_whole(made, text)
        made.chmod(mode_for(text, before.st_mode, private=True))
        with contextlib.suppress(PermissionError):
            os.chown(made, before.st_uid, before.st_gid)
        made.replace(place)

"""The values a stack will read on this host, and .env edited without losing a byte of the user's."""

import re
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from types import MappingProxyType

from ernie_deploy.catalog import Catalog
from ernie_deploy.host.facts import Facts
from ernie_deploy.host.memory_limit import propose
from ernie_deploy.paths import write_whole
from ernie_deploy.plan.memory import GIB
from ernie_deploy.plan.plan import Plan
from ernie_deploy.plan.sizes import size_bytes
from ernie_deploy.render.compose import defaults_of
from ernie_deploy.render.folder import env_line


def values(plan: Plan, catalog: Catalog, env_text: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Each variable as Compose will see it: the environment, then .env, then the default, which is for empty ones too."""
    stated = decided(env_text, environ)
    return {
        name: stated.get(name) or default for name, default in defaults_of(plan, catalog.defaults).items()
    }


def names(env_text: str) -> dict[str, str | None]:
    """Every name that .env has, with its value."""
    from dotenv import dotenv_values

    return dotenv_values(stream=StringIO(env_text), interpolate=False)


def decided(env_text: str, environ: Mapping[str, str]) -> dict[str, str]:
    """What the user decided, in the environment or else in .env; an empty value is no decision."""
    from dotenv import dotenv_values

    stated = {**dotenv_values(stream=StringIO(env_text)), **environ}
    return {name: value for name, value in stated.items() if value}


def of_host(facts: Facts, plan: Plan, now: Mapping[str, str], stated: Mapping[str, str]) -> dict[str, str]:
    """The variables that are facts of the host; its memory is one where less than twice SHM_SIZE is there.

    A limit of memory is proposed where the user `stated` none: SERVE_MEMORY=0 is a decision too.
    """
    proposed = {name: str(gid) for name, gid in facts.amd.groups.items()}
    have, shared = facts.machine.memory_bytes, size_bytes(now["SHM_SIZE"])
    if have and shared and shared > have / 2:
        proposed["SHM_SIZE"] = f"{max(1, have // 2 // GIB)}g"
    if "SERVE_MEMORY" not in stated and (proposal := propose(facts, plan, now)):
        proposed["SERVE_MEMORY"] = proposal.value
    return proposed


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
    if match := old.fullmatch(part):
        return f"{match['head']}{value}{match['tail']}"
    body = part.strip()
    return part.replace(body, line, 1)


def write(path: Path, text: str) -> None:
    """Replace the file that a link leads to as a whole; raises `UsageError` where it cannot be written."""
    write_whole(path.resolve(), text, force=True, private=True)

"""Which files, variables and profiles `docker compose up` takes: names, `.env` and the COMPOSE_ variables."""

import os
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path

from msgspec import Struct

from ernie_deploy.check.interpolate import Variables
from ernie_deploy.errors import UsageError
from ernie_deploy.safe_io.reading import read_bounded

# In Compose's order; the first that is there is taken, and the first override beside it.
DEFAULT_NAMES = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
OVERRIDES = (
    "compose.override.yml", "compose.override.yaml",
    "docker-compose.override.yml", "docker-compose.override.yaml",
)  # fmt: skip
TRUE = ("1", "t", "true")


class Project(Struct, frozen=True, kw_only=True):
    """The files of one stack, later ones over earlier ones.

    `exact` is a stack as Compose would start it from this shell: the shell's variables count, unset
    ones are blank. Otherwise only `.env` beside the file counts, and unset variables are unknown.
    """

    files: tuple[str, ...]
    variables: Variables
    env_files: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    exact: bool = False


def here(
    environ: Mapping[str, str],
    *,
    files: Sequence[str] = (),
    env_files: Sequence[str] = (),
    profiles: Sequence[str] = (),
) -> Project | None:
    """The stack that `docker compose up` starts in this folder; None where there is none."""
    named = env_files or _listed(environ.get("COMPOSE_ENV_FILES", ""), ",")
    values = with_env({**environ}, named, Path())
    chosen = [*files] or [*_listed(values.get("COMPOSE_FILE", ""), _separator(values))] or _default_files()
    if not chosen:
        return None
    if not named:
        values = with_env(values, (), Path(chosen[0]).parent)
    active = profiles or _listed(values.get("COMPOSE_PROFILES", ""), ",")
    return Project(
        files=tuple(chosen), variables=Variables(values, blank=True), env_files=tuple(named),
        profiles=tuple(active), exact=True,
    )  # fmt: skip


def of_file(name: str, env_files: Sequence[str] = (), profiles: Sequence[str] = ()) -> Project:
    """The stack of one named file: with the override beside it, where Compose would take that unasked."""
    path = Path(name)
    override = _first(path.parent, OVERRIDES) if path.name in DEFAULT_NAMES else None
    files = (name, str(override)) if override else (name,)
    variables = Variables(with_env({}, env_files, path.parent))
    return Project(files=files, variables=variables, env_files=tuple(env_files), profiles=tuple(profiles))


def _listed(text: str, separator: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(separator) if part.strip())


def _separator(values: Mapping[str, str]) -> str:
    return values.get("COMPOSE_PATH_SEPARATOR") or os.pathsep


def _default_files() -> list[str]:
    """The default file of this folder or of the nearest one above it, and its override."""
    folder = Path()
    for _ in Path.cwd().parts:
        if base := _first(folder, DEFAULT_NAMES):
            override = _first(folder, OVERRIDES)
            return [str(path) for path in (base, override) if path]
        folder = folder / ".."
    return []


def _first(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def with_env(values: Mapping[str, str], named: Sequence[str], folder: Path) -> dict[str, str]:
    """`values` and what env files add: the named ones, or `.env` of the folder; what is set already stays."""
    if not named and values.get("COMPOSE_DISABLE_ENV_FILE", "").lower() in TRUE:
        return dict(values)
    added: dict[str, str] = {}
    for path in [Path(name) for name in named] or [folder / ".env"]:
        if named or path.is_file():
            added |= dict(_env(path, {**added, **values}))
    return {**added, **values}


def _env(path: Path, before: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The variables of an env file, in its order, with those before them filled in."""
    from dotenv import dotenv_values

    known = dict(before)
    for name, value in dotenv_values(stream=StringIO(env_text(path)), interpolate=False).items():
        if value is not None:
            known[name] = Variables(known, blank=True).resolve(value)
            yield name, known[name]


def env_text(path: Path) -> str:
    """The text of an env file; raises `UsageError` where it cannot be read."""
    try:
        return read_bounded(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as fault:
        reason = fault.strerror if isinstance(fault, OSError) else "it is not UTF-8 text"
        raise UsageError(
            f"The env file {str(path)!r} cannot be read: {reason}.",
            next_step="name another with --env-file, or correct the path",
        ) from fault

"""Writes a plan down as a compose file: pure, so the same request gives the same bytes."""

import json
import re
from functools import cache
from typing import TYPE_CHECKING

from ernie_deploy.errors import UsageError
from ernie_deploy.paths import DOCKER
from ernie_deploy.plan.request import command_words
from ernie_deploy.plan.resolve import Plan
from ernie_deploy.plan.settings import Setting, words
from ernie_deploy.render.checksum import with_checksum
from ernie_deploy.render.templates import cell, code, jinja

if TYPE_CHECKING:
    from jinja2 import Environment

DEFAULT = re.compile(r"[A-Za-z0-9_./:@%+,=\[\]-]*")


def compose_file(plan: Plan, defaults: dict[str, str]) -> str:
    """The text of one self-contained compose file; `defaults` are the variables' (catalog)."""
    template = environment().get_template("compose.yml.j2")
    host = {name: variable(name, default) for name, default in defaults_of(plan, defaults).items()}
    return with_checksum(template.render(plan=plan, host=host))


def defaults_of(plan: Plan, defaults: dict[str, str]) -> dict[str, str]:
    """The catalog's defaults, with those that this plan decides."""
    decided = {s.variable: str(s.value) for s in (*plan.environment, *plan.bench) if s.variable}
    return {**defaults, **decided, "BIND_ADDR": plan.request.bind, "SERVE_MEMORY": plan.serve_memory}


@cache
def environment() -> "Environment":
    """Jinja for YAML, where `scalar` quotes every value."""
    made = jinja(autoescape=False)
    made.filters |= {
        "scalar": scalar,
        "cell": cell,
        "code": code,
        "comment": comment,
        "command_line": command_line,
        "lines": lines,
        "mount": mount,
        "pair": pair,
        "script": script,
    }
    return made


def scalar(value: object) -> str:
    """`value` as one YAML scalar that Compose reads back unchanged (`$` is doubled)."""
    return _json(str(value)).replace("$", "$$")


def _json(text: str) -> str:
    """JSON without escapes for printable text; what YAML calls a line break or control is escaped."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else _escaped(c) for c in quoted)


def _escaped(character: str) -> str:
    return f"\\U{ord(character):08x}"


def variable(name: str, default: object) -> str:
    """`${NAME:-default}`, bare or within quotes; raises `UsageError` where a default could end either of them."""
    text = str(default)
    if not DEFAULT.fullmatch(text):
        raise UsageError(
            f"{text[:40]!r} cannot be the default of {name}.",
            cause="Compose and YAML would read a space, a quote, a brace or a `$` in it as their own",
            next_step=f"set {name} in .env instead",
        )
    return f"${{{name}:-{text}}}"


def comment(text: str) -> str:
    """`text` as one line of comment: what is not printable is shown escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def command_line(plan: Plan) -> str:
    """The command that makes this very file."""
    import shlex

    return comment(shlex.join(["ernie-deploy", "render", *command_words(plan.request)]))


def lines(setting: Setting) -> list[str]:
    """The YAML scalars of one flag, a word each; a host variable stays a variable."""
    made = [scalar(word) for word in words([setting])]
    if setting.variable:
        return [f'"--{setting.name}={variable(setting.variable, setting.value)}"']
    return made


def pair(setting: Setting) -> str:
    """`NAME: value` of one environment variable."""
    if setting.variable:
        return f'{setting.name}: "{variable(setting.variable, setting.value)}"'
    return f"{setting.name}: {scalar(setting.value)}"


def mount(source: str, target: str) -> str:
    """A read-only bind mount of a directory that must exist."""
    return (
        f"{{type: bind, source: {scalar(source)}, target: {scalar(target)},"
        " read_only: true, bind: {create_host_path: false}}"
    )


@cache
def script(name: str) -> str:
    """A Python file of the project as the text of a YAML block: Compose would interpolate `$`."""
    return (DOCKER / name).read_text(encoding="utf-8").replace("$", "$$").rstrip("\n")

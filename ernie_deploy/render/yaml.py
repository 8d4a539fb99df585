"""Jinja for YAML: every value that reaches a template goes through a filter that quotes it."""

import json
import re
from functools import cache
from typing import TYPE_CHECKING

from ernie_deploy.errors import UsageError
from ernie_deploy.paths import DOCKER
from ernie_deploy.plan.plan import Plan
from ernie_deploy.plan.request import command_words
from ernie_deploy.plan.settings import Setting, words
from ernie_deploy.render.templates import cell, code, jinja

if TYPE_CHECKING:
    from jinja2 import Environment

DEFAULT = re.compile(r"[A-Za-z0-9_./:@%+,=\[\]-]*")
# A word that every YAML reader takes for a text as it stands.
BARE = re.compile(r"-{0,2}[A-Za-z/][A-Za-z0-9_./=-]*")
NO_TEXT = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
WIDTH = 118


@cache
def environment() -> "Environment":
    """Jinja for YAML, where `scalar` quotes every value."""
    made = jinja(autoescape=False)
    made.filters |= {
        "scalar": scalar,
        "cell": cell,
        "code": code,
        "block": block,
        "comment": comment,
        "command_line": command_line,
        "lines": lines,
        "mount": mount,
        "pair": pair,
        "word": word,
        "dockerfile": dockerfile,
        "flow": flow,
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
            cause="spaces, quotes, braces and `$` have special meanings in Compose and YAML",
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
    if setting.variable:
        return [f'"--{setting.name}={variable(setting.variable, setting.value)}"']
    return [word(text) for text in words([setting])]


def pair(setting: Setting) -> str:
    """`NAME: value` of one environment variable."""
    if setting.variable:
        return f'{setting.name}: "{variable(setting.variable, setting.value)}"'
    return f"{setting.name}: {word(str(setting.value))}"


def mount(source: str, target: str) -> str:
    """A read-only bind mount of a directory that must exist."""
    return (
        f"{{type: bind, source: {scalar(source)}, target: {scalar(target)},"
        " read_only: true, bind: {create_host_path: false}}"
    )


def block(text: str) -> str:
    """A text as the content of a YAML block: Compose would interpolate `$`."""
    return text.replace("$", "$$").rstrip("\n")


def dockerfile(name: str) -> str:
    """A Dockerfile of the project as the content of a YAML block."""
    return block((DOCKER / name).read_text(encoding="utf-8"))


def word(text: str) -> str:
    """One word, bare where YAML and Compose leave it as it is."""
    return text if BARE.fullmatch(text) and text.lower() not in NO_TEXT else scalar(text)


def flow(items: list[str], column: int, indent: int, brackets: str = "[]") -> str:
    """Words of YAML as a list, or pairs as a mapping, from `column` on; rows below it are indented."""
    rows = packed(items, column + 1, indent)
    return brackets[0] + f"\n{' ' * indent}".join(rows).removesuffix(",") + brackets[1]


def packed(items: list[str], column: int, indent: int) -> list[str]:
    """Items with a comma behind each, in rows within WIDTH; the first row starts at `column`, the others at `indent`."""
    rows, width = [""], WIDTH - column
    for item in items:
        if rows[-1] and len(f"{rows[-1]}{item},") > width:
            rows.append("")
            width = WIDTH - indent
        rows[-1] += f"{item}, "
    return [row.rstrip() for row in rows]

"""Jinja as the kit uses it: an undefined name is an error, and blocks leave no blank lines; and Markdown's code."""

import re
from typing import TYPE_CHECKING

from ernie_deploy.paths import TEMPLATES

if TYPE_CHECKING:
    from jinja2 import Environment


def code(text: str) -> str:
    """`text` as Markdown's code, whatever backticks it holds."""
    text = " ".join(text.split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{text}{fence}" if len(fence) == 1 else f"{fence} {text} {fence}"


def cell(text: str) -> str:
    """`text` within one cell of a table, where a bar ends code too."""
    return text.replace("|", "\\|")


def jinja(*, autoescape: bool) -> "Environment":
    """An environment over templates/; the import stands here because start-up is counted."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from ernie_deploy.render.bytecode import Bytecode

    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        bytecode_cache=Bytecode("jinjaescaped" if autoescape else "jinja"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=autoescape,  # noqa: S701 - YAML is written too, where `scalar` quotes every value
        auto_reload=False,
        # Folding constants costs more than it saves in a template that is rendered once.
        optimized=False,
    )

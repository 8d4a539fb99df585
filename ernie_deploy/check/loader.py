"""Composes YAML with libyaml's parser, which Compose's is a port of, and with PyYAML's own where that finds fault.

PyYAML's C composer walks nested input on the C stack without a limit; its Python composer over the C parser does not.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any, TypeVar

import yaml
from yaml.composer import Composer
from yaml.resolver import Resolver

Composed = TypeVar("Composed")
NESTED = "exceeded maximum nesting depth"


def compose(text: str) -> yaml.Node | None:
    """The one document in `text`; raises what PyYAML does, and `RecursionError` where it is nested too deeply."""
    return _composed(lambda loader: yaml.compose(text, Loader=loader))


def compose_all(text: str) -> list[yaml.Node | None]:
    """Every document in `text`; raises the same."""
    return _composed(lambda loader: list(yaml.compose_all(text, Loader=loader)))


def _composed(by: Callable[[Any], Composed]) -> Composed:
    if yaml.__with_libyaml__:
        # What libyaml refuses is told in PyYAML's words, as where there is no libyaml.
        with suppress(yaml.YAMLError, ValueError, LookupError):
            return _nested_at_most(by)
    return by(yaml.SafeLoader)


def _nested_at_most(by: Callable[[Any], Composed]) -> Composed:
    try:
        return by(_libyaml())
    except yaml.MarkedYAMLError as fault:
        if NESTED in str(fault.problem):
            raise RecursionError(fault.problem) from fault
        raise


@cache
def _libyaml() -> Any:
    from yaml.cyaml import CParser  # type: ignore[attr-defined, unused-ignore]

    class Loader(Composer, CParser, Resolver):  # type: ignore[misc, unused-ignore]
        def __init__(self, stream: str) -> None:
            CParser.__init__(self, stream)
            Composer.__init__(self)
            Resolver.__init__(self)

    return Loader

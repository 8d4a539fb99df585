"""ED148: variables whose value is not what it looks like."""

from collections.abc import Iterator

from ernie_deploy.check.findings import Spot, rule
from ernie_deploy.check.service import Service
from ernie_deploy.check.tree import Items
from ernie_deploy.check.values import shown

QUOTES = ("'", '"')
# Below this a text is a quote mark and no more.
BOTH_QUOTES = 2


@rule(
    "ED148",
    "error",
    "The quote marks belong to the variable's value: neither YAML nor Compose takes them off there.",
    remedy="write - NAME=VALUE without them, or quote the whole item, or use the map form NAME: VALUE",
    source="run with Compose 2.40.3: `config` shows the marks in the value, in a list and in ${NAME:-''}",
)
def quotes_in_value(service: Service) -> Iterator[Spot]:
    """`- HF_HOME="/data"` and `${HF_TOKEN:-''}`."""
    for name, word in service.environment.items() if service.uses_vllm else ():
        text = "" if word.null else word.text
        if len(text) < BOTH_QUOTES or text[0] not in QUOTES or text[-1] != text[0]:
            continue
        if "${" in word.raw:
            sentence = f"the default of {shown(name)} is {_described(text)}, quote marks and all"
            yield Spot(word.line, sentence, f"for an empty default write ${{{name}:-}}", severity="warning")
        else:
            yield Spot(
                word.line, f"the value of {shown(name)} begins and ends with quote marks", _form(service)
            )


def _described(text: str) -> str:
    return f"the two characters {text}" if len(text) == BOTH_QUOTES else "a text"


def _form(service: Service) -> str:
    in_list = isinstance(service.value("environment"), Items)
    return "" if in_list else "quote it once: NAME: VALUE"

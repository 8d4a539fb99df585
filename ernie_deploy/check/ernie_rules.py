"""ED12x, second part: ERNIE checkpoints that vLLM cannot use as the command asks."""

import json
import re
from collections.abc import Iterator

from ernie_deploy.catalog.schema import Model
from ernie_deploy.check.argv import Argv
from ernie_deploy.check.findings import Spot, rule
from ernie_deploy.check.interpolate import known
from ernie_deploy.check.model_names import model_named, repository
from ernie_deploy.check.service import Service
from ernie_deploy.check.values import NEWEST, shown
from ernie_deploy.check.versions import exact

OWN_LAYER = '--speculative-config \'{"method": "mtp", "num_speculative_tokens": 1}\''
# An ERNIE draft is read as a multi-token-prediction layer, whichever of these is asked for.
MTP = ("", "mtp", "ernie_mtp", "draft_model")
GGUF = re.compile(r"\.gguf$|(?:^|[-_.])gguf(?:$|[-_.:])", re.IGNORECASE)
# How other engines' weights are called, and whose they are.
FORMATS = {
    re.compile(r"[-_]paddle$", re.IGNORECASE): "PaddlePaddle",
    re.compile(r"(?:^|[-_./])mlx(?:$|[-_./])", re.IGNORECASE): "MLX",
    re.compile(r"[-_.]exl[23](?:$|[-_.])", re.IGNORECASE): "ExLlama",
}
PARSERS = {"reasoning-parser": "reasoning-parser-plugin", "tool-call-parser": "tool-parser-plugin"}


@rule(
    "ED125",
    "error",
    "The draft model has other dimensions than the model it drafts for.",
    remedy=f"{OWN_LAYER} takes the layer from the model's own checkpoint",
    source="vLLM 0.32.0 vllm/config/speculative.py reads an ernie4_5_moe draft as ErnieMTPModel, which shares"
    " embeddings and head with its target; hidden_size of the catalog's models",
)
def foreign_draft(service: Service) -> Iterator[Spot]:
    """300b with the 21b as its draft, as the published YAML has it."""
    argv, model = service.serve, service.model
    line, method, name = _draft(argv) if argv else (0, "", "")
    other = model_named(name, service.stack.models) if name else None
    if model is None or other is None or method not in MTP:
        return
    theirs, ours = other.figures.hidden_size, model.figures.hidden_size
    if theirs != ours:
        sentence = f"the draft {other.id} (hidden size {theirs}) does not fit {model.id} (hidden size {ours})"
        yield Spot(line, sentence)


def _draft(argv: Argv) -> tuple[int, str, str]:
    """Line, method and model of the speculative configuration, in one JSON or in dotted flags."""
    line, method, name = 0, "", ""
    for argument in argv.arguments:
        if argument.name != "speculative-config":
            continue
        table = {argument.dotted: argument.value} if argument.dotted else _table(argument.value)
        method, name = str(table.get("method", method)), str(table.get("model", name))
        line = argument.line if "model" in table else line
    return line, method, name


def _table(value: str) -> dict[str, object]:
    try:
        table = json.loads(value)
    except (ValueError, RecursionError):
        return {}
    return table if isinstance(table, dict) else {}


@rule(
    "ED126",
    "error",
    "vLLM does not read weights of this format.",
    remedy="take the repository that ends in -PT, which holds the weights for vLLM and transformers",
    source="huggingface.co/baidu: -Paddle holds PaddlePaddle's format, -PT safetensors;"
    " vLLM 0.32.0 vllm/model_executor/model_loader LoadFormats has no gguf",
)
def unreadable_weights(service: Service) -> Iterator[Spot]:
    """Paddle, GGUF, MLX and ExLlama checkpoints."""
    word = service.model_word
    if not service.serve or word is None or not known(word.text):
        return
    name = repository(word.text)
    kind = _format(word.text, name)
    ernie = name.lower().startswith("ernie") or "/ernie" in word.text.lower()
    certain = ernie or kind == "PaddlePaddle" or (kind == "GGUF" and _has_no_gguf(service))
    if kind and certain:
        twin = _twin(name, service)
        remedy = "" if ernie else "take the repository that holds the weights as safetensors"
        remedy = f"take {twin.hf_id}, whose weights are for vLLM" if twin else remedy
        yield Spot(word.line, f"{shown(name)} is in the format of {kind}, which vLLM does not read", remedy)


def _format(text: str, name: str) -> str:
    if GGUF.search(text.rpartition("/")[2]) or GGUF.search(name):
        return "GGUF"
    return next((title for pattern, title in FORMATS.items() if pattern.search(text)), "")


def _has_no_gguf(service: Service) -> bool:
    return service.engine == NEWEST or exact(service.engine)


def _twin(name: str, service: Service) -> Model | None:
    """The model whose weights these are in another format."""
    ids = {
        model.hf_id.rpartition("/")[2].removesuffix("-PT").lower(): model for model in service.stack.models
    }
    fitting = [known_name for known_name in ids if name.lower().startswith(known_name)]
    return ids[max(fitting, key=len)] if fitting else None


@rule(
    "ED127",
    "error",
    "The parser reads another model's format: reasoning or tool calls come out as plain text.",
    remedy="--reasoning-parser ernie45, and --tool-call-parser ernie45 for 21b-thinking",
    source="vLLM 0.32.0 docs/features/reasoning_outputs.md and tool_calling.md; parsers of the catalog's models",
)
def foreign_parser(service: Service) -> Iterator[Spot]:
    """A parser of another family's on a model with one of its own; one where there is nothing to parse."""
    argv, model = service.serve, service.model
    if argv is None or model is None:
        return
    own = {"reasoning-parser": model.reasoning_parser, "tool-call-parser": model.tool_call_parser}
    for flag, plugin in PARSERS.items():
        given, line = argv.text(flag), argv.line_of(flag)
        if not given or not known(given) or argv.has(plugin) or given == own[flag]:
            continue
        if own[flag]:
            sentence = f"--{flag} {shown(given)}: {model.id} writes what {own[flag]} reads"
            yield Spot(line, sentence, f"--{flag} {own[flag]}")
        elif flag == "reasoning-parser":
            sentence = f"--{flag} {shown(given)}: {model.id} writes no reasoning apart"
            yield Spot(line, sentence, f"leave out --{flag}", severity="warning")

"""`--attach`: a server elsewhere; whose tokenizer is loaded and trusted here is the catalog's word or the user's."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_deploy.errors import UsageError

if TYPE_CHECKING:
    from ernie_deploy.bench.measure.deployment import Attached
    from ernie_deploy.catalog.schema import Model
    from ernie_deploy.plan.plan import Plan


def attached(options: dict[str, Any], plan: "Plan | None") -> "Attached":
    """The server of --attach; raises `UsageError` where options are missing or cannot be meant."""
    from ernie_deploy.bench.measure.deployment import Attached

    _refuse_restarts(options)
    model = plan.model if plan else _named(options["model"])
    return Attached(
        options["attach"],
        tokenizer=_whole(options["tokenizer"]) or _tokenizer(model),
        trust_remote_code=bool(model and model.trust_remote_code),
        api_key=_api_key(options["api_key_file"]),
    )


def _whole(tokenizer: str) -> str:
    """The user's own tokenizer; a folder by its whole path, as the client works elsewhere."""
    return str(Path(tokenizer).absolute()) if tokenizer and Path(tokenizer).exists() else tokenizer


def _named(model_id: str) -> "Model | None":
    from ernie_deploy.catalog import Catalog

    return Catalog().model(model_id) if model_id else None


def _tokenizer(model: "Model | None") -> str:
    if model is None:
        raise UsageError(
            "--attach needs --model or --tokenizer.",
            cause="the kit never loads a tokenizer that a server names",
            next_step="list the catalog's ids with `ernie-deploy models`",
        )
    if model.revision == "main":
        return model.hf_id
    folder = f"{model.id}-tokenizer"
    words = ["hf", "download", model.hf_id, "--revision", model.revision, "--exclude", "*.safetensors", "--local-dir", folder]  # fmt: skip
    raise UsageError(
        f"{model.id} needs the tokenizer of revision {model.revision}.",
        cause="vLLM's client has no option for a revision",
        next_step=f"{shlex.join(words)}, then add --tokenizer {folder}",
    )


def _api_key(path: Path | None) -> str:
    if path is None:
        return ""
    from ernie_deploy.stack.api_key import key_in

    key = key_in(path)
    if not key:
        raise UsageError(
            f"{path} cannot be read.",
            cause="it does not exist, or this user cannot read it",
            next_step=f"check it with: ls -l {shlex.quote(str(path))}",
        )
    return key


def _refuse_restarts(options: dict[str, Any]) -> None:
    if options.get("cold") == "restart" or options.get("preset") == "published":
        raise UsageError(
            "A server elsewhere cannot be restarted from here.",
            cause="--cold restart and --preset published give each cell a fresh server",
            next_step="run them on a stack of this host, or use --cold seed",
        )

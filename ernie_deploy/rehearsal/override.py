"""The small compose file laid over a rendering: another image, a local hub, and no devices."""

import json
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from ernie_deploy.catalog.schema import Model
from ernie_deploy.flags import Setting, words
from ernie_deploy.memory import kv_bytes_per_token
from ernie_deploy.paths import DOCKER
from ernie_deploy.plan import Plan
from ernie_deploy.render import environment

IMAGE = "ernie-deploy/engine-cpu:0.32.0"
KV_CACHE_GIB = 1
# What vLLM's CPU platform cannot run, and why.
CPU_CANNOT = {
    "quantization": "online FP8 needs a GPU's kernels",
    "gpu-memory-utilization": "on the CPU platform it is a share of this host's RAM",
    "cpu-offload-gb": "the weights are in host memory already",
}


class Rehearsal(Struct, frozen=True, kw_only=True):
    """One rehearsal decided: the plan, the words a CPU takes instead, and where its files lie."""

    plan: Plan
    project: str
    folder: Path
    checkpoint: str
    command: tuple[str, ...]
    replaced: tuple[str, ...]

    @property
    def scripts(self) -> Path:
        """The project's folder with the hub and the checkpoint script."""
        return (DOCKER / "rehearsal").resolve()


def decide(plan: Plan, folder: Path, project: str) -> Rehearsal:
    """Everything a rehearsal of `plan` in `folder` needs."""
    dropped = [setting for setting in plan.settings if setting.name in CPU_CANNOT]
    kept = [setting for setting in plan.settings if setting.name not in CPU_CANNOT]
    return Rehearsal(
        plan=plan,
        project=project,
        folder=folder,
        checkpoint=checkpoint_kind(plan.model),
        command=(plan.positional_model, *words(kept)),
        replaced=tuple(_sentence(setting) for setting in dropped),
    )


def _sentence(setting: Setting) -> str:
    return f"{' '.join(words([setting]))} -> left out: {CPU_CANNOT[setting.name]}"


def checkpoint_kind(model: Model) -> str:
    """Which tiny checkpoint has the shape of this model."""
    if not model.experts:
        return "dense"
    kind = "vl" if model.vision else "moe"
    return kind if model.figures.tied_embeddings else f"{kind}-untied"


def override_file(rehearsal: Rehearsal) -> str:
    """The text of the override."""
    return (
        environment()
        .get_template("rehearsal.yml.j2")
        .render(rehearsal=rehearsal, plan=rehearsal.plan, image=IMAGE, kv_cache_gib=KV_CACHE_GIB)
    )


def tiny_kv_bytes(rehearsal: Rehearsal) -> int:
    """What the memory plan says one token takes of a rank, were the tiny checkpoint the model."""
    config = json.loads((rehearsal.folder / "checkpoints" / rehearsal.checkpoint / "config.json").read_text())
    plan = rehearsal.plan
    figures = replace(
        plan.model.figures,
        layers=config["num_hidden_layers"],
        kv_heads=config["num_key_value_heads"],
        head_dim=config["head_dim"],
    )
    drafts = plan.setting("speculative-config") is not None
    return kv_bytes_per_token(replace(plan.model, figures=figures), plan.topology, mtp=drafts)


def hub_map(plan: Plan, kind: str) -> dict[str, dict[str, str]]:
    """Which folder the hub serves under the real model id and revision."""
    return {plan.model.hf_id: {plan.revision: f"/checkpoints/{kind}"}}

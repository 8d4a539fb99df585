"""The small compose file laid over a rendering: another image, a local hub, no devices, nodes that are containers."""

import json
import platform
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from ernie_deploy.catalog.schema import Model
from ernie_deploy.paths import DOCKER
from ernie_deploy.plan.gateway import FRONT_PORT
from ernie_deploy.plan.memory import kv_bytes_per_token
from ernie_deploy.plan.plan import Plan
from ernie_deploy.rehearsal.cpu_plan import WATCHING, for_cpu
from ernie_deploy.render.yaml import environment

KV_CACHE_GIB = 1


class Rehearsal(Struct, frozen=True, kw_only=True):
    """One rehearsal decided: the plan as a CPU runs it, and where its files lie."""

    plan: Plan
    project: str
    folder: Path
    checkpoint: str
    replaced: tuple[str, ...]

    @property
    def scripts(self) -> Path:
        """The project's folder with the hub and the checkpoint script."""
        return (DOCKER / "rehearsal").resolve()

    @property
    def network(self) -> str:
        """The Docker network between nodes."""
        return f"{self.project}-nodes"

    @property
    def alone(self) -> str:
        """The container of the comparison with one node."""
        return f"{self.project}-alone"

    @property
    def front(self) -> str:
        """The service whose port is published: a node has it where there are several."""
        if self.plan.gateway:
            return "gateway"
        return "machine" if self.plan.several_nodes else "serve"

    @property
    def front_port(self) -> int:
        """The port of its container."""
        return FRONT_PORT if self.plan.gateway else 8000

    @property
    def scheme(self) -> str:
        """How it is spoken to."""
        return "https" if self.plan.request.tls else "http"

    @property
    def suffix(self) -> str:
        """What tells a node's volumes from another's; each reads its own rank from its .env."""
        return "-${NODE_RANK}" if self.plan.several_nodes else ""


def cpu_image(engine: str) -> str:
    """The image of vLLM `engine` built for CPU, as docker/engine-cpu/build.py names it."""
    return f"ernie-deploy/engine-cpu:{engine}"


def debian_images(plan: Plan) -> dict[str, str]:
    """Service -> Debian's program in place of its official image; what of --monitoring has none is left out."""
    gateway = {"gateway": debian_image("haproxy")} if plan.gateway else {}
    return gateway | {one.id: debian_image(one.id) for one in plan.monitoring if one.id in WATCHING}


def debian_image(name: str) -> str:
    """Debian's program laid out as its official image is, as docker/debian/build_image.py names it."""
    try:
        release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    except (OSError, KeyError):
        release = "debian"
    return f"ernie-deploy/{name}-debian:{release}"


def ray_image(engine: str) -> str:
    """The same with Ray. `rehearse` refuses to serve over Ray, which vLLM for CPU cannot; tests form its cluster."""
    return f"ernie-deploy/vllm-ray:{engine}-cpu"


def decide(plan: Plan, folder: Path, project: str) -> Rehearsal:
    """Everything a rehearsal of `plan` in `folder` needs."""
    smaller, replaced = for_cpu(plan)
    return Rehearsal(
        plan=smaller,
        project=project,
        folder=folder,
        checkpoint=checkpoint_kind(plan.model),
        replaced=replaced,
    )


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
        .render(
            rehearsal=rehearsal,
            plan=rehearsal.plan,
            image=cpu_image(rehearsal.plan.engine),
            ray_image=ray_image(rehearsal.plan.engine),
            debian_images=debian_images(rehearsal.plan),
            front_port=FRONT_PORT,
            kv_cache_gib=KV_CACHE_GIB,
        )
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

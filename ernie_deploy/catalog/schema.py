"""The catalog's types: what a model, a target, a profile and a recipe row are."""

from typing import Any, Literal, TypeAlias

from msgspec import Struct, field

Vendor: TypeAlias = Literal["nvidia", "amd", "cpu"]
Value: TypeAlias = bool | int | float | str | list[Any] | dict[str, Any]
Settings: TypeAlias = dict[str, Value]


class Fact(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every table: frozen, and a key that nobody reads is refused."""


class Figures(Fact, frozen=True):
    """Architecture of the language model, as config.json spells it."""

    source: str
    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    tied_embeddings: bool


class Experts(Fact, frozen=True):
    """Mixture-of-experts figures; a dense model has no such table."""

    source: str
    count: int
    per_token: int
    intermediate_size: int
    shared: int
    first_layer: int
    vision_intermediate_size: int = 0


class Vision(Fact, frozen=True):
    """The vision tower and its resampler, which every GPU holds whole or in part."""

    source: str
    parameters: int


class Model(Fact, frozen=True):
    """One ERNIE checkpoint; `packages` are what its remote code needs beside the image, by id.

    `chat` says whether its tokenizer has a chat template, without which vLLM refuses every chat.
    """

    id: str
    title: str
    hf_id: str
    revision: str
    architecture: str
    min_vllm: str
    context_tokens: int
    source: str
    figures: Figures
    experts: Experts | None = None
    vision: Vision | None = None
    mtp: bool = False
    trust_remote_code: bool = False
    packages: list[str] = []
    reasoning_parser: str = ""
    tool_call_parser: str = ""
    chat: bool = True


class EngineDefaults(Fact, frozen=True):
    """What vLLM itself would choose on this card; the CPU platform does not show it.

    `moe_backend` is what --moe-backend auto means for ERNIE's BF16 experts, one server on one replica.
    """

    source: str
    max_num_batched_tokens: int
    max_num_seqs: int
    moe_backend: str
    moe_backend_source: str


class Target(Fact, frozen=True):
    """One kind of node; `gpus` is 0 where vLLM runs on the processor."""

    id: str
    title: str
    vendor: Vendor
    gpus: int
    memory_gib: float
    memory_source: str
    bandwidth_gb_per_s: float
    bandwidth_source: str
    peak_bf16_tflops: float
    peak_source: str
    fp8: Literal["native", "weight-only", "none"]
    fp8_source: str
    engine_defaults: EngineDefaults
    environment: dict[str, str] = {}
    # Other names, in small letters.
    aliases: list[str] = []


Need: TypeAlias = Literal["fp8", "gpu", "large", "moe", "mtp", "published", "reasoning", "tools", "vision"]


class Profile(Fact, frozen=True):
    """An opt-in change to a plan; `needs` are capabilities of the pairing.

    `parsers` are flags whose value is the model's own (`reasoning-parser`).
    """

    id: str
    summary: str
    source: str
    needs: list[Need] = []
    conflicts: list[str] = []
    parsers: list[str] = []
    settings: Settings = {}


class Row(Fact, frozen=True):
    """One serve or bench command of a published recipe, word for word as settings.

    `lines` are the first and last line of the command in the recipe file; `variant` are the
    profiles that the command stands for.
    """

    id: str
    recipe: str
    lines: tuple[int, int]
    model: str
    targets: list[str]
    nodes: int = 1
    gpus: int = 0
    variant: list[str] = []
    settings: Settings = {}
    environment: dict[str, str] = {}


class Bench(Fact, frozen=True):
    """One published benchmark command, word for word as settings."""

    id: str
    recipe: str
    lines: tuple[int, int]
    models: list[str]
    vendors: list[Vendor]
    settings: Settings


class Disagreement(Fact, frozen=True):
    """Where a published recipe and today's vLLM differ, and what the kit does about it.

    `drop` never renders the setting; `published` renders it with `--profile published` only;
    `replace` renders `today` instead; `layout` leaves the parallel sizes to the plan; `note` tells of something that is not a setting.
    From the vLLM `until` on they agree again, and the setting is rendered as published.
    """

    id: str
    action: Literal["drop", "published", "replace", "layout", "note"]
    reason: str
    source: str
    setting: str = ""
    value: Value | None = None
    today: Value | None = None
    keep_for: Literal["", "remote-code"] = ""
    until: str = ""
    applies_to: list[str] = []


class Recipes(Fact, frozen=True):
    """The published recipes: their commands, and where they no longer hold."""

    serve: list[Row]
    bench: list[Bench]
    disagreements: list[Disagreement]


class Support(Fact, frozen=True):
    """What is known of one model on one target; a refusal has its reason."""

    state: Literal["recipe", "derived", "refused"]
    reason: str = ""


class SupportRow(Fact, frozen=True):
    """One model on every target; `refused` gives each reason."""

    recipe: list[str]
    derived: list[str]
    refused: dict[str, str] = {}

    def of(self, target_id: str) -> Support:
        """The state of one target."""
        if target_id in self.refused:
            return Support(state="refused", reason=self.refused[target_id])
        return Support(state="recipe" if target_id in self.recipe else "derived")


class SupportTable(Fact, frozen=True):
    """Every model on every target, by model id."""

    models: dict[str, SupportRow]


class Variable(Fact, frozen=True):
    """One `${NAME}` that a host may set; an empty default is decided by the plan."""

    name: str
    default: str
    summary: str


class Variables(Fact, frozen=True):
    """Every variable that any stack reads, in the order of `.env.example`."""

    variables: list[Variable] = field(name="variable")


class Port(Fact, frozen=True):
    """A port that the nodes of one server open; `number` 0 stands for ports the kernel chooses.

    `flag` or `variable` is what changes it; `when` are the forms of several nodes that have it.
    """

    id: str
    number: int
    on: Literal["head", "every node"]
    to: Literal["clients", "workers", "every node"]
    when: list[Literal["native", "ray", "replicas"]]
    summary: str
    source: str
    flag: str = ""
    variable: str = ""


class Ports(Fact, frozen=True):
    """Every port of every form of several nodes."""

    ports: list[Port] = field(name="port")


class Substitution(Fact, frozen=True):
    """Something that runs in place of what is rendered, why, and what else proves the rendered thing.

    `what` is a path in the resolved stack with `*` for any part, a flag of vLLM, or a name in vLLM's sources;
    an empty `by` leaves it out.
    """

    where: Literal["rehearsal", "engine"]
    what: str
    why: str
    proof: str
    by: str = ""

    @property
    def flag(self) -> str:
        """The flag's name; empty where it is something else."""
        return self.what.removeprefix("--") if self.what.startswith("--") else ""


class Substitutions(Fact, frozen=True):
    """All of them: nothing else is swapped."""

    substitutions: list[Substitution] = field(name="substitution")

"""What a stack takes of each GPU, by the flags that its file has today and not by those of its first line."""

from ernie_deploy.catalog import Catalog
from ernie_deploy.catalog.engine_schema import Engine
from ernie_deploy.check.argv import Argv
from ernie_deploy.check.service import Service
from ernie_deploy.diff.change import Key
from ernie_deploy.diff.flags import OFF, ON, meanings
from ernie_deploy.errors import KitError
from ernie_deploy.plan.memory import MemoryPlan
from ernie_deploy.plan.plan import Plan
from ernie_deploy.plan.resolve import memory_with
from ernie_deploy.plan.settings import Setting
from ernie_deploy.plan.words import parse_words

# What the memory plan reads (plan/layout.py).
SIZES = (
    "tensor-parallel-size", "data-parallel-size", "pipeline-parallel-size", "enable-expert-parallel", "max-model-len",
    "gpu-memory-utilization", "quantization", "speculative-config", "cpu-offload-gb", "max-num-batched-tokens",
    "max-num-seqs", "language-model-only", "moe-backend",
)  # fmt: skip


def memory_facts(plan: Plan, server: Service | None, catalog: Catalog) -> dict[Key, str]:
    """GiB and tokens per GPU; nothing where the flags make no plan."""
    if server is None or server.serve is None or server.model is None:
        return {}
    try:
        memory = memory_with(catalog, plan, server.model, _settings(server.serve, server.engine_facts))
    except KitError:
        return {}
    return {Key("memory", "", name): text for name, text in rows(memory)}


def rows(memory: MemoryPlan) -> list[tuple[str, str]]:
    """A memory plan's figures by name, as they are shown."""
    return [
        ("vLLM may take", f"{memory.budget_gib:.1f} GiB"),
        ("weights", f"{memory.weights_gib:.1f} GiB"),
        ("overhead (estimated)", f"{memory.overhead_gib:.1f} GiB"),
        ("KV cache (estimated)", f"{memory.kv_cache_gib:.1f} GiB"),
        ("KV cache of a replica (estimated)", f"{memory.kv_cache_tokens:,} tokens"),
        ("longest context", f"{memory.context_tokens:,} tokens"),
        ("verdict", memory.verdict),
    ]


def _settings(argv: Argv, engine: Engine) -> tuple[Setting, ...]:
    """The flags that the memory plan reads, as settings; one that cannot be read counts as not given."""
    given = {name.removeprefix("--"): value for name, value in meanings(argv).items()}
    return tuple(setting for name in SIZES if name in given for setting in _parsed(name, given[name], engine))


def _parsed(name: str, value: str, engine: Engine) -> list[Setting]:
    if value == OFF:
        return []
    try:
        return parse_words((f"--{name}" if value == ON else f"--{name}={value}",), engine)
    except KitError:
        return []

"""The recipe's benchmark command as the `bench` service runs it."""

from collections.abc import Sequence

from msgspec.structs import replace

from ernie_deploy.catalog.schema import Model, Recipes, Target
from ernie_deploy.plan import recipe
from ernie_deploy.plan.request import Request
from ernie_deploy.plan.serve import HF_CACHE, WEIGHTS_MOUNT
from ernie_deploy.plan.settings import Setting, as_settings, merge

# Settings a host may change without rendering again.
VARIABLES = {
    "random-input-len": "BENCH_INPUT_LEN",
    "random-output-len": "BENCH_OUTPUT_LEN",
    "num-prompts": "BENCH_NUM_PROMPTS",
    "request-rate": "BENCH_REQUEST_RATE",
}
# One image of 720p for each prompt, as vLLM's documentation of random-mm has it.
PICTURES = (
    "--backend=openai-chat",
    "--endpoint=/v1/chat/completions",
    "--dataset-name=random-mm",
    "--random-mm-base-items-per-request=1",
    "--random-mm-num-mm-items-range-ratio=0",
    '--random-mm-limit-mm-per-prompt={"image": 1}',
    "--random-mm-bucket-config={(720, 1280, 1): 1.0}",
)  # fmt: skip


def bench_settings(
    recipes: Recipes, model: Model, target: Target, request: Request, serve: Sequence[Setting]
) -> tuple[Setting, ...]:
    """The published command with this stack's model, address and tokenizer."""
    command = recipe.bench_for(recipes, model, target)
    return merge(
        [_variable(setting) for setting in recipe.settings_of(command)],
        as_settings({"model": model.hf_id}, f"model {model.id}"),
        _names(model, request, serve),
        _address(serve),
        as_settings(
            {"temperature": 0}, "kit: the recipe's client used temperature 0 by default; today's does not"
        ),
        [Setting(name="seed", value=0, origin="kit: vLLM's default", variable="BENCH_SEED")],
    )


def _address(serve: Sequence[Setting]) -> list[Setting]:
    """Where the one server is: its service's name, or where it listens on the host's own network."""
    origin = "kit: where the stack's server listens"
    known = [replace(s, origin=origin) for s in serve if s.name in ("host", "port")]
    return known or as_settings({"host": "serve", "port": 8000}, origin)


def _variable(setting: Setting) -> Setting:
    return Setting(
        name=setting.name,
        value=setting.value,
        origin=setting.origin,
        variable=VARIABLES.get(setting.name, ""),
    )


def _names(model: Model, request: Request, serve: Sequence[Setting]) -> list[Setting]:
    """What the client must be told where the hub's id alone does not find name or tokenizer."""
    named = next((s.value for s in serve if s.name == "served-model-name"), None)
    served = named[0] if isinstance(named, list) else named
    settings = as_settings({"served-model-name": served}, "user") if served else []
    revision = next((s.value for s in serve if s.name == "revision"), model.revision)
    if request.weights:
        settings += as_settings({"tokenizer": WEIGHTS_MOUNT}, "user")
    elif revision != "main":
        # The client has no revision option; fetch keeps this link to the snapshot.
        folder = f"{HF_CACHE}/ernie/{model.hf_id.partition('/')[2]}"
        settings += as_settings({"tokenizer": folder}, f"model {model.id}: revision {revision}")
    return settings

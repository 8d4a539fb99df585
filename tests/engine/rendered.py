"""What vLLM is started with, word for word as it stands in the rendered file."""

from typing import Any

import yaml
from test_render import interpolated

from ernie_deploy.catalog import Catalog
from ernie_deploy.plan.plan import Plan
from ernie_deploy.render.compose import compose_file

COMMANDS = {"serve": ["vllm", "serve"], "worker": ["vllm", "serve"], "bench": ["vllm", "bench", "serve"]}


def services(plan: Plan, **env: object) -> dict[str, Any]:
    """The services of the rendering as Compose sees them with these variables in .env."""
    text = interpolated(
        compose_file(plan, Catalog().defaults), {key: str(value) for key, value in env.items()}
    )
    made: dict[str, Any] = yaml.load(text, yaml.CSafeLoader)["services"]
    return made


def vllm_words(plan: Plan, service: str = "serve", **env: object) -> list[str]:
    """The words behind the command of vLLM that ends the service's entrypoint."""
    return words_of(services(plan, **env), service)


def words_of(made: dict[str, Any], service: str) -> list[str]:
    """The words of one service of a rendering."""
    command = COMMANDS[service]
    assert made[service]["entrypoint"][-len(command) :] == command
    return [str(word) for word in made[service]["command"]]

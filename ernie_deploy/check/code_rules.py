"""ED1xx, third part: code of a model's own repository, without which or without whose packages nothing starts."""

import re
from collections.abc import Iterator

from ernie_deploy.catalog.package_schema import Package
from ernie_deploy.check.findings import Spot, rule
from ernie_deploy.check.model_names import as_published
from ernie_deploy.check.service import Service

# A longer word is a program of somebody's, and what it mentions it need not bring.
LONGEST_WORD = 4096
# Flags that put another configuration in the place of the published one; a file of flags may hold any.
CHANGE_CONFIG = ("config", "hf-overrides", "hf-config-path", "config-format")
LIBRARIES = re.compile(r"(?:site|dist)-packages")


@rule(
    "ED123",
    "warning",
    "vLLM's own images lack a package that the model's code imports; the server exits while it starts.",
    remedy="render the stack with ernie-deploy, whose `fetch` brings it; or build your own image that has it",
    source="vllm-project/vllm pull request 22514, comment of 2025-11-25, with the log",
    of_absence=True,
)
def missing_package(service: Service) -> Iterator[Spot]:
    """A VL model on a stock image that nothing is added to."""
    argv, model = service.argv, service.model
    if not argv or not model or not argv.has("trust-remote-code") or not _is_stock(service):
        return
    lacking = [package.title for package in _packages(service) if not _mentions(service, package.id)]
    if lacking and not _has_libraries(service):
        sentence = f"the code of {model.id} imports {', '.join(lacking)}, which {service.image.name} lacks"
        yield Spot(argv.line_of("trust-remote-code"), sentence)


def _is_stock(service: Service) -> bool:
    return service.image.variant is not None and service.value("build") is None


def _packages(service: Service) -> list[Package]:
    """The packages that the model's code imports."""
    catalog = service.stack.catalog
    return [p for p in catalog.packages_of(service.model) if p.modules] if service.model else []


def _mentions(service: Service, name: str) -> bool:
    """Whether a word of the command, a variable or a mount names the package, so that somebody thought of it."""
    words = [word.text for word in (*(service.entrypoint or ()), *(service.command or ()))]
    words += [word.text for word in service.environment.values()]
    words += [f"{mount.source}:{mount.target}" for mount in service.mounts]
    return any(re.search(rf"\b{re.escape(name)}\b", word) for word in words if len(word) < LONGEST_WORD)


def _has_libraries(service: Service) -> bool:
    """Whether modules come from elsewhere than the image."""
    mounted = any(LIBRARIES.search(mount.target) for mount in service.mounts)
    return mounted or bool(service.variable("PYTHONPATH"))


@rule(
    "ED124",
    "error",
    "The model's published configuration is code of its repository, which vLLM is not told to run.",
    remedy="add --trust-remote-code, with --revision and --code-revision of a commit that you have read",
    source="vLLM 0.32.0 vllm/transformers_utils/config.py: `Failed to load the model config`; transformers 5.19 knows"
    " ernie4_5_vl_moe and not the published ernie4_5_moe_vl",
)
def missing_trust(service: Service) -> Iterator[Spot]:
    """A VL model from the hub without `--trust-remote-code`."""
    argv, model, word = service.serve, service.model, service.model_word
    if not argv or not model or not word or not model.trust_remote_code or argv.has("trust-remote-code"):
        return
    # A folder of the user's may be converted, and hf-overrides may name another class.
    changed = any(argument.name in CHANGE_CONFIG for argument in argv.arguments)
    if as_published(word.text, model) and not changed:
        yield Spot(word.line, f"{model.id} does not start without --trust-remote-code")

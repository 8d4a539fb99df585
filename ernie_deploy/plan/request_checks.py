"""Refuses requests that no compose file can carry."""

import re

from ernie_deploy.errors import UsageError
from ernie_deploy.plan.request import Request, bind_address, fits_yaml, is_stack_name

HIGHEST_PRICE = 1000
# Docker's, for users and groups.
LARGEST_ID = 2**31 - 1


def check_words(request: Request) -> None:
    """Refuse what no compose file can carry; raises `UsageError`."""
    try:
        bind_address(request.bind)
    except ValueError as fault:
        raise UsageError(f"--bind {fault}.") from None
    if request.name and not is_stack_name(request.name):
        raise UsageError(
            f"--name {request.name[:60]!r} cannot name a stack.",
            cause="Compose takes lower-case letters, digits, `-` and `_`, beginning with a letter or digit; the kit takes at most 40",
            next_step="choose another, such as --name ernie-a",
        )
    if request.user and not _is_user(request.user):
        raise UsageError(
            f"--user {request.user[:40]!r} is not UID:GID.",
            cause="names are looked up in the image, where yours does not exist",
            next_step="give numbers, such as --user $(id -u):$(id -g)",
        )
    _check_nodes_and_gpus(request)
    _check_figures(request)
    _check_characters(request)


def _check_nodes_and_gpus(request: Request) -> None:
    if request.nodes == 1 and (request.rdma or request.multi_node == "ray"):
        raise UsageError(
            f"--{'rdma' if request.rdma else 'multi-node ray'} is about more than one node.",
            next_step="add --nodes 2, or leave it out",
        )
    if len(set(request.gpus)) != len(request.gpus):
        raise UsageError(f"--gpus names a GPU twice: {','.join(map(str, request.gpus))}.")


def _check_characters(request: Request) -> None:
    if not request.weights.isprintable():
        raise UsageError("--weights has a character that no path here can carry (newline, NUL, control).")
    for word in (*request.pairs, *request.extra):
        if not fits_yaml(word):
            raise UsageError(
                f"{word[:40]!r} has a character that YAML cannot carry.",
                cause="a control character or half of a surrogate pair",
            )


def _check_figures(request: Request) -> None:
    """What the dashboard and the alerts are told."""
    if request.gpu_price is not None and not 0 < request.gpu_price <= HIGHEST_PRICE:
        raise UsageError(
            f"--gpu-price {request.gpu_price:g} is no price of a GPU for an hour, in US dollars."
        )
    if request.runbooks and not is_page(request.runbooks):
        raise UsageError(
            f"--runbooks {request.runbooks[:60]!r} is no address of pages.",
            next_step="name the place where you keep the kit's docs/alerts, such as --runbooks https://wiki.example.org/ernie",
        )


def is_page(text: str) -> bool:
    """Whether an alert may name it as where its page is."""
    from ernie_deploy.plan.references import PAGE_ADDRESS

    return bool(PAGE_ADDRESS.fullmatch(text))


def _is_user(text: str) -> bool:
    return bool(re.fullmatch(r"[0-9]{1,10}:[0-9]{1,10}", text)) and all(
        int(number) <= LARGEST_ID for number in text.split(":")
    )

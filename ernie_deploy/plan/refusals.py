"""What of a request applies to a model on a target, and the refusal of what does not."""

from ernie_deploy.catalog.schema import Need, Profile, Target
from ernie_deploy.errors import Refused, UsageError
from ernie_deploy.plan.memory import GIB, weight_bytes
from ernie_deploy.plan.pairing import Pairing
from ernie_deploy.plan.request import Request

LARGE_GIB = 100

NEEDS: dict[Need, str] = {
    "fp8": "the card has no FP8 path in vLLM",
    "gpu": "it is about GPU memory, and this target has no GPU",
    "large": f"the weights are under {LARGE_GIB} GiB and fit without it",
    "moe": "the model is dense and has no experts",
    "mtp": "the checkpoint has no multi-token-prediction layer that vLLM can draft with",
    "published": "no published recipe names this model on this target",
    "reasoning": "the model does not write its reasoning apart",
    "tools": "vLLM documents tool calling for 21b-thinking only",
    "vision": "the model has no vision tower",
}


def capabilities(pairing: Pairing) -> set[Need]:
    """What the pairing has that a profile may need."""
    model, target = pairing.model, pairing.target
    rows = pairing.recipes.serve
    has: dict[Need, bool] = {
        "fp8": target.fp8 != "none",
        "gpu": target.gpus > 0,
        "large": weight_bytes(model) > LARGE_GIB * GIB,
        "moe": model.experts is not None,
        "mtp": model.mtp,
        "published": any(r.model == model.id and target.id in r.targets for r in rows),
        "reasoning": bool(model.reasoning_parser),
        "tools": bool(model.tool_call_parser),
        "vision": model.vision is not None,
    }
    return {need for need, met in has.items() if met}


def check_profiles(pairing: Pairing) -> None:
    """Refuse profiles that the pairing has no use for, and those that contradict each other."""
    has, asked = capabilities(pairing), [profile.id for profile in pairing.profiles]
    for profile in pairing.profiles:
        for need in profile.needs:
            if need not in has:
                raise _inapplicable(profile, pairing, NEEDS[need])
        if clash := set(profile.conflicts) & set(asked):
            raise _inapplicable(profile, pairing, f"it contradicts the profile {min(clash)}")
    if len(set(asked)) != len(asked):
        raise UsageError(f"A profile is named twice: {', '.join(asked)}.")


def _inapplicable(profile: Profile, pairing: Pairing, reason: str) -> Refused:
    return Refused(
        f"The profile {profile.id} does not apply to {pairing.model.id} on {pairing.target.id}.",
        cause=reason,
        next_step="leave it out; `ernie-deploy profiles` says what each one needs",
    )


def check_gpus(request: Request, target: Target) -> None:
    """Refuse GPUs that the node does not have."""
    if any(not 0 <= gpu < max(1, target.gpus) for gpu in request.gpus):
        raise Refused(
            f"--gpus {','.join(map(str, request.gpus))}: a {target.id} node has {target.gpus} GPUs.",
            cause=f"GPUs are numbered 0 to {max(0, target.gpus - 1)}",
        )
    if not target.gpus and (request.gpus or request.gpus_cdi):
        raise Refused(f"{target.id} has no GPU to choose.", next_step="leave out --gpus and --gpus-cdi")


def check_nodes(request: Request, target: Target) -> None:
    """Refuse forms of several nodes that vLLM does not take."""
    if request.multi_node == "ray" and not target.gpus:
        raise Refused(
            f"{target.id} with --multi-node ray is refused by vLLM.",
            cause="current platform cpu does not support ray",
            next_step="leave --multi-node out: the nodes then need no Ray",
        )
    if request.multi_node == "ray" and (request.dp or 1) > 1:
        raise Refused(
            "Replicas over the nodes are native here, not Ray's.",
            cause="each replica is a server process of vLLM's own",
            next_step="leave out --multi-node ray, or --dp",
        )
    if request.rdma and not target.gpus:
        raise Refused(
            f"{target.id} has no GPU memory that RDMA could reach.",
            next_step="leave out --rdma: gloo uses TCP",
        )

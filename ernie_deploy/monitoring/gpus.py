"""Which cards of a node's exporter are the stack's, and by which label a card is called."""

from ernie_deploy.plan.plan import Plan

# A card's own number: in a container that has some of a node's cards NVML counts those from 0, whatever the host's index.
GPU_LABEL = {"nvidia": "UUID", "amd": "serial_number"}


def gpu_selector(plan: Plan, *matchers: str) -> str:
    """The PromQL selector, `{...}` or empty, that has `matchers` and leaves the stack's cards of all that are shown.

    Without CDI an AMD exporter has all of /dev/dri, and with it the cards of other stacks; NVIDIA's gets the stack's alone.
    """
    shows_all = plan.target.vendor == "amd" and not plan.request.gpus_cdi
    if shows_all and len(plan.gpu_ids) < plan.target.gpus:
        matchers = (*matchers, f'gpu_id=~"{"|".join(map(str, plan.gpu_ids))}"')
    return f"{{{','.join(matchers)}}}" if matchers else ""

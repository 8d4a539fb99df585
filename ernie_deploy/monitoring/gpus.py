"""Which cards of a node's exporter are the stack's."""

from ernie_deploy.plan.plan import Plan

# Where the vendor's queries take the selector of the stack's cards.
CARDS = "{cards}"


def of_cards(plan: Plan, expr: str, *matchers: str) -> str:
    """A query of the vendor's, narrowed by `matchers` and to the stack's cards of all that the exporter shows.

    Without CDI an AMD exporter has all of /dev/dri, and with it the cards of other stacks; NVIDIA's gets the stack's alone.
    """
    metrics = plan.vendor.gpu_metrics
    shows_all = metrics is not None and metrics.shows_all_cards and not plan.request.gpus_cdi
    if shows_all and len(plan.gpu_ids) < plan.target.gpus:
        matchers = (*matchers, f'gpu_id=~"{"|".join(map(str, plan.gpu_ids))}"')
    return expr.replace(CARDS, f"{{{','.join(matchers)}}}" if matchers else "")

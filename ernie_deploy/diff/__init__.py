"""Two stacks compared by what they mean: flags, variables, memory, ports, and what restarts."""

from collections.abc import Mapping

from ernie_deploy.diff.change import By, Change, Differences, Key
from ernie_deploy.plan.plan import Plan

__all__ = ["Change", "Differences", "Key", "differences"]


def differences(  # noqa: PLR0913 - two sides of three parts
    old: str,
    new: str,
    *,
    labels: tuple[str, str] = ("old", "new"),
    plans: tuple[Plan | None, Plan | None] = (None, None),
    env: Mapping[str, str] | None = None,
    by: By = "",
) -> Differences:
    """What differs between two compose texts under one `.env`; raises `UsageError` where one cannot be read.

    `plans` are those of their first lines: with them the memory is compared too. `by` says whose changes they are.
    """
    from ernie_deploy.catalog import Catalog
    from ernie_deploy.diff.compare import compare
    from ernie_deploy.diff.side import side_of

    catalog = Catalog()
    before, after = (
        side_of(text, label, catalog, env=env, plan=plan)
        for text, label, plan in zip((old, new), labels, plans, strict=True)
    )
    return compare(before, after, by)

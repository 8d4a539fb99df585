"""The README's tables, made from the catalog; a test holds the README to them."""

from ernie_deploy.catalog import Catalog

STAND_IN = "served with a stand-in; the published processor was not run by us"


def model_table(catalog: Catalog) -> str:
    """Which checkpoint on which node: a published command, or derived from the memory plan."""
    lines = []
    for model in catalog.models():
        states = {target.id: catalog.support(model.id, target.id).state for target in catalog.targets()}
        cells = [
            ", ".join(t for t, s in states.items() if s == state) or "-" for state in ("recipe", "derived")
        ]
        title = f"{model.title} [1]" if model.trust_remote_code else model.title
        lines.append(f"| `{model.id}` {title} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def disagreement_table(catalog: Catalog) -> str:
    """Each place where the published recipe and today's vLLM differ, with what the kit does."""
    does = {
        "drop": "left out",
        "published": "only with `--profile published`",
        "replace": "replaced",
        "layout": "changed",
        "note": "noted",
    }
    lines = ["| published | here | because |", "|---|---|---|"]
    for rule in catalog.recipes.disagreements:
        value = f" {rule.value}" if rule.action == "layout" else ""
        said = f"`--{rule.setting}{value}`" if rule.setting else rule.id.replace("-", " ")
        lines.append(f"| {said} | {does[rule.action]} | {rule.reason} |")
    return "\n".join(lines)

"""The published recipes: which command a pairing stands on, and what of it still holds."""

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from ernie_deploy.catalog.schema import Bench, Disagreement, Model, Recipes, Row, Target, Value
from ernie_deploy.plan.flag_history import numbers
from ernie_deploy.plan.settings import Setting, words


class Reading(Struct, frozen=True, kw_only=True):
    """A published command as today's vLLM takes it, and where that differs, sentence by sentence."""

    settings: tuple[Setting, ...] = ()
    environment: tuple[Setting, ...] = ()
    differences: tuple[str, ...] = ()
    sizes: Disagreement | None = None


def row_for(
    recipes: Recipes, model: Model, target: Target, profiles: Sequence[str], *, nodes: int = 1
) -> Row | None:
    """The command for so many nodes whose variant comes nearest to the profiles without exceeding them."""
    rows = [
        row
        for row in recipes.serve
        if row.model == model.id and target.id in row.targets and row.nodes == nodes
    ]
    fitting = [row for row in rows if set(row.variant) <= set(profiles)]
    return max(fitting, key=lambda row: len(row.variant), default=None)


def bench_for(recipes: Recipes, model: Model, target: Target) -> Bench:
    """The benchmark command published for this kind of model and vendor."""
    kind = "vision-language" if model.vision else None
    for bench in recipes.bench:
        if (bench.id == kind) if kind else target.vendor in bench.vendors:
            return bench
    raise AssertionError(f"recipes.toml has no benchmark for {target.vendor}")


def read(row: Row, recipes: Recipes, engine: str, model: Model, profiles: Sequence[str]) -> Reading:
    """Hold each published setting against vLLM `engine`."""
    rules = [rule for rule in recipes.disagreements if _holds(rule, engine)]
    settings, differences, sizes = [], [], None
    for setting in settings_of(row):
        rule = _rule(setting, rules, model)
        if rule and rule.action == "layout":
            # What is done instead is the layout's to say.
            sizes, rule = rule, None
        kept = _kept(setting, rule, profiles) if rule else setting
        if kept:
            settings.append(kept)
        if rule and kept is not setting:
            differences.append(f"{_flag_words(setting)} -> {_flag_words(kept)}: {rule.reason}")
    return Reading(
        settings=tuple(settings),
        environment=tuple(environment_of(row)),
        differences=tuple(differences),
        sizes=sizes,
    )


def sizes_differ(reading: Reading, here: Sequence[Setting], nodes: int) -> list[str]:
    """The sentence on parallel sizes that were published for a cluster of another kind."""
    if not (rule := reading.sizes):
        return []
    before = next(s for s in reading.settings if s.name == rule.setting)
    return [f"{_flag_words(before)} -> {' '.join(words(here))} on {nodes} nodes: {rule.reason}"]


def settings_of(command: Row | Bench) -> list[Setting]:
    """The flags of a published command, each with the line it stands on (one flag a line)."""
    first = command.lines[1] - len(command.settings) + 1
    return list(_cited(command.settings, command.recipe, first))


def environment_of(row: Row) -> list[Setting]:
    """The variables set before a published command, each with its line."""
    serve_line = row.lines[1] - len(row.settings)
    return list(_cited(row.environment, row.recipe, serve_line - len(row.environment)))


def _cited(table: Mapping[str, Value], recipe: str, first: int) -> Iterable[Setting]:
    for line, (name, value) in enumerate(table.items(), first):
        yield Setting(name=name, value=value, origin=f"recipe {recipe}:{line}")


def _holds(rule: Disagreement, engine: str) -> bool:
    return not rule.until or numbers(engine) < numbers(rule.until)


def _rule(setting: Setting, rules: Sequence[Disagreement], model: Model) -> Disagreement | None:
    for rule in rules:
        if rule.setting != setting.name or rule.value not in (None, setting.value):
            continue
        if rule.keep_for == "remote-code" and model.trust_remote_code:
            continue
        return rule
    return None


def _kept(setting: Setting, rule: Disagreement, profiles: Sequence[str]) -> Setting | None:
    """What is rendered in place of a published setting; None where nothing is."""
    if rule.action == "replace":
        assert rule.today is not None, f"{rule.id} replaces by nothing"
        return Setting(name=setting.name, value=rule.today, origin=setting.origin)
    if rule.action == "published" and "published" in profiles:
        return setting
    return None


def _flag_words(setting: Setting | None) -> str:
    return " ".join(words([setting])) if setting else "left out"


def notes(recipes: Recipes, kinds: Sequence[str]) -> list[str]:
    """Disagreements that are not settings, for the kinds of thing this plan has."""
    return [
        rule.reason
        for rule in recipes.disagreements
        if rule.action == "note" and set(rule.applies_to) & set(kinds)
    ]

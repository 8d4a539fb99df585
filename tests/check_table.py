"""The table of docs/check.md: each rule, and how often it is right and wrong over files that people write."""

from collections import Counter
from pathlib import Path

import yaml
from check_files import CATALOG, of_sample

from ernie_deploy.check import Finding, judge, rules

FOLDER = Path(__file__).parent / "check"
FORMS = yaml.safe_load((FOLDER / "forms.yml").read_text())
SAMPLES = yaml.safe_load((FOLDER / "rules.yml").read_text())
MARKS = {"error": "!", "warning": "", "note": "?"}


def text_of(form: dict[str, object]) -> str:
    """One form as a file: its services, and the sections that stand beside them."""
    sections = {key: form[key] for key in ("services", "networks", "volumes") if key in form}
    return yaml.safe_dump(sections, sort_keys=False, width=200)


def marked(findings: list[Finding]) -> list[str]:
    """Ids in order, an error's with `!`, a note's with `?`."""
    return sorted(finding.id + MARKS[finding.severity] for finding in findings)


def forms() -> dict[str, tuple[list[str], list[str]]]:
    """Of each form what is to be found and what is, community.yml among them."""
    judged = {form["form"]: (wanted(form), text_of(form)) for form in FORMS}
    judged["community.yml"] = ([], (FOLDER / "community.yml").read_text())
    return {name: (ids, marked(judge(text.encode(), name, CATALOG))) for name, (ids, text) in judged.items()}


def wanted(form: dict[str, object]) -> list[str]:
    """What is to be found in a form."""
    return sorted([*form["found"], *form["lacks"]])


def table() -> str:
    """A row a rule."""
    right, missed, false = Counter(), Counter(), Counter()
    for ids, found in forms().values():
        right.update((Counter(ids) & Counter(found)).elements())
        missed.update((Counter(ids) - Counter(found)).elements())
        false.update((Counter(found) - Counter(ids)).elements())
    lines = ["| rule | finds | right | missed | false | samples |", "|---|---|---|---|---|---|"]
    for rule in rules():
        counts = [_of(counter, rule.id) for counter in (right, missed, false)]
        lines.append(
            f"| {rule.id} | {rule.sentence} | {' | '.join(map(str, counts))} | {_samples(rule.id)} |"
        )
    return "\n".join(lines)


def _of(counter: Counter[str], identity: str) -> int:
    return sum(count for marked_id, count in counter.items() if marked_id.rstrip("!?") == identity)


def _samples(identity: str) -> str:
    """How many of the rule's two samples are judged as they should be."""
    sample = SAMPLES[identity]
    bad, good = ({finding.id for finding in of_sample(sample, kind)[1]} for kind in ("bad", "good"))
    return f"{(identity in bad) + (identity not in good)} of 2"


def main() -> None:
    """Write today's table into the page."""
    page = FOLDER.parent.parent / "docs" / "check.md"
    before, _, after = page.read_text(encoding="utf-8").partition("| rule |")
    rest = after.partition("\n\n")[2]
    page.write_text(f"{before}{table()}\n" + (f"\n{rest}" if rest else ""), encoding="utf-8")


if __name__ == "__main__":
    main()

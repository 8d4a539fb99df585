"""Kubernetes manifests as facts: every field by its path, but for what a container runs, which is read by meaning."""

from ernie_deploy.check.tree import Items, Table, Value, Word, read_all
from ernie_deploy.diff.change import Key
from ernie_deploy.diff.facts import Facts

# Read as a service's image, words and variables.
OF_CONTAINER = ("image", "command", "args", "env")
CONTAINERS = ("containers", "initContainers")
# What a service of a manifest is compared by; the rest of its container stands in the fields.
BY_MEANING = ("image", "model", "flags", "variables", "start", "services", "memory", "engine")


def with_fields(facts: Facts, data: bytes, name: str) -> Facts:
    """The facts of the containers' own words, and each other field of every manifest."""
    kept = {key: value for key, value in facts.items() if key.section in BY_MEANING}
    for at, document in enumerate(read_all(data, name), 1):
        if isinstance(document, Table):
            for path, text in _fields(document, ""):
                kept[Key("other", "", f"{_title(document, at)} {path}")] = text
    return kept


def _title(document: Table, at: int) -> str:
    """`Service ernie-21b`; the document's place where it has no name."""
    metadata = document.values.get("metadata")
    name = metadata.values.get("name") if isinstance(metadata, Table) else None
    kind = document.values.get("kind")
    words = [word.text for word in (kind, name) if isinstance(word, Word)]
    return " ".join(words) or f"document {at}"


def _fields(value: Value, path: str, *, container: bool = False) -> list[tuple[str, str]]:
    if isinstance(value, Word):
        return [(path, "" if value.null else value.raw)]
    if isinstance(value, Items):
        return _items(value, path)
    fields: list[tuple[str, str]] = []
    for key, inner in value.values.items():
        if not (container and key in OF_CONTAINER):
            fields += _fields(inner, f"{path}.{key}" if path else key)
    return fields or [(path, "")]


def _items(value: Items, path: str) -> list[tuple[str, str]]:
    """Items by their name, where they have one: their order means little."""
    fields: list[tuple[str, str]] = []
    for at, item in enumerate(value.values):
        name = item.values.get("name") if isinstance(item, Table) else None
        place = name.text if isinstance(name, Word) else str(at)
        fields += _fields(
            item, f"{path}[{place}]", container=path.rpartition(".")[2].partition("[")[0] in CONTAINERS
        )
    return fields

"""The API key in the file that a guarded stack's server reads."""

from pathlib import Path


def key_in(path: Path) -> str:
    """The first key of vLLM's `api-key:`; empty where there is none or the file is not ours to read."""
    import yaml

    try:
        told = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError):
        return ""
    found = told.get("api-key") or told.get("api_key") if isinstance(told, dict) else None
    return str(found[0] if isinstance(found, list) else found or "")

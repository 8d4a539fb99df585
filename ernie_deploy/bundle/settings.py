"""A stack's .env for another site: without secrets, and without what was true of this host alone."""

import re
from io import StringIO

from ernie_deploy.safe_io.secret_masks import masked

# Secrets, the way to the hub from here, folders of this host, and who owns a secret here.
OF_THIS_SITE = frozenset({
    "HF_TOKEN", "HF_TOKEN_FILE", "API_KEY_FILE", "GROUP_SECRET_FILE", "PIP_CONFIG_FILE", "PIP_INDEX_URL", "HF_ENDPOINT",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "CA_BUNDLE", "HF_CACHE_DIR", "PACKAGES_DIR", "ENGINE_CACHE_DIR",
    "COMPOSE_FILE", "COMPOSE_PATH_SEPARATOR", "COMPOSE_ENV_FILES", "GRAFANA_USER",
})  # fmt: skip
SECRET = re.compile(r"(?i)(?:^|_)(?:token|key|password|passwd|secret|credentials?)(?:_file)?$")
LEFT_OUT = "# Left out by ernie-deploy bundle, for this site to decide: "


def carried(text: str) -> tuple[str, list[str]]:
    """The text of a .env as it goes into a bundle, and the names of the variables that are left out."""
    from dotenv.parser import parse_stream

    lines, left = [], []
    for binding in parse_stream(StringIO(text)):
        original = binding.original.string
        if _stays(binding.key, binding.value, original):
            lines.append(original)
        elif binding.key:
            left.append(binding.key)
            lines.append(f"{_blank_lines(original)}{LEFT_OUT}{binding.key}\n")
    return "".join(lines), left


def _stays(key: str | None, value: str | None, original: str) -> bool:
    if key and value and (key in OF_THIS_SITE or SECRET.search(key)):
        return False
    # A comment or a line that is no assignment may hold a secret too.
    return masked(original) == original


def _blank_lines(original: str) -> str:
    return "\n" * (len(original) - len(original.lstrip("\n")))

"""ED2xx, second part: secrets in the wrong place, and what a container should not be able to do."""

import re
from collections.abc import Iterator

from ernie_deploy.check.findings import Spot, rule
from ernie_deploy.check.interpolate import known
from ernie_deploy.check.placeholders import is_nothing, is_placeholder
from ernie_deploy.check.service import Service
from ernie_deploy.check.tree import Items, Table, Word
from ernie_deploy.check.values import shown

TOKEN = re.compile(r"(?<![A-Za-z0-9_])(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{12,})")
NAMES = {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_TOKEN", "VLLM_API_KEY", "OPENAI_API_KEY"}
# Any other name of this end is a secret in vLLM's own containers only.
ENDS = ("_API_KEY", "_TOKEN", "_PASSWORD", "_SECRET", "_ACCESS_KEY")
# Words for special tokens of a tokenizer, and counts of them.
NO_NAMES = re.compile(r"(?:^|_)(?:EOS|BOS|PAD|STOP|SEP|UNK|MASK|END|START|IMAGE|SPECIAL|MAX|NUM|PER)_TOKEN$")
FLAGS = ("api-key", "hf-token")
VLLM_USER_SINCE = (0, 22, 0)
MODE = re.compile(r"no-new-privileges(?:[:=]true)?")


@rule(
    "ED220",
    "error",
    "The file contains a secret in clear text.",
    remedy="keep it in a file and name that under `secrets`: HF_TOKEN_PATH for the hub, --config for the key",
    source="OWASP Docker Cheat Sheet rule 12; it also shows in `docker inspect`, `ps` and `docker compose config`",
)
def secret_in_clear(service: Service) -> Iterator[Spot]:
    """Tokens and keys as values; what the finding prints is never the value."""
    secrets = [(what, word) for what, word in _secrets(service) if known(word.text)]
    secrets = [(what, word) for what, word in secrets if not is_placeholder(word.text)]
    for what, word in secrets:
        yield Spot(word.line, f"{what} stands here in clear text")
    for word in _all_words(service):
        match = TOKEN.search(word.text)
        if (
            match
            and not is_placeholder(match[0])
            and not any(match[0] in secret.text for _, secret in secrets)
        ):
            kind = "a Hugging Face token" if match[0].startswith("hf_") else "an API key"
            yield Spot(word.line, f"{kind} stands here in clear text")


@rule(
    "ED221",
    "warning",
    "A secret is handed over in the environment or on the command line.",
    remedy="hand it over as a file: `secrets` with `file:`, HF_TOKEN_PATH for the hub, --config for the key",
    source="it shows in `docker inspect`, /proc/1/environ or `ps` (run with vLLM 0.32.0)",
)
def secret_passed_through(service: Service) -> Iterator[Spot]:
    """`HF_TOKEN: ${HF_TOKEN}` and its like."""
    for what, word in _secrets(service):
        if not known(word.text):
            yield Spot(word.line, f"{what} is readable by anyone who can inspect the container")


def _secrets(service: Service) -> Iterator[tuple[str, Word]]:
    """Flags and variables that hold a secret; a value that only the host knows has a `$`."""
    for argument in service.argv.arguments if service.argv else ():
        for value in argument.values:
            if argument.name in FLAGS and not is_nothing(value):
                yield f"--{argument.name}", Word(value.replace("$", "$$"), argument.line)
    for name, word in service.environment.items():
        if _is_secret(name, service) and _comes_from_shell(word):
            yield name, Word(f"${{{name}}}", word.line)
        elif _is_secret(name, service) and not is_nothing(word.text):
            yield name, word


def _is_secret(name: str, service: Service) -> bool:
    named = service.uses_vllm and name.endswith(ENDS) and "DISABLE" not in name
    return name in NAMES or (named and not NO_NAMES.search(name))


def _comes_from_shell(word: Word) -> bool:
    """`NAME:`, `NAME: ${NAME:-}` and `NAME: ${NAME:-''}`."""
    return word.null or (not word.text.strip("'\"") and "${" in word.raw)


@rule(
    "ED227",
    "warning",
    "A placeholder stands where a secret belongs.",
    remedy="put the real one into a file and name that under `secrets`; leave the variable out where none is needed",
    source="vLLM 0.32.0 vllm/entrypoints/serve/middleware/authenticate.py compares with whatever it is given;"
    " the hub answers 401 to a token that it does not know, for public repositories too",
)
def placeholder(service: Service) -> Iterator[Spot]:
    """`VLLM_API_KEY: change-me`, `HF_TOKEN: <token>`."""
    filled = [(what, word) for what, word in _filled(service) if service.uses_vllm and known(word.text)]
    for what, word in filled:
        if what.upper().replace("-", "_").endswith("API_KEY"):
            if service.serve and (is_placeholder(word.text) or is_nothing(word.text)):
                yield Spot(
                    word.line, f"{what} is a placeholder, and a real key to the server: anyone guesses it"
                )
        elif is_placeholder(word.text) and not is_nothing(word.text):
            yield Spot(word.line, f"{what} is a placeholder, which is sent to the hub and refused")


def _filled(service: Service) -> Iterator[tuple[str, Word]]:
    """Flags and variables for secrets with a value in the file, whatever it is worth."""
    for argument in service.argv.arguments if service.argv else ():
        for value in argument.values if argument.name in FLAGS else ():
            yield f"--{argument.name}", Word(value.replace("$", "$$"), argument.line)
    yield from ((name, word) for name, word in service.environment.items() if _is_secret(name, service))


def _all_words(service: Service) -> Iterator[Word]:
    yield from service.entrypoint or ()
    yield from service.command or ()
    yield from service.health_test
    yield from (word for word in service.environment.values() if not word.null)


@rule(
    "ED222",
    "warning",
    "A secret's content comes from a variable.",
    remedy="use `file:` with a file that only its owner and the container's user may read",
    source="run with Compose 2.40.3: the value is copied into the container's layer and stays on the disk, mode 0444",
)
def secret_from_variable(service: Service) -> Iterator[Spot]:
    """`secrets: {x: {environment: X}}`."""
    for name, line in used(service, "secrets"):
        entry = service.stack.entry("secrets", name)
        if entry and "environment" in entry.values:
            yield Spot(line, f"the secret {shown(name)} is left behind in the container's layer")


def used(service: Service, section: str) -> Iterator[tuple[str, int]]:
    """Names of the top-level secrets or configs that the service mounts."""
    items = service.value(section)
    for item in items.values if isinstance(items, Items) else ():
        source = item.values.get("source") if isinstance(item, Table) else item
        if isinstance(source, Word):
            yield source.text, item.line


@rule(
    "ED223",
    "warning",
    "Processes can gain privileges through setuid programs.",
    remedy='security_opt: ["no-new-privileges:true"]',
    source="CIS Docker Benchmark 5.26, OWASP rule 4; run with vLLM 0.32.0",
    lacks="no-new-privileges",
)
def new_privileges(service: Service) -> Iterator[Spot]:
    """No `no-new-privileges`."""
    if service.uses_vllm and not any(MODE.fullmatch(word.text) for word in service.words("security_opt")):
        yield Spot(service.line, "no-new-privileges is not set")


@rule(
    "ED224",
    "warning",
    "The container keeps Docker's default capabilities.",
    remedy="cap_drop: [ALL]",
    source="CIS Docker Benchmark 5.4, OWASP rule 3; run with vLLM 0.32.0: it needs none",
    lacks="cap_drop",
)
def default_capabilities(service: Service) -> Iterator[Spot]:
    """No `cap_drop: [ALL]`."""
    dropped = {word.text.upper().removeprefix("CAP_") for word in service.words("cap_drop")}
    if service.uses_vllm and "ALL" not in dropped:
        yield Spot(service.line, "cap_drop: [ALL] is not set")


@rule(
    "ED225",
    "note",
    "The root file system is writable.",
    remedy="read_only: true with tmpfs: [/tmp] and the caches on a volume",
    source="CIS Docker Benchmark 5.13, OWASP rule 8; run with vLLM 0.32.0",
    lacks="read-only root",
)
def writable_root(service: Service) -> Iterator[Spot]:
    """No `read_only: true`."""
    if service.uses_vllm and not service.truth("read_only"):
        yield Spot(service.line, "read_only is not set")


@rule(
    "ED226",
    "warning",
    "The server runs as root, where the CUDA image has a user for it.",
    remedy='user: "2000:0", with caches that the group 0 may write',
    source="vLLM docs/deployment/docker.md: the user vllm (UID 2000, GID 0) since 0.22.0",
    lacks="user",
)
def root_user(service: Service) -> Iterator[Spot]:
    """Root asked for is a warning, root by default a note."""
    engine, user = service.engine, service.text("user")
    if not service.serve or service.image.variant != "" or not engine or engine < VLLM_USER_SINCE:
        return
    if user.partition(":")[0] in ("root", "0"):
        yield Spot(service.line_of("user"), f"user: {shown(user)} is root")
    elif not user:
        yield Spot(service.line, "no user is set, so it is root", severity="note")

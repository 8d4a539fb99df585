"""A stack as a folder: compose.yml, its .env, its scripts and a README."""

import re
import shlex
from pathlib import Path

from ernie_deploy.catalog import Catalog
from ernie_deploy.errors import UsageError
from ernie_deploy.plan.plan import Plan
from ernie_deploy.plan.request import Request, command_words
from ernie_deploy.render.checksum import MOST_BYTES, with_checksum
from ernie_deploy.render.compose import compose_file, defaults_of
from ernie_deploy.render.monitoring import monitoring_files
from ernie_deploy.render.scripts import scripts_of
from ernie_deploy.render.yaml import environment
from ernie_deploy.safe_io.reading import read_bounded
from ernie_deploy.safe_io.redaction import redacted

VARIABLE = re.compile(r"\$\{([A-Z][A-Z0-9_]*)[:}]")
# Secrets lie beside compose.yml where .env names them so, and .env may hold a proxy's password, as may older ones;
# gateway/ has the names and hashes of clients' keys, and the key of the certificate.
GITIGNORE = (
    "/.env\n/api-key.yaml\n/hf-token\n/group-secret/\n/gateway/\n/grafana-password\n/.ernie/previous/\n"
)
# Read by `ernie-deploy tls install` alone.
OF_TLS = {"TLS_CERT_FILE", "TLS_KEY_FILE"}
PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,=-]*")


def files(plan: Plan, catalog: Catalog, values: dict[str, str]) -> dict[str, str]:
    """File name -> text; `values` go into .env, what they leave out stays a comment there."""
    compose = compose_file(plan, catalog.defaults, carrier="folder")
    used = set(VARIABLE.findall(compose)) | (OF_TLS if plan.request.tls else set())
    variables = [variable for variable in catalog.variables if variable.name in used]
    _refuse_unknown(values, [variable.name for variable in variables])
    env = (
        environment()
        .get_template("env.j2")
        .render(
            plan=plan,
            variables=variables,
            values={name: env_line(name, value) for name, value in values.items()},
            defaults=defaults_of(plan, catalog.defaults),
        )
    )
    readme = environment().get_template("README.md.j2").render(plan=plan)
    scripts = {f"scripts/{name}": text for name, text in scripts_of(plan).texts.items()}
    return {"compose.yml": compose, ".env": env, "README.md": readme, ".gitignore": GITIGNORE, **scripts} | (
        monitoring_files(plan)
    )


def is_of_folder(path: Path) -> bool:
    """Whether a compose file takes its scripts from the folder beside it, as `init` makes it."""
    try:
        return b"./scripts:/scripts/" in read_bounded(path, MOST_BYTES)
    except OSError:
        return False


def refuse_folder(path: Path, request: Request) -> None:
    """Raise `UsageError` where a file that stands alone would take the place of one whose scripts lie beside it."""
    if is_of_folder(path):
        words = shlex.join([str(path.parent), *command_words(request)])
        raise UsageError(
            f"{path} belongs to a folder that `init` made, with its scripts as files.",
            cause="a single file would leave those scripts, and your edits in them, unused",
            next_step=f"ernie-deploy init {words} --force",
        )


def env_example(catalog: Catalog) -> str:
    """Every variable of every stack, for the repository's .env.example."""
    return with_checksum(environment().get_template("env.example.j2").render(variables=catalog.variables))


def _refuse_unknown(values: dict[str, str], known: list[str]) -> None:
    if unknown := [name for name in values if name not in known]:
        raise UsageError(
            f"This stack reads no variable {unknown[0][:40]!r}.",
            cause=f"it reads {', '.join(known)}",
        )


def env_line(name: str, value: str) -> str:
    """`NAME=value` as both Compose and python-dotenv read it back; raises `UsageError` where they differ."""
    if PLAIN.fullmatch(value):
        return f"{name}={value}"
    # Their dialects agree on single quotes around printable text and on little else.
    if value.isprintable() and not set(value) & {"'", "\\"}:
        return f"{name}='{value}'"
    raise UsageError(
        f"{name} cannot be written to .env: {redacted(value)[:40]!r}.",
        cause="Compose reads quotes, backslashes and line breaks differently from other programs",
        next_step="choose a path or value without them",
    )

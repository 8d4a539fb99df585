"""The scripts that a stack runs: one source, which `fetch`, a folder beside compose.yml or a ConfigMap carries."""

import hashlib
from functools import cache, cached_property

from msgspec import Struct

from ernie_deploy.paths import SCRIPTS
from ernie_deploy.plan.plan import Plan
from ernie_deploy.render.gateway import NAME as CONFIGURATION
from ernie_deploy.render.gateway import configuration

# Where containers have them. Of a stack's own volume, the folder's name tells one version from another: a changed
# script changes a path in the command of `serve`, which Compose then recreates, and no script is ever half new.
MOUNT = "/scripts"
DIGEST_DIGITS = 12
# What checks and watches a node where Compose starts the ranks.
OF_NODES = ("node.py", "group.py")


class Scripts(Struct, frozen=True, dict=True):
    """Each script's name and text, which ends with one line break."""

    texts: dict[str, str]

    @cached_property
    def digest(self) -> str:
        """What tells this set of scripts from another."""
        content = "".join(f"{name}\0{text}\0" for name, text in self.texts.items())
        return hashlib.sha256(content.encode()).hexdigest()[:DIGEST_DIGITS]

    @property
    def folder(self) -> str:
        """Where the containers of a compose file have them."""
        return f"{MOUNT}/{self.digest}"

    def path(self, name: str) -> str:
        """One script in a container of a compose file; raises `KeyError` where the stack has none of that name."""
        if name not in self.texts:
            raise KeyError(name)
        return f"{self.folder}/{name}"


def scripts_of(plan: Plan) -> Scripts:
    """The scripts of this stack, and none that only another form of it needs."""
    if plan.gateway and not plan.replicas:
        return Scripts({CONFIGURATION: configuration(plan)})
    names = ["common.py", "serve.py", "canary.py", "fetch.py"]
    names += ["own_folder.py"] * bool(plan.request.weights) + ["with_code.py"] * bool(plan.code)
    names += ["with_api_key.py"] * plan.request.api_key_file
    names += ["ready.py"] * bool(plan.gateway)
    names += list(OF_NODES) * plan.several_nodes
    if plan.code:
        names += ["packages.py", "package_index.py"] if plan.packages else []
        names += ["judge.py", "model_code.py", "code_reader.py", "dry_import.py"]
    texts = {name: read(name) for name in names}
    return Scripts(texts | ({CONFIGURATION: configuration(plan)} if plan.gateway else {}))


def fetch_script(plan: Plan) -> str:
    """What `fetch` runs: each brings the weights by means of the ones after it."""
    if plan.code:
        return "with_code.py"
    return "own_folder.py" if plan.request.weights else "fetch.py"


@cache
def read(name: str) -> str:
    """A Python file of the project."""
    return (SCRIPTS / name).read_text(encoding="utf-8")

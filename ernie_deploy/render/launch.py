"""What each container of a compose file runs: commands as words of YAML, scripts by their path."""

from msgspec import Struct

from ernie_deploy.plan.gateway import FRONT_PORT, shell_request
from ernie_deploy.plan.plan import Plan
from ernie_deploy.plan.replicas import Replica
from ernie_deploy.plan.serve import HF_CACHE, HOME
from ernie_deploy.plan.settings import words
from ernie_deploy.render.gateway import NAME as CONFIGURATION
from ernie_deploy.render.scripts import Scripts, fetch_script
from ernie_deploy.render.yaml import lines, scalar, word


class Launch(Struct, frozen=True, kw_only=True):
    """The words of one stack; `host` are the `${VAR:-default}` of what a host may change."""

    plan: Plan
    scripts: Scripts
    host: dict[str, str]

    def image(self, reference: str) -> str:
        """An image as a scalar; where the user chose its place, a host may move it."""
        asked = self.plan.request
        if asked.image and reference == self.plan.image:
            return f'"{self.host["ENGINE_IMAGE"]}"'
        if asked.registry and reference.startswith(f"{asked.registry}/"):
            return f'"{self.host["IMAGE_REGISTRY"]}{reference.removeprefix(asked.registry)}"'
        return scalar(reference)

    @property
    def serve(self) -> list[str]:
        """Entrypoint of `serve`; its command follows."""
        plan, start = self.plan, []
        if plan.request.api_key_file:
            start += [*self._run("with_api_key.py", "-I"), *map(word, plan.api_key_words)]
        start += [*self._run("ready.py", "-IS"), f'"{plan.hang_s}"'] if plan.gateway else []
        start += self._node("head") if plan.several_nodes else []
        return [*start, *self._verified(first=True), "vllm", "serve"]

    def environment_of(self, replica: Replica) -> list[str]:
        """Variables of a further replica: those of `serve` but for its GPUs and for what vLLM alone writes to."""
        own = self.plan.environment_of(replica)
        return ["<<: *serve-environment", *(f"{name}: {word(value)}" for name, value in own.items())]

    @property
    def worker(self) -> list[str]:
        """Entrypoint of every other node's `worker`."""
        return [
            *self._node("worker"),
            *self._verified(),
            *(["ray", "start"] if self.plan.uses_ray else ["vllm", "serve"]),
        ]

    @property
    def ray_words(self) -> list[str]:
        """The command of a `worker` that Ray starts."""
        head = f'"--address={self.host["HEAD_ADDR"]}:{self.plan.port("ray")}"'
        own = f'"--node-ip-address={self.host["HOST_IP"]}"'
        return [head, own, *map(word, words(self.plan.ray_settings))]

    @property
    def bench(self) -> list[str]:
        """Entrypoint of `bench`."""
        plan, start = self.plan, []
        if plan.request.api_key_file:
            start += [*self._run("with_api_key.py", "-I"), "bench", word(plan.api_key_words[1])]
        if plan.code:
            start += [*self._import(), *map(word, plan.code.bench_words), '"--"']
        return [*start, "vllm", "bench", "serve"]

    @property
    def fetch(self) -> list[str]:
        """What `fetch` becomes once it has written the scripts; its command follows."""
        return self._run(fetch_script(self.plan), "-I")

    @property
    def fetch_command(self) -> list[str]:
        """Its command; at its end what brings and judges the code of the model, where it has some."""
        own, code = [word(text) for text in self.plan.fetch_words], self.plan.code
        if not code:
            return own
        bring = [*self._run("packages.py", "-I"), *map(word, code.bring_words)] if self.plan.packages else []
        judge = self._run("judge.py", "-I")
        network = f'"--network={self.host["REMOTE_CODE_NETWORK"]}"'
        return [*own, "--before", *bring, *judge, network, *map(word, code.judge_words)]

    @property
    def fetch_environment(self) -> list[str]:
        """Variables of `fetch`, each as `NAME: value`: the one service that asks the network for something."""
        made = {"HOME": HOME, "HF_HOME": HF_CACHE, "HF_HUB_DISABLE_TELEMETRY": '"1"'}
        if not self.plan.request.weights:
            made["HF_TOKEN_PATH"] = "/run/secrets/hf_token"  # noqa: S105 - a path
            made |= self._of_host("HF_ENDPOINT")
        if self.plan.packages:
            # Whom pip would ask; pip itself does not run.
            made |= {**self._of_host("PIP_INDEX_URL"), "PIP_CONFIG_FILE": "/run/secrets/pip_config"}
        if self.fetch_secrets:
            made |= self._of_host("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
            made["SSL_CERT_FILE"] = '"${CA_BUNDLE:+/run/ca.pem}"'
        return [f"{name}: {value}" for name, value in made.items()]

    @property
    def secrets(self) -> list[str]:
        """Every secret of the stack with its file, each as `name: {file: ...}`."""
        files = {**self._fetch_files}
        files |= {"vllm_config": "API_KEY_FILE"} if self.plan.request.api_key_file else {}
        files |= {"group_secret": "GROUP_SECRET_FILE"} if self.plan.several_nodes else {}
        files |= {"grafana_password": "GRAFANA_PASSWORD_FILE"} if self.plan.monitoring else {}
        return [f'{name}: {{file: "{self.host[variable]}"}}' for name, variable in files.items()]

    @property
    def fetch_secrets(self) -> list[str]:
        """Secrets of `fetch`; none where it asks nobody."""
        return list(self._fetch_files)

    @property
    def _fetch_files(self) -> dict[str, str]:
        """Each of them with the variable that names its file."""
        files = {} if self.plan.request.weights else {"hf_token": "HF_TOKEN_FILE"}
        return files | ({"pip_config": "PIP_CONFIG_FILE"} if self.plan.packages else {})

    def _of_host(self, *names: str) -> dict[str, str]:
        return {name: f'"{self.host[name]}"' for name in names}

    @property
    def probe(self) -> list[str]:
        """The health check of `serve`."""
        here = "http://127.0.0.1:8000"
        at = f'"http://{self.host["BIND_ADDR"]}:{self.host["PORT"]}"' if self.plan.several_nodes else here
        key = [word(self.plan.api_key_words[2])] if self.plan.request.api_key_file else []
        return ["CMD", *self._run("canary.py", "-IS"), at, word(self.plan.served_name), *key]

    @property
    def worker_probe(self) -> list[str]:
        """The health check of `worker`: the head serves, and with this rank."""
        head, port = f'"{self.host["HEAD_ADDR"]}"', f'"{self.plan.port("beacon")}"'
        own = [f'"{self.host["NODE_RANK"]}"', f'"{self.host["HOST_IP"]}"']
        return ["CMD", *self._run("group.py", "-IS"), "probe", head, port, *own]

    @property
    def beacon(self) -> list[str]:
        """What tells the workers whether the head serves."""
        at = f'"{self.host["BIND_ADDR"]}:{self.host["PORT"]}"'
        return [
            *self._run("group.py", "-IS"), "beacon", f'"{self.host["HEAD_ADDR"]}"', f'"{self.plan.port("beacon")}"', at,
        ]  # fmt: skip

    @property
    def gateway(self) -> list[str]:
        """What `gateway` runs: a master that a signal makes read its files anew, and the process that serves."""
        return ["haproxy", "-W", "-db", "-f", self.scripts.path(CONFIGURATION)]

    @property
    def gateway_waits(self) -> list[str]:
        """What `gateway` depends on, so that Compose stops it first: on `down`, and before its only server is made anew.

        Of several servers one is recreated while the others serve: with `restart` Compose would stop the gateway too.
        """
        restart = ", restart: true" if len(self.plan.replicas) == 1 else ""
        waits = f"{{condition: service_started{restart}}}"
        return [f"{replica.service}: {waits}" for replica in self.plan.replicas]

    @property
    def gateway_alone(self) -> list[str]:
        """The same where no folder or volume has its configuration: a shell has put it on the container's tmpfs."""
        return ["haproxy", "-W", "-db", "-f", f"/tmp/{CONFIGURATION}"]  # noqa: S108 - the container's own

    @property
    def gateway_environment(self) -> list[str]:
        """The limits that haproxy.cfg reads, each as `NAME: value`."""
        text = self.scripts.texts[CONFIGURATION]
        return [f'{name}: "{value}"' for name, value in self.host.items() if f"${{{name}}}" in text]

    @property
    def gateway_probe(self) -> list[str]:
        """The health check of `gateway`, whose image has no client but its shell."""
        ask = f"{shell_request('/healthz')}; read -r _ status _ <&3"
        return ["CMD", "bash", "-c", scalar(f'{ask}; [ "$status" = 200 ]')]

    @property
    def front_port(self) -> int:
        """The port of the gateway's container that is published."""
        return FRONT_PORT

    def _run(self, name: str, flags: str) -> list[str]:
        return ["python3", flags, self.scripts.path(name)]

    def _node(self, role: str) -> list[str]:
        own = [lines(setting)[0] for setting in self.plan.entry_settings]
        return [*self._run("node.py", "-IS"), role, *own, '"--"']

    def _verified(self, *, first: bool = False) -> list[str]:
        """The weights are checked, and remote code is imported once, before the engine starts."""
        verify, code = [*self._run("serve.py", "-IS"), word(self.plan.stamp)], self.plan.code
        return verify + ([*self._import(first=first), *map(word, code.serve_words), '"--"'] if code else [])

    def _import(self, *, first: bool = False) -> list[str]:
        """Words that every import of remote code shares: an anchor each where they stand first, then its alias."""
        limit = f'"--timeout-s={self.host["REMOTE_CODE_IMPORT_TIMEOUT_S"]}"'
        code = self.plan.code.import_words if self.plan.code else {}
        shared = {"import-limit": limit, **{name: word(text) for name, text in code.items()}}
        named = [f"&{name} {text}" if first else f"*{name}" for name, text in shared.items()]
        return [*self._run("dry_import.py", "-I"), *named]

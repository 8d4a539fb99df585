"""Nothing but the kit's own sequences reaches a terminal, whatever servers, files, tools, variables and users say."""

import ast
import json
import os
import pty
import re
import subprocess
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from bench.journals import journal_of, measured
from conftest import ROOT, rendered

from ernie_deploy import cli
from ernie_deploy.bench.compare import baseline as baselines
from ernie_deploy.bench.journal.record import Attempt, Environment
from ernie_deploy.catalog import Catalog
from ernie_deploy.safe_io import terminal

# OSC with a title, a cleared screen, C1's CSI, CR, BS, DEL, bidi, invisible characters, a line separator, a tag.
STEERS = "\x1b]0;x\x07\x1b[2J\x9b1m\r\x08\x7f\u202e\u2066\u200f\u061c\u200b \ufeff\U000e0041"
PLANT = f"Zq7{STEERS}Zq7"
# As Python has a byte of the command line that is no UTF-8.
LONE = f"{PLANT}\udc9b"
TOOLS = ("docker", "nvidia-smi", "uname", "dmesg", "timedatectl", "ip", "vllm", "amd-smi", "rocm-smi", "nvcc")


def faults(output: bytes) -> set[str]:
    """What of an output could steer or deceive: all that is not printable but line feeds, tabs and spaces."""
    text = output.decode()
    kinds = {c: unicodedata.category(c) for c in set(text) - {"\n", "\t"}}
    return {f"{ord(c):#x}" for c, kind in kinds.items() if kind[0] == "C" or kind in ("Zl", "Zp")}


# --- the one function, and the one way ---


@pytest.mark.parametrize(
    "character", [*STEERS, "\0", "\x85", "\u202d", "\u2069", "\u200e", "\u2060", "\ud800", "\U000e007f"]
)
def test_each_is_spelt_out(character: str) -> None:
    assert terminal.clean(f"a{character}b") == f"a{character.encode('unicode_escape').decode()}b"


@pytest.mark.parametrize(
    "text", ["", "plain", "a\n\tb", "巴黎 ±1.2 % × – é 日本", "a\N{NO-BREAK SPACE}b\N{IDEOGRAPHIC SPACE}"]
)
def test_what_steers_nothing_stays(text: str) -> None:
    assert terminal.clean(text) == text


def test_a_rendered_file_passes_unchanged() -> None:
    for target in ("h100", "mi300x", "cpu"):
        assert terminal.clean(text := rendered(target)) == text


def test_json_reads_back_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    data = {PLANT: [PLANT, "é"]}
    terminal.say(json.dumps(data, ensure_ascii=False), as_json=True)
    out = capsys.readouterr().out
    assert json.loads(out) == data
    assert not faults(out.encode())
    assert "é" in out


def calls(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)
        elif isinstance(node, ast.Attribute) and node.attr in (
            "stdout",
            "stderr",
            "__stdout__",
            "__stderr__",
        ):
            yield ast.unparse(node)


FORBIDDEN = re.compile(
    r"(?:builtins\.)?print|pprint(?:\.\w+)?|(?:click\.)?(?:echo|secho|style|echo_via_pager)|click\.(?:prompt|confirm|progressbar)|"
    r"(?:\w+\.)*Console|sys\.(?:std\w+|__std\w+)\.(?:buffer\.)?write\w*|os\.write|(?:\w+\.)*print_exc|logging\.\w+|warnings\.warn"
)


def test_the_package_prints_in_one_place_only() -> None:
    """`terminal.say` and `terminal.console`: a second way out would be one that nothing cleans."""
    package = ROOT / "ernie_deploy"
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in package.rglob("*.py")
        if path.name != "terminal.py"
        for name in calls(path)
        if FORBIDDEN.fullmatch(name)
    }
    assert not found


# --- a hostile world: a server, an engine, tools, files, variables ---


class Hostile(BaseHTTPRequestHandler):
    """An OpenAI server and a Docker engine in one, each word of which is planted."""

    def do_GET(self) -> None:
        path = re.sub(r"^/v1\.\d+", "", self.path.partition("?")[0])
        if path == "/_ping" or (path == "/version" and "docker" in self.headers.get("User-Agent", "")):
            self.reply(json.dumps({"ApiVersion": "1.43", "Version": PLANT}))
        elif path == "/containers/json":
            self.reply(json.dumps([self.listed("c1"), self.listed("c2")]))
        elif path == "/volumes":
            self.reply(json.dumps({"Volumes": [self.volume("free"), self.volume(PLANT)]}))
        elif path == "/system/df":
            self.reply(json.dumps({"Volumes": [{"Name": PLANT, "UsageData": {"Size": 1}}]}))
        elif path.startswith("/containers/") and path.endswith("/logs"):
            line = f"{PLANT} line\n".encode()
            self.reply(b"\1\0\0\0" + len(line).to_bytes(4, "big") + line)
        elif path.startswith("/containers/"):
            self.reply(json.dumps(self.container("serve" if "c1" in path else "fetch")))
        elif path == "/v1/models":
            self.reply(json.dumps({"data": [{"id": self.server.model, "root": "x", "max_model_len": 4096}]}))
        elif path == "/version":
            self.reply(json.dumps({"version": PLANT}))
        elif path == "/metrics":
            self.reply(self.metrics())
        else:
            self.reply("{}")

    def do_DELETE(self) -> None:
        self.server.status = 500
        self.reply(json.dumps({"message": PLANT}))

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer = {"choices": [{"text": f"Paris 42 {PLANT}", "message": {"content": PLANT}, "finish_reason": "length"}],
                  "usage": {"completion_tokens": 16}}  # fmt: skip
        self.reply(json.dumps(answer if self.server.answers else {"error": PLANT}))

    def listed(self, identity: str) -> dict[str, Any]:
        return {"Id": identity, "Names": [f"/{PLANT}"], "State": PLANT, "Status": PLANT, "Image": PLANT,
                "Labels": {"com.docker.compose.project": PLANT, "com.docker.compose.service": PLANT},
                "Mounts": [{"Type": "volume", "Name": PLANT}]}  # fmt: skip

    def volume(self, name: str) -> dict[str, Any]:
        return {"Name": name, "Labels": {"ernie-deploy.holds": PLANT}, "UsageData": {"Size": 1}}

    def container(self, service: str) -> dict[str, Any]:
        port = str(self.server.server_port)
        return {
            "Id": "c1", "Name": f"/{PLANT}", "RestartCount": 0, "Image": PLANT,
            "Config": {"Labels": {"com.docker.compose.service": service, "com.docker.compose.project": PLANT},
                       "Cmd": [PLANT], "Env": [f"VLLM_X={PLANT}"], "Image": PLANT, "Tty": False},
            "State": {"Status": "running", "ExitCode": 0, "StartedAt": "2026-11-22T03:31:57.123456789Z",
                      "Health": {"Status": "healthy", "Log": [{"Output": PLANT, "ExitCode": 0, "End": "2026-11-22T03:31:57Z"}]}},
            "NetworkSettings": {"Ports": {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": port}]}},
        }  # fmt: skip

    def metrics(self) -> str:
        label = PLANT.replace("\r", "")
        return (
            f'vllm:num_requests_running{{model_name="{label}"}} 0\nvllm:num_requests_waiting{{model_name="{label}"}} 0\n'
            f'vllm:cache_config_info{{block_size="{label}"}} 1\nvllm:request_success_total{{finished_reason="{label}"}} 1\n'
            f"process_start_time_seconds 1\n# {PLANT}\n"
        )

    def reply(self, content: str | bytes) -> None:
        data = content.encode() if isinstance(content, str) else content
        self.send_response(self.server.status, "Zq7\x1b[2J\x9b1m")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    status, answers, model = 200, False, "m"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Hostile) as made:
        threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
        yield made
        made.shutdown()


CONFIG = {
    "name": PLANT,
    "services": {
        "serve": {"image": PLANT, "command": [PLANT]},
        "bench": {"image": PLANT, "command": ["--host=serve", f"--model={PLANT}", PLANT]},
    },
    "secrets": {},
}
FAILING = """#!/bin/sh
cat "{0}/plant"; cat "{0}/plant" >&2; exit 1
"""
# A Compose that works until the stack is to come up.
WORKING = """#!/bin/sh
case "$*" in
  *"version --short"*) echo 2.40.3;;
  "image inspect "*) ;;
  *" config "*) cat "{0}/config.json";;
  *) cat "{0}/plant"; cat "{0}/plant" >&2; exit 1;;
esac
"""


@pytest.fixture
def world(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, where every tool, file and variable is planted; Docker half works."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "plant").write_bytes(b"\x9b2J\xff\n" + f"{PLANT} said\n".encode())
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    for tool in TOOLS:
        write_tool(tmp_path, tool, FAILING)
    write_tool(tmp_path, "docker", WORKING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{server.server_port}")
    for name in [
        *Catalog().defaults,
        "COMPOSE_PROJECT_NAME",
        "NODE_RANK",
        "HEAD_ADDR",
        "OPENAI_API_KEY",
        "LANGUAGE",
    ]:
        monkeypatch.setenv(name, PLANT)
    write_files(tmp_path)
    return tmp_path


def write_tool(folder: Path, name: str, text: str) -> None:
    (folder / "bin" / name).write_text(text.format(folder))
    (folder / "bin" / name).chmod(0o755)


def write_files(folder: Path) -> None:
    head = rendered("h100").splitlines()[0]
    (folder / "compose.yml").write_text(f"{head}\n" + hostile_compose())
    (folder / "odd.yml").write_text(f"# ernie-deploy render {PLANT}\n{PLANT}: [\n")
    (folder / "front.yml").write_text(f"# ernie-deploy render {PLANT!a} --gateway\nservices: {{}}\n")
    (folder / ".env").write_text(f"NODE_RANK={PLANT}\nPORT={PLANT}\nHTTPS_PROXY={PLANT}\n{PLANT}\n")
    (folder / "key.yaml").write_text(f"api-key: {json.dumps(PLANT)}\n")
    lines = [planted(line) for line in journal().lines]
    (folder / "journal.jsonl").write_bytes(
        b"\n".join(map(msgspec.json.encode, lines)) + f"\n{PLANT}\n".encode()
    )
    (folder / "whole.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, lines)) + b"\n")
    (folder / "good.json").write_text(baselines.text(baselines.accept(journal_of(*map(planted, journal().attempts), env=planted(journal().lines[0])))))  # fmt: skip
    (folder / "tolerance.toml").write_text(f'"{"Zq7"}\\u001b[2J" = 5\n')


def hostile_compose() -> str:
    """Anybody's file: names, values and keys are planted, as YAML may spell them."""
    quoted = json.dumps(PLANT)
    return (
        f"name: {quoted}\nservices:\n  {quoted}:\n    image: vllm/vllm-openai:latest\n    privileged: true\n"
        f"    command: [{quoted}, --trust-remote-code, {quoted}]\n    ports: [{quoted}, '8000:8000']\n"
        f"    environment: {{{quoted}: {quoted}, HF_TOKEN: {quoted}}}\n    depends_on: [{quoted}, other]\n"
        f"    volumes: ['/var/run/docker.sock:/x', {quoted}]\n    {quoted}: 1\n"
    )


def journal() -> Any:
    broken = [msgspec.structs.replace(measured(repeat=n, status=s), reasons=("why",), log_tail=("tail",))
              for n, s in enumerate(("invalid", "failed", "suspect"), start=2)]  # fmt: skip
    return journal_of(measured(), *broken)


def planted(line: Any) -> Any:
    """A line of a journal with the plant in every text that its schema leaves free."""
    data = msgspec.to_builtins(line)
    for holder, key in list(texts(data)):
        before = holder[key]
        # Else the lines would not belong together.
        if key in ("kind", "schema", "id", "environment", "identity", "run"):
            continue
        holder[key] = f"{before}{PLANT}"
        try:
            msgspec.convert(data, type(line))
        except msgspec.ValidationError:
            holder[key] = before
    made: Attempt | Environment = msgspec.convert(data, type(line))
    return made


def texts(data: Any) -> Iterator[tuple[Any, Any]]:
    for key, value in data.items() if isinstance(data, dict) else enumerate(data):
        if isinstance(value, str):
            yield data, key
        elif isinstance(value, dict | list):
            yield from texts(value)


# --- every command, found by walking the tree ---


def leaves(
    command: click.Command, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if not isinstance(command, click.Group) or command.invoke_without_command:
        yield path, command
    if not isinstance(command, click.Group):
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        assert child is not None
        yield from leaves(child, (*path, name))


LEAVES = dict(leaves(cli.cli))
ATTACH = ("--attach", "URL", "--model", "0.3b", "--shapes", "8/8", "--num-prompts", "1", "--no-warm-up")
# Ways to call a command in the hostile world; whether the plant must be seen in what it prints.
Calls = list[tuple[tuple[str, ...], bool]]
CALLS: dict[str, Calls] = {
    "targets": [((), False), (("--json",), False)],
    "models": [((), False)],
    "profiles": [((), False)],
    "engines": [((), False)],
    "plan": [(("h100", "--set", f"x={PLANT}"), True), (("h100", "--weights", f"/{PLANT}", "--json"), False)],
    "render": [(("h100", "--weights", f"/{PLANT}"), False), (("h100", "-o", "compose.yml"), False),
               (("h100", "--weights", f"/{PLANT}", "--format", "kubernetes"), False)],
    "init": [((PLANT, "cpu"), True), (("x", "cpu", "--env", f"{PLANT}=1"), True), (("y", "cpu", "--env", f"PORT={PLANT}"), False)],
    "lock": [((), False), (("--check",), False), ((PLANT,), True), (("odd.yml", "--json"), False)],
    "doctor": [((), False), (("h100",), True), (("h100", "--json"), True), (("mi300x", "--write-env", "--env-file", PLANT), True)],
    "up": [(("--no-preflight",), True), ((), True), (("./odd.yml", "--no-preflight"), True), (("--json",), True)],
    "status": [((), True), (("--json",), True), (("-f", "odd.yml"), True)],
    "explain": [((), False), (("--json",), False), (("odd.yml",), False), (("journal.jsonl",), False), ((f"./{PLANT}",), False)],
    "support-bundle": [((), False), (("--json", "--force"), False), (("-f", "odd.yml", "-o", f"{PLANT}.tar.gz"), True)],
    "logs": [((), True), (("--json",), True), ((PLANT,), True)],
    "upgrade": [(("--dry-run",), False), (("odd.yml", "--as", "cpu"), False), ((PLANT,), True), (("--as", f"x {PLANT}"), True)],
    "key add": [((PLANT,), True), (("x", "-f", "front.yml"), False), (("x", "--rate", PLANT), True), (("x", "-f", "odd.yml"), True)],
    "key list": [(("-f", "front.yml"), False), (("-f", "front.yml", "--json"), False), ((), False)],
    "key limit": [(("x", "--rate", "60/m", "-f", "front.yml"), False), ((PLANT, "--rate", "60/m", "-f", "front.yml"), True),
                  (("x", "--rate", PLANT, "-f", "front.yml"), True), (("x", "--concurrency", PLANT), True), (("x",), False)],
    "key revoke": [(("x", "-f", "front.yml"), False), ((PLANT, "-f", "front.yml"), True)],
    "tls install": [((PLANT, PLANT, "-f", "front.yml"), True), (("-f", "front.yml"), False), (("-f", "front.yml", "--json"), False)],
    "tls self-signed": [(("--host", PLANT, "-f", "front.yml"), True), (("-f", "front.yml", "--json"), False)],
    "tls show": [(("-f", "front.yml"), False), (("-f", "front.yml", "--json"), False), ((), False)],
    "reload": [(("-f", "front.yml"), False), (("-f", "front.yml", "--json"), False), ((), False)],
    "rollback": [((), False), (("--list",), False), ((PLANT,), True), (("--to", PLANT), False)],
    "volumes": [((), True), (("--json",), True)],
    "volumes remove": [((PLANT, "--yes"), True), (("free", "--yes"), True), (("other",), True), (("free",), False)],
    "bundle": [(("-o", "b"), False), (("-o", "b", "--json"), False), (("-o", "b", "--dry-run"), True)],
    "bundle verify": [((PLANT,), True), ((PLANT, "--json"), True)],
    "down": [((), True), (("--json",), True), (("--volumes",), True)],
    "rehearse": [(("h100",), True), (("h100", "--build-base"), True)],
    "diff": [(("compose.yml", "h100"), False), (("odd.yml", "h100"), False), (("compose.yml", "h100", "--json"), False),
             ((f"h100 --weights /{PLANT}", "h100"), False), ((PLANT,), True)],
    "check": [(("compose.yml",), False), (("compose.yml", "--json"), False), (("compose.yml", "--sarif"), False),
              (("odd.yml",), False), ((PLANT,), True)],
    "bench plan": [(("-f", "odd.yml"), False), (ATTACH, False)],
    "bench run": [((), True), (("--dry-run",), True), (ATTACH, True), ((*ATTACH, "--dry-run"), False),
                  ((*ATTACH, "--api-key-file", "key.yaml", "--json"), False), ((*ATTACH, "--skip-coherence"), True)],
    "bench search": [(("--slo", "tpot:5"), True), (("--slo", "tpot:5", *ATTACH[:4]), True)],
    "bench report": [(("journal.jsonl", "--json"), True), (("whole.jsonl",), True),
                     (("whole.jsonl", "--baseline", "good.json"), True), (("odd.yml",), False)],
    "bench compare": [(("good.json", "whole.jsonl"), True), (("whole.jsonl", "good.json", "--json"), True),
                      (("good.json", "whole.jsonl", "--tolerance", "tolerance.toml"), True)],
    "bench baseline accept": [(("whole.jsonl", "-o", PLANT), True)],
}  # fmt: skip


Run = Callable[..., bytes]


@pytest.fixture
def run(capfdbinary: pytest.CaptureFixture[bytes], server: Server) -> Run:
    """Call the command in this process; returns the bytes of both streams."""

    def call(*words: str) -> bytes:
        with pytest.raises(SystemExit):
            cli.main([server.url if word == "URL" else word for word in words])
        out, err = capfdbinary.readouterr()
        return out + err

    return call


def test_every_command_has_its_calls() -> None:
    assert {" ".join(path) for path in LEAVES} == set(CALLS), "a new command needs calls in a hostile world"


@pytest.mark.parametrize("docker", ["works", "fails", "answers 500"])
@pytest.mark.parametrize("name", CALLS)
def test_no_command_lets_a_planted_sequence_through(
    name: str, docker: str, world: Path, run: Run, server: Server
) -> None:
    if docker == "fails":
        write_tool(world, "docker", FAILING)
    if docker == "answers 500":
        server.status = 500
    for words, shows in CALLS[name]:
        output = run(*name.split(), *words)
        assert not faults(output), (words, output[-2000:])
        assert "Zq7" in output.decode() or not shows or docker != "works", (words, output[-2000:])


@pytest.mark.parametrize("name", CALLS)
def test_no_option_lets_its_own_words_through(name: str, world: Path, run: Run) -> None:
    """A usage error quotes what was written; a lone byte of it is no text at all."""
    for parameter in LEAVES[tuple(name.split())].params:
        if isinstance(parameter, click.Option) and (parameter.is_flag or parameter.count):
            continue
        words = [parameter.opts[0], LONE] if isinstance(parameter, click.Option) else ["--", LONE]
        output = run(*name.split(), *words)
        assert not faults(output), (words, output[-2000:])
    assert not faults(run(*name.split(), f"--{LONE}"))


def test_a_name_that_is_no_command_is_cleaned(run: Run) -> None:
    assert b"Zq7" in (output := run(LONE))
    assert not faults(output)


def test_an_unforeseen_error_keeps_its_traceback_and_steers_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fall(*_: object, **__: object) -> None:
        raise RuntimeError(LONE)

    monkeypatch.setattr(Catalog, "targets", fall)
    output = run("targets")
    assert b"Traceback" in output
    assert b"RuntimeError: Zq7\\x1b]0;x" in output
    assert not faults(output)


def test_reports_on_the_disk_are_clean_too(world: Path, run: Run) -> None:
    kinds = {"--html": "r.html", "--markdown": "r.md", "--csv": "r.csv", "--junit": "r.xml"}
    run("bench", "report", "whole.jsonl", *(word for pair in kinds.items() for word in pair))
    for file in kinds.values():
        content = (world / file).read_bytes()
        assert b"Zq7" in content, file
        assert not faults(content), file


# --- with colour, on a pseudo terminal ---


OURS = re.compile(rb"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\x1b\[[0-9]*[AK]|\x1b\[2K|\r(?=\n|\x1b\[)")


@pytest.mark.parametrize(
    "words",
    [("bench", "report", "whole.jsonl"), ("doctor", "h100"), ("models",), ("up", "--no-preflight"),
     ("bench", "run", *ATTACH, "--skip-coherence"), ("check", "compose.yml")],
    ids=" ".join,
)  # fmt: skip
def test_on_a_terminal_only_our_own_sequences_pass(
    words: tuple[str, ...], world: Path, server: Server
) -> None:
    output = on_a_terminal([server.url if word == "URL" else word for word in words], world)
    assert not faults(OURS.sub(b"", output)), output[-3000:]
    assert b"\x1b[2J" not in output
    assert b"Zq7" in output or words[0] in {"models", "check"}
    assert b"\x1b[" in output or words[0] == "check"


def on_a_terminal(words: list[str], folder: Path) -> bytes:
    master, slave = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "200", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "ernie_deploy", *words]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, cwd=folder, env=env)
    os.close(slave)
    output = b""
    try:
        while piece := os.read(master, 65536):
            output += piece
    except OSError:
        pass
    process.wait(60)
    os.close(master)
    return output

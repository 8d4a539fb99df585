"""Starting, watching and stopping: exact commands, phases, and a cause for each known failure."""

import io
import json
import os
from pathlib import Path

import msgspec
import pytest
from conftest import ROOT, kit
from msgspec.structs import replace
from test_doctor import FixtureHost

from ernie_deploy.commands.lifecycle import _start
from ernie_deploy.commands.preflight import preflight, request_of_file
from ernie_deploy.errors import ToolFailed
from ernie_deploy.plan.request import Request, command_words
from ernie_deploy.stack import lifecycle, metrics, status
from ernie_deploy.stack.address import api_address
from ernie_deploy.stack.compose import Stack
from ernie_deploy.stack.containers import State, seconds_until, seconds_until_probed
from ernie_deploy.stack.lifecycle import Started, _stands
from ernie_deploy.stack.live import _Lines
from ernie_deploy.stack.progress import Phase, phase


@pytest.mark.parametrize(("rank", "profile"), [("0", "head"), ("1", "worker"), ("12", "worker")])
def test_each_node_starts_its_own_part(rank: str, profile: str, tmp_path: Path) -> None:
    words = ["h100", "--model", "300b", "--nodes", "2"]
    (tmp_path / ".env").write_text(f"NODE_RANK={rank}\n")
    assert kit("render", "-o", str(tmp_path / "compose.yml"), *words).returncode == 0
    for named, file in ((words, ""), (["compose.yml"], "--file compose.yml "), ([], "")):
        done = kit("up", *named, "--no-preflight", "--dry-run", cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
        assert done.stdout.splitlines()[-1] == (
            f"docker compose {file}--profile {profile} up --detach --wait --wait-timeout 21600"
        ), done.stderr


@pytest.mark.parametrize(
    ("text", "said"), [("", "NODE_RANK is not set in .env."), ("NODE_RANK=x\n", "NODE_RANK is 'x' in .env.")]
)
def test_a_node_without_a_rank_starts_nothing(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(text)
    done = kit("up", "h100", "--model", "300b", "--nodes", "2", cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 2
    assert said in done.stderr
    assert "doctor h100 --model 300b --nodes 2 --write-env --node-rank R --head ADDR" in done.stderr
    assert not (tmp_path / "compose.yml").exists()


@pytest.mark.parametrize(
    ("services", "ports", "address"),
    [
        ({"serve": {}}, {"8000/tcp": "127.0.0.1:8000"}, "127.0.0.1:8000"),
        ({"serve": {}}, {"8000/tcp": "0.0.0.0:8000"}, "127.0.0.1:8000"),
        ({"serve": {"network_mode": "bridge"}}, {"8000/tcp": "10.0.0.4:8000"}, "10.0.0.4:8000"),
        ({"serve": {"network_mode": "host"}, "bench": {"command": ["--host=10.0.0.4", "--port=9000"]}}, {},
         "10.0.0.4:9000"),
        ({"serve": {"network_mode": "host"}, "bench": {"command": ["--host=0.0.0.0", "--port=9000"]}}, {},
         "127.0.0.1:9000"),
        ({"serve": {"network_mode": "host"}, "bench": {"command": ["--host=fd00::1", "--port=9000"]}}, {},
         "[fd00::1]:9000"),
        # Anybody's own file.
        ({"serve": {"network_mode": "host"}}, {}, ""),
        ({"serve": {"network_mode": "host"}, "bench": {"command": ["--host", "x"]}}, {}, ""),
        ({"serve": {}, "bench": {"command": ["--host=serve", "--port=8000"]}}, {}, ""),
        ({}, {}, ""),
    ],
)  # fmt: skip
def test_where_the_api_is(services: dict[str, object], ports: dict[str, str], address: str) -> None:
    assert api_address(services, [replace(state("serve", "running"), ports=ports)]) == address
    assert api_address(services, [state("worker", "running")]) == ""


@pytest.mark.parametrize(
    ("url", "service", "said"),
    [("http://127.0.0.1:8000", "serve", "p serves on http://127.0.0.1:8000 after 7 s"),
     ("https://127.0.0.1:8000", "gateway", "p serves on https://127.0.0.1:8000 after 7 s"),
     ("", "worker", "p has joined its head after 7 s"), ("", "web", "p is up after 7 s")],
)  # fmt: skip
def test_up_says_what_is_up(
    url: str, service: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started = Started(
        project="p",
        address=url.partition("://")[2],
        url=url,
        elapsed_s=7.0,
        states=[state(service, "running")],
    )
    monkeypatch.setattr(lifecycle, "up", lambda *_: started)
    _start(STACK, 1, as_json=False)
    assert capsys.readouterr().out == f"{said}\n"


def test_up_says_that_nobody_has_a_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started = Started(project="p", address="", keyless=True, elapsed_s=7.0, states=[])
    monkeypatch.setattr(lifecycle, "up", lambda *_: started)
    _start(STACK, 1, as_json=False)
    assert "ernie-deploy key add NAME" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "url"), [(("h100", "--gateway"), "http://127.0.0.1:8000"),
                       (("h100", "--gateway", "--tls", "files"), "https://127.0.0.1:8000"),
                       ((), "http://127.0.0.1:8000")],
)  # fmt: skip
def test_behind_a_gateway_the_api_is_the_gateways(words: tuple[str, ...], url: str, tmp_path: Path) -> None:
    file = tmp_path / "compose.yml"
    file.write_text(f"# ernie-deploy render {' '.join(words)}\n" if words else "services: {}\n")
    states = [
        replace(state("gateway", "running"), ports={"8443/tcp": "0.0.0.0:8000"}),
        state("serve", "running"),
    ]
    services: dict[str, object] = {"gateway": {}, "serve": {}}
    assert lifecycle.url_of_api(Stack(files=(file,)), services, states) == url
    assert lifecycle.url_of_api(Stack(files=(file,)), services, states[1:]) == ""


@pytest.mark.parametrize(
    ("text", "keyless"), [(None, True), ("# none\n\n", True), ("ab alice:0:0:0\n", False)]
)
def test_a_gateway_without_a_key_is_seen(text: str | None, keyless: bool, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "keys.map").write_text(text)
    services = {"gateway": {"volumes": [{"type": "bind", "source": str(tmp_path), "target": "/gateway"}]}}
    assert lifecycle._keyless(services) is keyless
    assert lifecycle._keyless({"serve": {}}) is False


def test_a_stack_is_not_up_before_its_gateway_is() -> None:
    serve = state("serve", "running", health="healthy")
    assert phase([serve, state("gateway", "running", health="starting")], lambda _: "").name == "opening"
    assert phase([serve, state("gateway", "running", health="healthy")], lambda _: "").name == "healthy"


def test_a_worker_has_phases_too() -> None:
    assert phase([state("worker", "running", health="healthy")], lambda _: "") == Phase("healthy", "")


STACK = Stack(files=(Path("compose.yml"), Path("more.yml")), project="p")


def test_commands_word_for_word() -> None:
    base = ["docker", "compose", "--project-name", "p", "--file", "compose.yml", "--file", "more.yml"]
    assert STACK.up(60) == [*base, "up", "--detach", "--wait", "--wait-timeout", "60"]
    assert STACK.down() == [*base, "--profile", "*", "down"]
    assert STACK.logs("serve", follow=True, tail="9") == [*base, "logs", "--follow", "--tail", "9", "serve"]
    assert STACK.bench("--seed=1") == [
        *base, "--profile", "bench", "run", "--rm", "--no-deps", "--no-TTY", "bench", "--seed=1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["up", "mi300x"], [
            "ernie-deploy doctor mi300x",
            "ernie-deploy render -o compose.yml mi300x",
            "docker compose up --detach --wait --wait-timeout 21600",
        ]),
        (["up", "h100", "--model", "300b", "--wait-timeout", "9", "--no-preflight"], [
            "ernie-deploy render -o compose.yml h100 --model 300b",
            "docker compose up --detach --wait --wait-timeout 9",
        ]),
    ],
)  # fmt: skip
def test_dry_run_prints_the_commands_and_does_nothing(
    words: list[str], lines: list[str], tmp_path: Path
) -> None:
    done = kit(*words, "--dry-run", cwd=tmp_path, env={"PATH": "/nonexistent", "PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, lines, "")
    assert list(tmp_path.iterdir()) == []


def hosted(name: str, request: Request, env_file: Path) -> None:
    preflight(request, env_file, FixtureHost(name))


def test_the_preflight_of_a_host_without_a_fault_says_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hosted("h100", Request(target="h100"), tmp_path / ".env")
    said = capsys.readouterr()
    assert said.out == ""
    assert all(line.startswith(("warning: ", "  next:  ")) for line in said.err.splitlines())


def test_an_error_of_the_preflight_ends_up_with_doctors_sentence(tmp_path: Path) -> None:
    with pytest.raises(ToolFailed) as raised:
        hosted("h100", Request(target="mi300x"), tmp_path / ".env")
    assert "amdgpu is not loaded" in str(raised.value)
    assert raised.value.next_step
    assert "--no-preflight" in raised.value.cause


def test_the_request_behind_a_rendered_file_is_read_from_its_first_line(tmp_path: Path) -> None:
    path, request = tmp_path / "compose.yml", Request(target="h100", model="300b", gpus=(4, 5, 6, 7), tp=4)
    path.write_text(f"# ernie-deploy render {' '.join(command_words(request))}\n#\nservices: {{}}\n")
    assert request_of_file(path) == request
    for head in ("services: {}", "# ernie-deploy render --nonsense", "# ernie-deploy render 'mi300x"):
        path.write_text(f"{head}\n")
        assert request_of_file(path) is None


def test_up_stops_at_the_preflight_before_anything_is_written(tmp_path: Path) -> None:
    done = kit("up", "mi300x", cwd=tmp_path, env={"PATH": "/nonexistent", "PYTHONPATH": str(ROOT)})
    assert done.returncode == 6
    assert "Docker is not installed." in done.stderr
    assert list(tmp_path.iterdir()) == []
    done = kit(
        "up", "mi300x", "--no-preflight", cwd=tmp_path, env={"PATH": "/nonexistent", "PYTHONPATH": str(ROOT)}
    )
    assert "`docker` is not on this machine's PATH" in done.stderr


@pytest.mark.parametrize("command", ["up", "down", "logs", "status"])
def test_without_a_compose_file_there_is_a_sentence(command: str, tmp_path: Path) -> None:
    done = kit(command, cwd=tmp_path, env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)})
    assert done.returncode == 2
    assert "There is no compose.yml here." in done.stderr


def test_a_named_file_that_is_missing_is_not_called_the_folders(tmp_path: Path) -> None:
    done = kit(
        "up", "--file", "mine.yml", cwd=tmp_path, env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 2
    assert "There is no mine.yml here.\n  cause: --file names it" in done.stderr


def test_without_docker_the_exit_code_is_6(tmp_path: Path) -> None:
    (tmp_path / "compose.yml").write_text("services: {}\n")
    done = kit("down", cwd=tmp_path, env={"PATH": "/nonexistent", "PYTHONPATH": str(ROOT)})
    assert done.returncode == 6
    assert "`docker` is not on this machine's PATH" in done.stderr


def state(service: str, status_: str, *, health: str = "", exit_code: int = 0) -> State:
    return State(
        service=service, id=service, status=status_, health=health, exit_code=exit_code, restarts=0,
        started_at="", last_probe="", ports={},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("states", "line", "expected"),
    [
        ([], "", Phase("pulling")),
        ([state("fetch", "created"), state("serve", "created")], "", Phase("preparing")),
        ([state("fetch", "running"), state("serve", "created")], "fetch: 12.3 of 43.7 GB, 210 MB/s, about 150 s left",
         Phase("fetching", "12.3 of 43.7 GB, 210 MB/s, about 150 s left")),
        ([state("fetch", "exited", exit_code=20), state("serve", "created")], "fetch: refused",
         Phase("failed", "fetch: refused")),
        ([state("fetch", "exited"), state("serve", "running", health="starting")],
         "INFO 11-22 [weight_utils.py:1] Loading safetensors checkpoint shards: 50% Completed",
         Phase("loading", "INFO 11-22 [weight_utils.py:1] Loading safetensors checkpoint shards: 50% Completed")),
        ([state("serve", "running", health="starting")], "INFO [backends.py:1] torch.compile takes 30 s",
         Phase("compiling", "INFO [backends.py:1] torch.compile takes 30 s")),
        ([state("serve", "running", health="healthy")], "INFO GET /metrics", Phase("healthy")),
        ([state("serve", "restarting")], "EngineDeadError", Phase("restarting", "EngineDeadError")),
    ],
)  # fmt: skip
def test_phases(states: list[State], line: str, expected: Phase) -> None:
    assert phase(states, lambda _: line) == expected


@pytest.mark.parametrize(
    ("states", "stands"),
    [
        ([], False),
        ([state("fetch", "exited"), state("serve", "running", health="healthy")], True),
        ([state("fetch", "exited"), state("serve", "created")], False),
        ([state("fetch", "exited", exit_code=20), state("serve", "running", health="healthy")], False),
        ([state("serve", "running", health="starting")], False),
        ([state("serve", "running", health="unhealthy")], False),
        ([state("serve", "running")], True),
    ],
)
def test_a_stack_stands_only_when_its_containers_do(states: list[State], stands: bool) -> None:
    assert _stands(states) is stands


class Silent:
    """An engine with one container, its log and its probes."""

    def __init__(self, *lines: str, health: object = None) -> None:
        self.containers, self.text = self, "\n".join(lines).encode()
        self.attrs = {"State": {"Health": health}}

    def get(self, _: str) -> "Silent":
        return self

    def logs(self, **_: object) -> bytes:
        return self.text


@pytest.mark.parametrize(
    ("line", "seconds"),
    [
        ("2026-11-22T03:32:05.25Z INFO: Application startup complete.", 65.0),
        ("2026-11-22T03:32:05Z INFO", None),
    ],
)
def test_how_long_a_container_took_to_say_something(line: str, seconds: float | None) -> None:
    started = msgspec.structs.replace(state("serve", "running"), started_at="2026-11-22T03:31:00.250000001Z")
    found = seconds_until(Silent(line), started, "startup complete")  # type: ignore[arg-type]
    assert found == pytest.approx(seconds) if seconds else found is None


def probe(exit_code: int, end: str) -> dict[str, object]:
    return {"Start": end, "End": end, "ExitCode": exit_code, "Output": ""}


@pytest.mark.parametrize(
    ("probes", "seconds"),
    [
        # A daemon in a time zone writes its probes in it.
        ([probe(1, "2026-11-22T05:31:30+02:00"), probe(0, "2026-11-22T05:32:05.250000001+02:00")], 65.0),
        ([probe(0, "2026-11-22T03:31:10.25Z"), probe(0, "2026-11-22T03:31:20.25Z")], 10.0),
        ([probe(1, "2026-11-22T03:31:10Z")], None),
        ([], None),
    ],
)
def test_how_long_a_container_took_to_pass_a_probe(
    probes: list[dict[str, object]], seconds: float | None
) -> None:
    started = msgspec.structs.replace(state("serve", "running"), started_at="2026-11-22T03:31:00.250000001Z")
    found = seconds_until_probed(Silent(health={"Log": probes}), started)  # type: ignore[arg-type]
    assert found == pytest.approx(seconds) if seconds else found is None


def test_a_container_without_a_health_check_passed_none() -> None:
    assert seconds_until_probed(Silent(), state("serve", "running")) is None  # type: ignore[arg-type]


def test_elsewhere_than_a_terminal_a_phase_is_one_line() -> None:
    out = io.StringIO()
    show = _Lines(out)
    for second in range(25):
        show(second, Phase("fetching" if second < 12 else "loading", f"line {second}"))
    assert out.getvalue().splitlines() == [
        "    0 s  fetching    line 0", "   10 s  fetching    line 10",
        "   12 s  loading     line 12", "   22 s  loading     line 22",
    ]  # fmt: skip


METRICS = """# HELP vllm:num_requests_running x
vllm:num_requests_running{engine="0",model_name="a b"} 2.0
vllm:num_requests_running{engine="1",model_name="a"} 3.0
vllm:generation_tokens_total{engine="0"} 1e+03
python_gc_objects_collected_total{generation="0"} 7.0
"""


def test_metrics_are_summed_over_engines() -> None:
    assert metrics.counters(METRICS) == {
        "vllm:num_requests_running": 5.0,
        "vllm:generation_tokens_total": 1000.0,
    }


def test_status_page() -> None:
    seen = {
        "project": "ernie-21b",
        "containers": [
            {"service": "fetch", "status": "exited", "health": None, "restarts": 0, "exit_code": 0, "last_probe": None},
            {"service": "serve", "status": "running", "health": "healthy", "restarts": 2, "exit_code": None,
             "last_probe": "healthy: 12 iterations"},
        ],
        "server": {"url": "http://127.0.0.1:8000", "generation_tokens_per_s": 812.0, "prompt_tokens_per_s": 0.0,
                   "requests_running": 4, "requests_waiting": 0, "kv_cache_usage": 0.1234,
                   "prefix_cache_hit_rate": None},
    }  # fmt: skip
    assert status.as_text(json.loads(json.dumps(seen))).splitlines() == [
        "ernie-21b",
        "  fetch    exited (0)",
        "  serve    running, healthy, 2 restarts  healthy: 12 iterations",
        "  812 tokens/s out, 0 in",
        "  4 running, 0 waiting",
        "  12.3% of the KV cache in use, http://127.0.0.1:8000",
    ]


def _docker(folder: Path, said: str, code: int = 0) -> dict[str, str]:
    """Variables under which `docker compose` is there and says this."""
    (folder / "bin").mkdir()
    script = folder / "bin" / "docker"
    script.write_text(
        f"#!/bin/sh\ncase \"$*\" in *version*) echo 2.40.3;; *) printf '{said}'; exit {code};; esac\n"
    )
    script.chmod(0o755)
    (folder / "compose.yml").write_text("services: {}\n")
    return {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


def test_logs_as_json_are_an_object_a_line(tmp_path: Path) -> None:
    env = _docker(tmp_path, "serve-1  | INFO: a | b\\nfetch-1  | done\\n")
    done = kit("logs", "--json", cwd=tmp_path, env=env)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"container": "serve-1", "line": "INFO: a | b"}, {"container": "fetch-1", "line": "done"}]  # fmt: skip
    assert done.returncode == 0


@pytest.mark.parametrize("code", [0, 1])
def test_down_as_json_says_what_is_down_or_fails(tmp_path: Path, code: int) -> None:
    done = kit("down", "--json", cwd=tmp_path, env=_docker(tmp_path, "gone", code))
    assert done.returncode == code
    if not code:
        assert json.loads(done.stdout) == {"file": "compose.yml", "down": True, "volumes_removed": []}


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("--api-key-file",), "--api-key-file"), (("--user", "2000:2000"), "--user"), (("--bind", "10.0.0.4"), "--bind"),
        (("--bind", "127.0.0.1"), "--bind"), (("--security", "strict"), "--security"), (("--model", "21b"), "--model"),
        (("--weights", "/w"), "--weights"), (("--set", "seed=1"), "--set"), (("--nodes", "1"), "--nodes"),
        (("--gpus", "0"), "--gpus"), (("compose.yml", "--", "--seed=1"), "--"),
    ],
)  # fmt: skip
def test_no_option_is_dropped_where_a_file_is_started(
    words: tuple[str, ...], name: str, tmp_path: Path
) -> None:
    """`up --api-key-file` on a file that was rendered without it started a server without a key."""
    env = {"PYTHONPATH": str(ROOT)}
    assert kit("render", "h100", "-o", str(tmp_path / "compose.yml")).returncode == 0
    done = kit("up", "--dry-run", *words, cwd=tmp_path, env=env)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"error: {name} cannot change compose.yml." in done.stderr
    assert "ernie-deploy render h100" in done.stderr
    assert kit("up", "--dry-run", cwd=tmp_path, env=env).returncode == 0


@pytest.mark.parametrize("option", ["--help", "-h", "--version"])
def test_a_header_with_an_eager_option_ends_nothing(option: str, tmp_path: Path) -> None:
    """click printed render's help and exited with 0: `up && announce` lied."""
    file = tmp_path / "compose.yml"
    file.write_text(f"# ernie-deploy render h100 {option}\nname: x\nservices: {{serve: {{image: x}}}}\n")
    assert request_of_file(file) is None
    up = kit("up", "--dry-run", "--no-preflight", str(file))
    assert up.stdout.startswith(f"docker compose --file {file} up"), up.stderr
    plan = kit("bench", "plan", "-f", str(file))
    assert plan.returncode == 2
    assert "The file's first line is no command of this version" in plan.stderr

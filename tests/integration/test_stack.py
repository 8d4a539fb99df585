"""Real Docker, real vLLM: a rehearsal of the very rendering, and what breaks at night done to a stack."""

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import ENGINE, FULL, ROOT, kit, missing
from integration.stack import FLOODS, Running, flood, recovered
from locks import lock_of

from ernie_deploy.catalog import Catalog
from ernie_deploy.errors import ToolFailed
from ernie_deploy.plan.lock import text_of
from ernie_deploy.plan.request import Request
from ernie_deploy.rehearsal import proofs
from ernie_deploy.rehearsal.client import Answer, chat
from ernie_deploy.rehearsal.group import members
from ernie_deploy.rehearsal.override import cpu_image
from ernie_deploy.rehearsal.planted import Planted
from ernie_deploy.rehearsal.stage import Disproved, Stage
from ernie_deploy.stack import containers
from ernie_deploy.stack.compose import Stack, ask, demand
from ernie_deploy.stack.evidence import gathered
from ernie_deploy.stack.failures import recognise
from ernie_deploy.stack.lifecycle import up

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1500)]
full = pytest.mark.skipif(not FULL, reason="only with .ci/run --full")
SATURATED_S = 300
FLOODED_S = 170
# A hang is found within this time.
FOUND_S = 180
# The exit code of `fetch`, as docker/scripts/fetch.py has it. Only where the engine tells it: `docker compose run`
# of Compose 2.40 ends with 0 on Docker 20.10 whatever the container ended with.
DISK_FULL = 23


# What drafts, what asks for a key and what is served by a locked commit is one stack: each has a proof of its own.
CASES = [
    ["h100", "--profile", "mtp", "--api-key-file", "--lock"],
    ["h100", "--gateway", "--tls", "self-signed", "--monitoring", "--node-exporter"],
]
# Each vendor, security set, layout and kind of model stands in one of them or in CASES, and in few of them twice.
MORE = [
    ["h100", "--gateway", "--tls", "self-signed", "--replicas", "2"],
    ["cpu"],
    ["mi300x"],
    ["mi300x", "--profile", "mtp"],
    ["mi300x", "--security", "strict", "--model", "vl-28b"],
    ["h100", "--model", "300b", "--nodes", "2"],
    ["h100", "--model", "300b", "--nodes", "2", "--profile", "mtp"],
    ["h100", "--model", "300b"],
]
PROOFS = {"healthy", "weights fetched and verified", "hardening in force", "KV cache as planned", "chat answer",
          "streamed answer", "benchmark cell", "drain on stop", "restart offline", "engine killed, comes back",
          "answers afterwards"}  # fmt: skip
PROOFS_OF = {
    "mtp": {"MTP drafts"},
    "--api-key-file": {"key asked for"},
    "--gateway": {
        "gateway hardened",
        "routes closed",
        "limit of a key",
        "servers counted",
        "log names the key",
        "key added and revoked",
        "key asked for",
        "gateway drains on down",
    },
    "--monitoring": {
        "monitoring hardened",
        "Prometheus scrapes the stack",
        "rules loaded",
        "panels have data",
    },
    "--tls": {"certificate renewed"},
    "--nodes": {"worker killed, comes back", "answers as one node does"},
    "vl-28b": {"picture answered", "video answered", "benchmark with pictures"},
}


# First, while no other stack takes the processor.
@pytest.mark.parametrize("words", CASES + (MORE if FULL else []), ids=" ".join)
def test_rehearsal(docker_engine: None, words: list[str], tmp_path: Path) -> None:
    if "--lock" in words:
        (tmp_path / "ernie.lock").write_text(text_of(lock_of(Request(target=words[0]))))
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = kit("rehearse", *words, timeout=1400, cwd=tmp_path, env=environ)
    print(f"$ ernie-deploy rehearse {' '.join(words)}\n{done.stdout}")
    assert done.returncode == 0, done.stderr
    assert "FAIL" not in done.stdout
    shown = [line[6:34].strip() for line in done.stdout.splitlines() if line.startswith("ok ")]
    assert shown[0] == "healthy"
    guarded = {"--api-key-file", "--gateway"}.intersection(words)
    secret = "token and key kept secret" if guarded else "token kept secret"
    wanted = PROOFS.union({secret}, *(PROOFS_OF.get(word, ()) for word in words))
    assert sorted(shown) == sorted(wanted)


def test_what_docker_shows_of_the_server_is_short(running: Running) -> None:
    # Half of it is Docker's own; scripts in the commands once made it 77 kB.
    shown = demand(["docker", "inspect", "--format", "{{json .}}", running.serve().id])
    assert json.loads(shown)["Config"]["Healthcheck"]
    assert len(shown) < 12_000


def test_engine_killed_while_streaming(running: Running) -> None:
    before = running.serve().restarts
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(running.ask, 20000, timeout_s=60)
        running.busy()
        running.signal("KILL", "EngineCore")
        answer = asked.result()
    assert answer.ending in ("error", "cut"), answer
    recovered("engine killed while streaming", running.healthy_again(before, 300))
    assert running.ask().ending == "complete"


def test_engine_stopped_with_a_stream_open(running: Running) -> None:
    before = running.serve().restarts
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(running.ask, 20000, timeout_s=240)
        running.busy()
        running.signal("STOP", "EngineCore")
        recovered_s = running.healthy_again(before, 400)
        assert asked.result().ending in ("error", "cut")
    recovered("engine stopped with a client waiting", recovered_s)
    assert running.ask().ending == "complete"


def test_a_second_stack_in_another_folder_downloads_nothing_again(running: Running, tmp_path: Path) -> None:
    files = []
    for file in running.stack.files:
        files.append(tmp_path / file.name)
        files[-1].write_text(file.read_text())
    # A project of its own, without a hub: what is not on the shared volume cannot be had.
    second = Stack(files=tuple(files), project="ernie-second")
    try:
        fetched = demand(second.words("run", "--rm", "--no-deps", "-T", "fetch"), timeout_s=60)
    finally:
        ask(second.down(), timeout_s=60)
        ask(["docker", "volume", "rm", "ernie-second_state"])
    assert "as verified before" in fetched


@pytest.mark.parametrize("route", ["/v1/completions", "/invocations"])
@pytest.mark.parametrize(
    ("asks", "sentence"), [({"n": 16384}, "n must be at most 128"), ({"prompt": ["a"] * 17}, "maximum allowed count of 16")]
)  # fmt: skip
def test_one_request_gets_no_more_than_its_share(
    running: Running, route: str, asks: dict[str, object], sentence: str
) -> None:
    model = running.rehearsal.plan.served_name
    body = json.dumps({"model": model, "prompt": "a", "max_tokens": 1, **asks}).encode()
    request = urllib.request.Request(running.url() + route, body, {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(request, timeout=30)
    assert (refusal.value.code, sentence in refusal.value.read().decode()) == (400, True)


@full
def test_a_second_start_downloads_nothing_again(running: Running) -> None:
    assert "as verified before" in running.fetch(running.stack).stdout


def test_a_busy_port_is_a_sentence(running: Running, tmp_path: Path) -> None:
    port = running.url().rpartition(":")[2]
    other = tmp_path / "compose.yml"
    other.write_text(
        json.dumps({"name": "ernie-port", "services": {"serve": {
            "image": cpu_image(ENGINE), "entrypoint": ["sleep", "60"],
            "ports": [f"127.0.0.1:{port}:8000"]}}})
    )  # fmt: skip
    stack = Stack(files=(other,))
    try:
        with pytest.raises(ToolFailed, match=f"port 127.0.0.1:{port} of this host is taken"):
            up(stack, 60, lambda elapsed_s, phase: None)
    finally:
        ask(stack.down(), timeout_s=60)


@full
def test_engine_killed_while_idle(running: Running) -> None:
    before = running.serve().restarts
    running.signal("KILL", "EngineCore")
    recovered("engine killed while idle", running.healthy_again(before, 300))


@full
def test_api_process_killed(running: Running) -> None:
    before = running.serve().restarts
    running.signal("KILL", "bin/vllm serve")
    recovered("API process killed", running.healthy_again(before, 300))


@full
def test_sigterm_under_load(running: Running) -> None:
    container = running.engine.containers.get(running.serve().id)
    with ThreadPoolExecutor(12) as pool:
        streams = [pool.submit(running.ask, 1200, timeout_s=90) for _ in range(4)]
        running.busy(4)
        begun = time.monotonic()
        stopped = pool.submit(container.stop, timeout=running.rehearsal.plan.stop_grace_period_s)
        time.sleep(1)
        url, later = running.url(), []
        while not stopped.done():
            later.append(
                chat(url, running.rehearsal.plan.served_name, max_tokens=8, stream=True, timeout_s=20)
            )
            time.sleep(0.5)
        answers = [stream.result() for stream in streams]
    print(f"SIGTERM under load: stopped after {time.monotonic() - begun:.0f} s, later requests: "
          f"{dict(Counter(answer.detail[-30:] for answer in later))}")  # fmt: skip
    assert [(answer.ending, answer.tokens) for answer in answers] == [("complete", 1200)] * 4
    assert later
    assert not [answer for answer in later if answer.ending == "complete" or "timed out" in answer.detail]
    begun = time.monotonic()
    container.start()
    recovered("stopped under load, then started", running.healthy_again(-1, 300))


@full
def test_a_saturated_server_is_left_alone(running: Running) -> None:
    before, end = running.serve(), time.monotonic() + SATURATED_S

    def keep_asking() -> list[Answer]:
        answers = []
        while time.monotonic() < end:
            answers.append(running.ask(600, timeout_s=300))
        return answers

    with ThreadPoolExecutor(30) as pool:
        asked = [pool.submit(keep_asking) for _ in range(30)]
        while not all(request.done() for request in asked):
            now = running.serve()
            assert (now.restarts, now.started_at) == (before.restarts, before.started_at)
            time.sleep(5)
    answers = [answer for request in asked for answer in request.result()]
    assert {answer.ending for answer in answers} == {"complete"}
    print(f"saturated for {SATURATED_S} s by 30 clients, {len(answers)} requests complete: not restarted")


@full
@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_of_large_bodies_kills_nothing(running: Running, kind: str) -> None:
    """The request runs as the flood begins and is over within it: the engine rests, and the API says nothing."""
    before, name = running.serve(), running.rehearsal.plan.served_name
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(running.ask, 600, timeout_s=600)
        running.busy()
        with flood(running.url(), name, kind):
            end = time.monotonic() + FLOODED_S
            while time.monotonic() < end:
                now = running.serve()
                assert (now.restarts, now.started_at) == (before.restarts, before.started_at), (
                    running.probes()
                )
                time.sleep(5)
            lines = running.probes()
        assert asked.result().ending == "complete"
    print(f"flooded with {kind} for {FLOODED_S} s, not restarted; the probes said {lines}")
    recovered(f"flood of {kind} over: the next answer", running.answers_again(300))
    assert running.serve().restarts == before.restarts


@full
def test_engine_stopped_within_a_flood(running: Running) -> None:
    before, name = running.serve(), running.rehearsal.plan.served_name
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(running.ask, 20000, timeout_s=240)
        running.busy()
        with flood(running.url(), name, "messages"):
            time.sleep(5)
            running.signal("STOP", "EngineCore")
            killed_s = running.started_anew(before.restarts, FOUND_S)
        recovered("engine stopped within a flood: killed", killed_s)
        assert asked.result().ending in ("error", "cut")
    recovered(
        "engine stopped within a flood: served again", killed_s + running.healthy_again(before.restarts, 400)
    )
    assert running.ask().ending == "complete"


def snapshot_file(cache: Path) -> Path:
    return next(cache.glob("hub/models--*/snapshots/*/*.safetensors")).resolve()


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-64:] = bytes(255 - byte for byte in content[-64:])
    path.write_bytes(content)


@full
@pytest.mark.parametrize(
    ("damage", "said"),
    [(truncate, "bytes instead of"), (flip, "has the wrong hash")],
    ids=["truncated", "flipped"],
)
def test_damaged_weights_are_refused_and_repaired(
    running: Running, tmp_path: Path, damage: object, said: str
) -> None:
    stack = running.with_env(
        tmp_path, HF_CACHE_DIR=tmp_path / "hf", HF_TOKEN_FILE=running.rehearsal.folder / "token"
    )
    (tmp_path / "hf").mkdir()
    assert "verified" in running.fetch(stack).stdout
    damage(snapshot_file(tmp_path / "hf"))  # type: ignore[operator]
    served = ask(stack.words("run", "--rm", "--no-deps", "-T", "serve"), timeout_s=60)
    assert said in served.stderr
    known = recognise(gathered(logs=[served.stderr]), Catalog())
    assert known is not None
    assert known.id == "weights-damaged"
    mended = running.fetch(stack).stdout
    assert "deleted, to be downloaded again" in mended
    assert "files of baidu/ERNIE-4.5-0.3B-PT verified" in mended


@full
def test_weights_changed_under_a_running_server_are_refused_until_up_repairs_them(running: Running) -> None:
    before = running.serve()
    volume = running.engine.volumes.get(f"{running.rehearsal.project}-hf-cache").attrs["Mountpoint"]
    flip(snapshot_file(Path(volume)))
    running.signal("KILL", "EngineCore")
    end = time.monotonic() + 120
    while "has the wrong hash" not in (log := containers.log(running.engine, before.id, 5)):
        assert time.monotonic() < end, log
        time.sleep(1)
    # Long enough that the start which waits ten minutes has begun.
    while "starts in a row never became healthy" not in (log := containers.log(running.engine, before.id, 5)):
        assert time.monotonic() < end + 120, log
        time.sleep(1)
    started = up(running.stack, 600, lambda elapsed_s, phase: None)
    recovered("weights flipped: refused at each start; after `up`", started.elapsed_s)
    assert running.ask().ending == "complete"


@full
def test_a_token_file_of_somebody_else_is_read(running: Running, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text((running.rehearsal.folder / "token").read_text())
    token.chmod(0o600)
    os.chown(token, 4321, 4321)
    (tmp_path / "hf").mkdir()
    stack = running.with_env(tmp_path, HF_CACHE_DIR=tmp_path / "hf", HF_TOKEN_FILE=token)
    assert "files of baidu/ERNIE-4.5-0.3B-PT verified" in running.fetch(stack).stdout


@full
@pytest.mark.parametrize("named", ["empty", "wrong"])
def test_a_hub_that_wants_a_token_refuses_in_a_sentence(running: Running, tmp_path: Path, named: str) -> None:
    token = tmp_path / "token"
    token.write_text("" if named == "empty" else "hf_" + "x" * 34)
    (tmp_path / "hf").mkdir()
    done = running.fetch(running.with_env(tmp_path, HF_CACHE_DIR=tmp_path / "hf", HF_TOKEN_FILE=token))
    assert "fetch: the hub refuses the model or the token: " in done.stderr
    known = recognise(gathered(logs=[done.stderr]), Catalog())
    assert known is not None
    assert known.id == "token-refused"


@full
def test_a_hub_that_wants_none_is_asked_without_one(running: Running, tmp_path: Path) -> None:
    (tmp_path / "token").touch()
    (tmp_path / "hf").mkdir()
    stack = running.with_env(tmp_path, HF_CACHE_DIR=tmp_path / "hf", HF_TOKEN_FILE=tmp_path / "token")
    hub = ["run", "--detach", "--rm", "--no-deps", "--name", "ernie-open-hub", "--entrypoint",
           "python3 /rehearsal/hub.py /checkpoints/map.json", "hub"]  # fmt: skip
    demand(running.stack.words(*hub))
    try:
        time.sleep(2)
        done = running.fetch(stack, "--env", "HF_ENDPOINT=http://ernie-open-hub:8080")
    finally:
        ask(["docker", "rm", "--force", "ernie-open-hub"])
    assert "files of baidu/ERNIE-4.5-0.3B-PT verified" in done.stdout, done.stderr


@full
def test_a_token_file_that_is_not_there_is_a_sentence(running: Running, tmp_path: Path) -> None:
    env = running.with_env(tmp_path, HF_TOKEN_FILE=tmp_path / "none").env_file
    stack = Stack(files=running.stack.files, project="ernie-tokenless", env_file=env)
    try:
        with pytest.raises(ToolFailed, match=f"does not exist: .*{tmp_path}/none"):
            up(stack, 60, lambda elapsed_s, phase: None)
    finally:
        ask(stack.down(), timeout_s=60)
        ask(["docker", "volume", "rm", "--force", "ernie-tokenless_state"])


# The first is refused before its first byte; the second has room, and no place for another file.
@full
@pytest.mark.parametrize(
    ("size", "said"),
    [("size=256k", "GB free"), ("size=64m,nr_inodes=24", "is full")],
    ids=["small", "filled"],
)
def test_a_full_disk_is_a_sentence(running: Running, tmp_path: Path, size: str, said: str) -> None:
    small = tmp_path / "small.yml"
    volume = {"driver": "local", "driver_opts": {"type": "tmpfs", "device": "tmpfs", "o": size}}
    small.write_text(json.dumps({"volumes": {"hf-cache": {"name": "ernie-small-hf", **volume},
                                             "engine-cache": {"name": "ernie-small-engine"}}}))  # fmt: skip
    stack = Stack(files=(*running.stack.files, small), project="ernie-small", env_file=running.stack.env_file)
    try:
        with pytest.raises(ToolFailed, match="The disk is full, or too small for the weights"):
            up(stack, 120, lambda elapsed_s, phase: None)
        fetch = next(s for s in containers.states(running.engine, "ernie-small") if s.service == "fetch")
        assert fetch.exit_code == DISK_FULL
        assert said in containers.log(running.engine, fetch.id)
    finally:
        ask(stack.words("--profile", "*", "down", "--volumes"), timeout_s=60)


def leak_into_a_file(running: Running, token: str) -> None:
    (running.rehearsal.folder / "notes.txt").write_text(token)


def leak_into_a_volume(running: Running, token: str) -> None:
    demand(running.stack.words("exec", "-T", "serve", "sh", "-c", f"echo {token} > /cache/engine/leak"))


def leak_into_an_environment(running: Running, token: str) -> None:
    demand(running.stack.words("exec", "-T", "-d", "--env", f"SECRET={token}", "serve", "sleep", "20"))


@full
@pytest.mark.parametrize(
    ("leak", "place"),
    [
        (leak_into_a_file, "file notes.txt"),
        (leak_into_a_volume, "volume /cache/engine"),
        (leak_into_an_environment, "environments and arguments in serve"),
    ],
    ids=["file", "volume", "environment"],
)
def test_a_leak_of_the_token_is_found(running: Running, planted: Planted, leak: object, place: str) -> None:
    group = members(running.rehearsal)
    stage = Stage(rehearsal=running.rehearsal, members=group, base_url=running.url(), planted=planted)
    proofs.keeps_the_secret(stage)
    leak(running, planted.token)  # type: ignore[operator]
    try:
        with pytest.raises(Disproved, match=place):
            proofs.keeps_the_secret(stage)
    finally:
        (running.rehearsal.folder / "notes.txt").unlink(missing_ok=True)
        demand(running.stack.words("exec", "-T", "serve", "rm", "-f", "/cache/engine/leak"))
        if leak is leak_into_an_environment:
            time.sleep(20)


@full
def test_up_and_status_as_json(running: Running, tmp_path: Path) -> None:
    # One file of the two, as a user's own stack would be.
    file = tmp_path / "compose.yml"
    file.write_text(demand(running.stack.words("config")))
    done = kit("up", str(file), "--json", timeout=400)
    assert done.returncode == 0, done.stderr
    assert "no preflight" in done.stderr
    started = json.loads(done.stdout)
    assert started["project"] == running.rehearsal.project
    assert {state["service"]: state["health"] for state in started["states"]}["serve"] == "healthy"
    with ThreadPoolExecutor(1) as pool:
        # Half a minute here: a busy disk once held `status` for a quarter of one.
        asked = pool.submit(running.ask, 9000)
        running.busy()
        seen = json.loads(kit("status", "-f", str(file), "--json").stdout)
        assert asked.result().ending == "complete"
    assert seen["server"]["requests_running"] == 1
    assert seen["server"]["generation_tokens_per_s"] > 0
    assert {one["service"]: one["health"] for one in seen["containers"]}["serve"] == "healthy"


@full
def test_a_restarted_daemon_brings_the_stack_back(running: Running) -> None:
    pid = Path("/var/run/docker.pid")
    if not pid.exists() or os.geteuid() or Path("/run/systemd/system").exists():
        missing("A dockerd that .ci/start-docker started", "elsewhere it is not this test's to restart")
    before, daemon = running.serve(), int(pid.read_text())
    begun = time.monotonic()
    os.kill(daemon, 15)
    while Path(f"/proc/{daemon}").exists():
        assert time.monotonic() - begun < 120, "dockerd does not end"
        time.sleep(0.5)
    stopped_s = time.monotonic() - begun
    # With a session of its own, so that it outlives these tests as it outlived the script.
    subprocess.run([ROOT / ".ci/start-docker"], check=True, start_new_session=True, stdout=subprocess.DEVNULL)
    while not ((now := running.serve()).started_at != before.started_at and now.health == "healthy"):
        assert time.monotonic() - begun < 400, now
        time.sleep(0.5)
    print(f"dockerd took {stopped_s:.0f} s to end")
    recovered("Docker daemon restarted", time.monotonic() - begun)
    assert running.ask().ending == "complete"


def test_no_request_hung_or_was_short(running: Running) -> None:
    """The invariant over every request of this file."""
    print(f"requests: {dict(Counter(asked.answer.ending for asked in running.asked))}")
    assert [asked for asked in running.asked if asked.fault()] == []

"""What a rehearsal decides and says before Docker is asked for anything."""

import json
import os
import re
import shlex
import shutil
import signal
import threading
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from conftest import ENGINE, kit, missing, planned

from ernie_deploy.catalog import Catalog
from ernie_deploy.commands.rehearse import _perform
from ernie_deploy.errors import NotReady, Refused, ToolFailed, ToolMissing
from ernie_deploy.rehearsal import cpu_plan, group, group_proofs, override, proofs, runner
from ernie_deploy.rehearsal.client import Answer, Completion
from ernie_deploy.rehearsal.group import removal
from ernie_deploy.rehearsal.planted import Planted, plant, variables
from ernie_deploy.rehearsal.stage import Disproved, Stage
from ernie_deploy.render.compose import compose_file
from ernie_deploy.stack.compose import Done

# Of every tiny checkpoint.
CONFIG = {"num_hidden_layers": 4, "num_key_value_heads": 4, "head_dim": 32}


def absent(*_: object, **__: object) -> Done:
    return Done(1, "", "No such image")


def test_a_missing_image_is_a_sentence_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "ask", absent)
    with pytest.raises(ToolMissing, match=override.cpu_image(ENGINE)) as raised:
        runner.require_images(planned("cpu"))
    assert "docker/engine-cpu/build.py" in raised.value.next_step
    assert "--build-base" in raised.value.next_step


def test_a_missing_image_is_built_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def relay(words: list[str], *, err: bool) -> int:
        assert err
        ran.append(words)
        return len(ran) - 1

    monkeypatch.setattr(runner, "ask", absent)
    monkeypatch.setattr(runner, "relay", relay)
    runner.require_images(planned("cpu"), build_base=True)
    assert ran[0][1].endswith("docker/engine-cpu/build.py")
    assert ran[0][2:] == ["--build-base"]
    with pytest.raises(ToolFailed, match="ended with 1"):
        runner.require_images(planned("cpu"), build_base=True)


def test_each_image_that_a_rehearsal_builds_has_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(runner, "ask", absent)
    monkeypatch.setattr(runner, "relay", lambda words, **_: ran.append(words[1:]))
    runner.require_images(planned("h100", gateway=True, monitoring=True, node_exporter=True), build_base=True)
    assert all(Path(path).is_file() for path, _ in ran)
    assert [(Path(path).parent.name, word) for path, word in ran] == [
        ("engine-cpu", "--build-base"),
        ("debian", "haproxy"),
        ("debian", "prometheus"),
        ("debian", "node-exporter"),
    ]


def test_an_image_of_debian_that_is_missing_names_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "ask", lambda words, **_: Done(int("prometheus" in words[-1]), "", ""))
    with pytest.raises(ToolMissing, match="ernie-deploy/prometheus-debian") as raised:
        runner.require_images(planned("h100", gateway=True, monitoring=True))
    assert "docker/debian/build_image.py prometheus; " in raised.value.next_step
    assert raised.value.cause == "the rehearsal runs Debian's prometheus"


def test_an_image_that_is_there_is_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "ask", lambda *_, **__: Done(0, "", ""))
    monkeypatch.setattr(runner, "relay", lambda *_, **__: pytest.fail("built"))
    runner.require_images(planned("cpu"), build_base=True)


@pytest.mark.parametrize(
    ("target", "options", "kv_bytes"),
    [
        ("cpu", {}, 2 * 4 * 4 * 32 * 2),
        ("mi300x", {"tp": 1}, 2 * 4 * 4 * 32 * 2),
        ("mi300x", {"tp": 4}, 2 * 4 * 1 * 32 * 2),
        ("mi300x", {"tp": 4, "profiles": ("mtp",)}, 2 * 5 * 1 * 32 * 2),
    ],
)
def test_kv_bytes_of_the_tiny_checkpoint(
    target: str, options: dict[str, object], kv_bytes: int, tmp_path: Path
) -> None:
    rehearsal = override.decide(planned(target, **options), tmp_path, "p")
    folder = tmp_path / "checkpoints" / rehearsal.checkpoint
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    assert override.tiny_kv_bytes(rehearsal) == kv_bytes


def test_dry_run_prints_the_override_and_the_command() -> None:
    done = kit("rehearse", "mi300x", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert 'VLLM_CPU_KVCACHE_SPACE: "1"' in done.stdout
    assert done.stdout.splitlines()[-1].startswith("docker compose --project-name ernie-rehearsal-")


def test_a_docker_that_does_not_run_is_what_is_said(tmp_path: Path) -> None:
    """It said that the image was missing, and an empty folder stayed behind."""
    if not shutil.which("docker"):
        missing("the docker command", "install Docker")
    env = {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/none.sock", "TMPDIR": str(tmp_path)}
    done = kit("rehearse", "mi300x", env=env)
    assert done.returncode == 6
    assert "The Docker engine does not answer." in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [{}, {"model": "300b", "nodes": 2}])
@pytest.mark.parametrize("holds", [True, False])
def test_a_kept_stack_says_where_it_is_and_how_it_goes(
    options: dict[str, object],
    holds: bool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rehearsal = override.decide(planned("h100", **options), tmp_path / "a b", "ernie-rehearsal-x")
    proof = runner.Proof(what="healthy", holds=holds, detail="", elapsed_s=1.0)
    monkeypatch.setattr(runner, "lay_out", lambda *_: None)
    monkeypatch.setattr(runner, "rehearse", lambda *_: [proof])
    with nullcontext() if holds else pytest.raises(ToolFailed, match="rehearsal failed") as told:
        _perform(rehearsal, "", {}, keep=True, as_json=True)
    if told:
        assert told.value.next_step == "inspect the stack with the commands above"
    lines = capsys.readouterr().err.splitlines()
    kept = next(line for line in lines if line.startswith("kept "))
    assert "ernie-rehearsal-x" in kept
    assert str(tmp_path) in kept
    assert any(line.endswith("logs --follow --tail all serve") for line in lines)
    one_line = next(line for line in lines if line.startswith("remove ")).removeprefix("remove").strip()
    commands = [shlex.split(part) for part in one_line.split(" ; ")]
    assert commands == [*removal(rehearsal), ["rm", "-rf", str(tmp_path / "a b")]]
    downs = [words for words in commands if "down" in words]
    assert len(downs) == rehearsal.plan.topology.nodes
    assert all("--volumes" in words for words in downs)


def test_a_rehearsal_that_is_ended_is_taken_down(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`timeout` and a CI runner send SIGTERM: the stack stayed up, and nothing said where."""
    rehearsal = override.decide(planned("h100"), tmp_path / "folder", "p")
    down: list[str] = []

    def ended(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(runner, "lay_out", ended)
    monkeypatch.setattr(group, "take_down", lambda one: down.append(one.project) or [])
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)
    try:
        with pytest.raises(KeyboardInterrupt):
            _perform(rehearsal, "", {}, keep=False, as_json=True)
        with pytest.raises(KeyboardInterrupt):
            _perform(rehearsal, "", {}, keep=True, as_json=True)
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGHUP, before[1])
    assert down == ["p"]
    assert "kept      the stack p" in capsys.readouterr().err


# --- several nodes ---


@pytest.mark.parametrize(
    ("options", "cores", "sizes", "said"),
    [
        ({}, 2, (1, 2), "--tensor-parallel-size=8 -> --tensor-parallel-size=1: 16 ranks are too many for 2 cores"),
        ({}, 8, (4, 2), "--tensor-parallel-size=8 -> --tensor-parallel-size=4: 16 ranks are too many for 8 cores"),
        ({}, 16, (8, 2), ""),
        ({"profiles": ("mtp",)}, 2, (2, 1),
         "--tensor-parallel-size=16 -> --tensor-parallel-size=2: 16 ranks are too many for 2 cores"),
    ],
)  # fmt: skip
def test_ranks_over_nodes_are_no_more_than_cores(
    options: dict[str, object], cores: int, sizes: tuple[int, int], said: str
) -> None:
    plan, replaced = cpu_plan.for_cpu(planned("h100", model="300b", nodes=2, **options), cores)
    assert (plan.topology.tensor_parallel_size, plan.topology.pipeline_parallel_size) == sizes
    assert [sentence for sentence in replaced if "tensor-parallel" in sentence] == [said] * bool(said)
    size = plan.setting("tensor-parallel-size")
    assert size
    assert size.value == sizes[0]


def test_one_node_keeps_its_ranks() -> None:
    plan, replaced = cpu_plan.for_cpu(planned("h100", model="300b"), 2)
    assert plan.topology.tensor_parallel_size == 8
    assert not [sentence for sentence in replaced if "tensor-parallel" in sentence]


@pytest.mark.parametrize("nodes", [2, 3])
def test_each_node_has_its_own_project_address_and_volumes(
    nodes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def refuses_once(words: list[str], **_: object) -> Done:
        asked.append(words)
        return Done(int(len(asked) == 1), "", "Pool overlaps with other one on this address space")

    monkeypatch.setattr(group, "ask", refuses_once)
    rehearsal = override.decide(planned("h100", model="300b", nodes=nodes, tp=8, pp=nodes), tmp_path, "p")
    group.lay_out_nodes(rehearsal)
    head, *workers = group.members(rehearsal)
    assert [words[:3] for words in asked] == [["docker", "network", "create"]] * 2
    assert asked[0][4] != asked[1][4]
    said = [member.stack.env_file.read_text() for member in (head, *workers) if member.stack.env_file]
    base = asked[1][4].removesuffix("0/24")
    head_env = f"NODE_RANK=0\nHEAD_ADDR={base}2\nHOST_IP={base}2\nNIC=eth0\nCOMPOSE_PROFILES=head\n"
    assert f"{head_env}BIND_ADDR={base}2\n" in said[0]
    assert "COMPOSE_PROFILES=worker\n" in said[1]
    assert f"NODE_RANK=1\nHEAD_ADDR={base}2\nHOST_IP={base}3\n" in said[1]
    assert len(set(said)) == nodes
    assert [member.stack.project for member in (head, *workers)] == ["p", "p-1", "p-2"][:nodes]
    assert 'name: "p-hf-cache-${NODE_RANK}"' in override.override_file(rehearsal)


@pytest.mark.parametrize("options", [{"gateway": True}, {"gateway": True, "monitoring": True}, {}], ids=str)
def test_the_hub_is_where_fetch_asks_beyond_the_host(options: dict[str, object], tmp_path: Path) -> None:
    rehearsal = override.decide(planned("h100", **options), tmp_path, "p")
    laid_over = re.sub(r"!(reset|override)", "", override.override_file(rehearsal))
    hub = yaml.safe_load(laid_over)["services"]["hub"]
    fetch = yaml.safe_load(compose_file(rehearsal.plan, Catalog().defaults))["services"]["fetch"]
    assert hub.get("networks", ["default"]) == fetch.get("networks", ["default"])


def test_what_stays_taken_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "ask", lambda *_, **__: Done(1, "", "permission denied"))
    rehearsal = override.decide(planned("h100", model="300b", nodes=2), tmp_path, "p")
    with pytest.raises(ToolFailed, match="network") as raised:
        group.lay_out_nodes(rehearsal)
    assert raised.value.cause == "permission denied"


def test_more_stages_than_tiny_layers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="pipeline_parallel_size 6"):
        override.decide(planned("h100", model="300b", nodes=6, tp=8, pp=6), tmp_path, "p")


def test_the_shell_of_the_user_is_not_the_rehearsals(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN_FILE", "HF_CACHE_DIR", "PORT", "NODE_RANK", "COMPOSE_PROFILES", "EDITOR"):
        monkeypatch.setenv(name, "mine")
    group.forget_shell(Catalog().defaults)
    assert {name for name, value in os.environ.items() if value == "mine"} == {"EDITOR"}


def test_what_could_not_be_removed_is_said_and_the_rest_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def refuse(words: list[str], **_: object) -> Done:
        asked.append(words[1] + " " + words[-1])
        if "down" in words:
            raise ToolFailed("`docker compose down` did not end within 180 s.")
        return Done(
            1, "", "network has active endpoints" if "network" in words else "Error: No such container: x"
        )

    monkeypatch.setattr(group, "ask", refuse)
    rehearsal = override.decide(planned("h100", model="300b", nodes=2), tmp_path, "p")
    left = group.take_down(rehearsal)
    assert asked == ["rm p-alone", "compose 5", "compose 5", "network p-nodes"]
    assert left == [*["`docker compose down` did not end within 180 s."] * 2,
                    "`docker network rm p-nodes` said: network has active endpoints"]  # fmt: skip


def completions(
    tensor: int, together: list[Completion], alone: list[Completion], monkeypatch: pytest.MonkeyPatch
) -> str:
    """What the comparison says of these answers."""
    from contextlib import nullcontext

    answers = iter([together, alone])
    monkeypatch.setattr(group_proofs, "_completions", lambda _: next(answers))
    monkeypatch.setattr(group_proofs, "_alone", lambda _: nullcontext())
    plan = planned("mi300x", tp=tensor)
    stage = Stage(
        rehearsal=override.decide(plan, Path("f"), "p"), members=(), base_url="", planted=Planted(token="")
    )
    return group_proofs.as_one_node(stage)


ALONE = [Completion(["a", "b"], [-0.1, -0.2])]


def test_a_pipeline_answers_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert completions(1, ALONE, ALONE, monkeypatch).startswith("2 tokens of 1 prompts")
    with pytest.raises(Disproved, match="prompt 1 differs at token 1"):
        completions(1, [Completion(["a", "b"], [-0.1, -0.2000001])], ALONE, monkeypatch)


def test_tensor_parallel_answers_closely(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "0.0400 apart" in completions(2, [Completion(["a", "x"], [-0.14, -3.0])], ALONE, monkeypatch)
    for other in (Completion(["a", "b"], [-0.16, -0.2]), Completion(["x", "b"], [-0.1, -0.2])):
        with pytest.raises(Disproved, match="apart"):
            completions(2, [other], ALONE, monkeypatch)


def test_dry_run_over_nodes_prints_every_node() -> None:
    done = kit("rehearse", "h100", "--model", "300b", "--nodes", "2", "--dry-run")
    assert done.returncode == 0, done.stderr
    network, worker, head = done.stdout.splitlines()[-3:]
    assert network.startswith("docker network create --subnet SUBNET ernie-rehearsal-")
    # The worker waits for the head, so its command must not.
    assert "--env-file FOLDER/node-1.env" in worker
    assert worker.endswith("up --detach")
    assert "--env-file FOLDER/.env" in head
    assert head.endswith("up --detach --wait --wait-timeout 600")
    assert done.stdout.splitlines()[0].endswith("by: ernie-deploy rehearse h100 --model 300b --nodes 2")


def test_serving_over_ray_is_not_rehearsed() -> None:
    done = kit("rehearse", "h100", "--model", "300b", "--nodes", "2", "--multi-node", "ray", "--dry-run")
    assert done.returncode == 4
    assert "current platform cpu does not support ray" in done.stderr


def brought_up(log: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group whose head waited in vain, beside a worker with this log."""

    def in_vain(*_: object) -> None:
        raise NotReady("The server was not ready after 600 s.")

    monkeypatch.setattr(runner, "demand", lambda *_, **__: "")
    monkeypatch.setattr(runner, "up", in_vain)
    monkeypatch.setattr(runner.containers, "client", lambda: None)
    monkeypatch.setattr(runner.containers, "log_of_start", lambda *_: log)
    monkeypatch.setattr(group.Member, "state", lambda _: SimpleNamespace(id="1", health="starting"))
    rehearsal = override.decide(planned("h100", model="300b", nodes=2), tmp_path, "p")
    runner.bring_up(group.members(rehearsal), lambda *_: None)


def test_a_worker_that_ended_is_the_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = "node: NIC 'eth9' is no interface of this host, which has lo: correct it in .env, then run `x`\n"
    with pytest.raises(
        ToolFailed, match=r"Node 1: This node's .env does not fit it: NIC 'eth9' is no interface"
    ):
        brought_up(log, tmp_path, monkeypatch)


def test_a_head_that_waited_without_a_known_cause_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotReady, match="not ready after 600 s"):
        brought_up("INFO all is well\n", tmp_path, monkeypatch)


def drained(last: Answer, monkeypatch: pytest.MonkeyPatch, *, held: bool = True) -> tuple[str, list[str]]:
    """What the drain says where the long stream ends so, `held` until the server is told; and what was done."""
    told, done, asked = threading.Event(), [], []
    container = SimpleNamespace(stop=lambda **_: (done.append("stop"), told.set()))

    def chat(*_: object, max_tokens: int, **__: object) -> Answer:
        asked.append(max_tokens)
        if len(asked) % 2:  # the one that measures the speed
            return Answer(ending="complete", text="", tokens=max_tokens)
        assert not held or told.wait(10)
        return last

    monkeypatch.setattr(proofs, "chat", chat)
    monkeypatch.setattr(proofs, "MOST_TOKENS", 20)
    monkeypatch.setattr(proofs.metrics, "scrape", lambda _: {"vllm:num_requests_running": float(held)})
    engine = SimpleNamespace(containers=SimpleNamespace(get=lambda _: container))
    monkeypatch.setattr(proofs.containers, "client", lambda: engine)
    monkeypatch.setattr(group.Member, "state", lambda _: SimpleNamespace(id="1"))
    rehearsal = override.decide(planned("h100"), Path("f"), "p")
    stage = Stage(
        rehearsal=rehearsal, members=group.members(rehearsal), base_url="", planted=Planted(token="")
    )
    try:
        return proofs.drains(stage), done
    except Disproved as fault:
        return str(fault), done


def test_a_stream_that_the_stop_leaves_whole_is_drained(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Answer(ending="complete", text="", tokens=20)
    assert drained(whole, monkeypatch) == ("20 of 20 tokens after SIGTERM", ["stop"])


def test_a_stream_that_the_stop_cuts_is_no_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    cut = Answer(ending="cut", text="", tokens=7, detail="Connection reset")
    said = "the answer ended cut with 7 of 20 tokens Connection reset"
    # The next proof starts it again.
    assert drained(cut, monkeypatch) == (said, ["stop"])


def test_a_stream_that_fails_before_the_stop_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = Answer(ending="error", text="", tokens=0, detail="HTTP 500")
    said, done = drained(refused, monkeypatch, held=False)
    assert said == "the answer ended error with 0 of 20 tokens HTTP 500"
    assert "stop" not in done


def test_a_stream_that_is_over_before_the_stop_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    said, done = drained(Answer(ending="complete", text="", tokens=20), monkeypatch, held=False)
    assert said == "3 streams of 10 s each were over before the server was told to stop"
    assert "stop" not in done


def test_a_gateways_secrets_are_planted_where_it_reads_them_and_its_files_have_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shutil.which("openssl"):
        missing("openssl", "apt-get install openssl")
    # Put back at the end: the rehearsal's process trusts the certificate that it made.
    monkeypatch.setenv("SSL_CERT_FILE", "")
    rehearsal = override.decide(planned("h100", gateway=True, tls="self-signed"), tmp_path, "p")
    secrets = plant(rehearsal)
    folder = tmp_path / "gateway"
    assert os.environ["SSL_CERT_FILE"] == str(folder / "tls/tls.crt")
    assert secrets.tls_key in (folder / "tls/tls.key").read_text()
    assert len(secrets.all) == len(set(secrets.all)) == 4
    readable = (folder / "keys.map").read_bytes() + (folder / "tls/tls.crt").read_bytes()
    assert not [secret for secret in secrets.all if secret in readable]
    assert variables(rehearsal)["GATEWAY_DIR"] == str(folder)
    assert rehearsal.scheme == "https"

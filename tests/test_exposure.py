"""A stack that would answer other hosts without a gateway is refused, wherever it is asked for, unless it was accepted."""

import json
import os
from pathlib import Path

import pytest
from conftest import ROOT, kit, planned

from ernie_deploy.catalog import Catalog
from ernie_deploy.errors import Refused
from ernie_deploy.plan.exposure import refuse_open_routes

# No Docker: what is asked of it must come after the refusal.
ENV = {"PATH": "/nonexistent", "PYTHONPATH": str(ROOT)}
WIDE = ["--bind", "0.0.0.0"]
ACCEPT = "--accept-open-routes"
COMMANDS = [
    ["render", "h100"], ["plan", "h100"], ["init", "folder", "h100"], ["up", "h100", "--no-preflight"],
    ["up", "h100", "--dry-run"], ["rehearse", "h100", "--dry-run"], ["render", "h100", "--model", "300b", "--nodes", "2"],
]  # fmt: skip


@pytest.mark.parametrize("words", [WIDE, ["--bind", "10.1.2.3", "--api-key-file"], ["--bind", "::"]], ids=str)
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_wide_bind_without_a_gateway_is_refused(
    command: list[str], words: list[str], tmp_path: Path
) -> None:
    done = kit(*command, *words, cwd=tmp_path, env=ENV)
    assert done.returncode == 4
    assert done.stdout == ""
    assert "would publish vLLM beyond this host" in done.stderr
    for word in ("/invocations", "/tokenize", "/metrics", "--gateway", ACCEPT):
        assert word in done.stderr
    assert "/docs" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_what_was_accepted_is_not_refused(command: list[str], tmp_path: Path) -> None:
    done = kit(*command, *WIDE, ACCEPT, cwd=tmp_path, env=ENV)
    # `up` goes on to the engine that is missing here.
    assert done.returncode == (6 if command[-1] == "--no-preflight" else 0), done.stderr
    assert "would publish vLLM" not in done.stderr


@pytest.mark.parametrize("command", COMMANDS[:3], ids=" ".join)
def test_a_gateway_may_be_published_and_without_tls_that_is_said(command: list[str], tmp_path: Path) -> None:
    for tls, warned in ((["--tls", "files"], False), ([], True)):
        folder = tmp_path / f"{warned}"
        folder.mkdir()
        done = kit(*command, *WIDE, "--gateway", *tls, cwd=folder, env=ENV)
        assert done.returncode == 0, done.stderr
        assert ("without TLS" in done.stdout + done.stderr) == warned


def test_the_routes_are_those_of_the_engine_that_was_asked_for_and_of_its_flags() -> None:
    catalog = Catalog()
    for engine in catalog.ids("engines"):
        known = catalog.engine(engine).api_key
        for pairs, closed in (((), {"disable-fastapi-docs"}), (("disable-fastapi-docs=false",), set())):
            plan = planned("h100", engine=engine, bind="0.0.0.0", pairs=pairs)
            with pytest.raises(Refused) as refusal:
                refuse_open_routes(plan, catalog)
            *others, last = known.left_open(closed)
            assert refusal.value.cause.endswith(f": {', '.join(others)} and {last}")


@pytest.mark.parametrize("words", [[], ["--api-key-file"], ["--model", "300b", "--nodes", "2"]], ids=str)
def test_manifests_without_a_gateway_say_what_the_cluster_may_ask(words: list[str]) -> None:
    """No refusal: within a cluster a policy does what an address does on a host, and no form of nodes has a gateway."""
    done = kit("render", "h100", "--format", "kubernetes", *words, env=ENV)
    assert done.returncode == 0
    (warning,) = [line for line in done.stderr.splitlines() if "Every pod of the cluster" in line]
    for word in ("warning: ", "/invocations", "/tokenize", "/metrics", ACCEPT):
        assert word in warning
    assert ("--gateway" in warning) == ("--nodes" not in words)
    open_to_all = done.stdout[done.stdout.index("# Within the cluster only") :][:300]
    assert "open to all of it" in open_to_all
    assert (
        "ask for no key" in open_to_all if words[:1] == ["--api-key-file"] else "no route asks" in open_to_all
    )
    assert ("--gateway" in open_to_all) == ("--nodes" not in words)
    accepted = kit("render", "h100", "--format", "kubernetes", *words, ACCEPT, env=ENV)
    assert (accepted.returncode, "Every pod" in accepted.stderr) == (0, False)


def test_manifests_with_a_gateway_warn_of_no_route() -> None:
    done = kit("render", "h100", "--format", "kubernetes", "--gateway", env=ENV)
    assert (done.returncode, done.stderr) == (0, "")
    assert "open to all of it" not in done.stdout


def test_the_address_of_env_is_judged_as_that_of_the_option(tmp_path: Path) -> None:
    refused = kit("init", "a", "h100", "--env", "BIND_ADDR=0.0.0.0", cwd=tmp_path, env=ENV)
    assert refused.returncode == 4
    assert "BIND_ADDR=0.0.0.0 would publish" in refused.stderr
    assert not (tmp_path / "a").exists()
    accepted = kit("init", "a", "h100", "--env", "BIND_ADDR=0.0.0.0", ACCEPT, cwd=tmp_path, env=ENV)
    assert accepted.returncode == 0
    closed = kit("init", "b", "h100", *WIDE, "--env", "BIND_ADDR=127.0.0.1", cwd=tmp_path, env=ENV)
    assert closed.returncode == 0, closed.stderr


def test_up_check_and_doctor_agree_on_an_address_that_was_written_to_env_later(tmp_path: Path) -> None:
    """The refusal of `up` names a command that a folder which is there can follow."""
    assert kit("init", ".", "h100", cwd=tmp_path, env=ENV).returncode == 0
    (tmp_path / ".env").write_text("BIND_ADDR=10.1.2.3\n")
    up = kit("up", "--no-preflight", cwd=tmp_path, env=ENV)
    assert up.returncode == 4
    assert "BIND_ADDR=10.1.2.3 would publish" in up.stderr
    assert "upgrade . --as 'h100 --accept-open-routes'" in up.stderr
    assert severities(tmp_path) == {"ED201": "error"}
    assert "FAIL  exposure" in kit("doctor", "h100", cwd=tmp_path, env=ENV).stdout
    again = kit("upgrade", ".", "--as", f"h100 {ACCEPT}", cwd=tmp_path, env=ENV)
    assert again.returncode == 0, again.stderr
    assert kit("up", "--no-preflight", cwd=tmp_path, env=ENV).returncode == 6
    assert severities(tmp_path) == {"ED201": "warning"}
    assert "warn  exposure" in kit("doctor", "h100", ACCEPT, cwd=tmp_path, env=ENV).stdout


def severities(folder: Path) -> dict[str, str]:
    """What `check` finds in a folder's stack, by rule."""
    done = kit("check", "compose.yml", "--json", cwd=folder, env={**ENV, "PATH": os.environ["PATH"]})
    return {finding["id"]: finding["severity"] for finding in json.loads(done.stdout)}


def test_a_worker_publishes_nothing(tmp_path: Path) -> None:
    made = ["init", ".", "h100", "--model", "300b", "--nodes", "2"]
    assert kit(*made, "--env", "NODE_RANK=1", cwd=tmp_path, env=ENV).returncode == 0
    with (tmp_path / ".env").open("a") as env:
        env.write("BIND_ADDR=10.1.2.3\n")
    assert kit("up", "--no-preflight", cwd=tmp_path, env=ENV).returncode == 6


def test_an_upgrade_of_an_open_stack_asks_for_the_word(tmp_path: Path) -> None:
    """A stack of before the refusal: today's kit renders it no more as it was."""
    text = kit("render", "h100", *WIDE, ACCEPT).stdout.replace(f" {ACCEPT}", "")
    (tmp_path / "compose.yml").write_text(text)
    done = kit("upgrade", cwd=tmp_path, env=ENV)
    assert done.returncode == 4
    assert f"--as 'h100 --bind 0.0.0.0 {ACCEPT}'" in done.stderr
    assert (tmp_path / "compose.yml").read_text() == text

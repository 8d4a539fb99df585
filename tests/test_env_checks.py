"""What `doctor` says of a stack's .env: an address that nobody has, and names that nobody reads."""

import json
from pathlib import Path

import pytest
from test_doctor import FixtureHost, examined, lines

from ernie_deploy.host.probes import Ran

OWN = json.dumps([
    {"ifname": "lo", "addr_info": [{"local": "127.0.0.1"}]},
    {"ifname": "eth0", "addr_info": [{"local": "10.0.0.4"}, {"local": "fd00::4"}]},
])  # fmt: skip


def host(addresses: Ran) -> FixtureHost:
    made = FixtureHost("h100")
    made.ran["addresses"] = addresses
    return made


def said(env: str, addresses: Ran | None = None, **options: object) -> list[str]:
    """Lines about .env and the address, and the remedies below them."""
    shown = lines(examined(host(addresses or Ran(0, OWN, "")), "h100", env=env, **options))
    mine = [at for at, line in enumerate(shown) if line.split()[1:2] in (["env"], ["bind-address"])]
    return [line.strip() for at in mine for line in shown[at : at + 2]]


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.0.0.2", "0.0.0.0", "::", "[::1]", "::1", "10.0.0.4", "fd00::4", "[fd00::4]", ""],
)
def test_an_address_of_this_host_is_none_of_doctors_business(address: str) -> None:
    assert said(f"BIND_ADDR={address}\n") == []


@pytest.mark.parametrize(
    "address", ["localhost", "10.0.0", "eth0", "10.0.0.4:8000", "http://10.0.0.4", "fe80::1%eth0"]
)
def test_what_is_no_address_stops_the_start(address: str) -> None:
    finding, remedy = said(f"BIND_ADDR={address}\n")
    assert finding.startswith(f"FAIL bind-address BIND_ADDR={address}: ")
    assert finding.endswith("; Compose refuses to start.")
    assert remedy == "next: write 127.0.0.1 in .env, or an address of this host"


@pytest.mark.parametrize("address", ["10.9.9.9", "fd00::9"])
def test_an_address_of_another_host_cannot_be_published(address: str) -> None:
    finding, remedy = said(f"BIND_ADDR={address}\n")
    assert (
        finding
        == f"FAIL bind-address BIND_ADDR={address} is no address of this host: Docker cannot publish the API there."
    )
    assert remedy == "next: write 127.0.0.1 in .env, or one of this host's: 10.0.0.4"


@pytest.mark.parametrize(
    "ran", [Ran(127, "", "ip: command not found"), Ran(0, "", ""), Ran(0, "no JSON", ""), Ran(0, "[3]", "")]
)
def test_a_host_that_does_not_tell_its_addresses_is_not_judged(ran: Ran) -> None:
    assert said("BIND_ADDR=10.9.9.9\n", ran) == []


def test_the_address_that_was_rendered_is_judged_too() -> None:
    assert said("", bind="10.9.9.9")[0].startswith("FAIL bind-address BIND_ADDR=10.9.9.9 is no address")


def test_a_wide_open_api_without_a_key_is_refused() -> None:
    shown = lines(examined(host(Ran(0, OWN, "")), "h100", env="BIND_ADDR=0.0.0.0\n"))
    assert "FAIL exposure The API is published on 0.0.0.0, and requires no key." in shown


@pytest.mark.parametrize(
    ("line", "near"),
    [
        ("PROT=9000", "did you mean PORT?"), ("HF_TOKEN_FILES=/x", "did you mean HF_TOKEN_FILE?"),
        ("port=9000", "did you mean PORT?"), ("SHMSIZE=4g", "did you mean SHM_SIZE?"), ("export BIND_ADR=::1", "did you mean BIND_ADDR?"),
        ("VLLM_API_KEY=x", "remove it; .env.example lists what a stack reads"), ("QQQ", "remove it; .env.example lists what a stack reads"),
    ],
)  # fmt: skip
def test_a_name_that_nobody_reads_is_named(line: str, near: str) -> None:
    name = line.removeprefix("export ").partition("=")[0]
    assert said(f"# mine\n{line}\nHF_ENDPOINT=\n") == [
        f"warn env {name} in .env is no variable of this stack: nothing reads it.", f"next: {near}",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "line", ["PORT=9000", "COMPOSE_PROFILES=head", "DOCKER_HOST=x", "BENCH_SEED=1", "NODE_RANK=0", "# PROT=1"]
)
def test_what_the_stack_or_compose_reads_is_fine(line: str) -> None:
    assert said(f"{line}\n") == []


@pytest.mark.parametrize("use", ["${MINE}", "$MINE", "${MINE:-3}"])
def test_what_an_override_reads_is_fine(use: str) -> None:
    made, path = host(Ran(0, OWN, "")), str(Path("compose.override.yml").absolute())
    made.files[path] = f"services: {{serve: {{environment: {{X: '{use}'}}}}}}"
    assert not [line for line in lines(examined(made, "h100", env="MINE=1\n")) if " env " in line]
    made.files[path] = "services: {}"
    assert [line for line in lines(examined(made, "h100", env="MINE=1\n")) if " env " in line]

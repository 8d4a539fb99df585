"""A rehearsal of several servers behind one gateway: each is waited for, started again, and ended after the gateway."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from conftest import kit, planned

from ernie_deploy.rehearsal import gateway_proofs, override, proofs
from ernie_deploy.rehearsal.group import members
from ernie_deploy.rehearsal.planted import Planted
from ernie_deploy.rehearsal.stage import Disproved, Stage
from ernie_deploy.stack import containers

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVICES = ("gateway", "serve", "serve-2")


class Engine:
    """An engine with a container of each service, all healthy, and what was done to them."""

    def __init__(self, ended: dict[str, str]) -> None:
        self.done: list[str] = []
        self.health = dict.fromkeys(SERVICES, "healthy")
        self.ended = ended
        self.containers = SimpleNamespace(get=self.get)

    def get(self, name: str) -> Any:
        def stop(**_: object) -> None:
            self.done.append(f"stop {name}")

        def start() -> None:
            self.done.append(f"start {name}")
            self.health[name] = "healthy"

        return SimpleNamespace(
            stop=stop, start=start, attrs={"State": {"FinishedAt": self.ended.get(name, "")}}
        )

    def states(self, *_: object) -> list[Any]:
        return [SimpleNamespace(service=name, id=name, health=health) for name, health in self.health.items()]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    made = Engine({name: f"2026-11-26T12:00:0{second}+00:00" for second, name in enumerate(SERVICES)})
    monkeypatch.setattr(containers, "client", lambda: made)
    monkeypatch.setattr(containers, "states", made.states)
    return made


def stage(**options: Any) -> Stage:
    rehearsal = override.decide(planned("h100", gateway=True, **options), Path("f"), "p")
    return Stage(
        rehearsal=rehearsal, members=members(rehearsal), base_url="http://x", planted=Planted(token="")
    )


def test_two_servers_have_twice_the_time_to_start() -> None:
    done = kit("rehearse", "h100", "--gateway", "--replicas", "2", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith("up --detach --wait --wait-timeout 1200")


def test_healthy_is_every_server(engine: Engine) -> None:
    assert stage(replicas=2).healthy()
    engine.health["serve-2"] = "starting"
    assert not stage(replicas=2).healthy()
    assert stage().healthy()


def test_the_server_that_the_drain_stopped_starts_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which of two servers has the stream is the gateway's choice: the second stayed down, and nothing said so."""

    @contextmanager
    def apart(*_: object) -> Iterator[bool]:
        yield True

    monkeypatch.setattr(proofs, "secluded", apart)
    monkeypatch.setattr(Stage, "is_open", lambda _: True)
    engine.health["serve-2"] = "unhealthy"
    monkeypatch.setattr(proofs, "RECOVERY_S", 0)
    assert proofs.becomes_healthy(stage(replicas=2)).startswith("healthy 0 s after the start")
    assert engine.done == ["start serve-2", "stop serve", "start serve"]


def test_the_gateway_ends_before_every_server(engine: Engine) -> None:
    assert gateway_proofs._order(stage(replicas=2)) == "the gateway ended before serve and serve-2"
    engine.ended["gateway"] = "2026-11-26T12:00:01.500+00:00"
    with pytest.raises(Disproved, match="the gateway ended at 2026-11-26 12:00:01"):
        gateway_proofs._order(stage(replicas=2))
    engine.ended["serve"] = "2026-11-26T12:00:05+00:00"
    engine.ended["gateway"] = "2026-11-26T12:00:03+00:00"
    with pytest.raises(Disproved, match="serve-2 at 2026-11-26 12:00:02"):
        gateway_proofs._order(stage(replicas=2))
    assert gateway_proofs._order(stage()) == "the gateway ended before serve"

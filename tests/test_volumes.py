"""The volumes of stacks: whose they are, who refers to them, and that nothing shared is removed by the way."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from conftest import kit, rendered
from test_lifecycle import _docker

from ernie_deploy.errors import Refused, UsageError
from ernie_deploy.stack.lifecycle import own_volumes
from ernie_deploy.stack.volumes import HOLDS, WEIGHTS, User, as_text, list_volumes, remove

ENGINE = "ernie-engine-21b-nvidia-0.32.0"


class Api:
    """What the engine's API says of a host with two stacks and a stranger's volume."""

    timeout = 60

    def __init__(self) -> None:
        self.removed: list[str] = []

    def volumes(self) -> dict[str, Any]:
        kernels, state = {HOLDS: "compiled kernels of 21b"}, {HOLDS: "state of one stack"}
        labels = {
            WEIGHTS: None,
            ENGINE: kernels,
            "a_state": state,
            "ernie-hf-cache-of-mine": {},
            "other": None,
        }
        return {"Volumes": [{"Name": name, "Labels": said} for name, said in labels.items()]}

    def containers(self, *, all: bool) -> list[dict[str, Any]]:  # noqa: A002 - docker's own name
        assert all, "a stopped container needs its volumes too"
        names = {"com.docker.compose.project": "a", "com.docker.compose.service": "serve"}
        return [
            {"Names": ["/a-serve-1"], "Labels": names, "State": "exited",
             "Mounts": [{"Type": "volume", "Name": WEIGHTS}, {"Type": "bind", "Source": "/x"}]},
            {"Names": ["/by-hand"], "Labels": {}, "State": "running", "Mounts": [{"Name": ENGINE}]},
        ]  # fmt: skip

    def remove_volume(self, name: str) -> None:
        self.removed.append(name)


def engine(**sizes: int) -> Any:
    measured = [{"Name": name, "UsageData": {"Size": size}} for name, size in sizes.items()]
    return SimpleNamespace(api=Api(), df=lambda: {"Volumes": measured})


def test_the_list_names_what_each_holds_and_who_refers_to_it() -> None:
    listed = list_volumes(engine(**{WEIGHTS: 41_000_000_000, "a_state": -1}))
    assert [(v.name, v.holds, v.size_bytes) for v in listed] == [
        ("a_state", "state of one stack", None),
        (ENGINE, "compiled kernels of 21b", None),
        (WEIGHTS, "weights from the hub", 41_000_000_000),
    ]
    assert listed[2].users == (User(container="a-serve-1", project="a", service="serve", status="exited"),)
    assert as_text(listed).splitlines() == [
        "a_state: state of one stack, size unknown",
        "  in use by no container",
        f"{ENGINE}: compiled kernels of 21b, size unknown",
        "  by-hand (running)",
        f"{WEIGHTS}: weights from the hub, 41.00 GB",
        "  serve of a (exited)",
    ]


def test_a_volume_is_removed_when_no_container_refers_to_it() -> None:
    host = engine()
    remove(host, "a_state")
    assert host.api.removed == ["a_state"]


@pytest.mark.parametrize(
    ("name", "kind", "sentence"),
    [
        (WEIGHTS, Refused, r"serve of a \(exited\)"),
        (ENGINE, Refused, r"by-hand \(running\)"),
        ("other", UsageError, "no volume 'other'"),
        ("ernie-hf-cache-of-mine", UsageError, "no volume"),
    ],
)
def test_a_volume_in_use_or_of_somebody_else_is_kept(name: str, kind: type[Exception], sentence: str) -> None:
    host = engine()
    with pytest.raises(kind, match=sentence):
        remove(host, name)
    assert host.api.removed == []


def test_what_stacks_share_is_not_a_stacks_own() -> None:
    stack = yaml.safe_load(rendered("h100"))
    # As `docker compose config` names what has no name of its own.
    resolved = {
        key: {"name": (declared or {}).get("name", f"{stack['name']}_{key}")}
        for key, declared in stack["volumes"].items()
    }
    resolved["theirs"] = {"name": f"{stack['name']}_theirs", "external": True}
    assert own_volumes({"name": stack["name"], "volumes": resolved}) == [
        f"{stack['name']}_scripts",
        f"{stack['name']}_state",
    ]


RESOLVED = {"name": "p", "volumes": {"state": {"name": "p_state"}, "hf-cache": {"name": "ernie-hf-cache"}}}


def test_down_with_volumes_removes_the_stacks_own_alone(tmp_path: Path) -> None:
    env = _docker(tmp_path, json.dumps(RESOLVED))
    done = kit("down", "--volumes", "--dry-run", cwd=tmp_path, env=env)
    assert done.stdout.splitlines() == [
        "docker compose --profile '*' down",
        "docker volume rm --force p_state",
    ], done.stderr
    done = kit("down", "--volumes", "--json", cwd=tmp_path, env=env)
    assert json.loads(done.stdout) == {"file": "compose.yml", "down": True, "volumes_removed": ["p_state"]}


def test_a_volume_is_not_removed_without_a_word() -> None:
    done = kit("volumes", "remove", "ernie-hf-cache", "--dry-run")
    assert (done.returncode, done.stdout) == (0, "docker volume rm ernie-hf-cache\n")


def test_kernels_of_the_version_before_are_told_from_others() -> None:
    old, new, other = (
        f"ernie-engine-{of}"
        for of in ("21b-nvidia-0.32.0", "21b-nvidia-0.33.0-cuda12.9", "300b-nvidia-0.32.0")
    )
    made = engine()
    made.api.volumes = lambda: {
        "Volumes": [{"Name": name, "Labels": {HOLDS: "kernels"}} for name in (old, new, other)]
    }
    used = {"Names": ["/a-serve-1"], "Labels": {}, "State": "running", "Mounts": [{"Name": new}]}
    made.api.containers = lambda *, all: [used]  # noqa: A006 - docker's own name
    listed = list_volumes(made)
    assert {volume.name: volume.replaced_by for volume in listed} == {old: new, new: "", other: ""}
    text = as_text(listed)
    assert f"  in use by no container: kept so that a stack of {new} can go back to this version warm" in text
    made.api.containers = lambda *, all: []  # noqa: A006
    assert not any(volume.replaced_by for volume in list_volumes(made))

"""`check` knows the kit's own gateway: with TLS nothing is to say of it, and in clear beyond loopback that."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import CATALOG, rendered
from gateway.authority import Authority, Pair

from ernie_deploy.check import judge, judge_project
from ernie_deploy.check.project import of_file
from ernie_deploy.gateway import tls_files


@pytest.mark.parametrize("target", ["h100", "cpu"])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, set()),
        ({"bind": "0.0.0.0"}, {("ED232", "warning")}),
        ({"bind": "0.0.0.0", "tls": "files"}, set()),
        ({"bind": "10.0.0.4", "tls": "self-signed"}, set()),
    ],
    ids=str,
)
def test_the_kits_own_front(target: str, options: dict[str, str], expected: set[tuple[str, str]]) -> None:
    text = rendered(target, gateway=True, **options)
    assert {(one.id, one.severity) for one in judge(text.encode(), "compose.yml", CATALOG)} == expected
    opened = text.replace("    networks: [back]\n", '    networks: [back]\n    ports: ["8001:8000"]\n', 1)
    assert opened != text
    assert "ED230" in {one.id for one in judge(opened.encode(), "compose.yml", CATALOG)}


@pytest.fixture
def stack(tmp_path: Path, ca: Authority) -> Path:
    """A stack with a gateway in whose folder nothing is wrong."""
    ca.fill(tmp_path / "gateway")
    (tmp_path / "compose.yml").write_text(rendered("h100", gateway=True, tls="files"))
    return tmp_path


def wrong(stack: Path) -> list[tuple[str, str, str]]:
    """What `check` finds of the files beside the stack."""
    findings = judge_project(of_file(str(stack / "compose.yml")), CATALOG).findings
    return [(one.id, one.severity, one.sentence) for one in findings if one.id in ("ED233", "ED234")]


def install(stack: Path, pair: Pair, key: Path | None = None) -> None:
    tls_files.put(stack / "gateway", pair.cert.read_text(), (key or pair.key).read_text(), None)


FAULTS: dict[str, tuple[Callable[[Path, Authority], object], str, str, str]] = {
    "a key in plain": (
        lambda stack, _: (stack / "gateway/keys.map").write_text("\nek_pasted team-a:0:0:0\n"),
        "ED233", "error", "gateway/keys.map, line 2: a plain key",
    ),
    "a hash in capitals": (
        lambda stack, _: (stack / "gateway/keys.map").write_text(f"{'A' * 64} team-a:0:0:0\n"),
        "ED233", "error", "gateway/keys.map, line 1: the hash is in capitals",
    ),
    "a map that a group writes": (
        lambda stack, _: (stack / "gateway/keys.map").chmod(0o664),
        "ED233", "error", "Others than its owner can write to gateway/keys.map (0664)",
    ),
    "a key that everybody reads": (
        lambda stack, _: (stack / "gateway/tls/tls.key").chmod(0o644),
        "ED234", "error", "Everybody on this host can read gateway/tls/tls.key (0644)",
    ),
    "expired": (lambda stack, ca: install(stack, ca.issue("x", -20, -2)), "ED234", "error", "expired 2 days ago"),
    "not yet": (lambda stack, ca: install(stack, ca.issue("x", 2, 20)), "ED234", "error", "is not valid yet"),
    "soon": (lambda stack, ca: install(stack, ca.issue("x", -60, 10.5)), "ED234", "warning", "expires in 10 days"),
    "foreign": (
        lambda stack, ca: install(stack, ca.issue("x"), ca.issue("y").key),
        "ED234", "error", "gateway/tls/tls.key is not the key of tls.crt",
    ),
    "no certificate": (
        lambda stack, _: (stack / "gateway/tls/tls.crt").write_text("x"),
        "ED234", "error", "gateway/tls/tls.crt is no certificate that openssl reads",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_wrong_with_the_files_beside_it(name: str, stack: Path, ca: Authority) -> None:
    assert wrong(stack) == []
    change, rule, severity, words = FAULTS[name]
    change(stack, ca)
    ((found, how_severe, sentence),) = wrong(stack)
    assert (found, how_severe) == (rule, severity)
    assert words in sentence


def test_what_haproxy_does_not_start_without_is_missed(stack: Path) -> None:
    """A warning: a repository may hold the stack, and then neither keys nor a certificate."""
    shutil.rmtree(stack / "gateway")
    missing = " does not exist: the gateway does not start without it"
    expected = [("ED233", "gateway/keys.map"), ("ED234", "gateway/tls/tls.crt")]
    assert [(rule, severity) for rule, severity, _ in wrong(stack)] == [
        (rule, "warning") for rule, _ in expected
    ]
    for (_, _, sentence), (_, path) in zip(wrong(stack), expected, strict=True):
        assert f"{path}{missing}" in sentence


def test_a_certificate_without_its_key_is_missed(stack: Path) -> None:
    (stack / "gateway/tls/tls.key").unlink()
    assert any("tls/tls.key does not exist" in sentence for _, _, sentence in wrong(stack))


def test_a_certificate_is_judged_with_tls_alone(stack: Path) -> None:
    (stack / "gateway/tls/tls.crt").write_text("x")
    (stack / "compose.yml").write_text(rendered("h100", gateway=True))
    assert wrong(stack) == []


def test_nothing_beyond_the_folder_of_the_stack_is_read(
    stack: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A file of a stranger leads `check` to no other place: not by a path, not by a link."""
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "gateway"
    (stack / "gateway/keys.map").write_text("ek_pasted\n")
    shutil.move(stack / "gateway", elsewhere)
    for path in (str(elsewhere), f"./../{elsewhere.parent.name}/gateway"):
        (stack / ".env").write_text(f"GATEWAY_DIR={path}\n")
        assert wrong(stack) == []
    (stack / ".env").unlink()
    (stack / "gateway").symlink_to(elsewhere)
    assert wrong(stack) == []
    (stack / "gateway").unlink()
    (stack / "gateway").mkdir()
    (stack / "gateway/keys.map").symlink_to(elsewhere / "keys.map")
    (elsewhere / "tls/tls.key").chmod(0o644)
    (stack / "gateway/tls").symlink_to(elsewhere / "tls")
    assert wrong(stack) == []
    # A text that lies nowhere has nothing beside it.
    text = (stack / "compose.yml").read_bytes()
    assert not [one for one in judge(text, str(stack / "compose.yml"), CATALOG) if one.id == "ED233"]


def test_without_openssl_nobody_says_that_it_is_well(stack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(stack))
    assert [(rule, severity) for rule, severity, _ in wrong(stack)] == [("ED234", "note")]

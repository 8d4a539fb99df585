"""Keys of a gateway's clients: shown once, kept as a hash, written whole by one at a time, and read with line numbers."""

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, kit
from msgspec.structs import replace

from ernie_deploy.commands.gateway_of import every_kind, in_kubernetes, tls_folder
from ernie_deploy.errors import UsageError
from ernie_deploy.gateway import key_file, keys
from ernie_deploy.gateway.keys import Key, duration_s, hashed, named, parse, rate_per_minute
from ernie_deploy.safe_io.reading import first_line
from ernie_deploy.safe_io.secret_masks import masked
from ernie_deploy.stack import rendered as of_rendered
from ernie_deploy.stack.compose import Stack

OWN = {"PYTHONPATH": str(ROOT), "PATH": "/nonexistent"}
HEAD = "# ernie-deploy render h100 --gateway\nname: x\nservices: {}\n"
ONE = f"{'a' * 64} team-a:60:8:0:1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A stack with a gateway, as its first line says."""
    (tmp_path / "compose.yml").write_text(HEAD)
    return tmp_path


def run(folder: Path, *words: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return kit(*words, cwd=folder, env={**OWN, **env})


# --- the command ---


def test_a_key_is_printed_once_and_kept_as_its_hash(folder: Path) -> None:
    done = run(folder, "key", "add", "team-a", "--rate", "1/s", "--concurrency", "8", "--expires", "90d")
    assert done.returncode == 0, done.stderr
    key = done.stdout.removesuffix("\n")
    assert re.fullmatch(r"ek_[A-Za-z0-9_-]{43}", key)
    (kept,) = key_file.read(folder / "gateway").keys
    assert kept.digest == hashlib.sha256(key.encode()).hexdigest()
    assert (kept.name, kept.rate_per_minute, kept.concurrency) == ("team-a", 60, 8)
    assert kept.expires - kept.added == 90 * 86_400
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in files if key.encode() in path.read_bytes()]
    assert key not in done.stderr
    assert "no gateway was asked" in done.stderr.lower()


def test_the_map_is_readable_by_the_gateway_and_writable_by_its_owner_alone(folder: Path) -> None:
    for umask in ("0077", "0000"):
        words = f"umask {umask}; exec {sys.executable} -m ernie_deploy key add k{umask} --no-reload"
        subprocess.run(["/bin/sh", "-c", words], cwd=folder, env=OWN, check=True, capture_output=True)
        assert (folder / "gateway/keys.map").stat().st_mode & 0o777 == 0o644
        assert (folder / "gateway").stat().st_mode & 0o777 == 0o755
    (folder / "gateway/keys.map").chmod(0o660)
    assert run(folder, "key", "add", "third", "--no-reload").returncode == 0
    assert (folder / "gateway/keys.map").stat().st_mode & 0o777 == 0o640


def test_list_tells_limits_and_ends_and_no_hash(folder: Path) -> None:
    (folder / "gateway").mkdir()
    (folder / "gateway/keys.map").write_text(f"{ONE}\n{'b' * 64} old:0:0:5\n")
    text = run(folder, "key", "list").stdout
    assert "team-a  60/m     8" in text
    assert "1970-01-01T00:00:05Z (expired)" in text
    rows = json.loads(run(folder, "key", "list", "--json").stdout)
    assert rows == [
        {"name": "team-a", "rate_per_minute": 60, "concurrency": 8, "added": "1970-01-01T00:00:01Z", "expires": None, "expired": False},
        {"name": "old", "rate_per_minute": None, "concurrency": None, "added": None, "expires": "1970-01-01T00:00:05Z", "expired": True},
    ]  # fmt: skip
    assert "aaaa" not in text


def test_an_edited_file_keeps_its_comments(folder: Path) -> None:
    path = folder / "gateway/keys.map"
    path.parent.mkdir()
    path.write_bytes(b"# mine\r\n\r\n" + ONE.encode() + b"\r\n  # of b\n" + b"b" * 64 + b" b:0:0:0")
    assert run(folder, "key", "add", "c", "--no-reload").returncode == 0
    assert run(folder, "key", "revoke", "team-a", "--no-reload").returncode == 0
    data = path.read_bytes()
    assert data.startswith(b"# mine\r\n\r\n  # of b\n" + b"b" * 64 + b" b:0:0:0\n")
    assert [key.name for key in key_file.read(path.parent).keys] == ["b", "c"]


def test_a_limit_is_changed_in_its_line_and_every_other_byte_stays(folder: Path) -> None:
    path = folder / "gateway/keys.map"
    path.parent.mkdir()
    around = (
        b"# mine\r\n\r\n\t"
        + b"b" * 64
        + b" team-a2:0:0:0\n  %b \r\n  # team-a:1:1:1 of b\n"
        + b"c" * 64
        + b" c:0:0:0"
    )
    path.write_bytes(around % ONE.encode())
    path.chmod(0o640)
    done = run(folder, "key", "limit", "team-a", "--rate", "2/s", "--no-reload", "--json")
    assert (done.returncode, done.stderr) == (0, "changed team-a: rate 120/m\n")
    assert json.loads(done.stdout) == {
        "name": "team-a", "rate_per_minute": 120, "concurrency": 8, "added": "1970-01-01T00:00:01Z", "expires": None,
        "expired": False, "reloaded": False,
    }  # fmt: skip
    assert path.read_bytes() == around % ONE.replace(":60:", ":120:").encode()
    assert path.stat().st_mode & 0o777 == 0o640
    assert [other.name for other in path.parent.iterdir()] == ["keys.map"]


def test_each_limit_is_set_and_taken_away_by_itself(folder: Path) -> None:
    def limited(*words: str) -> Key:
        assert run(folder, "key", "limit", "team-a", *words, "--no-reload").returncode == 0
        key = key_file.read(folder / "gateway").key("team-a")
        assert key
        return key

    (folder / "gateway").mkdir()
    (folder / "gateway/keys.map").write_text(f"{ONE}\n")
    begun = int(time.time())
    ends = limited("--expires", "30m", "--concurrency", "4").expires
    assert begun + 1800 <= ends <= time.time() + 1800
    key = Key(digest="a" * 64, name="team-a", rate_per_minute=60, concurrency=4, expires=ends, added=1)
    assert limited("--concurrency", "4") == key
    assert limited("--rate", "default") == replace(key, rate_per_minute=0)
    assert limited("--concurrency", "default", "--expires", "never") == Key(
        digest="a" * 64, name="team-a", added=1
    )


def test_of_very_many_keys_a_refusal_names_some(folder: Path) -> None:
    (folder / "gateway").mkdir()
    (folder / "gateway/keys.map").write_text("".join(f"{n:064x} k{n}:0:0:0\n" for n in range(1000)))
    done = run(folder, "key", "limit", "nobody", "--rate", "60/m")
    assert "k0, k1, " in done.stderr
    assert " and 980 more" in done.stderr
    assert len(done.stderr) < 500


def test_two_writers_lose_nothing(folder: Path) -> None:
    words = [sys.executable, "-m", "ernie_deploy", "key", "add", "--no-reload"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "cwd": folder, "env": OWN}
    started = [subprocess.Popen([*words, f"k{n}"], **quiet) for n in range(6)]  # type: ignore[call-overload]
    assert [process.communicate()[1][:6] for process in started] == ["added "] * 6
    assert {key.name for key in key_file.read(folder / "gateway").keys} == {f"k{n}" for n in range(6)}
    assert [path.name for path in (folder / "gateway").iterdir()] == ["keys.map"]


def test_a_folder_that_another_command_holds_is_waited_for_and_not_forever(tmp_path: Path) -> None:
    with (
        key_file.locked(tmp_path),
        pytest.raises(UsageError, match="Another command"),
        key_file.locked(tmp_path, limit_s=0.1),
    ):
        pass


def test_a_key_that_could_not_be_printed_is_not_kept(folder: Path) -> None:
    line = f"exec {sys.executable} -m ernie_deploy key add x --no-reload > /dev/full"
    done = subprocess.run(["/bin/sh", "-c", line], cwd=folder, env=OWN, capture_output=True, text=True)
    assert done.returncode == 1
    assert key_file.read(folder / "gateway").keys == ()


@pytest.mark.parametrize("placed", ["in .env", "in the shell"])
def test_the_folder_is_the_one_that_the_gateway_reads(placed: str, folder: Path) -> None:
    where = {"GATEWAY_DIR": "./elsewhere"}
    if placed == "in .env":
        (folder / ".env").write_text("GATEWAY_DIR=./elsewhere\n")
    env = where if placed == "in the shell" else {}
    assert run(folder, "key", "add", "x", "--no-reload", **env).returncode == 0
    assert key_file.read(folder / "elsewhere").key("x")
    assert not (folder / "gateway").exists()


def test_a_stack_elsewhere_is_named_by_its_file(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    away = tmp_path_factory.mktemp("away")
    words = ["key", "add", "x", "--no-reload", "-f", str(folder / "compose.yml")]
    assert run(away, *words).returncode == 0
    assert key_file.read(folder / "gateway").key("x")


REFUSED = [
    (["add", "a b"], "is no name for a key"),
    (["add", "a:b"], "is no name for a key"),
    (["add", "é"], "is no name for a key"),
    (["add", "-x"], "No such option"),
    (["add", "x" * 65], "is no name for a key"),
    (["add", "taken"], "There is a key named taken already."),
    (["add", "x", "--rate", "100/h"], "HAProxy counts over one minute"),
    (["add", "x", "--rate", "1.5/s"], "is no rate"),
    (["add", "x", "--rate", "0/m"], "is no rate"),
    (["add", "x", "--rate", ""], "is no rate"),
    (["add", "x", "--rate", "60"], "is no rate"),
    (["add", "x", "--rate", "1000001/m"], "is no rate"),
    (["add", "x", "--concurrency", "0"], "not in the range"),
    (["add", "x", "--expires", "0d"], "is no time"),
    (["add", "x", "--expires", "-1d"], "is no time"),
    (["add", "x", "--expires", "11000d"], "is no time"),
    (["revoke", "nobody"], "There is no key named 'nobody'.\n  cause: gateway/keys.map has taken\n"),
    (
        ["limit", "nobody", "--rate", "60/m"],
        "There is no key named 'nobody'.\n  cause: gateway/keys.map has taken\n",
    ),
    (["limit", "taken"], "No limit is given."),
    (["limit", "taken", "--rate", "100/h"], "HAProxy counts over one minute"),
    (["limit", "taken", "--concurrency", "0"], "not in the range"),
    (["limit", "taken", "--concurrency", "many"], "not a valid integer"),
    (["limit", "taken", "--expires", "default"], "is no time"),
]


@pytest.mark.parametrize(
    ("words", "sentence"), REFUSED, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_what_cannot_be_is_refused_and_nothing_changes(words: list[str], sentence: str, folder: Path) -> None:
    (folder / "gateway").mkdir()
    path = folder / "gateway/keys.map"
    path.write_text(f"{'c' * 64} taken:0:0:0\n")
    before = path.read_bytes()
    done = run(folder, "key", *words, "--no-reload")
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert path.read_bytes() == before


def test_a_stack_without_a_gateway_asks_for_no_keys(folder: Path) -> None:
    (folder / "compose.yml").write_text(HEAD.replace(" --gateway", ""))
    done = run(folder, "key", "add", "x")
    assert done.returncode == 2
    assert "next:  ernie-deploy render h100 --gateway -o compose.yml --force" in done.stderr
    assert not (folder / "gateway").exists()


def test_a_folder_open_to_everybody_takes_no_key(folder: Path) -> None:
    (folder / "gateway").mkdir()
    (folder / "gateway").chmod(0o777)
    done = run(folder, "key", "add", "x")
    assert done.returncode == 2
    assert "chmod o-w gateway" in done.stderr


@pytest.mark.parametrize("kind", ["link", "folder", "pipe", "binary", "huge"])
def test_what_is_no_map_is_one_sentence(kind: str, folder: Path) -> None:
    path = folder / "gateway/keys.map"
    path.parent.mkdir()
    {
        "link": lambda: path.symlink_to("/etc/hostname"),
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "binary": lambda: path.write_bytes(b"\xff\xfe"),
        "huge": lambda: path.write_text("#\n" * (3 << 20)),
    }[kind]()
    for words in (["key", "list"], ["key", "add", "x", "--no-reload"], ["reload"]):
        done = run(folder, *words)
        assert done.returncode == 2
        assert done.stderr.startswith("error: gateway/keys.map "), done.stderr


def test_dry_runs_write_nothing(folder: Path) -> None:
    told = run(folder, "key", "add", "x", "--rate", "60/m", "--dry-run").stdout.splitlines()
    assert told == ["add x, 60 requests a minute to gateway/keys.map", "docker compose exec --no-TTY gateway sh -c 'kill -USR2 1'"]  # fmt: skip
    assert (
        run(folder, "key", "revoke", "x", "--dry-run").stdout.splitlines()[0]
        == "revoke x in gateway/keys.map"
    )
    words = [
        "key",
        "limit",
        "x",
        "--rate",
        "2/s",
        "--concurrency",
        "default",
        "--expires",
        "never",
        "--dry-run",
    ]
    assert run(folder, *words).stdout.splitlines() == ["change x in gateway/keys.map: rate 120/m, concurrency default, expires never", told[1]]  # fmt: skip
    assert run(folder, "reload", "--dry-run").stdout.splitlines() == told[1:]
    assert not (folder / "gateway").exists()


@pytest.mark.parametrize("command", ["limit", "revoke"])
def test_names_are_completed_where_a_key_is_changed(command: str, folder: Path) -> None:
    assert run(folder, "key", "add", "team-b", "--no-reload").returncode == 0
    env = {
        **OWN,
        "_ERNIE_DEPLOY_COMPLETE": "bash_complete",
        "COMP_WORDS": f"ernie-deploy key {command} te",
        "COMP_CWORD": "3",
    }
    assert "team-b" in kit(cwd=folder, env=env).stdout


def test_a_revoked_key_is_an_error_where_nobody_can_say_whether_a_gateway_still_takes_it(
    folder: Path,
) -> None:
    assert run(folder, "key", "add", "x", "--no-reload").returncode == 0
    done = run(folder, "key", "revoke", "x")
    assert done.returncode == 6
    assert "x is revoked in the file. But: " in done.stderr
    assert key_file.read(folder / "gateway").keys == ()


def test_a_changed_limit_is_an_error_where_nobody_can_say_whether_a_gateway_has_it(folder: Path) -> None:
    assert run(folder, "key", "add", "x", "--no-reload").returncode == 0
    done = run(folder, "key", "limit", "x", "--rate", "1/m")
    assert done.returncode == 6
    assert "x is changed in the file. But: " in done.stderr


def test_manifests_are_told_the_commands_for_the_cluster(folder: Path) -> None:
    (folder / "k.yml").write_text("# ernie-deploy render h100 --format kubernetes --gateway\n")
    for words in (["add", "x"], ["limit", "x", "--rate", "60/m"]):
        done = run(folder, "key", *words, "-f", "k.yml")
        assert done.returncode == 0
        assert "kubectl create secret generic " in done.stderr
        assert (
            "-gateway-keys --from-file=keys.map=gateway/keys.map --dry-run=client -o yaml | kubectl apply -f - && "
            in done.stderr
        )


def test_a_reload_in_a_cluster_brings_the_certificate_too(folder: Path) -> None:
    manifests = folder / "k.yml"
    manifests.write_text("# ernie-deploy render h100 --format kubernetes --gateway --tls files\n")
    words = run(folder, "reload", "-f", "k.yml", "--dry-run").stdout
    assert [part.split(" --")[0] for part in words.strip().split(" && ")] == [
        "kubectl create secret generic ernie-21b-gateway-keys",
        "kubectl create secret tls ernie-21b-gateway-tls",
        "kubectl rollout restart deployment/ernie-21b-gateway",
    ]


def test_a_command_reads_the_first_line_of_its_stack_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else two answers of one command could be of two files."""
    file = tmp_path / "compose.yml"
    reads: list[Path] = []
    file.write_text("# ernie-deploy render h100 --gateway --tls files\n")

    def reading(path: Path) -> str:
        reads.append(path)
        return first_line(path)

    monkeypatch.setattr(of_rendered, "first_line", reading)
    stack = Stack(files=(file,))
    assert tls_folder(stack) == tmp_path / "gateway"
    assert every_kind(stack) == ("keys", "certificate")
    assert not in_kubernetes(stack)
    assert reads == [file]


def test_a_link_is_replaced_by_a_command_that_quotes_its_path(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b/keys.map").symlink_to("/etc/hostname")
    with pytest.raises(UsageError) as fault:
        key_file.read(tmp_path / "a b")
    path = f"'{tmp_path}/a b/keys.map'"
    assert fault.value.next_step.endswith(f'cp --remove-destination "$(readlink -f {path})" {path}')


# --- a damaged file ---


FAULTS = [
    ("ek_abc", "a plain key"),
    ("ek_abc x:0:0:0", "a plain key"),
    (f"{'A' * 64} x:0:0:0", "in capitals"),
    (f"{'a' * 63} x:0:0:0", "does not begin with a SHA-256"),
    ("a" * 64, "the name is missing"),
    (f"{'a' * 64} x y:0:0:0", "the name is missing"),
    (f"{'a' * 64} x", "three or four whole numbers"),
    (f"{'a' * 64} x:1:2", "three or four whole numbers"),
    (f"{'a' * 64} x:1:2:never", "three or four whole numbers"),
    (f"{'a' * 64} x:-1:2:0", "three or four whole numbers"),
    (f"{'a' * 64} x:1:2:0:1:9", "three or four whole numbers"),
    (f"{ONE[:64]} other:0:0:0", "the key of team-a once more"),
    (f"{'d' * 64} team-a:0:0:0", "the name of team-a once more"),
]


@pytest.mark.parametrize(("line", "words"), FAULTS)
def test_a_faulty_line_is_named_by_its_number_and_never_quoted(line: str, words: str) -> None:
    found, (fault,) = parse(f"# mine\n{ONE}\n\n{line}\n")
    assert [key.name for key in found] == ["team-a"]
    assert fault.startswith("line 4: ")
    assert words in fault
    assert line.split(maxsplit=1)[0] not in fault


def test_a_map_as_large_as_may_be_is_read_at_once_and_a_twin_in_it_is_named() -> None:
    lines = [f"{number:064x} k{number}:0:0:0" for number in range(30_000)]
    begun = time.process_time()
    every, faults = parse("\n".join([*lines, lines[20_000]]))
    assert time.process_time() - begun < 2
    assert len(every) == 30_000
    assert faults == ["line 30001: the name of k20000 once more; HAProxy takes the first"]


def test_a_line_reads_back_the_same() -> None:
    key = Key(digest=hashed("x"), name="a.b-c_D", rate_per_minute=7, concurrency=3, expires=9, added=8)
    assert parse(key.line()) == ([key], [])


@pytest.mark.parametrize(
    ("text", "count"), [("60/m", 60), ("1/s", 60), ("2/second", 120), ("1000000/min", 1_000_000)]
)
def test_rates(text: str, count: int) -> None:
    assert rate_per_minute(text) == count


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1800), ("12h", 43_200), ("90d", 7_776_000), ("4w", 2_419_200)]
)
def test_times(text: str, seconds: int) -> None:
    assert duration_s(text) == seconds


def test_an_expired_key_is_one_from_its_second_on() -> None:
    key = Key(digest="", name="x", expires=10)
    assert [key.is_expired(now) for now in (9.9, 10.0)] == [False, True]
    assert not Key(digest="", name="x").is_expired(1e12)
    assert named("x") == "x"


def test_keys_are_masked_in_what_goes_to_a_ticket() -> None:
    assert len({key := keys.new_key(), keys.new_key()}) == 2
    assert key not in masked(f"curl -H 'x: {key}'; {key}.")

"""`tls`: what is installed belongs together, lies with the gateway alone, and replaces what was there whole or not at all."""

import json
import os
import shutil
import stat
import subprocess
import tarfile
from contextlib import nullcontext
from pathlib import Path

import pytest
from conftest import ROOT, kit
from gateway.authority import Authority, openssl

from ernie_deploy.commands.tls import _owner, _run_as, tls
from ernie_deploy.errors import UsageError
from ernie_deploy.gateway import tls_files
from ernie_deploy.gateway.certificate import private_key_of
from ernie_deploy.stack.compose import Stack

OWN = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
DOCKERLESS = {"PYTHONPATH": str(ROOT), "PATH": f"{ROOT}/nowhere:/usr/bin:/bin"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stack with a gateway that speaks TLS, as `init` makes it."""
    place = tmp_path_factory.mktemp("made")
    done = kit("init", "s", "h100", "--gateway", "--tls", "files", cwd=place, env=OWN)
    assert done.returncode == 0, done.stderr
    assert "ernie-deploy tls install" in done.stderr
    return place / "s"


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(made, tmp_path / "s"))


def install(folder: Path, *words: str | Path) -> "subprocess.CompletedProcess[str]":
    return kit("tls", "install", *map(str, words), "--no-reload", cwd=folder, env=OWN)


def test_a_pair_is_installed_for_the_gateway_alone(folder: Path, ca: Authority) -> None:
    pair = ca.issue("llm.example.org")
    done = install(folder, pair.cert, pair.key)
    assert done.returncode == 0, done.stderr
    assert "llm.example.org" in done.stderr
    certificate, key = folder / "gateway/tls/tls.crt", folder / "gateway/tls/tls.key"
    assert certificate.read_text() == pair.cert.read_text()
    assert key.read_text() == pair.key.read_text()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(certificate.stat().st_mode) == 0o644
    if os.getuid() == 0:
        assert (key.stat().st_uid, key.stat().st_gid) == (99, 99)
    assert sorted(path.name for path in key.parent.iterdir()) == ["tls.crt", "tls.key"]


def test_the_files_of_env_are_the_default(folder: Path, ca: Authority) -> None:
    pair = ca.issue()
    assert install(folder).returncode == 2
    with (folder / ".env").open("a") as env:
        env.write(f"TLS_CERT_FILE={pair.cert}\nTLS_KEY_FILE={os.path.relpath(pair.key, folder)}\n")
    assert install(folder).returncode == 0
    assert (folder / "gateway/tls/tls.key").read_text() == pair.key.read_text()
    # The variables are the stack's own, and no typing error.
    assert (
        "TLS_CERT_FILE in .env is no variable"
        not in kit("doctor", "h100", "--gateway", cwd=folder, env=OWN).stdout
    )


def joined(ca: Authority, name: str, *pairs: Path) -> Path:
    path = ca.folder / name
    path.write_text("".join(pair.read_text() for pair in pairs))
    return path


def encrypted(ca: Authority, key: Path) -> Path:
    path = ca.folder / "encrypted.key"
    openssl("pkey", "-in", key, "-aes256", "-passout", "pass:x", "-out", path)
    return path


def test_what_does_not_belong_together_is_refused_and_nothing_is_written(folder: Path, ca: Authority) -> None:
    """The first pair stays what it was, and no message quotes a key."""
    good, other = ca.issue("good"), ca.issue("other", chain=False)
    assert install(folder, good.cert, good.key).returncode == 0
    before = {path: path.read_bytes() for path in (folder / "gateway/tls").iterdir()}
    garbage = ca.folder / "garbage.pem"
    garbage.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    cases: list[tuple[Path, Path, str]] = [
        (good.cert, other.key, "the key is of another certificate"),
        (joined(ca, "swapped.crt", ca.root.cert, good.cert), good.key, "the server's own must be the first"),
        (joined(ca, "stranger.crt", good.cert, other.cert), good.key, "was issued by"),
        (ca.issue("old", -20, -2).cert, Path(), "expired 2 days ago"),
        (ca.issue("young", 3, 20).cert, Path(), "is not valid yet: it begins in 3 days"),
        (good.cert, encrypted(ca, good.key), "is encrypted"),
        (good.key, good.key, "is no chain of certificates"),
        (good.cert, good.cert, "is no private key in PEM"),
        (garbage, good.key, "is no chain of certificates"),
        (ca.folder / "none.crt", good.key, "No such file"),
    ]
    for cert, key, words in cases:
        done = install(folder, cert, key if key != Path() else cert.with_suffix(".key"))
        assert done.returncode == 2, (words, done.stderr)
        assert words in done.stderr
        assert not any(line in done.stdout + done.stderr for line in good.key.read_text().splitlines()[1:-1])
        assert {path: path.read_bytes() for path in (folder / "gateway/tls").iterdir()} == before, words


def test_a_certificate_that_ends_soon_is_installed_with_a_warning(folder: Path, ca: Authority) -> None:
    pair = ca.issue("soon", -60, 10.5)
    done = install(folder, pair.cert, pair.key)
    assert done.returncode == 0
    assert "warning: The certificate CN=soon expires in 10 days." in done.stderr


@pytest.mark.parametrize(
    "words", [("install", "a", "b"), ("self-signed",), ("show",)], ids=lambda words: words[0]
)
def test_a_gateway_that_speaks_no_tls_takes_no_certificate(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert kit("init", "s", "h100", "--gateway", cwd=tmp_path, env=OWN).returncode == 0
    done = kit("tls", *words, cwd=tmp_path / "s", env=OWN)
    assert done.returncode == 2
    assert "speaks no TLS" in done.stderr
    assert "--gateway --tls files -o compose.yml --force" in done.stderr
    assert not (tmp_path / "s/gateway/tls").exists()


def test_a_cluster_is_given_the_certificate_and_no_user_of_this_host(
    tmp_path: Path, ca: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifests = tmp_path / "k.yml"
    manifests.write_text("# ernie-deploy render h100 --format kubernetes --gateway --tls files\n")
    pair = ca.issue()
    done = kit("tls", "install", str(pair.cert), str(pair.key), "-f", "k.yml", cwd=tmp_path, env=OWN)
    assert done.returncode == 0, done.stderr
    create = (
        "kubectl create secret tls ernie-21b-gateway-tls --cert=gateway/tls/tls.crt --key=gateway/tls/tls.key"
    )
    restart = "kubectl rollout restart deployment/ernie-21b-gateway"
    assert f"next: {create} --dry-run=client -o yaml | kubectl apply -f - && {restart}\n" in done.stderr
    assert "keys.map" not in done.stderr
    assert not (tmp_path / ".env").exists()
    for user in (0, 12345):
        monkeypatch.setattr(os, "getuid", lambda user=user: user)
        assert _owner(Stack(files=(manifests,))) == (None, "")


def test_nothing_of_env_changes_where_the_pair_could_not_be_written(
    folder: Path, ca: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, before = ca.issue(), (folder / ".env").read_bytes()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    (folder / "gateway").mkdir()
    (folder / "gateway/tls").write_text("in the way")
    words = ["install", str(pair.cert), str(pair.key), "-f", str(folder / "compose.yml"), "--no-reload"]
    with pytest.raises(UsageError, match="could not be written"):
        tls(words, standalone_mode=False)
    assert (folder / ".env").read_bytes() == before
    (folder / "gateway/tls").unlink()
    tls(words, standalone_mode=False)
    assert "\nGATEWAY_USER=12345:" in (folder / ".env").read_text()


def test_a_certificate_without_names_is_a_warning_at_first_and_then_an_error(
    folder: Path, tmp_path: Path
) -> None:
    cert, key = tmp_path / "a.crt", tmp_path / "a.key"
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=old.lab", "-keyout", key, "-out", cert)  # fmt: skip
    done = install(folder, cert, key)
    assert done.returncode == 0, done.stderr
    assert "warning: The certificate CN=old.lab names no host in a subjectAltName" in done.stderr
    shown = kit("tls", "show", cwd=folder, env=OWN)
    assert shown.returncode == 1
    assert "names no host in a subjectAltName: clients refuse it" in shown.stdout


def test_show_looks_at_the_order_of_the_chain(folder: Path, ca: Authority) -> None:
    good, other = ca.issue("good"), ca.issue("other", chain=False)
    chain = good.cert.read_text() + other.cert.read_text()
    tls_files.put(folder / "gateway", chain, good.key.read_text(), None)
    shown = kit("tls", "show", "--json", cwd=folder, env=OWN)
    assert shown.returncode == 1
    data = json.loads(shown.stdout)
    assert data["pair_ok"]
    assert "was issued by" in data["faults"][0]


def test_a_dry_run_without_a_reload_prints_no_empty_line(folder: Path, ca: Authority) -> None:
    pair = ca.issue()
    assert (
        install(folder, pair.cert, pair.key, "--dry-run").stdout == "write gateway/tls: tls.crt and tls.key\n"
    )


@pytest.mark.parametrize("fails", [0, 4])
def test_where_no_second_name_is_given_a_copy_keeps_the_old_pair(
    fails: int, tmp_path: Path, ca: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with fs.protected_hardlinks; 2 of the renames are those of the copies."""
    old, new = ca.issue("a"), ca.issue("b")
    tls_files.put(tmp_path, old.cert.read_text(), old.key.read_text(), None)
    renames, replace, link = [], Path.replace, os.link

    def refused(source: Path | str, target: Path | str, **options: int) -> None:
        if options:
            # A file of one's own that had no name yet.
            link(source, target, **options)
        else:
            raise PermissionError(1, "Operation not permitted")

    def failing(self: Path, target: Path) -> Path:
        renames.append(self)
        if len(renames) == fails:
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(os, "link", refused)
    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(UsageError, match="No space left") if fails else nullcontext():
        tls_files.put(tmp_path, new.cert.read_text(), new.key.read_text(), None)
    monkeypatch.undo()
    pair = old if fails else new
    assert {path.name: path.read_text() for path in (tmp_path / "tls").iterdir()} == {
        "tls.crt": pair.cert.read_text(), "tls.key": pair.key.read_text(),
    }  # fmt: skip
    assert stat.S_IMODE((tmp_path / "tls/tls.key").stat().st_mode) == 0o600


def test_a_next_step_quotes_its_path(tmp_path: Path, ca: Authority) -> None:
    folder, pair = tmp_path / "a b", ca.issue()
    folder.mkdir()
    (folder / "tls").write_text("in the way")
    with pytest.raises(UsageError) as fault:
        tls_files.put(folder, pair.cert.read_text(), pair.key.read_text(), None)
    assert f"ls -ld '{folder / 'tls'}'" in fault.value.next_step
    with pytest.raises(UsageError) as fault:
        private_key_of(encrypted(ca, pair.key).read_text(), "a b.key")
    assert "-in 'a b.key' -out" in fault.value.next_step


@pytest.mark.parametrize("fails", [1, 2])
def test_a_rename_that_fails_leaves_the_old_pair(
    fails: int, tmp_path: Path, ca: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = ca.issue("a"), ca.issue("b")
    gateway = tmp_path / "gateway"
    tls_files.put(gateway, old.cert.read_text(), old.key.read_text(), None)
    renames, replace = [], Path.replace

    def failing(self: Path, target: Path) -> Path:
        renames.append(self)
        if len(renames) == fails:
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(UsageError, match="No space left"):
        tls_files.put(gateway, new.cert.read_text(), new.key.read_text(), None)
    monkeypatch.undo()
    assert {path.name: path.read_text() for path in (gateway / "tls").iterdir()} == {
        "tls.crt": old.cert.read_text(), "tls.key": old.key.read_text(),
    }  # fmt: skip


def test_a_key_that_stands_with_the_certificate_is_not_copied_to_where_everybody_reads(
    tmp_path: Path, ca: Authority
) -> None:
    pair = ca.issue()
    tls_files.put(tmp_path / "g", pair.key.read_text() + pair.cert.read_text(), pair.key.read_text(), None)
    assert "PRIVATE" not in (tmp_path / "g/tls/tls.crt").read_text()


def test_who_is_not_root_has_the_gateway_run_as_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only root can give the key to the gateway's own user."""
    stack = Stack(files=(folder / "compose.yml",))
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    monkeypatch.setattr(os, "getgid", lambda: 12346)
    for _ in range(2):
        before = (folder / ".env").read_text()
        owner, own_user = _owner(stack)
        assert owner is None
        assert own_user == ("" if "12345" in before else "12345:12346")
        # To decide is not to write: the pair comes first.
        assert (folder / ".env").read_text() == before
        if own_user:
            _run_as(stack, own_user)
        assert (folder / ".env").read_text().count("\nGATEWAY_USER=12345:12346") == 1
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert _owner(stack) == ((12345, 12346), "")
    (folder / ".env").write_text("GATEWAY_USER=haproxy\n")
    with pytest.raises(UsageError, match="not UID:GID"):
        _owner(stack)


def test_a_self_signed_one_is_for_testing(tmp_path: Path, ca: Authority) -> None:
    done = kit("init", "s", "h100", "--gateway", "--tls", "self-signed", cwd=tmp_path, env=OWN)
    assert done.returncode == 0, done.stderr
    assert "self-signed, for testing" in done.stderr
    folder = tmp_path / "s"
    first = (folder / "gateway/tls/tls.crt").read_text()
    made = kit(
        "tls", "self-signed", "--host", "llm.lab", "--host", "10.0.0.4", "--no-reload", cwd=folder, env=OWN
    )
    assert made.returncode == 0, made.stderr
    assert (folder / "gateway/tls/tls.crt").read_text() != first
    shown = json.loads(kit("tls", "show", "--json", cwd=folder, env=OWN).stdout)
    assert shown["names"][:2] == ["llm.lab", "10.0.0.4"]
    assert shown["self_signed"]
    assert shown["pair_ok"]
    assert 360 < shown["days_left"] <= 365
    assert kit("tls", "self-signed", "--host", "a b", "--no-reload", cwd=folder, env=OWN).returncode == 2
    pair = ca.issue()
    assert install(folder, pair.cert, pair.key).returncode == 0
    refused = kit("tls", "self-signed", "--no-reload", cwd=folder, env=OWN)
    assert refused.returncode == 2
    assert "is the certificate of a CA" in refused.stderr
    assert (folder / "gateway/tls/tls.crt").read_text() == pair.cert.read_text()


def test_show_says_what_is_wrong_with_what_lies_there(folder: Path, ca: Authority) -> None:
    assert kit("tls", "show", cwd=folder, env=OWN).returncode == 2
    old, other = ca.issue("old", -20, -2), ca.issue("other")
    tls_files.put(folder / "gateway", old.cert.read_text(), other.key.read_text(), None)
    shown = kit("tls", "show", cwd=folder, env=OWN)
    assert shown.returncode == 1
    assert "the key is of another certificate" in shown.stdout
    assert "expired 2 days ago" in shown.stdout
    fingerprint = (
        openssl("x509", "-in", old.cert, "-noout", "-fingerprint", "-sha256").strip().rpartition("=")[2]
    )
    assert fingerprint in shown.stdout


def test_without_openssl_the_error_says_how_to_get_it(folder: Path, ca: Authority) -> None:
    pair = ca.issue()
    done = kit(
        "tls",
        "install",
        str(pair.cert),
        str(pair.key),
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/nonexistent"},
    )
    assert done.returncode == 14
    assert "apt-get install openssl" in done.stderr


def test_the_key_is_nowhere_but_with_the_gateway(folder: Path, ca: Authority) -> None:
    """A secret of the user's: not in what is kept, committed or sent."""
    pair = ca.issue()
    assert install(folder, pair.cert, pair.key).returncode == 0
    secret = "".join(pair.key.read_text().splitlines()[1:-1])[:40]
    kit("upgrade", ".", "--as", "h100 --gateway --tls files --name other", cwd=folder, env=OWN)
    kit("support-bundle", "-o", "b.tar.gz", cwd=folder, env=DOCKERLESS)
    with tarfile.open(folder / "b.tar.gz") as archive:
        for member in archive.getmembers():
            assert secret not in (
                archive.extractfile(member).read().decode(errors="replace") if member.isfile() else ""
            )  # type: ignore[union-attr]
    for words in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *words], cwd=folder, check=True, timeout=60)
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=folder, capture_output=True, text=True, check=True
    ).stdout
    assert "compose.yml" in tracked
    assert "tls.key" not in tracked
    holders = [
        path
        for path in folder.rglob("*")
        if path.is_file() and secret in "".join(path.read_bytes().decode("latin-1").split("\n"))
    ]
    assert holders == [folder / "gateway/tls/tls.key"]


@pytest.mark.parametrize(
    ("options", "first", "words"),
    [
        ((), "ernie-deploy key add NAME && docker", '-H "Authorization: Bearer $KEY" http://127.0.0.1:8000/v1/'),
        (("--tls", "self-signed"), "ernie-deploy key add NAME && docker", '--cacert gateway/tls/tls.crt -H "Authorization: Bearer $KEY" https://localhost:8000/v1/'),
        (("--tls", "files"), "ernie-deploy tls install CERT KEY && ernie-deploy key add NAME && docker", '-H "Authorization: Bearer $KEY" https://HOST:8000/v1/'),
    ],
)  # fmt: skip
def test_a_folder_says_what_comes_before_the_start_and_how_it_is_asked(
    tmp_path: Path, options: tuple[str, ...], first: str, words: str
) -> None:
    done = kit("init", str(tmp_path / "s"), "h100", "--gateway", *options)
    assert f"next: cd {tmp_path / 's'} && {first}" in done.stderr
    page = (tmp_path / "s" / "README.md").read_text()
    assert f"curl {words}chat/completions" in page
    assert "`ernie-deploy key add NAME`" in page

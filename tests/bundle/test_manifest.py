"""SHA256SUMS is coreutils' own form, no name in it leads out of the folder, and each fault is named."""

import os
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, kit
from hypothesis import given
from hypothesis import strategies as st

from ernie_deploy.bundle import manifest
from ernie_deploy.bundle.parts import of_bytes
from ernie_deploy.bundle.store import claimed
from ernie_deploy.errors import UsageError

SHA = "0" * 64
FILES = {
    "load.sh": (ROOT / "docker/bundle/load.sh").read_bytes(),
    "weights/a": b"a" * 1000,
    "stacks/one/.env": b"",
    "images/x+y@1.tar": b"t",
}


def quiet(*_: object) -> None:
    pass


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "b"
    with claimed(folder) as store:
        for name, data in FILES.items():
            store.put(of_bytes(name, data), quiet)
        store.finish(FILES)
    return folder


def test_coreutils_and_the_kit_agree_on_a_whole_bundle(bundle: Path) -> None:
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", manifest.SUMS], cwd=bundle, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    verdict = manifest.verify(bundle, quiet)
    assert verdict.whole
    assert (verdict.files, verdict.size_bytes) == (len(FILES), sum(map(len, FILES.values())))


def test_progress_goes_on_within_a_file_and_ends_at_the_whole(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "CHUNK_BYTES", 400)
    shown: list[tuple[str, int, int]] = []
    total = manifest.verify(bundle, lambda *words: shown.append(words)).size_bytes
    assert [done for name, done, _ in shown if name == "weights/a"] == [total - 600, total - 200, total]
    assert {whole for _, _, whole in shown} == {total}


def test_each_fault_is_named_and_ends_with_one(bundle: Path) -> None:
    (bundle / "weights/a").write_bytes(b"a" * 999 + b"b")
    (bundle / "load.sh").unlink()
    (bundle / "stacks/one/compose.override.yml").write_text("services: {}\n")
    (bundle / "images/x+y@1.tar").unlink()
    (bundle / "images/x+y@1.tar").symlink_to("/etc/passwd")
    done = kit("bundle", "verify", str(bundle))
    assert done.returncode == 1
    assert done.stdout.splitlines()[:4] == [
        "missing  load.sh",
        "extra    stacks/one/compose.override.yml",
        "wrong    images/x+y@1.tar: it is a link or a device, and no file",
        "wrong    weights/a: its bytes are not those that were written",
    ]


def test_a_link_to_a_folder_is_not_followed(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a").write_bytes(FILES["weights/a"])
    (bundle / "weights/a").unlink()
    (bundle / "weights").rmdir()
    (bundle / "weights").symlink_to(tmp_path / "elsewhere")
    verdict = manifest.verify(bundle, quiet)
    assert (verdict.missing, verdict.extra) == (("weights/a",), ("weights",))


@pytest.mark.parametrize(
    "name", ["../etc/passwd", "/etc/passwd", "a/../../b", "a/..", "..", ".", "./a", "a//b", "a/", "a b", "a\tb", "a\\b", "ä", ""]
)  # fmt: skip
def test_a_name_that_leads_out_or_is_odd_is_refused(name: str, bundle: Path) -> None:
    assert not manifest.is_name(name)
    with (bundle / manifest.SUMS).open("a") as file:
        file.write(f"{SHA}  {name}\n")
    done = kit("bundle", "verify", str(bundle))
    assert done.returncode == 2
    assert "have the bundle made again" in done.stderr or "no text that the kit wrote" in done.stderr
    loaded = subprocess.run(["sh", bundle / "load.sh", "--verify"], capture_output=True, text=True)
    assert loaded.returncode == 1
    assert "a line that the kit did not write" in loaded.stderr


@given(st.text(alphabet="ab./_-@+~ \n", max_size=12))
def test_a_name_that_is_taken_stays_inside(name: str) -> None:
    if manifest.is_name(name):
        assert os.path.normpath(f"/bundle/{name}") == f"/bundle/{name}"


@pytest.mark.parametrize(
    "text", ["x\n", f"{SHA} a\n", f"{SHA[1:]}  a\n", f"{SHA}  a\n{SHA}  a\n", f"{SHA} *a\n", f"{SHA.replace('0', 'G')}  a\n"]
)  # fmt: skip
def test_a_line_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"Line [12] of SHA256SUMS"):
        manifest.parse(text)


def test_a_folder_without_a_manifest_says_how_to_go_on(tmp_path: Path) -> None:
    done = kit("bundle", "verify", str(tmp_path))
    assert done.returncode == 2
    assert f"ernie-deploy bundle -o {tmp_path}" in done.stderr

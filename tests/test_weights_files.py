"""A folder of weights with files that are none: named in a sentence, never waited for, never read without end."""

import os
import resource
from pathlib import Path

import pytest
from container_scripts import loaded

weights = loaded("own_folder")


def good_folder(tmp_path: Path) -> Path:
    header = b'{"a": {"data_offsets": [0, 4]}}'
    (tmp_path / "config.json").write_text('{"architectures": ["A"]}')
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"1234")
    assert weights.folder_fault(tmp_path, None) is None
    return tmp_path


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json"]
)
@pytest.mark.parametrize("kind", ["pipe", "dangling", "loop"])
def test_what_is_no_file_is_named_and_not_waited_for(tmp_path: Path, name: str, kind: str) -> None:
    folder = good_folder(tmp_path)
    (folder / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to(name if kind == "loop" else "nowhere")
    assert weights.folder_fault(folder, None) == f"has {name}, a pipe, a device or a link to nothing"


def test_a_header_larger_than_safetensors_allows_is_not_read(tmp_path: Path) -> None:
    folder = good_folder(tmp_path)
    with (folder / "model.safetensors").open("wb") as file:
        file.write((3 << 30).to_bytes(8, "little"))
        file.truncate(4 << 30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert weights.folder_fault(folder, None) == "has a truncated or damaged model.safetensors"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
@pytest.mark.parametrize("text", ["[" * 100_000, '{"architectures": 1, "weight_map": 2}', "", None])
def test_json_that_is_none_is_a_sentence(tmp_path: Path, name: str, text: str | None) -> None:
    folder = good_folder(tmp_path)
    with (folder / name).open("w") as file:
        file.write(text or "")
        if text is None:
            file.truncate(3 << 30)
    assert (
        weights.folder_fault(folder, None)
        == "has no config.json that names an architecture, or a broken index"
    )


@pytest.mark.parametrize("ends", ['"x"', "null", "[1]", "1e400"])
def test_a_header_of_other_types_is_damage(tmp_path: Path, ends: str) -> None:
    folder = good_folder(tmp_path)
    header = f'{{"a": {{"data_offsets": [0, {ends}]}}, "b": {{"data_offsets": [0, 4]}}}}'.encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"1234")
    assert weights.folder_fault(folder, None) == "has a truncated or damaged model.safetensors"


def test_a_stamp_that_is_a_pipe_counts_as_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "stamp.json")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    assert weights.read_stamp(tmp_path / "stamp.json") is None
    assert weights.read_stamp(tmp_path / "deep.json") is None

"""`render --format kubernetes`, its refusals, names and sizes."""

import pytest
from conftest import kit
from manifests.reading import written

from ernie_deploy.errors import UsageError
from ernie_deploy.render.kubernetes import quantity, short_name


def test_line_one_is_the_command_that_makes_the_file() -> None:
    words = [
        "h100",
        "--format",
        "kubernetes",
        "--model",
        "300b",
        "--profile",
        "mtp",
        "--set",
        "max-num-seqs=64",
    ]
    done = kit("render", *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "# ernie-deploy render " + " ".join(words)
    again = kit("render", *done.stdout.splitlines()[0].split()[3:])
    assert again.stdout == done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--nodes", "2", "--multi-node", "ray", "--model", "300b"],
            "--multi-node ray has no meaning in Kubernetes.",
        ),
        (["--gpus", "0,1"], "--gpus has no meaning in Kubernetes."),
        (["--gpus-cdi"], "--gpus-cdi has no meaning in Kubernetes."),
        (["--bind", "0.0.0.0"], "--bind has no meaning in Kubernetes."),
        (["--all", "--out-dir", "x"], "--all renders compose files."),
    ],
    ids=str,
)
def test_what_only_a_host_understands_is_refused(words: list[str], said: str) -> None:
    done = kit("render", "h100", "--format", "kubernetes", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


@pytest.mark.parametrize(
    ("docker", "expected"),
    [("16g", "16Gi"), ("512M", "512Mi"), ("64kb", "64Ki"), ("1024", "1024"), ("1t", "1Ti")],
)
def test_sizes_are_translated(docker: str, expected: str) -> None:
    assert quantity(docker) == expected


def test_what_is_no_size_is_refused() -> None:
    with pytest.raises(UsageError):
        quantity("a lot")


def test_long_names_stay_different_and_fit() -> None:
    long = "ernie-vl-28b-thinking-mi300x-text-only-no-prefix-cache-expert-parallel"
    made = [short_name(long), short_name(f"{long}-reasoning"), short_name("ernie-21b-h100")]
    # A LeaderWorkerSet's pods are labelled with their StatefulSet's name and a hash, in the 63 characters of a label.
    assert max(len(f"{name}-0-{'0' * 10}") for name in made) <= 63
    assert len(set(made)) == 3
    assert made[2] == "ernie-21b-h100"


def test_the_same_request_gives_the_same_bytes() -> None:
    assert written("mi300x", dp=2) == written("mi300x", dp=2)

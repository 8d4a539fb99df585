"""Whatever an option says is refused, or stands in its own place of what is rendered and nowhere else."""

import re
import shlex
from collections.abc import Callable, Iterator
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner
from dotenv import dotenv_values

from ernie_deploy.commands.init import init
from ernie_deploy.commands.render import render
from ernie_deploy.errors import KitError
from ernie_deploy.plan.request import bind_address

MARK = "zq9"
HARMLESS = f"{MARK}x{MARK}"
HOSTILE = (
    "a\nb: c", "\r\n---\n- x", 'a"b', "a'b: c #d", "${X:-y} $$ $ $(X)", "}", "{{ 7*7 }}{% raw %}{# x #}", "&a", "*a !t",
    "<<: *hardened", "[a, b] {a: b}", "\x00", "\x1b[2J\x7f\x85", "\u2028\u2029", "\ufeff\u202e", "\ud800", "\t", "\\", '\\n"',
    "a" * 20_000, "`a`|b``c", "\"'`", "%eth0", "/../..", "]", "-->",
)  # fmt: skip
# What makes an option heed its text, and how that text begins: an option that is not here gets the bare text.
HEEDED: dict[str, list[str]] = {
    "registry": ["{}", "mirror.example/{}", "mirror.example:5000{}"],
    "image": ["{}", "me/vllm:{}", "me/{}:1"],
    "bind": ["{}", "::1%{}", "127.0.0.1{}", "[::1{}]", "fe80::1%1{}"],
    "user": ["{}", "1000:1000{}"],
    "weights": ["{}", "/data/{}", "./{}"],
    "cuda": ["{}", "12.9{}"],
    "gpus": ["{}", "0,{}"],
    "media_domains": ["{}", "example.org,{}"],
    "pairs": ["{}", "served-model-name={}", "{}=1", "chat-template={}", 'hf-overrides={{"a": "{}"}}', "seed={}",
              "dtype={}", "revision={}", 'allowed-origins=["{}"]'],
    "extra": ["{}", "--served-model-name={}", "--{}=1", "--chat-template={}"],
    "values": ["{}", "{}=1", "PORT={}", "HF_CACHE_DIR={}", "BIND_ADDR={}", "HF_TOKEN_FILE={}", "SHM_SIZE={}", "HTTPS_PROXY={}"],
}  # fmt: skip
BASE: dict[str, list[str]] = {"media_domains": ["--model", "vl-28b"], "cuda": []}
# Where the text goes, or what is not about the text.
NOT_OF_THE_TEXT = {"output", "out_dir", "env_example", "folder", "help"}


def parameters(command: click.Command) -> Iterator[click.Parameter]:
    yield from (param for param in command.params if param.name not in NOT_OF_THE_TEXT)


def takes_text(param: click.Parameter) -> bool:
    return not getattr(param, "is_flag", False)


def words(param: click.Parameter, form: str, text: str) -> list[str]:
    """A command line where this parameter has the text."""
    said = form.format(text)
    target = said if param.name == "target" else "h100"
    if param.name == "extra":
        return [target, "--", said]
    option = [] if param.name == "target" else [f"{max(param.opts, key=len)}={said}"]
    return [target, *BASE.get(str(param.name), []), *option]


def forms_of(command: click.Command, name: str) -> list[str]:
    """All of them, or for `init` the last one of an option that `render` has too: its README shows the command."""
    forms = HEEDED.get(name, ["{}"])
    return forms if command is render or name == "values" else forms[-1:]


CASES = [
    pytest.param(command, param, form, id=f"{command.name}-{param.name}-{form}")
    for command in (render, init)
    for param in parameters(command)
    if takes_text(param)
    for form in forms_of(command, str(param.name))
]


def rendered(command: click.Command, said: list[str], folder: Path) -> dict[str, str] | None:
    """Name -> text of what the command makes, or None where it refuses in its own words."""
    runner, made = CliRunner(), {}
    if command is init:
        results = [runner.invoke(init, [str(folder), *said])]
        files = [path for path in folder.rglob("*") if path.is_file()]
        made = {path.name: path.read_text(encoding="utf-8") for path in files}
    else:
        forms = [["--output", str(folder / form), "--format", form] for form in ("compose", "kubernetes")]
        results = [runner.invoke(render, [*form, *said]) for form in forms]
        made = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*")}
    for result in results:
        assert result.exit_code == 0 or isinstance(result.exception, KitError | SystemExit), result.exception
    return made or None


@pytest.mark.parametrize(("command", "param", "form"), CASES)
def test_a_text_stands_in_its_own_place(
    command: click.Command, param: click.Parameter, form: str, tmp_path: Path
) -> None:
    (tmp_path / "harmless").mkdir()
    harmless = rendered(command, words(param, form, HARMLESS), tmp_path / "harmless")
    texts = (
        HOSTILE
        if isinstance(param.type, click.types.StringParamType | click.types.UnprocessedParamType)
        else HOSTILE[:4]
    )
    for number, text in enumerate(texts):
        hostile = f"{MARK}{text}{MARK}"
        folder = tmp_path / str(number)
        folder.mkdir()
        made = rendered(command, words(param, form, hostile), folder)
        if made is None:
            continue
        assert harmless, f"{hostile!r} is taken and {HARMLESS} is not"
        assert made.keys() <= harmless.keys()
        for name in made:
            reader = unchanged if name.endswith((".py", ".gitignore")) else READERS.get(name, in_yaml)
            reader(harmless[name], made[name], hostile)


def unchanged(harmless: str, made: str, hostile: str) -> None:
    """Scripts, and what git is to ignore, know nothing of a request."""
    assert harmless == made, hostile


@lru_cache(maxsize=8)
def values_of(text: str) -> dict[tuple[object, ...], Any]:
    """Every leaf of the documents by its place."""
    return dict(leaves(list(yaml.load_all(text, yaml.CSafeLoader))))


def in_yaml(harmless: str, made: str, hostile: str) -> None:
    """The same documents, leaf by leaf, but for the text."""
    assert yaml_text(made)
    before = values_of(harmless)
    after = values_of(made)
    assert after.keys() == before.keys(), hostile
    for place, leaf in after.items():
        want = before[place]
        if isinstance(want, str) and MARK in want:
            quoted = hostile.replace("\\", "\\\\").replace('"', '\\"')  # within the JSON of a value
            texts = (hostile, quoted, hostile.replace("/", "-"))  # the name of a stamp has no folder in it
            escaped = {want.replace(HARMLESS, t) for text in texts for t in (text, text.replace("$", "$$"))}
            assert leaf in escaped, (place, hostile)
        elif not (isinstance(want, str) and "sha256" in want):
            assert leaf == want, (place, hostile)
    assert [line.partition("#")[0].strip() for line in made.splitlines() if line.startswith("#")] == [
        "" for line in harmless.splitlines() if line.startswith("#")
    ]


def yaml_text(text: str) -> bool:
    """No character of the document is one that some reader takes for a line break or refuses."""
    return all(character.isprintable() or character == "\n" for character in text)


def leaves(value: Any, place: tuple[object, ...] = ()) -> Iterator[tuple[tuple[object, ...], Any]]:
    if isinstance(value, dict):
        yield (*place, "keys"), tuple(value)
        for key, item in value.items():
            yield from leaves(item, (*place, key))
    elif isinstance(value, list):
        yield (*place, "length"), len(value)
        for number, item in enumerate(value):
            yield from leaves(item, (*place, number))
    else:
        yield place, value


def in_env(harmless: str, made: str, hostile: str) -> None:
    """The same variables, and the text is one's value."""
    before, after = (
        dotenv_values(stream=StringIO(harmless)),
        dotenv_values(stream=StringIO(made), interpolate=False),
    )
    assert after.keys() == before.keys()
    for name, value in after.items():
        assert value == (before[name] or "").replace(HARMLESS, hostile)
    assert len(made.splitlines()) == len(harmless.splitlines())


def in_markdown(harmless: str, made: str, hostile: str) -> None:
    """As many lines and as many cells a line; code stays code."""
    assert yaml_text(made)
    assert len(made.splitlines()) == len(harmless.splitlines())
    for before, after in zip(harmless.splitlines(), made.splitlines(), strict=True):
        table = before.startswith("|")
        assert not table or after.replace("\\|", "").count("|") == before.replace("\\|", "").count("|"), after
        assert CODE.sub("", after) == CODE.sub("", before), (hostile, after)


# A span ends at as many backticks as it began with.
CODE = re.compile(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)")


READERS: dict[str, Callable[[str, str, str], None]] = {".env": in_env, "README.md": in_markdown}


def test_every_option_that_takes_text_is_tried() -> None:
    tried = {(case.values[0].name, case.values[1].name) for case in CASES}  # type: ignore[attr-defined]
    for command in (render, init):
        for param in parameters(command):
            assert not takes_text(param) or (command.name, param.name) in tried
    assert {"bind", "weights", "pairs", "extra", "values"} <= {name for _, name in tried}


@pytest.mark.parametrize(
    ("said", "address"),
    [
        ("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "0.0.0.0"), ("::1", "[::1]"), ("[::1]", "[::1]"), ("::", "[::]"),
        ("2001:db8:0:0::1", "[2001:db8::1]"),
    ],
)  # fmt: skip
def test_addresses_that_docker_publishes_on(said: str, address: str, tmp_path: Path) -> None:
    assert bind_address(said) == address
    assert bind_address(address) == address
    result = CliRunner().invoke(
        render, ["h100", "--bind", said, "--accept-open-routes", "-o", str(tmp_path / "x.yml")]
    )
    assert result.exit_code == 0
    head, text = (tmp_path / "x.yml").read_text().split("\n", 1)
    again = shlex.split(head.removeprefix("# ernie-deploy render"))
    made = rendered(render, again, tmp_path)
    assert made
    assert made["compose"] == f"{head}\n{text}"
    ports = yaml.safe_load(text)["services"]["serve"]["ports"]
    assert ports == [f"${{BIND_ADDR:-{address}}}:${{PORT:-8000}}:8000"]


@pytest.mark.parametrize(
    "said", ["home", "", "[127.0.0.1]", "::1%eth0", '::1%0"]\n', "1.2.3.4:80", "[::1", "127.0.0.1 "]
)
def test_addresses_that_it_does_not(said: str) -> None:
    with pytest.raises(ValueError, match=r"is not an IP address|has a scope"):
        bind_address(said)

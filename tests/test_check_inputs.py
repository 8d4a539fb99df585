"""`check` judges the stack that Compose would start: which files it takes, how they merge, what their variables are."""

import os

import pytest

from ernie_deploy.catalog import Catalog
from ernie_deploy.check import compose_config, judge_project
from ernie_deploy.check.interpolate import Unset, Variables
from ernie_deploy.check.project import here, of_file
from ernie_deploy.cli import main
from ernie_deploy.errors import UsageError

CATALOG = Catalog()
BASE = """\
services:
  engine:
    image: vllm/vllm-openai:v0.32.0
    restart: unless-stopped
    shm_size: 8g
    gpus: all
    environment: {HF_HOME: /data, VLLM_LOGGING_LEVEL: INFO}
    ports: ["${BIND_ADDR:-127.0.0.1}:8000:8000"]
    command: [baidu/ERNIE-4.5-21B-A3B-PT, --served-model-name, first]
"""
OPEN = 'services: {engine: {ports: ["0.0.0.0:9000:8000"]}}\n'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def found(project):
    return {(f.id, f.file, f.line) for f in judge_project(project, CATALOG).findings}


def ids(project):
    return {identity for identity, _, _ in found(project)}


def run(capsys, *argv):
    with pytest.raises(SystemExit) as caught:
        main(list(argv))
    captured = capsys.readouterr()
    return caught.value.code, captured.out, captured.err


# --- which files


@pytest.mark.parametrize("base", ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"])
@pytest.mark.parametrize("over", ["compose.override.yml", "docker-compose.override.yaml"])
def test_the_default_file_and_the_override_beside_it_are_one_stack(folder, base, over):
    (folder / base).write_text(BASE)
    (folder / over).write_text(OPEN)
    assert here({}).files == (base, over)
    assert ("ED201", over, 1) in found(here({}))
    assert ("ED201", over, 1) in found(of_file(base))


def test_the_first_of_several_default_names_holds(folder):
    write(folder, docker_compose_yml="", compose_yml="", compose_yaml="")
    assert here({}).files == ("compose.yaml",)


def test_a_folder_below_the_stack_is_the_stacks(folder, monkeypatch):
    write(folder, compose_yml=BASE, deep__er__note_txt="")
    monkeypatch.chdir(folder / "deep" / "er")
    assert here({}).files == ("../../compose.yml",)


def test_no_override_is_taken_beside_named_files(folder):
    write(folder, compose_yml=BASE, compose_override_yml=OPEN)
    assert here({}, files=("compose.yml",)).files == ("compose.yml",)
    assert here({"COMPOSE_FILE": "compose.yml"}).files == ("compose.yml",)


def test_compose_file_stands_in_the_shell_or_in_env(folder):
    write(folder, a_yml=BASE, b_yml=OPEN)
    assert here({"COMPOSE_FILE": "a.yml:b.yml"}).files == ("a.yml", "b.yml")
    assert here({"COMPOSE_FILE": "a.yml;b.yml", "COMPOSE_PATH_SEPARATOR": ";"}).files == ("a.yml", "b.yml")
    (folder / ".env").write_text("COMPOSE_FILE=a.yml|b.yml\nCOMPOSE_PATH_SEPARATOR=|\nCOMPOSE_PROFILES=x,y\n")
    project = here({})
    assert (project.files, project.profiles) == (("a.yml", "b.yml"), ("x", "y"))
    assert ("ED201", "b.yml", 1) in found(project)


def test_env_files_are_those_that_compose_reads(folder):
    write(
        folder,
        compose_yml=BASE,
        one_env="BIND_ADDR=10.0.0.1\n",
        two_env="BIND_ADDR=0.0.0.0\nOTHER=${BIND_ADDR}\n",
    )
    (folder / ".env").write_text("BIND_ADDR=127.0.0.9\n")
    addresses = [
        here({}), here({}, env_files=("one.env",)), here({"COMPOSE_ENV_FILES": "one.env,two.env"}),
        here({"BIND_ADDR": "::1"}), here({"COMPOSE_DISABLE_ENV_FILE": "true"}),
    ]  # fmt: skip
    seen = [project.variables.values.get("BIND_ADDR") for project in addresses]
    assert seen == ["127.0.0.9", "10.0.0.1", "0.0.0.0", "::1", None]
    assert addresses[2].variables.values["OTHER"] == "0.0.0.0"


def test_an_address_of_every_host_in_env_is_found(folder, capsys):
    write(folder, compose_yml=BASE)
    assert run(capsys, "check")[0] == 0
    (folder / ".env").write_text("BIND_ADDR=0.0.0.0\n")
    for argv in (["check"], ["check", "compose.yml"], ["check", "-f", "compose.yml"], ["check", "."]):
        code, out, _ = run(capsys, *argv)
        assert code == 10, argv
        assert "compose.yml:8: error ED201 engine" in out


def test_a_named_file_is_not_judged_by_this_shell(folder, monkeypatch, capsys):
    write(folder, compose_yml=BASE)
    monkeypatch.setenv("BIND_ADDR", "0.0.0.0")
    assert run(capsys, "check", "compose.yml")[0] == 0
    assert run(capsys, "check")[0] == 10


def test_a_missing_env_file_is_a_usage_error(folder, capsys):
    write(folder, compose_yml=BASE)
    code, out, err = run(capsys, "check", "--env-file", "nowhere.env")
    assert (code, out) == (2, "")
    assert "nowhere.env" in err


def test_nothing_to_check_is_an_error_with_the_next_command(folder, capsys):
    for argv in (["check"], ["check", "."]):
        code, out, err = run(capsys, *argv)
        assert (code, out) == (2, "")
        assert "ernie-deploy check FILE" in err


def test_a_stack_without_vllm_gets_no_clean_bill(folder, capsys):
    write(folder, compose_yml="services: {db: {image: 'postgres:17.1'}}\n", empty_yml="services: {}\n")
    for name in ("compose.yml", "empty.yml"):
        assert "runs vLLM" in run(capsys, "check", name)[2]
    write(folder, compose_yml=BASE)
    assert "runs vLLM" not in run(capsys, "check", "compose.yml")[2]


# --- how they merge


def two(folder, over):
    write(folder, compose_yml=BASE, over_yml=f"services:\n  engine:\n    {over}\n")
    return judge_project(here({}, files=("compose.yml", "over.yml")), CATALOG).stack.services["engine"]


@pytest.mark.parametrize(
    ("over", "expected"),
    [
        ("command: [other]", ["other"]),
        ("command: !reset null", None),
        ("image: my/vllm:1", ["baidu/ERNIE-4.5-21B-A3B-PT", "--served-model-name", "first"]),
    ],
)
def test_a_command_is_replaced_whole(folder, over, expected):
    command = two(folder, over).command
    assert (command and [word.text for word in command]) == expected


def test_variables_are_joined_by_name_in_either_spelling(folder):
    variables = two(folder, "environment: [VLLM_LOGGING_LEVEL=DEBUG, NEW=1]").environment
    assert {name: word.text for name, word in variables.items()} == {
        "HF_HOME": "/data", "VLLM_LOGGING_LEVEL": "DEBUG", "NEW": "1",
    }  # fmt: skip
    assert variables["NEW"].line.file == "over.yml"
    assert variables["HF_HOME"].line.file == "compose.yml"


@pytest.mark.parametrize(
    ("over", "published"),
    [
        ('ports: ["9000:8000"]', ["8000", "9000"]),
        ('ports: ["127.0.0.1:8000:8000"]', ["8000"]),
        ('ports: !override ["9000:8000"]', ["9000"]),
        ("ports: !reset []", []),
        ("ports:", ["8000"]),
    ],
)
def test_ports_are_added_and_one_port_is_one(folder, over, published):
    assert [port.published for port in two(folder, over).ports] == published


def test_a_mount_on_the_same_path_replaces_the_other(folder):
    write(
        folder,
        compose_yml=BASE + "    volumes: [models:/data]\n",
        over_yml="services: {engine: {volumes: ['./w:/data']}}",
    )
    service = judge_project(here({}, files=("compose.yml", "over.yml")), CATALOG).stack.services["engine"]
    assert [mount.source for mount in service.mounts] == ["./w"]


def test_a_gpu_in_the_override_is_the_stacks(folder):
    write(folder, compose_yml=BASE.replace("    gpus: all\n", ""))
    assert "ED114" in ids(here({}))
    gpu = "services: {engine: {deploy: {resources: {reservations: {devices: [{driver: nvidia, count: 1, capabilities: [gpu]}]}}}}}"
    write(folder, compose_override_yml=gpu)
    assert "ED114" not in ids(here({}))
    write(folder, compose_yml=BASE.replace("    gpus: all\n", "").replace("first]", "first, -tp, '4']"))
    assert "ED112" in ids(here({}))


def test_a_service_of_another_file_is_extended_on_the_lines_of_both(folder):
    write(
        folder,
        shared__base_yml="services:\n  a:\n    extends: b\n    privileged: true\n  b: {image: 'vllm/vllm-openai:v0.32.0'}\n",
        compose_yml="services:\n  engine:\n    extends: {file: shared/base.yml, service: a}\n    command: [m, --disable-log-requests]\n",
    )
    assert {("ED203", "shared/base.yml", 4), ("ED102", "compose.yml", 4)} <= found(here({}))


def test_an_included_file_is_part_of_the_stack_with_its_own_env(folder):
    write(
        folder,
        compose_yml="include: [{path: sub/serve.yml}]\nservices: {ui: {image: 'ui:1'}}\n",
        sub__serve_yml=BASE, sub___env="BIND_ADDR=0.0.0.0\n",
    )  # fmt: skip
    assert ("ED201", "sub/serve.yml", 8) in found(here({}))


@pytest.mark.parametrize(
    "text",
    [
        "include: ['https://git.example/a.git']\nservices: {a: {image: 'x:1'}}",
        "include: [nowhere.yml]\nservices: {a: {image: 'x:1'}}",
        "services: {a: {extends: {file: 'git@host:a.git', service: b}}}",
        "services: {a: {extends: {file: nowhere.yml, service: b}}}",
        "services: {a: {extends: nobody, image: 'x:1'}}",
    ],
)
def test_a_part_that_is_not_read_is_said(folder, text):
    write(folder, compose_yml=text)
    assert "ED403" in ids(of_file("compose.yml"))


def test_files_that_include_each_other_are_refused(folder):
    write(folder, compose_yml="include: [b.yml]\nservices: {}\n", b_yml="include: [compose.yml]\n")
    with pytest.raises(UsageError, match="includes itself"):
        judge_project(here({}), CATALOG)


PROFILED = """\
services:
  engine: {image: 'vllm/vllm-openai:v0.32.0', command: [m], privileged: true, profiles: [big, test]}
"""


@pytest.mark.parametrize(
    ("shell", "severity"),
    [({}, "warning"), ({"COMPOSE_PROFILES": "small"}, "warning"), ({"COMPOSE_PROFILES": "x,test"}, "error"), ({"COMPOSE_PROFILES": "*"}, "error")],
)  # fmt: skip
def test_an_error_in_a_service_that_is_not_started_is_a_warning_with_its_profile(folder, shell, severity):
    write(folder, compose_yml=PROFILED)
    (finding,) = [f for f in judge_project(here(shell), CATALOG).findings if f.id == "ED203"]
    assert finding.severity == severity
    assert ("--profile big" in finding.sentence) is (severity == "warning")


def test_a_named_file_is_judged_with_every_profile(folder):
    write(folder, compose_yml=PROFILED)
    (finding,) = [f for f in judge_project(of_file("compose.yml"), CATALOG).findings if f.id == "ED203"]
    assert finding.severity == "error"


# --- variables


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${A:-x}", "set"), ("${E:-x}", "x"), ("${E-x}", ""), ("${U-x}", "x"),
        ("${A:+x}", "x"), ("${E:+x}", ""), ("${E+x}", "x"), ("${U+x}", ""),
        ("${A:?no}", "set"), ("${U:-${A}}", "set"), ("$A/$$A", "set/$A"), ("${U}", "${U}"),
        ("${HUB_TOKEN}", "${HUB_TOKEN}"), ("${HUB_TOKEN:-x}", "${HUB_TOKEN}"), ("${HUB_TOKEN:+x}", "x"),
        ("${TOKEN_FILE}", "/run/t"),
    ],
)  # fmt: skip
def test_variables_that_are_set_are_filled_in_and_secrets_are_not(text, expected):
    values = {"A": "set", "E": "", "HUB_TOKEN": "hf_x", "TOKEN_FILE": "/run/t"}
    assert Variables(values).resolve(text) == expected


def test_variables_without_a_value_are_collected():
    unset: list[Unset] = []
    assert Variables({}, blank=True).resolve("${A:?set ${B:-it}} $C", unset) == "${A} "
    assert unset == [Unset("A", "set it"), Unset("C")]


def test_a_command_is_split_after_its_variables_are_filled_in(folder):
    command = "baidu/ERNIE-4.5-21B-A3B-PT --max-model-len ${LEN:?give a length} ${MORE:---seed 7} ${NONE:-}"
    write(
        folder,
        compose_yml=f"services: {{engine: {{image: 'vllm/vllm-openai:v0.32.0', command: '{command}'}}}}",
    )
    project = of_file("compose.yml")
    service = judge_project(project, CATALOG).stack.services["engine"]
    words = [word.text for word in service.command]
    assert words == ["baidu/ERNIE-4.5-21B-A3B-PT", "--max-model-len", "${LEN}", "--seed", "7"]
    assert "ED402" in ids(project)
    assert "ED105" not in ids(project)


def test_a_required_variable_is_an_error_only_where_the_stack_would_start(folder):
    write(folder, compose_yml=BASE + "    user: ${WHO:?name a user}\n")

    def severity(project):
        return [f.severity for f in judge_project(project, CATALOG).findings if f.id == "ED402"]

    assert (severity(of_file("compose.yml")), severity(here({})), severity(here({"WHO": "1"}))) == (
        ["note"],
        ["error"],
        [],
    )


def test_a_secret_of_env_is_never_printed(folder, capsys):
    write(
        folder,
        compose_yml=BASE.replace("first]", "first, --api-key, '${GATE_KEY}']") + "    hostname: ${X}\n",
    )
    (folder / ".env").write_text("GATE_KEY=Zq9plain\nX=hf_Zq9aaaaaaaaaaaaaaaaaaaa\n")
    for options in ((), ("--json",), ("--sarif",)):
        code, out, err = run(capsys, "check", *options)
        assert "Zq9" not in out + err
        assert code == 0
        assert "is written out" not in out


# --- what Compose itself says

REFUSED = {
    "an unknown key": ("    restrt: always\n", "restrt", 4),
    "a port that is a table": ("    expose: [{a: b}]\n", "expose", 4),
    "a need of nobody": ("    depends_on: [nobody]\n", "nobody", 2),
    "a volume that is not there": ("    volumes: [models:/m]\n", "models", 2),
    "a file of variables that is not there": ("    env_file: absent.env\n", "absent.env", 1),
}


@pytest.fixture
def plugin(compose, tmp_path_factory, monkeypatch):
    """A PATH with Compose and nothing else."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "docker-compose").symlink_to(compose)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(compose_config, "LIMIT_S", 120)


def asked(project):
    verdict = judge_project(project, CATALOG, ask_compose=True)
    assert not verdict.asides
    return verdict


@pytest.mark.parametrize("case", REFUSED)
def test_what_compose_refuses_is_an_error_with_its_words(folder, plugin, case):
    line, word, place = REFUSED[case]
    write(folder, compose_yml=BASE.replace("    restart: unless-stopped\n", line))
    (finding,) = [f for f in asked(here({})).findings if f.id == "ED401"]
    assert (finding.severity, finding.file) == ("error", "compose.yml")
    assert word in finding.sentence
    assert str(folder) not in finding.sentence
    assert finding.line == place


def test_a_file_of_variables_that_stayed_elsewhere_is_no_fault_of_a_named_file(folder, plugin):
    write(folder, compose_yml=BASE + "    env_file: absent.env\n")
    assert "ED401" not in {f.id for f in asked(of_file("compose.yml")).findings}


def test_variables_that_only_the_host_knows_are_no_fault_of_a_named_file(folder, plugin, monkeypatch):
    write(folder, compose_yml=BASE.replace("8g", "${SHM}") + "    user: ${WHO:?who}\n    scale: ${N}\n")
    assert {f.id for f in asked(of_file("compose.yml")).findings} & {"ED401", "ED402"} == {"ED402"}
    monkeypatch.setenv("WHO", "1")
    monkeypatch.setenv("SHM", "much")
    assert "ED401" in {f.id for f in asked(here(os.environ)).findings}


def test_a_refusal_shows_no_secret(folder, plugin, monkeypatch):
    write(folder, compose_yml=BASE + "    scale: ${HUB_TOKEN}\n")
    monkeypatch.setenv("HUB_TOKEN", "Zq9-hidden")
    verdict = asked(here(os.environ))
    assert "ED401" in {f.id for f in verdict.findings}
    assert "Zq9" not in str(verdict.findings)


@pytest.mark.parametrize(
    "over",
    [
        "command: [other, --seed, '1']", "command: other --seed 1", "entrypoint: []", "environment: [A=1, HF_HOME=/x]",
        "environment: {A: null}", "environment: !override {A: b}", 'ports: ["9000-9002:8000-8002"]', "ports: !reset []",
        'ports: !override [{target: 8000, published: "7000", host_ip: 127.0.0.1}]', "volumes: [w:/data, './x:/y:ro']",
        "volumes: [{type: tmpfs, target: /t}]", "cap_drop: [ALL]", "image: my/vllm:1", "user: '2000:0'",
        "security_opt: [no-new-privileges:true]", "labels: {a: b}", "profiles: [x]", "init: true",
    ],
)  # fmt: skip
def test_this_readers_merge_is_that_of_compose(folder, plugin, over):
    """Nothing of what Compose merged had to be taken over."""
    write(
        folder,
        compose_yml=BASE + "    volumes: [models:/data]\nvolumes: {models: {}, w: {}}\n",
        over_yml=f"services: {{engine: {{{over}}}}}\n",
    )
    project = here({}, files=("compose.yml", "over.yml"))
    own, theirs = (judge_project(project, CATALOG, ask_compose=ask).stack for ask in (False, True))
    assert not theirs.remarks
    mine, other = own.services["engine"], theirs.services["engine"]
    assert [word.text for word in mine.command or ()] == [word.text for word in other.command or ()]
    assert {n: w.text for n, w in mine.environment.items()} == {
        n: w.text for n, w in other.environment.items()
    }
    assert {(m.source, m.target) for m in mine.mounts} == {(m.source, m.target) for m in other.mounts}
    for key in ("image", "user", "init"):
        assert mine.text(key) == other.text(key)
    if "9002" not in over:
        assert {p.published for p in mine.ports} == {p.published for p in other.ports}


def test_where_the_two_differ_composes_merge_holds_on_the_lines_of_the_file(folder, plugin):
    write(
        folder,
        compose_yml=BASE + "    env_file: more.env\n",
        more_env="VLLM_API_KEY=Zq9\nVLLM_SERVER_DEV_MODE=1\n",
    )
    verdict = asked(here({}))
    assert ("ED211", "compose.yml", 10) in {(f.id, f.file, f.line) for f in verdict.findings}
    assert "Zq9" not in str(verdict.findings)


def test_without_compose_it_is_said_what_was_not_looked_at(folder, monkeypatch, capsys):
    write(folder, compose_yml=BASE)
    monkeypatch.setenv("PATH", str(folder))
    code, _, err = run(capsys, "check")
    assert code == 0
    assert "Docker Compose is not installed here" in err


def test_compose_is_never_asked_about_what_is_remote(folder, plugin, capsys):
    write(folder, compose_yml="include: ['https://git.example/a.git']\n" + BASE)
    _, out, err = run(capsys, "check")
    assert "ED403" in out
    assert "is not fetched" in err


def test_compose_cannot_fetch_even_if_this_reader_took_the_path_for_a_file(folder, plugin, monkeypatch):
    write(folder, compose_yml="include: ['https://git.example/a.git']\n" + BASE)
    answer = compose_config.configured(here({}), uncertain=False)
    assert "COMPOSE_EXPERIMENTAL_GIT_REMOTE" in answer.refusal

"""ED1xx, third part: a command that starts something else than was meant, whatever the version of vLLM."""

from collections.abc import Iterator

from ernie_deploy.check.argv import Argv
from ernie_deploy.check.findings import Spot, rule
from ernie_deploy.check.interpolate import known
from ernie_deploy.check.service import Service
from ernie_deploy.check.values import NEWEST, shown
from ernie_deploy.check.versions import exact, judges

# Since when the default is Qwen's: 0.9.2 and 0.10.0 vllm/config.py.
DEFAULT_MODEL, OLDER_DEFAULT_MODEL, DEFAULT_SINCE = "Qwen/Qwen3-0.6B", "facebook/opt-125m", (0, 10, 0)
# Since when the module's parser takes a positional model, which its main() never reads: vLLM 0.10.0 and 0.32.0
# vllm/entrypoints/openai/cli_args.py make_arg_parser, api_server.py.
POSITIONAL_SINCE = (0, 10, 0)
# Names that people give vLLM's arguments as variables; vLLM reads none of them.
UNREAD = (
    "MODEL", "MODEL_ID", "MODEL_NAME", "VLLM_MODEL", "SERVED_MODEL_NAME", "MAX_MODEL_LEN", "TENSOR_PARALLEL_SIZE",
    "GPU_MEMORY_UTILIZATION", "DTYPE", "QUANTIZATION", "MAX_NUM_SEQS", "PORT", "HOST", "EXTRA_ARGS", "VLLM_ARGS",
)  # fmt: skip
ENDS_AT_ONCE = {"help", "h", "version", "v"}


@rule(
    "ED106",
    "error",
    "The command repeats the program that the image's entrypoint already runs.",
    remedy="begin the command with the model, or set `entrypoint` as well",
    source="vLLM 0.11.1 docker/Dockerfile, 0.14.0 docker/Dockerfile.rocm: ENTRYPOINT [vllm, serve]",
)
def doubled_entrypoint(service: Service) -> Iterator[Spot]:
    """`vllm serve vllm serve MODEL`, and `vllm serve bash -c ...`."""
    word = service.process.doubled
    if word:
        sentence = f"the entrypoint already runs the server, so {shown(word.text)} is taken for the model"
        yield Spot(word.line, sentence)


@rule(
    "ED107",
    "error",
    "`sh -c` runs only the first word of the command.",
    remedy="make the command a list of one text, or leave out `sh -c`",
    source="POSIX sh: the words after the script are $0, $1, ...; Compose splits a command that is a text",
)
def cut_script(service: Service) -> Iterator[Spot]:
    """`entrypoint: [sh, -c]` with a command that Compose splits into words."""
    word = service.process.cut
    if word:
        yield Spot(
            word.line, f"the shell runs {shown(word.text)} alone; the words after it are its arguments"
        )


@rule(
    "ED108",
    "error",
    "A switch lacks the flag it needs; vLLM refuses to start.",
    remedy="give both, or neither",
    source="vLLM 0.32.0 vllm/entrypoints/launchers/cli_args.py validate_parsed_serve_args",
)
def half_a_pair(service: Service) -> Iterator[Spot]:
    """`--enable-auto-tool-choice` without a parser, and its like."""
    pairs = {"enable-auto-tool-choice": "tool-call-parser", "enable-log-outputs": "enable-log-requests"}
    argv = service.serve
    for switch, needed in pairs.items():
        if argv and argv.has(switch) and not argv.has(needed) and not argv.has("config"):
            yield Spot(argv.line_of(switch), f"--{switch} needs --{needed}")


@rule(
    "ED109",
    "note",
    "Nothing says which vLLM the image holds, so its flags are not judged for certain.",
    remedy="name a release of vLLM in the tag; check then judges by that release's own flags",
    source="catalog/images.toml: what the tags of an image say",
)
def unknown_engine(service: Service) -> Iterator[Spot]:
    """A nightly by its commit or date, a vendor's own version, a variable, a digest."""
    if service.argv is None or service.engine is not None:
        return
    kinds = {
        "commit": "a build of one commit", "dated": "a dated build", "digest": "pinned by a digest without a version",
        "variable": "set by a variable", "newest": "whatever was built last",
    }  # fmt: skip
    image = service.image
    if service.form == "command":
        sentence = f"nothing says which vLLM is installed: its flags are checked against {judges(None)}"
        yield Spot(service.line, sentence, "compare that with the output of `vllm --version`")
        return
    kind = kinds.get(image.tag_kind, "the image's own tag") if image.name else "a build of your own"
    name = shown(image.tag or image.name) or "the image"
    yield Spot(
        service.line_of("image"),
        f"{name} is {kind}: its vLLM version is unknown, so flags are checked against {judges(None)}",
    )


@rule(
    "ED160",
    "error",
    "One item of the list holds several words, which reach vLLM as one.",
    remedy="make each word an item of its own, or write --flag=VALUE",
    source="Compose splits a command that is a text, and hands over a list as it stands; true of every vLLM",
)
def joined_words(service: Service) -> Iterator[Spot]:
    """`- --dtype auto`, and a whole command in one item."""
    for word in service.argv.joined if service.argv else ():
        yield Spot(word.line, f"{shown(word.text)} is one item, and reaches vLLM as one word spaces included")


@rule(
    "ED161",
    "error",
    "The command names no model; vLLM then serves its default model, and looks healthy.",
    remedy="begin the command with the model: command: [MODEL, --max-model-len, ...]",
    source="vLLM 0.32.0 vllm/config/model.py ModelConfig.model; vllm/entrypoints/cli/serve.py: `Defaults to ...`",
    of_absence=True,
)
def no_model(service: Service) -> Iterator[Spot]:
    """A server without a model, which people give it as a variable that nothing reads."""
    argv, process = service.serve, service.process
    if argv is None or process.guessed or process.bare or not _lacks_model(argv, module=process.module):
        return
    if process.module and argv.positionals:
        yield Spot(
            argv.positionals[0].line, _passed_over(argv.positionals[0].text, service), "write --model=MODEL"
        )
    elif argv.has("served-model-name") and exact(service.engine) and not process.module:
        yield Spot(
            _command_line(service), "no model is given, and vLLM refuses --served-model-name without one"
        )
    else:
        unread = [name for name in UNREAD if name in service.environment]
        variables = f"; it reads none of the variables {', '.join(unread[:4])}" if unread else ""
        sentence = f"no model is given: vLLM serves {_default(service)}, its default{variables}"
        yield Spot(_command_line(service), sentence)


def _default(service: Service) -> str:
    engine = service.engine or NEWEST
    return DEFAULT_MODEL if engine >= DEFAULT_SINCE else OLDER_DEFAULT_MODEL


def _passed_over(word: str, service: Service) -> str:
    """What the module does with a model that stands by itself."""
    if (service.engine or NEWEST) < POSITIONAL_SINCE:
        return f"{shown(word)} is refused: this entrypoint takes the model as --model alone"
    return f"{shown(word)} is passed over: this entrypoint takes --model alone, and serves {_default(service)}, vLLM's default"


def _lacks_model(argv: Argv, *, module: bool) -> bool:
    """Whether no word is the model, and none can become it."""
    names = {argument.name for argument in argv.arguments}
    unknown = any(argument.flag is None or not known(argument.typed) for argument in argv.arguments)
    positionals = [word for word in argv.positionals if not module or not known(word.text)]
    return not (positionals or names & {"model", "config", "model-tag"} | names & ENDS_AT_ONCE or unknown)


def _command_line(service: Service) -> int:
    return service.line_of("command" if service.command else "image")


@rule(
    "ED162",
    "error",
    "The image has no entrypoint of vLLM's, so that the command's first word is run as a program.",
    remedy="command: [vllm, serve, MODEL, ...]; or an image whose entrypoint is `vllm serve`, such as vllm/vllm-openai",
    source='catalog/images.toml; Docker: `exec: "--model": executable file not found in $PATH`',
)
def no_entrypoint(service: Service) -> Iterator[Spot]:
    """Flags first, in an image that starts a shell, or behind an entrypoint that is emptied."""
    word = service.process.bare
    if word is None:
        return
    image = service.image
    where = (
        "entrypoint is empty"
        if service.entrypoint is not None
        else f"{shown(image.name)} has no vLLM entrypoint"
    )
    remedy = (
        "begin with [vllm, serve]; or take vllm/vllm-openai-rocm, whose entrypoint it is"
        if image.hardware == "amd"
        else ""
    )
    yield Spot(word.line, f"{where}: {shown(word.text)} is taken for the program to run", remedy)

"""The command `ernie-deploy`: its subcommands, loaded when called, and the one place errors end."""

import atexit
import errno
import gc
import importlib
import os
import sys
from typing import Any, NoReturn

# Importing makes many objects and frees none: with Python's own threshold the collector takes a
# tenth of a command's whole time. Long commands still collect.
gc.set_threshold(100_000)
# What is left at the end the system takes back at once; looking for cycles in it first took a sixth of `render`.
atexit.register(gc.freeze)

import click  # noqa: E402

from ernie_deploy import __version__  # noqa: E402
from ernie_deploy.errors import KitError  # noqa: E402
from ernie_deploy.safe_io.terminal import say  # noqa: E402

INTERRUPTED = 130
# A disk that is full, a stream that is closed, a terminal that is gone.
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EBADF, errno.EIO)

# Name -> module below ernie_deploy.commands, and the line `--help` shows. Kept here so that
# `--help` imports none of them; a test holds the lines against the commands' own.
COMMANDS = {
    "targets": ("show", "List the kinds of node, their memory and what they serve by default."),
    "models": ("show", "List the ERNIE checkpoints and where each one fits."),
    "profiles": ("show", "List the opt-in changes to a plan."),
    "engines": ("show", "List the vLLM versions, their images and what was proven of each."),
    "plan": ("plan", "Explain a stack: layout, memory, and where each flag comes from."),
    "render": ("render", "Write a stack as one compose file, or as manifests, to standard output."),
    "init": ("init", "Make a folder with compose.yml, .env, scripts and a README."),
    "lock": ("lock", "Pin a stack's images by digest and its model by commit, in ernie.lock beside it."),
    "doctor": ("doctor", "Compare this host with what a stack needs, and say what to do."),
    "up": ("lifecycle", "Start a stack with a live view, and name the cause if it fails."),
    "status": ("lifecycle", "Show the containers, and what the server is doing."),
    "logs": ("logs_and_down", "Print the logs of a stack's containers."),
    "explain": ("explain", "Name the cause in a log or a stack, with its evidence and the next step."),
    "support-bundle": (
        "support_bundle",
        "Gather what a ticket needs in one archive, without secrets and prompts.",
    ),
    "bundle": (
        "bundle",
        "Gather stacks, images and weights in one folder, for a site without internet.",
    ),
    "down": ("logs_and_down", "Stop a stack; its weights stay on their volume."),
    "key": ("key", "Add, list, limit and revoke the keys of a gateway's clients."),
    "tls": ("tls", "Install, make and show the certificate of a gateway."),
    "reload": ("reload", "Make a running gateway load its keys and certificate; open streams continue."),
    "upgrade": (
        "upgrade",
        "Render a stack for another vLLM, keep your edits, and keep the old files for `rollback`.",
    ),
    "rollback": ("rollback", "Bring back the files that the last upgrade of a stack replaced."),
    "volumes": ("volumes", "List the stacks' volumes and who uses them; `remove` one that is not used."),
    "rehearse": (
        "rehearse",
        "Run a stack without a GPU, on real Docker and vLLM, and report what it proves.",
    ),
    "bench": ("bench", "Measure a stack with vLLM's own client, and prove each number."),
    "diff": ("diff", "Compare two stacks, plans or engines by what they mean."),
    "check": ("check", "Find faults in any compose file that serves vLLM; nothing is started."),
}


class Commands(click.Group):
    """A group that imports a subcommand's module only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which a stack uses them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import and return one subcommand."""
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"ernie_deploy.commands.{COMMANDS[name][0]}")
        command: click.Command = getattr(module, name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list without importing a subcommand."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


EXAMPLE = """\b
Example:
  ernie-deploy render mi300x -o compose.yml
  docker compose up -d --wait
  docker compose run --rm bench"""


@click.command(cls=Commands, epilog=EXAMPLE, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="ernie-deploy")
def cli() -> None:
    """The published vLLM recipes for ERNIE 4.5, compiled into compose files that you own."""


def main(argv: list[str] | None = None) -> Any:
    """Run the command and leave with the exit code of the table in docs/exit-codes.md."""
    _open_closed_streams()
    try:
        code = cli.main(argv, prog_name="ernie-deploy", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except KitError as error:
        say(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _show(error)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        say("error: interrupted", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader (`head`, say) has gone: nothing is wrong, and nobody listens.
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:  # noqa: BLE001 - a bug, and its message may hold untrusted text
        if isinstance(error, OSError) and error.errno in UNWRITABLE:
            _stop_writing(error)
        import traceback

        say(traceback.format_exc(), err=True, end="")
        sys.exit(1)


def _open_closed_streams() -> None:
    """Where the caller closed a stream, give Python one that fails as such a descriptor does, or is read by nobody."""
    # The first takes the number that is free, so that children too find it closed to writing.
    if sys.stdout is None:
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_RDONLY), "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")


def _stop_writing(fault: OSError) -> NoReturn:
    """End where nothing can be written: what is left in the buffer of standard output would fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    say(f"error: {fault.filename or 'Standard output'} cannot be written: {fault.strerror}.", err=True)
    sys.exit(1)


def _show(error: click.ClickException) -> None:
    """Print a usage error as click does: it quotes what the user wrote."""
    import io

    text = io.StringIO()
    error.show(text)
    say(text.getvalue(), err=True, end="")

"""`rehearse`: the whole stack on a machine without a GPU, with real Docker and real vLLM."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from ernie_deploy.commands.options import request_of, request_options
from ernie_deploy.safe_io.terminal import say

EXAMPLE = """\b
Examples:
  ernie-deploy rehearse mi300x
  ernie-deploy rehearse h100 --profile mtp --keep
  ernie-deploy rehearse h100 --model 300b --nodes 2
  ernie-deploy rehearse h100 --gateway --monitoring
  ernie-deploy rehearse h100 --lock"""


@click.command(epilog=EXAMPLE)
@click.option("--keep", is_flag=True, help="Leave the stack up and its folder in place.")
@click.option("--build-base", is_flag=True,
              help="Build the image of vLLM for CPU if it is missing, on a base made with debootstrap.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print the override and the exact commands, and run none.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
@request_options
def rehearse(keep: bool, build_base: bool, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Run a stack without a GPU, on real Docker and vLLM, and report what it proves."""
    import tempfile

    from ernie_deploy.catalog import Catalog
    from ernie_deploy.plan.exposure import refuse_open_routes
    from ernie_deploy.plan.resolve import resolve
    from ernie_deploy.rehearsal.group import forget_shell
    from ernie_deploy.rehearsal.override import decide
    from ernie_deploy.rehearsal.runner import require_images
    from ernie_deploy.render.compose import compose_file
    from ernie_deploy.render.monitoring import monitoring_files
    from ernie_deploy.stack.compose import require_compose
    from ernie_deploy.stack.containers import client

    catalog = Catalog()
    plan = resolve(catalog, request_of(options))
    refuse_open_routes(plan, catalog)
    _refuse_ray(plan)
    _refuse_without_cpu_build(catalog, plan)
    watching = monitoring_files(plan)
    if not dry_run:
        require_compose()
        # Without an engine every image is missing, and that is not what is wrong.
        client().close()
        require_images(plan, build_base=build_base)
    folder = Path("FOLDER") if dry_run else Path(tempfile.mkdtemp(prefix="ernie-rehearsal-"))
    rehearsal = decide(plan, folder, f"ernie-rehearsal-{folder.name[-8:].lower().replace('_', 'x')}")
    if dry_run:
        _print_commands(rehearsal)
        return
    _tell_of_lock(plan)
    forget_shell(catalog.defaults)
    _perform(rehearsal, compose_file(plan, catalog.defaults), watching, keep=keep, as_json=as_json)


def _tell_of_lock(plan: Any) -> None:
    """Warn where the lock no longer holds: what is shown with it is then not what starts without it."""
    from ernie_deploy.commands.lock_state import tell_of_today

    if held := plan.request.lock:
        tell_of_today(Path(held.path), held.lock, plan.request.registry, Path())


def _refuse_ray(plan: Any) -> None:
    from ernie_deploy.errors import Refused

    if plan.uses_ray:
        raise Refused(
            "Serving over Ray cannot be rehearsed.",
            cause=f"vLLM {plan.engine} on a CPU: `current platform cpu does not support ray`",
            next_step="without --multi-node ray the same nodes are rehearsed; `doctor` and `render` know both forms",
        )


def _refuse_without_cpu_build(catalog: Any, plan: Any) -> None:
    from ernie_deploy.errors import Refused

    if catalog.engine(plan.engine).cpu_build is None:
        raise Refused(
            f"vLLM {plan.engine} cannot be rehearsed: there is no build of it for CPU.",
            cause=f"it was {catalog.engine(plan.engine).status}",
            next_step=f"leave out --engine to rehearse with vLLM {catalog.engine().version}, the newest that was served",
        )


def _print_commands(rehearsal: Any) -> None:
    import shlex

    from ernie_deploy.rehearsal.group import members
    from ernie_deploy.rehearsal.override import override_file
    from ernie_deploy.rehearsal.runner import start_limit_s

    say(override_file(rehearsal))
    if rehearsal.plan.several_nodes:
        say(shlex.join(["docker", "network", "create", "--subnet", "SUBNET", rehearsal.network]))
    head, *workers = members(rehearsal)
    for worker in workers:
        say(shlex.join(worker.stack.words("up", "--detach")))
    say(shlex.join(head.stack.up(start_limit_s(rehearsal.plan))))


def _perform(
    rehearsal: Any, compose_text: str, watching: dict[str, str], *, keep: bool, as_json: bool
) -> None:
    import shutil
    import time

    from ernie_deploy.commands.bench import end_as_ctrl_c_does
    from ernie_deploy.rehearsal import runner
    from ernie_deploy.rehearsal.group import take_down
    from ernie_deploy.stack.live import shower

    end_as_ctrl_c_does()
    begun = time.monotonic()
    for sentence in rehearsal.replaced:
        say(f"replaced  {sentence}", err=True)
    try:
        planted = runner.lay_out(rehearsal, compose_text, watching)
        with shower(sys.stderr) as show:
            proofs = runner.rehearse(rehearsal, planted, show, lambda proof: say(_line(proof), err=True))
    finally:
        if keep:
            say(_what_is_kept(rehearsal), err=True)
        else:
            for left in take_down(rehearsal):
                say(f"left      {left}", err=True)
            shutil.rmtree(rehearsal.folder, ignore_errors=True)
    _verdict(rehearsal, proofs, time.monotonic() - begun, kept=keep, as_json=as_json)


def _what_is_kept(rehearsal: Any) -> str:
    """Where a stack that stays up is, how to look at it, and the one line that removes all of it."""
    import shlex

    from ernie_deploy.rehearsal.group import members, removal

    head = members(rehearsal)[0].stack
    removed = " ; ".join(
        [*map(shlex.join, removal(rehearsal)), shlex.join(["rm", "-rf", str(rehearsal.folder)])]
    )
    lines = [
        f"kept      the stack {rehearsal.project}, its files in {rehearsal.folder}",
        f"look      {shlex.join(head.words('ps', '--all'))}",
        f"          {shlex.join(head.logs('serve', follow=True))}",
    ]
    others = [member.stack for member in members(rehearsal)[1:]]
    lines += [f"          {shlex.join(stack.logs('worker', follow=True))}" for stack in others]
    return "\n".join([*lines, f"remove    {removed}"])


def _line(proof: Any) -> str:
    word = "ok  " if proof.holds else "FAIL"
    return f"{word}  {proof.what:<28} {proof.elapsed_s:6.1f} s  {proof.detail}"


def _verdict(rehearsal: Any, proofs: list[Any], elapsed_s: float, *, kept: bool, as_json: bool) -> None:
    import msgspec

    from ernie_deploy.errors import ToolFailed
    from ernie_deploy.rehearsal.runner import unproven

    failed = [proof.what for proof in proofs if not proof.holds]
    if as_json:
        data = {"proofs": msgspec.to_builtins(proofs), "unproven": unproven(rehearsal.plan),
                "replaced": list(rehearsal.replaced), "elapsed_s": round(elapsed_s, 1), "holds": not failed}  # fmt: skip
        say(json.dumps(data, indent=2), as_json=True)
    else:
        say(_page(rehearsal, proofs, elapsed_s))
    if failed:
        raise ToolFailed(
            f"The rehearsal failed: {', '.join(failed)}.",
            next_step="inspect the stack with the commands above"
            if kept
            else "repeat it with --keep, and look at the stack that is left",
        )


def _page(rehearsal: Any, proofs: list[Any], elapsed_s: float) -> str:
    from ernie_deploy.rehearsal.runner import unproven

    held = sum(proof.holds for proof in proofs)
    lines = [
        f"{rehearsal.plan.variant}: {held} of {len(proofs)} shown in {elapsed_s:.0f} s with vLLM {rehearsal.plan.engine}"
    ]
    lines += [_line(proof) for proof in proofs]
    lines += ["not shown without the hardware", *(f"  - {what}" for what in unproven(rehearsal.plan))]
    return "\n".join(lines)

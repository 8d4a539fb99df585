"""`targets`, `models`, `profiles` and `engines`: what there is, as a table or as JSON."""

import json
import sys
from collections.abc import Sequence
from typing import Any

import click

from ernie_deploy.safe_io.columns import Column, width_of
from ernie_deploy.safe_io.columns import table as lay_out
from ernie_deploy.safe_io.terminal import say, say_table

Rows = list[dict[str, Any]]


@click.command(epilog="Example: ernie-deploy targets")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def targets(as_json: bool) -> None:
    """List the kinds of node, their memory and what they serve by default."""
    from ernie_deploy.catalog import Catalog

    catalog = Catalog()
    rows = [
        {
            "target": target.id,
            "title": target.title,
            "vendor": target.vendor,
            "gpus": target.gpus,
            "memory_gib": target.memory_gib,
            "bandwidth_gb_per_s": target.bandwidth_gb_per_s,
            "peak_bf16_tflops": target.peak_bf16_tflops,
            "default_model": catalog.vendor(target.vendor).default_model,
        }
        for target in catalog.targets()
    ]
    show(rows, as_json=as_json, drop=("peak_bf16_tflops", "bandwidth_gb_per_s", "title", "vendor"))


@click.command(epilog="Example: ernie-deploy models --json")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON, with every target's state.")
def models(as_json: bool) -> None:
    """List the ERNIE checkpoints and where each one fits."""
    from ernie_deploy.catalog import Catalog
    from ernie_deploy.plan.memory import GIB, parameters, weight_bytes

    catalog = Catalog()
    states = {
        model.id: {target.id: catalog.support(model.id, target.id) for target in catalog.targets()}
        for model in catalog.models()
    }
    rows = [
        {
            "model": model.id,
            "hf_id": model.hf_id,
            "parameters": parameters(model).total,
            "weights_gib": round(weight_bytes(model) / GIB, 1),
            "context_tokens": model.context_tokens,
            "published_on": _where(states[model.id], "recipe"),
            "derived_for": _where(states[model.id], "derived"),
            **({"refused": _reasons(states[model.id])} if as_json else {}),
        }
        for model in catalog.models()
    ]
    show(
        rows,
        as_json=as_json,
        drop=("parameters", "derived_for", "hf_id", "context_tokens", "published_on"),
        wraps=("published_on", "derived_for"),
    )


def _where(states: dict[str, Any], state: str) -> list[str]:
    return [target for target, support in states.items() if support.state == state]


def _reasons(states: dict[str, Any]) -> dict[str, str]:
    return {target: s.reason for target, s in states.items() if s.state == "refused"}


@click.command(epilog="Example: ernie-deploy profiles")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def profiles(as_json: bool) -> None:
    """List the opt-in changes to a plan."""
    from ernie_deploy.catalog import Catalog
    from ernie_deploy.plan.refusals import NEEDS

    rows = [
        {
            "profile": profile.id,
            "summary": profile.summary,
            "needs": list(profile.needs),
            **({"settings": profile.settings, "refused_where": [NEEDS[n] for n in profile.needs],
                "source": profile.source} if as_json else {}),
        }
        for profile in Catalog().profiles()
    ]  # fmt: skip
    show(rows, as_json=as_json, drop=("needs",), wraps=("summary",))


@click.command(epilog="Example: ernie-deploy engines")
@click.option(
    "--json", "as_json", is_flag=True, help="Print the list as JSON, with the images and every proof."
)
def engines(as_json: bool) -> None:
    """List the vLLM versions, their images and what was proven of each."""
    from ernie_deploy.catalog import Catalog

    catalog = Catalog()
    default = catalog.engine().version
    rows = [
        _engine_row(engine, default, as_json=as_json)
        for engine in map(catalog.engine, catalog.ids("engines"))
    ]
    show(rows, as_json=as_json, drop=("images",), wraps=("status", "images"))


def _engine_row(engine: Any, default: str, *, as_json: bool) -> dict[str, Any]:
    import msgspec

    row = {"engine": engine.version, "default": engine.version == default, "status": engine.status}
    if not as_json:
        row["default"] = "yes" if row["default"] else ""
        return {
            **row,
            "images": [reference for image in engine.images.values() for reference in image.references],
        }
    data = msgspec.to_builtins(engine)
    return {**row, **{name: data[name] for name in ("images", "proofs", "cpu_build", "changes")}}


def show(rows: Rows, *, as_json: bool, drop: Sequence[str] = (), wraps: Sequence[str] = ()) -> None:
    """Print rows as JSON, or as a table that only a terminal sees in colour, and that fits it.

    `drop` names the columns that a narrow terminal does without, the first one first; `wraps` those of sentences.
    """
    if as_json:
        say(json.dumps(rows, indent=2, ensure_ascii=False), as_json=True)
    else:
        say_table(table(rows, drop, wraps, width_of(sys.stdout)))


def table(rows: Rows, drop: Sequence[str] = (), wraps: Sequence[str] = (), width: int | None = None) -> str:
    """Aligned columns, numbers to the right; a pipe gets every column, which `grep` can take apart."""
    columns = [
        Column(
            heading=name,
            right=all(isinstance(row[name], int | float) for row in rows),
            drop=len(drop) - drop.index(name) if name in drop else 0,
            wraps=name in wraps,
        )
        for name in rows[0]
    ]
    return "\n".join(lay_out(columns, [[_cell(value) for value in row.values()] for row in rows], width))


def _cell(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "-"
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else str(value)

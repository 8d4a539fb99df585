"""`plan`: what `render` would decide, and why."""

import json
import sys
from typing import Any

import click

from ernie_deploy.commands.options import request_of, request_options
from ernie_deploy.safe_io.columns import width_of
from ernie_deploy.safe_io.terminal import say

EXAMPLE = """\b
Examples:
  ernie-deploy plan mi300x
  ernie-deploy plan h100 --model vl-424b --profile cpu-offload --json"""


@click.command(epilog=EXAMPLE)
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
@request_options
def plan(as_json: bool, **options: Any) -> None:
    """Explain a stack: layout, memory, and where each flag comes from."""
    from ernie_deploy.catalog import Catalog
    from ernie_deploy.plan.exposure import refuse_open_routes
    from ernie_deploy.plan.resolve import resolve
    from ernie_deploy.render.explain import as_data, as_text

    catalog = Catalog()
    decided = resolve(catalog, request_of(options))
    refuse_open_routes(decided, catalog)
    if as_json:
        say(json.dumps(as_data(decided), indent=2, ensure_ascii=False), as_json=True)
    else:
        say(as_text(decided, width_of(sys.stdout)))

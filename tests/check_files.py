"""Compose files as tests write them down, and what `check` says of them."""

from ernie_deploy.catalog import Catalog
from ernie_deploy.check import judge

CATALOG = Catalog()
CUDA, ROCM, CPU = (f"vllm/vllm-openai{suffix}:v0.32.0" for suffix in ("", "-rocm", "-cpu"))
MODEL = "baidu/ERNIE-4.5-21B-A3B-PT"


def service(name, *lines, image=CUDA, command=MODEL):
    """One service of a file, its lines without their indent."""
    body = [f"image: {image}", *([f"command: {command}"] if command else []), *lines]
    return f"  {name}:\n" + "".join(f"    {line}\n" for line in body)


def stack(*services, rest=""):
    """A whole file."""
    return "services:\n" + "".join(services) + rest


def serve(*lines, **options):
    """A file of one server."""
    return stack(service("serve", *lines, **options))


def found(text, identity=""):
    """The findings, all or those of one rule."""
    return [f for f in judge(text.encode(), "compose.yml", CATALOG) if identity in ("", f.id)]


def severities(text, identity):
    """How severe each finding of one rule is."""
    return [finding.severity for finding in found(text, identity)]

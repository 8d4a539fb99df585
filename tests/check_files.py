"""Compose files as tests write them down, and what `check` says of them."""

from pathlib import Path
from tempfile import TemporaryDirectory

from ernie_deploy.catalog import Catalog
from ernie_deploy.check import judge, judge_project
from ernie_deploy.check.project import of_file

CATALOG = Catalog()
CUDA, ROCM, CPU = (f"vllm/vllm-openai{suffix}:v0.32.0" for suffix in ("", "-rocm", "-cpu"))
MODEL = "baidu/ERNIE-4.5-21B-A3B-PT"


def of_sample(sample, kind):
    """The text of a rule's `bad` or `good` sample and what is found in it, with the files that lie beside it."""
    text = whole_file(sample[kind])
    if not (beside := sample.get("beside", {}).get(kind)):
        return text, judge(text.encode(), "compose.yml", CATALOG)
    with TemporaryDirectory() as folder:
        for name, content in {**beside, "compose.yml": text}.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
            path.chmod(0o644)
        return text, judge_project(of_file(f"{folder}/compose.yml"), CATALOG).findings


def whole_file(sample):
    """A sample of services alone as a file."""
    if sample.startswith("services:"):
        return sample
    return "services:\n" + "".join(f"  {line}\n" for line in sample.splitlines())


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

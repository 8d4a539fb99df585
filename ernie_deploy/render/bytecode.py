"""Compiled templates, kept where Python keeps its bytecode."""

from io import BytesIO
from pathlib import Path

from jinja2 import compiler
from jinja2.bccache import Bucket, BytecodeCache

from ernie_deploy.paths import TEMPLATES
from ernie_deploy.safe_io.derived import keep, kept


class Bytecode(BytecodeCache):
    """Jinja compares the template's text; here its own version is compared too. `kind` tells environments apart."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.stamp = Path(compiler.__file__).stat().st_mtime_ns.to_bytes(8)

    def get_cache_key(self, name: str, filename: str | None = None) -> str:  # noqa: ARG002 - as Jinja calls it
        """The template's path below templates/."""
        return name

    def load_bytecode(self, bucket: Bucket) -> None:
        """Fill the bucket with what is kept, if it is of this text and this Jinja."""
        data = kept(TEMPLATES / bucket.key, self.kind)
        if data and data.startswith(self.stamp):
            bucket.load_bytecode(BytesIO(data[len(self.stamp) :]))

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep what was compiled."""
        keep(TEMPLATES / bucket.key, self.kind, self.stamp + bucket.bytecode_to_string())

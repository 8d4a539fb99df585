"""vLLM's client as a process of this machine: the variables that it gets of the shell's, and its version."""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager

from ernie_deploy.bench.measure.secrecy import is_secret_variable
from ernie_deploy.errors import ToolFailed
from ernie_deploy.safe_io.reading import first_line
from ernie_deploy.stack.compose import ask

# vLLM's client has no option for it.
KEY_VARIABLE = "OPENAI_API_KEY"
# Prompts as vLLM's Rust client makes them differ. Without the third one, the token that `hf auth login` left
# in HOME is read; without the last one, the Pythons that vLLM starts import from their working directory.
ALWAYS = {
    "VLLM_USE_RUST_BENCH": "0", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "PYTHONSAFEPATH": "1",
}  # fmt: skip
NEEDED = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY",
})  # fmt: skip
NEEDED_PREFIXES = (
    "LC_", "XDG_", "CONDA_", "PYTHON", "HF_", "HUGGINGFACE_", "TRANSFORMERS_", "TOKENIZERS_", "VLLM_", "TORCH",
    "CUDA_", "HIP_", "ROCR_", "OMP_", "MKL_",
)  # fmt: skip


def environment(url: str, shell: Mapping[str, str] = os.environ, *, api_key: str = "") -> dict[str, str]:
    """The client's variables: none of the shell's secrets, the server's own key, no proxy before the server."""
    from urllib.parse import urlsplit

    around = ",".join(filter(None, (shell.get("no_proxy", ""), urlsplit(url).hostname)))
    kept = {name: value for name, value in shell.items() if _is_needed(name.upper())}
    key = {KEY_VARIABLE: api_key} if api_key else {}
    return {**kept, **ALWAYS, "no_proxy": around, "NO_PROXY": around, **key}


def _is_needed(name: str) -> bool:
    return (name in NEEDED or name.startswith(NEEDED_PREFIXES)) and not is_secret_variable(name)


def version() -> str:
    """The version of the `vllm` on the PATH, asked of its own Python; '' where it is not to be had."""
    import shutil
    from contextlib import suppress
    from pathlib import Path

    with suppress(OSError, ToolFailed):
        first = first_line(Path(shutil.which("vllm") or ""))
        if first.startswith("#!") and "python" in first:
            question = "import importlib.metadata as m; print(m.version('vllm'))"
            with empty_folder() as nowhere:
                return ask([*first[2:].split(), "-I", "-c", question], cwd=nowhere).stdout.strip()
    return ""


def empty_folder() -> AbstractContextManager[str]:
    """A working directory with nothing in it, for the block.

    In the operator's own, a module of the standard library's name would be imported, and transformers takes
    a folder for the repository of the same name.
    """
    from tempfile import TemporaryDirectory

    return TemporaryDirectory(prefix="ernie-deploy-")

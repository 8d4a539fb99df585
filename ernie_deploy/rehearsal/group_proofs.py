"""What a rehearsal of several nodes proves besides: a lost worker, and the answers of one node."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ernie_deploy import containers, metrics
from ernie_deploy.flags import words
from ernie_deploy.rehearsal.client import Said, complete
from ernie_deploy.rehearsal.override import IMAGE
from ernie_deploy.rehearsal.proofs import RECOVERY_S, Disproved, Stage, killed, until

if TYPE_CHECKING:
    from docker.models.containers import Container

    from docker import DockerClient

PROMPTS = ("The quick brown fox", "1 2 3 4 5 6 7", "In the beginning there was a very small model that")
TOKENS = 24
# Sums over ranks are rounded in another order than over one.
LOGPROB_TOLERANCE = 0.05
# What makes a server one of several nodes.
OF_NODES = ("nnodes", "node-rank", "master-addr", "master-port", "host", "port")
VARIABLES_OF_NODES = ("VLLM_HOST_IP=", "NCCL_SOCKET_IFNAME=", "GLOO_SOCKET_IFNAME=")
# In the arguments of every process that vLLM starts on a node.
RANK = "VLLM::"


def worker_dies(stage: Stage) -> str:
    """Killing the ranks of another node takes the group down, and all of it comes back by itself."""
    return (
        f"healthy again {killed(stage, stage.members[1], RANK):.0f} s after the ranks of node 1 were killed"
    )


def as_one_node(stage: Stage) -> str:
    """The group answers as the same ranks do on one node: to the bit over a pipeline, closely over tensor parallel.

    Fewer ranks are no measure: without a stage's border vLLM compiles another graph, which rounds elsewhere.
    """
    together = _completions(stage)
    with _alone(stage):
        alone = _completions(stage)
    if stage.rehearsal.plan.topology.tensor_parallel_size == 1:
        return _the_same(together, alone)
    return _close(together, alone)


def _completions(stage: Stage) -> list[Said]:
    name = stage.rehearsal.plan.served_name
    return [complete(stage.base_url, name, prompt, max_tokens=TOKENS) for prompt in PROMPTS]


def _the_same(together: list[Said], alone: list[Said]) -> str:
    if together != alone:
        raise Disproved(f"together {together}, alone {alone}")
    count = sum(len(said.tokens) for said in alone)
    return f"{count} tokens of {len(alone)} prompts and their log-probabilities are the same"


def _close(together: list[Said], alone: list[Said]) -> str:
    apart = max(abs(a.logprobs[0] - b.logprobs[0]) for a, b in zip(together, alone, strict=True))
    if [said.tokens[0] for said in together] != [
        said.tokens[0] for said in alone
    ] or apart > LOGPROB_TOLERANCE:
        raise Disproved(f"{apart:.3f} apart: together {together}, alone {alone}")
    return f"the same first token of {len(alone)} prompts, log-probabilities at most {apart:.4f} apart"


@contextmanager
def _alone(stage: Stage) -> Iterator[None]:
    """Stop the group, and serve the head's weights at its address with all ranks on this node."""
    engine = containers.client()
    for member in stage.members:
        engine.containers.get(member.state().id).stop(timeout=stage.rehearsal.plan.stop_grace_period_s)
    container = _serve_alone(stage, engine.containers.get(stage.members[0].state().id), engine)
    try:
        until(lambda: _answers(stage.base_url, container), RECOVERY_S)
        yield
    finally:
        container.remove(force=True)


def _serve_alone(stage: Stage, head: "Container", engine: "DockerClient") -> "Container":
    """A container like the head's, without the check of the node and the restart."""
    known, host = head.attrs["Config"], head.attrs["HostConfig"]
    return engine.containers.run(
        IMAGE, _words_alone(stage), name=f"{stage.rehearsal.project}-alone", detach=True,
        entrypoint=["vllm", "serve"], user=known["User"], init=True, network_mode=host["NetworkMode"],
        environment=[pair for pair in known["Env"] if not pair.startswith(VARIABLES_OF_NODES)],
        volumes_from=[head.id or ""], tmpfs=host["Tmpfs"], shm_size=host["ShmSize"],
    )  # fmt: skip


def _words_alone(stage: Stage) -> list[str]:
    plan = stage.rehearsal.plan
    kept = [setting for setting in plan.settings if setting.name not in OF_NODES]
    return [plan.positional_model, *words(kept), "--host=0.0.0.0", "--port=8000"]


def _answers(base_url: str, container: "Container") -> bool:
    try:
        metrics.fetch(f"{base_url}/health")
    except OSError:
        container.reload()
        if container.status == "exited":
            raise Disproved(f"one node alone ended: {container.logs(tail=3).decode()}") from None
        time.sleep(1)
        return False
    return True

"""What a rehearsal of several nodes proves besides: a lost worker, and the answers of one node."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ernie_deploy.plan.nodes import node_environment, node_settings
from ernie_deploy.plan.settings import words
from ernie_deploy.rehearsal.client import Completion, complete
from ernie_deploy.rehearsal.override import cpu_image
from ernie_deploy.rehearsal.proofs import RECOVERY_S, killed
from ernie_deploy.rehearsal.stage import Disproved, Stage, until
from ernie_deploy.stack import containers, metrics

if TYPE_CHECKING:
    from docker.models.containers import Container

    from docker import DockerClient

PROMPTS = ("The quick brown fox", "1 2 3 4 5 6 7", "In the beginning there was a very small model that")
TOKENS = 24
# Sums over ranks are rounded in another order than over one.
LOGPROB_TOLERANCE = 0.05
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


def _completions(stage: Stage) -> list[Completion]:
    name = stage.rehearsal.plan.served_name
    return [
        complete(stage.base_url, name, prompt, max_tokens=TOKENS, api_key=stage.planted.api_key)
        for prompt in PROMPTS
    ]


def _the_same(together: list[Completion], alone: list[Completion]) -> str:
    for number, (one, other) in enumerate(zip(together, alone, strict=True), start=1):
        if one != other:
            pairs = enumerate(zip(one.steps, other.steps, strict=False))
            raise Disproved(
                f"prompt {number} differs at token {next((at for at, (a, b) in pairs if a != b), 'last')}"
            )
    count = sum(len(answer.tokens) for answer in alone)
    return f"{count} tokens of {len(alone)} prompts and their log-probabilities are the same"


def _close(together: list[Completion], alone: list[Completion]) -> str:
    apart = max(abs(a.logprobs[0] - b.logprobs[0]) for a, b in zip(together, alone, strict=True))
    first, others = [answer.tokens[0] for answer in together], [answer.tokens[0] for answer in alone]
    if first != others or apart > LOGPROB_TOLERANCE:
        raise Disproved(f"first tokens {first} and {others}, log-probabilities {apart:.3f} apart")
    return f"the same first token of {len(alone)} prompts, log-probabilities at most {apart:.4f} apart"


@contextmanager
def _alone(stage: Stage) -> Iterator[None]:
    """Stop the group, serve the head's weights at its address with all ranks on this node, and start it again."""
    engine = containers.client()
    group = [engine.containers.get(member.state().id) for member in stage.members]
    for container in group:
        container.stop(timeout=stage.rehearsal.plan.stop_grace_period_s)
    alone = _like(stage, group[0], engine)
    try:
        alone.start()
        until(lambda: _answers(stage.base_url, alone), RECOVERY_S)
        yield
    finally:
        alone.remove(force=True)
        for container in group:
            container.start()


def _like(stage: Stage, head: "Container", engine: "DockerClient") -> "Container":
    """A container with the head's weights, variables and address; its hardening is shown elsewhere."""
    known, host = head.attrs["Config"], head.attrs["HostConfig"]
    of_nodes = tuple(f"{setting.name}=" for setting in node_environment(stage.rehearsal.plan.topology))
    return engine.containers.create(
        cpu_image(stage.rehearsal.plan.engine), _words_alone(stage), name=stage.rehearsal.alone, entrypoint=["vllm", "serve"], init=True,
        user=known["User"], network_mode=host["NetworkMode"], shm_size=host["ShmSize"], tmpfs=host["Tmpfs"],
        environment=[pair for pair in known["Env"] if not pair.startswith(of_nodes)],
        volumes_from=[head.id or ""],
    )  # fmt: skip


def _words_alone(stage: Stage) -> list[str]:
    plan = stage.rehearsal.plan
    of_nodes = {setting.name for setting in node_settings(plan.request, plan.topology, plan.ports)}
    # The launcher, which writes the key's configuration, is not started.
    kept = [setting for setting in plan.settings if setting.name not in of_nodes | {"config"}]
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

"""A vLLM engine in miniature: continuous batching, chunked prefill, a KV limit, and steps that take GPU time."""

import random
from collections import defaultdict, deque
from dataclasses import dataclass, field

from ernie_deploy.bench.journal.record import Cell


@dataclass(frozen=True)
class Speed:
    """One GPU and how it serves; the defaults resemble the published text cell (H100 80GB, 21B-A3B).

    `slowdown` scales every step; `tokens_per_step` above 1 is speculative decoding.
    """

    bytes_per_s: float = 0.83 * 3.35e12
    overhead_s: float = 0.0004
    prefill_tokens_per_s: float = 41_000.0
    kv_cache_tokens: int = 490_000
    max_num_seqs: int = 1024
    max_num_batched_tokens: int = 8192
    tokens_per_step: float = 1.0
    slowdown: float = 1.0

    def weights_s(self, batch: int) -> float:
        """Time to read what a batch touches of the weights, with uniformly routed experts."""
        experts = 64 * (1 - (1 - 6 / 64) ** batch) + 2
        return 2 * (27 * experts * 11.8e6 + 804.0e6) / self.bytes_per_s + self.overhead_s

    def chunks(self, output_len: int) -> int:
        """Stream events of one answer: the first token alone, then what each step accepts."""
        return 1 + -int(-(output_len - 1) // self.tokens_per_step) if output_len > 1 else output_len


@dataclass
class Timeline:
    """What the engine did: each step's end, how many requests decoded in it, and each request's steps."""

    sends: list[float]
    queued: list[float]
    ends: list[float] = field(default_factory=list)
    decoding: list[int] = field(default_factory=list)
    first: dict[int, int] = field(default_factory=dict)
    last: dict[int, int] = field(default_factory=dict)


class Engine:
    """One run of a cell; `arrivals` in seconds from the start of the client."""

    def __init__(self, cell: Cell, arrivals: list[float], speed: Speed, seed: int) -> None:
        self.cell, self.speed = cell, speed
        self.noise = random.Random(seed).random
        self.pending = deque(enumerate(arrivals))
        self.slots = deque([0.0] * (cell.max_concurrency or len(arrivals)))
        self.prefilling: deque[list[int]] = deque()
        self.waiting: deque[int] = deque()
        self.finishing: dict[int, list[int]] = defaultdict(list)
        self.timeline = Timeline([0.0] * len(arrivals), [0.0] * len(arrivals))
        self.weights = [speed.weights_s(max(1, batch)) for batch in range(len(arrivals) + 1)]
        self.need = cell.input_len + cell.output_len
        self.room = max(0, speed.kv_cache_tokens - self.need)
        self.now, self.kv, self.running, self.context = 0.0, 0, 0, 0.0

    def run(self) -> Timeline:
        while self.pending or self.waiting or self.prefilling or self.running:
            if not (self.waiting or self.prefilling or self.running):
                self.now = max(self.now, self.pending[0][1])
            if self.pending and self.slots:
                self._send()
            if self.waiting and self.kv <= self.room:
                self._admit()
            self._step()
        return self.timeline

    def _send(self) -> None:
        while self.pending and self.slots and self.pending[0][1] <= self.now:
            index, arrival = self.pending.popleft()
            sent = max(arrival, self.slots.popleft())
            self.timeline.sends[index], self.timeline.queued[index] = sent, sent - arrival
            self.waiting.append(index)

    def _admit(self) -> None:
        while self.waiting and self.kv <= self.room:
            if self.running + len(self.prefilling) >= self.speed.max_num_seqs:
                return
            self.prefilling.append([self.waiting.popleft(), self.cell.input_len])
            self.kv += self.need

    def _step(self) -> None:
        speed, line, decoding = self.speed, self.timeline, self.running
        done, prefilled = (
            self._prefill(speed.max_num_batched_tokens - decoding) if self.prefilling else ([], 0)
        )
        took = prefilled / speed.prefill_tokens_per_s
        took += self.weights[decoding] + self.context * 57_344 / speed.bytes_per_s
        self.now += took * speed.slowdown * (0.99 + 0.02 * self.noise())
        self.context += decoding * speed.tokens_per_step
        step = len(line.ends)
        line.ends.append(self.now)
        line.decoding.append(decoding)
        if done:
            self._begin(done, step)
        if step in self.finishing:
            self._finish(self.finishing.pop(step), step)

    def _prefill(self, budget: int) -> tuple[list[int], int]:
        done, prefilled = [], 0
        while self.prefilling and prefilled < budget:
            head = self.prefilling[0]
            chunk = min(head[1], budget - prefilled)
            head[1] -= chunk
            prefilled += chunk
            if not head[1]:
                done.append(self.prefilling.popleft()[0])
        return done, prefilled

    def _begin(self, requests: list[int], step: int) -> None:
        for index in requests:
            self.timeline.first[index] = step
            self.finishing[step + self.speed.chunks(self.cell.output_len) - 1].append(index)
            self.running += 1
            self.context += self.cell.input_len

    def _finish(self, requests: list[int], step: int) -> None:
        for index in requests:
            self.timeline.last[index] = step
            # The client sends the next a moment later.
            self.slots.append(self.now + 0.0001)
            self.running -= 1
            self.kv -= self.need
        self.context = self.context - self.need * len(requests) if self.running else 0.0

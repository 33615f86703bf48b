"""What a model version has done since it was loaded: the Open Inference Protocol's statistics extension.

Durations are in nanoseconds. The size of a batch is the number of requests that one run of the model answered.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, final

from bedplate.clock import Clock, system_clock


@final
@dataclass(slots=True)
class Duration:
    """How often something happened, and for how long in all."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        """Counts one more."""
        self.count += 1
        self.ns += ns

    def form(self) -> dict[str, int]:
        """As the protocol shows it."""
        return {"count": self.count, "ns": self.ns}


@final
@dataclass(frozen=True, slots=True)
class Spent:
    """Where the time of one answered request went, nanoseconds.

    Attributes:
        queue: from when it was read to when its turn came.
        input: decoding and checking its tensors.
        infer: in the model.
        output: encoding the answer.
        batch: the requests that the run of the model answered, this one included.
        leads: whether the run is counted with this request; of a batch one request leads.
    """

    queue: int
    input: int
    infer: int
    output: int
    batch: int = 1
    leads: bool = True


_PARTS = ("compute_input", "compute_infer", "compute_output")


@final
@dataclass(slots=True)
class Statistics:
    """The counts of one model version.

    >>> statistics = Statistics(clock=lambda: 7_000)
    >>> statistics.succeed(Spent(queue=1, input=2, infer=3, output=4))
    >>> shown = statistics.form()
    >>> shown["last_inference"], shown["inference_count"], shown["inference_stats"]["success"]
    (7, 1, {'count': 1, 'ns': 10})
    """

    clock: Clock = system_clock
    last_inference: int = 0
    inferences: int = 0
    executions: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    parts: tuple[Duration, Duration, Duration] = field(default_factory=lambda: (Duration(), Duration(), Duration()))
    batches: dict[int, tuple[Duration, Duration, Duration]] = field(
        default_factory=dict[int, tuple[Duration, Duration, Duration]]
    )

    def succeed(self, spent: Spent) -> None:
        """Counts a request that was answered."""
        self.last_inference = self.clock() // 1000
        self.inferences += 1
        self.success.add(spent.queue + spent.input + spent.infer + spent.output)
        self.queue.add(spent.queue)
        times = (spent.input, spent.infer, spent.output)
        for part, ns in zip(self.parts, times, strict=True):
            part.add(ns)
        if spent.leads:
            self.executions += 1
            batch = self.batches.get(spent.batch)
            if batch is None:
                batch = self.batches[spent.batch] = (Duration(), Duration(), Duration())
            for part, ns in zip(batch, times, strict=True):
                part.add(ns)

    def reject(self, ns: int) -> None:
        """Counts a request that the model was asked for and that was not answered."""
        self.fail.add(ns)

    def form(self) -> dict[str, Any]:
        """As the protocol shows it. Nothing is answered from a cache."""
        nothing = Duration().form()
        parts = dict(zip(_PARTS, (part.form() for part in self.parts), strict=True))
        return {
            "last_inference": self.last_inference,
            "inference_count": self.inferences,
            "execution_count": self.executions,
            "inference_stats": {
                "success": self.success.form(),
                "fail": self.fail.form(),
                "queue": self.queue.form(),
                **parts,
                "cache_hit": nothing,
                "cache_miss": nothing,
            },
            "batch_stats": [
                {"batch_size": size, **dict(zip(_PARTS, (part.form() for part in batch), strict=True))}
                for size, batch in sorted(self.batches.items())
            ],
        }

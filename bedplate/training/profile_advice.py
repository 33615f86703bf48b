"""What to change so that training is faster; each piece of advice names the figure behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import final

import msgspec

from bedplate.batch import Batch
from bedplate.datasets.negatives import LOG_Q, SAMPLED
from bedplate.features.encoder import Encoder
from bedplate.training.config import TrainerConfig

WAITING, LARGE, PAYS = 0.05, 0.25, 1.1
"""From which share of the loop waiting for data counts, from which a stage is large, and what a change must bring."""

_NAMED = 5
"""How many columns are named."""


@final
class Measured(msgspec.Struct, frozen=True):
    """What was measured while a model was trained.

    Attributes:
        loading: what making a batch is called: `join` or `read`.
        loop: the seconds of each stage of the loop.
        threads: those of the threads that prepare batches, all together.
        thread_rows: how many candidates each of those stages was of; rows that are kept are joined and encoded once.
        rows: candidates that were trained on.
        batches: of them.
        cpu: seconds of processor time of the process.
        start: of the seconds of waiting those for the first batch of all, before which none is ready.
        loop_cpu: the seconds of processor time in each stage of the loop, of all threads of the process.
        loop_rows: how many rows each stage of the loop was of, for those that say it.
    """

    loading: str
    loop: Mapping[str, float]
    threads: Mapping[str, float]
    thread_rows: Mapping[str, int]
    rows: int
    batches: int
    cpu: float
    start: float = 0.0
    loop_cpu: Mapping[str, float] = {}
    loop_rows: Mapping[str, int] = {}

    def idle(self, threads: int) -> float:
        """The seconds that so many threads did nothing while the loop trained, all together."""
        trained = sum(took for name, took in self.loop.items() if name not in ("rehearsal", "validation", "checkpoint"))
        return max(threads * trained - sum(self.threads.values()), 0.0)


@final
class Limits(msgspec.Struct, frozen=True):
    """What each stage does alone, candidates a second unless it says something else.

    Attributes:
        load: one thread that joins or reads batches.
        encode: one thread that encodes them.
        transfer: one thread that makes them tensors; what can be shared is not copied.
        forward: outputs and loss, on tensors that are there.
        backward: gradients.
        optimizer: the update of the weights.
        half_batch: the time of a step with half the requests of a batch, as a share of one with all.
        bfloat16: how many times as fast forward and backward are in bfloat16; None where that is what they are in.
        bandwidth: bytes a second that memory gives to a copy, reads and writes.
        update_bytes: bytes that an update moves at least.
        unread: columns that are joined and that no input reads.
    """

    load: float
    encode: float
    transfer: float
    forward: float
    backward: float
    optimizer: float
    half_batch: float
    bfloat16: float | None
    bandwidth: float
    update_bytes: int
    unread: tuple[str, ...] = ()

    @property
    def model(self) -> float:
        """Forward, backward and update, one after the other."""
        return 1.0 / (1.0 / self.forward + 1.0 / self.backward + 1.0 / self.optimizer)

    @property
    def loader(self) -> float:
        """One thread that does all that makes a batch ready."""
        return 1.0 / (1.0 / self.load + 1.0 / self.encode + 1.0 / self.transfer)

    def by_stage(self, loading: str) -> Mapping[str, float]:
        """The limit of each stage, by its name."""
        model = {"forward": self.forward, "backward": self.backward, "optimizer": self.optimizer}
        return {loading: self.load, "encode": self.encode, "transfer": self.transfer, **model}


def shown_bytes(count: int) -> str:
    """A number of bytes for a person.

    >>> shown_bytes(3_400), shown_bytes(1_250_000)
    ('3.4 kB', '1.2 MB')
    """
    return f"{count / 1e3:.1f} kB" if count < 10**5 else f"{count / 1e6:.1f} MB"


def unread_columns(batch: Batch, encoder: Encoder) -> tuple[str, ...]:
    """Columns of a batch that no field of the encoder reads."""
    read = {field.feature for field in encoder.fields} | {LOG_Q, SAMPLED}
    return tuple(name for name in (*batch.request, *batch.item) if name not in read)


def less_to_join(unread: Sequence[str]) -> Iterator[str]:
    """That columns are joined which no input reads, where there are such."""
    if unread:
        names = ", ".join(unread[:_NAMED]) + (", ..." if len(unread) > _NAMED else "")
        yield f"no input reads {len(unread)} of the columns that are joined: leave out of the dataset {names}"


def advice(measured: Measured, limits: Limits | None, config: TrainerConfig, cores: int) -> Sequence[str]:
    """What to change, what helps most first.

    Args:
        measured: while training.
        limits: of each stage alone; None where nothing was trained.
        config: that was trained with.
        cores: that the machine has.
    """
    if limits is None:
        return ["nothing was measured: no step was left to train"]
    seconds = sum(measured.loop.values())
    share = {name: took / seconds for name, took in measured.loop.items()}
    waits = share.get("waiting", 0.0) > WAITING
    found = list(_of_loader(share["waiting"], measured, limits, config, cores)) if waits else []
    if not waits or sum(share.get(n, 0.0) for n in ("forward", "backward", "optimizer")) > 0.5:
        found += [*_of_steps(share, limits, config), *_of_updates(share, measured, limits, config)]
    found += _of_the_rest(share, config)
    return found or ["nothing stands out: data is there in time, and the model takes the rest"]


def _of_loader(waited: float, measured: Measured, limits: Limits, config: TrainerConfig, cores: int) -> Iterator[str]:
    """What makes batches come sooner."""
    what, threads = f"the loop waited for data {waited:.0%} of the time", config.loader_threads
    prepared = threads * limits.loader
    possible = f"{threads} threads alone prepare {prepared:,.0f} rows/s, the model takes {limits.model:,.0f}"
    is_enough = prepared > PAYS * limits.model
    seconds, waiting = sum(measured.loop.values()), measured.loop.get("waiting", 0.0)
    if measured.start > 0.5 * waiting:
        yield (
            f"{what}, {measured.start / waiting:.0%} of it for the first of {measured.batches:,} batches, before which "
            "none is ready: it is nothing beside a training of more rows or epochs"
        )
        if is_enough or waiting - measured.start <= WAITING * seconds:
            return
    if is_enough:
        idle = measured.idle(threads) / (threads * seconds)
        yield (
            f"{what}; {possible}. "
            + (
                f"They were held up {idle:.0%} of the time: raise trainer.prefetch and trainer.prefetch_memory"
                if idle > LARGE
                else "They share the cores with the model: more cores, or fewer threads of torch, would help"
            )
        )
        return
    if threads < cores:
        yield f"{what}; {possible}, and there are {cores} cores: trainer.loader_threads={min(cores, 2 * threads)}"
    busy = sum(measured.threads.values())
    loading = measured.threads.get(measured.loading, 0.0) / busy
    yield from less_to_join(limits.unread)
    if measured.loading == "join" and loading > 0.5:
        yield (
            f"{what}, and the join is {loading:.0%} of preparing a batch: write what is trained on more than once "
            "(bedplate datasets write), and train with --from; or, where no negatives are drawn, raise "
            "trainer.keep_memory until all rows of training fit into it, and are joined once"
        )
    elif loading <= 0.5:
        yield (
            f"{what}, and encoding is {1 - loading:.0%} of preparing a batch: fewer inputs, or shorter lists (length "
            "of Sequence and Bag)"
        )


def _of_steps(share: Mapping[str, float], limits: Limits, config: TrainerConfig) -> Iterator[str]:
    """What makes forward and backward shorter."""
    both = share.get("forward", 0.0) + share.get("backward", 0.0)
    if limits.half_batch > 0.7:
        yield (
            f"half a batch takes {limits.half_batch:.0%} of the time of a whole one, so that a step costs much "
            "whatever its size: larger batches (batch_requests or batch_items of the dataset)"
        )
    if limits.bfloat16 is not None and limits.bfloat16 > PAYS:
        yield f"forward and backward are {limits.bfloat16:.1f} times as fast with trainer.precision=bfloat16"
    if config.compile is None and both > 0.6 and limits.half_batch <= 0.7:
        yield (
            f"forward and backward are {both:.0%} of the time: smaller layers or embeddings, or try "
            "trainer.compile=inductor, which needs a C++ compiler"
        )


def _of_updates(share: Mapping[str, float], measured: Measured, limits: Limits, config: TrainerConfig) -> Iterator[str]:
    """What makes the updates of the weights shorter."""
    if share.get("optimizer", 0.0) <= LARGE:
        return
    least, took = limits.update_bytes / limits.bandwidth, measured.loop["optimizer"] / max(measured.batches, 1)
    what = (
        f"an update takes {took * 1e3:.2f} ms, {share['optimizer']:.0%} of the time; memory allows the "
        f"{shown_bytes(limits.update_bytes)} that it moves in {least * 1e3:.2f} ms"
    )
    if config.embedding_optimizer != "row_wise_adagrad":
        yield f"{what}: trainer.embedding_optimizer=row_wise_adagrad moves less"
    else:
        smaller = "smaller layers, or " if took < 3 * least else ""
        yield f"{what}: {smaller}fewer updates (trainer.accumulate=2, or larger batches)"


def _of_the_rest(share: Mapping[str, float], config: TrainerConfig) -> Iterator[str]:
    """What makes what is no training shorter."""
    if (part := share.get("validation", 0.0)) > LARGE:
        rarer = "a shorter validation split" if config.evaluate_every is None else "raise trainer.evaluate_every"
        yield f"{part:.0%} of the time goes to validation: {rarer}"
    if (part := share.get("checkpoint", 0.0)) > LARGE:
        yield f"{part:.0%} of the time goes to checkpoints: raise trainer.checkpoint_every"
    if (part := share.get("exchange", 0.0)) > LARGE:
        yield f"{part:.0%} of the time goes to exchange with other processes: larger batches, or fewer processes"

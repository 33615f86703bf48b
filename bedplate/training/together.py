"""Several processes of one training, by torch.distributed: gloo between CPUs, NCCL where weights are on GPUs.

The result is that of one process, up to the rounding of sums in another order: batches do not depend on how many
processes there are, each process takes the loss of the whole batch, whatever loss that is (one against all candidates
of the batch too), and gradients are added up. What a model draws at random, for dropout, depends on the number of
processes, and on nothing else but the seed and the step.
"""

from __future__ import annotations

import re
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar, final

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store

from bedplate.datasets.counter import streams
from bedplate.errors import ConfigError, DataError
from bedplate.layers.embedding import FusedEmbedding
from bedplate.models.base import Model
from bedplate.models.batch import TensorBatch
from bedplate.training.config import TrainerConfig
from bedplate.training.exchange import Exchange
from bedplate.training.gathering import whole_batch
from bedplate.training.joining import PeerLostError
from bedplate.training.merging import merge_dense, merge_sparse
from bedplate.training.optimizer import Optimizer
from bedplate.training.tables import Sharding, Tables, WholeTables
from bedplate.training.watching import Operations
from bedplate.types import parse_duration

_Value = TypeVar("_Value")

_SPARSE_ROWS = 10_000
"""From so many rows of a table on, only the rows of a batch are told to the others."""

_MEETING = timedelta(hours=6)
"""How long a process waits until the others are there, each of which may have other things to do first."""

AGENT = "env://"
"""Where processes meet that torchrun started: in a store that is of none of them."""

_ANSWER = 3.0  # seconds

_DRAWS = 4
"""The purpose of the seeds; see `counter.streams`."""


@final
class Together(Exchange):
    """One of several processes; torch's process group is there already.

    Args:
        operations: of this process; it is told each one.
        shard: spreads embedding tables over the processes; None: each has them whole.
    """

    def __init__(self, operations: Operations, shard: Sharding | None = None) -> None:
        super().__init__(dist.get_rank(), dist.get_world_size(), shards=shard is not None)
        self._operations, self._shard = operations, shard
        self._sparse: list[nn.Parameter] = []
        self._small: list[nn.Parameter] = []

    def begin(self, model: Model, config: TrainerConfig, folder: Path) -> Tables:
        """See `Exchange.begin`."""
        self._sparse, self._small, tables = [], [], set[int]()
        untyped: Any = model
        modules: list[tuple[str, nn.Module]] = list(untyped.named_modules())
        for name, module in modules:
            if isinstance(module, nn.modules.batchnorm._BatchNorm):  # pyright: ignore[reportPrivateUsage]
                raise ConfigError(
                    f"'{name}' is a {type(module).__name__}, whose statistics are of a whole batch",
                    where="training by several processes",
                    hint="use LayerNorm, or train by one process",
                )
            if isinstance(module, FusedEmbedding) and self._shard is not None:
                tables.add(id(module.weight))
            elif isinstance(module, FusedEmbedding):
                module.sparse = module.sparse or len(module.weight) >= _SPARSE_ROWS
                (self._sparse if module.sparse else self._small).append(module.weight)
        self._check_same(model)
        with _reaching(self._operations):
            for tensor in model.state_dict(keep_vars=True).values():
                if id(tensor) not in tables:
                    dist.broadcast(tensor.detach(), 0)
        if self._shard is None:
            return WholeTables(model, config)
        return self._shard(model, config, folder, partial(_reaching, self._operations))

    def _check_same(self, model: Model) -> None:
        """Checks that all processes learn the same weights, and tell their gradients the same way.

        Raises:
            ConfigError: they do not, and would wait for each other.
        """
        sparse = {id(table) for table in self._sparse}
        named: Any = model.named_parameters()
        own = [f"'{name}' {tuple(w.shape)}{' sparse' * (id(w) in sparse)}" for name, w in named]
        first, *others = self.of_all(own)
        for rank, other in enumerate(others, 1):
            if other != first:
                got, expected = next(
                    pair for pair in zip_longest(other, first, fillvalue="nothing") if len({*pair}) > 1
                )
                raise ConfigError(
                    f"the process of rank {rank} learns {got} where that of rank 0 learns {expected}",
                    where="training by several processes",
                    hint="run the same code and the same definitions in all of them",
                )

    def draw(self, seed: int, step: int) -> None:
        """A seed of its own for each step and process."""
        (drawn,) = streams(seed, step, _DRAWS, np.array([self.rank])).tolist()
        torch.default_generator.manual_seed(drawn >> 1)

    def whole(
        self, outputs: Mapping[str, Tensor], batch: TensorBatch, stop: bool
    ) -> tuple[Mapping[str, Tensor], TensorBatch, bool]:
        """See `Exchange.whole`."""
        with _reaching(self._operations):
            return whole_batch(outputs, batch, stop)

    def merge(self, optimizer: Optimizer) -> None:
        """See `Exchange.merge`."""
        with _reaching(self._operations):
            merge_sparse(self._sparse)
            merge_dense([*optimizer.dense, *self._small])

    def of_first(self, value: _Value) -> _Value:
        """See `Exchange.of_first`."""
        values = [value]
        with _reaching(self._operations):
            dist.broadcast_object_list(values, 0)
        return values[0]

    def of_all(self, value: _Value) -> list[_Value]:
        """See `Exchange.of_all`."""
        values: list[Any] = [None] * self.count
        with _reaching(self._operations):
            dist.all_gather_object(values, value)  # pyright: ignore[reportUnknownMemberType]
        return values

    def at_first(self, value: _Value) -> list[_Value]:
        """See `Exchange.at_first`."""
        values: list[Any] | None = [None] * self.count if self.rank == 0 else None
        with _reaching(self._operations):
            dist.gather_object(value, values, 0)
        return values or []

    def check_equal(self, state: Mapping[str, Any]) -> None:
        """See `Exchange.check_equal`."""
        found = self.of_all({name: _checksum(value) for name, value in state.items() if not value.is_meta})
        for rank, sums in enumerate(found):
            wrong = [name for name, value in sums.items() if value != found[0][name]]
            if wrong:
                raise DataError(
                    f"'{wrong[0]}' is not the same in the processes of rank 0 and {rank}",
                    where="training by several processes",
                    hint="does the model change it in forward? What depends on rows belongs into loss, which has "
                    "all of a batch; or train by one process",
                )


def _checksum(tensor: Tensor) -> int:
    """A number that differs between tensors that are not the same, nearly always: the sum of their bits."""
    values = tensor.detach()
    return int((values.view(torch.int32) if values.dtype is torch.float32 else values).sum(dtype=torch.int64))


@contextmanager
def _reaching(operations: Operations) -> Generator[None]:
    """An operation with the others; turns torch's errors of connections into `PeerLostError`."""
    try:
        with operations.one():
            yield
    except (dist.DistError, RuntimeError) as error:
        said = re.sub(r"^\[\S*\] *", "", str(error).strip())  # gloo begins with a line of its own source
        line = next(iter(said.splitlines()), type(error).__name__)
        raise PeerLostError(f"another process of the training is gone: {line}", where="training") from error


@contextmanager
def connected(
    operations: Operations, count: int, meeting: str, timeout: str, shard: Sharding | None = None
) -> Generator[Together]:
    """Connects this process with the others, and takes its share of the machine's cores for torch.

    Args:
        operations: of this process.
        count: how many processes there are.
        meeting: where they meet: `file://PATH` of a file that is not there yet, or `AGENT`, as torchrun sets it.
        timeout: how long an operation waits for the others, once all are there.
        shard: spreads embedding tables over the processes; None: each has them whole.

    Raises:
        PeerLostError: the others do not come, or one of them was lost; it is named where nobody watches them.
    """
    threads = torch.get_num_threads()
    with _reaching(operations):
        store = _join(operations.rank, count, meeting, timedelta(microseconds=parse_duration(timeout)))
    torch.set_num_threads(max(1, threads // count))
    try:
        yield Together(operations, shard)
    except PeerLostError as error:
        silent = _silent(store, operations.rank, count) if meeting == AGENT else []
        if not silent:
            raise
        ranks = f"{'es' if len(silent) > 1 else ''} of rank {' and '.join(map(str, silent))}"
        raise PeerLostError(
            f"the process{ranks} ended, or held up the others for {timeout} (trainer.process_timeout): {error.message}",
            where=error.where,
        ) from error
    finally:
        torch.set_num_threads(threads)
        dist.destroy_process_group()


def _silent(store: Store, rank: int, count: int) -> list[int]:
    """The ranks of those that do not say soon that they, too, have lost another one."""
    store.set(f"lost by {rank}", "")
    until, found = time.monotonic() + _ANSWER, list[int]()
    for other in range(count):
        try:
            store.wait([f"lost by {other}"], timedelta(seconds=max(0.1, until - time.monotonic())))
        except (dist.DistError, RuntimeError):
            found.append(other)
    return found


def _join(rank: int, count: int, meeting: str, timeout: timedelta) -> Store:
    """Waits until all processes are there, and makes torch's process group of them; returns where they met."""
    untyped: Any = dist
    store: Store = next(untyped.rendezvous(meeting, rank, count, timeout=_MEETING))[0]
    store.set(f"rank {rank}", "there")
    store.wait([f"rank {other}" for other in range(count)], _MEETING)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        timeout=timeout,
        world_size=count,
        rank=rank,
        store=PrefixStore("training", store),
    )
    return store

"""Embedding tables and their optimisers' states spread over the processes of a training by TorchRec, row by row.

A step looks up all ids of a process's part of the batch at once, ahead of the forward pass: one exchange, however often
the model then looks them up, and one sum of gradients that Adagrad sees. `docs/training.md` says how to install it.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bedplate.errors import ConfigError, MissingExtraError, missing_extra
from bedplate.features.encoding import OF_ITEM
from bedplate.layers.embedding import FusedEmbedding, Window, summed_rows, tables_of
from bedplate.models.base import Model
from bedplate.models.batch import TensorBatch
from bedplate.training.config import TrainerConfig, check_sharded
from bedplate.training.tables import Operation, Tables, in_file, load_here

_PLACE = "training with sharded tables"
_ALONE = "or train without --sharding"
_PIECE = 1 << 22
"""How many numbers are told another process at once."""

_KINDS = {"row_wise_adagrad": ("EXACT_ROWWISE_ADAGRAD", 1e-8), "adagrad": ("EXACT_ADAGRAD", 1e-10)}
"""TorchRec's name of each optimiser, and what it adds to the divisor."""


def require_torchrec() -> Any:
    """Imports TorchRec.

    Raises:
        MissingExtraError: it, or what it needs, is not installed.
    """
    # It warns of what its build for CPUs does not have, and torch of how TorchRec asks whether it is traced.
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return import_module("torchrec")
    except ModuleNotFoundError as error:
        raise missing_extra(error) or MissingExtraError(error.name or "torchrec", "sharding") from error


@final
class ShardedTables(Tables):
    """Each process has some rows of every table, next to each other; satisfies `tables.Sharding`.

    Until `close` the tables of the model itself have no values.

    Args:
        model: whose tables; with weights in the first process.
        config: how they are updated.
        folder: where whole tables are put together, in files without a name.
        operation: the context of each operation with the other processes.

    Raises:
        ConfigError: TorchRec can't hold such a table, or the model is to be compiled.
        MissingExtraError: TorchRec is not installed.
    """

    def __init__(self, model: Model, config: TrainerConfig, folder: Path, operation: Operation) -> None:
        check_sharded(config)
        tables = tables_of(model)
        _check_own_weights(tables)
        self._shards = {name: _Shard(name, table, config, folder, operation) for name, table in tables.items()}
        self._adagrad = _ShardedAdagrad([*self._shards.values()], config, operation)
        super().__init__(model, self._adagrad)

    def fetch(self, batch: TensorBatch | None) -> None:
        """See `Tables.fetch`."""
        untyped: Any = torch
        ids: Tensor = untyped.unique(_ids_of(batch))
        for shard in self._shards.values():
            shard.fetch(ids[(ids > 0) & (ids < shard.rows)], self._adagrad.rate)

    def weights(self) -> Mapping[str, Tensor]:
        """See `Tables.weights`: tables are put together in files, which take memory only while there is enough."""
        tables = {id(shard.table.weight): shard.whole(shard.weights) for shard in self._shards.values()}
        state = self.model.state_dict(keep_vars=True)  # a table may be in it under several names
        return {name: tables[id(w)] if id(w) in tables else w.detach() for name, w in state.items()}

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """See `Tables.load`."""
        for name, shard in self._shards.items():
            shard.weights.copy_(shard.own(weights[name]))
        load_here(self.model, weights)

    def explained(self, error: Exception) -> Exception:
        """See `Tables.explained`: torch says "meta" of tensors without values, which whole tables are here."""
        said = str(error.__cause__ or error)
        if re.search(r"\bmeta\b", said) is None:
            return error
        return ConfigError(
            f"the model reads the weights of a table by other ways than looking ids up: {said.splitlines()[0]}",
            where=_PLACE,
            hint="no process has the whole table: look ids up, " + _ALONE,
        )

    def close(self) -> None:
        """See `Tables.close`."""
        for shard in self._shards.values():
            shard.close()
        self._shards.clear()


def _check_own_weights(tables: Mapping[str, FusedEmbedding]) -> None:
    """Raises `ConfigError` where two tables have the same weights, which would be updated by each."""
    owners: dict[int, str] = {}
    for name, table in tables.items():
        first = owners.setdefault(id(table.weight), name)
        if first != name:
            raise ConfigError(
                f"'{first}' and '{name}' are the same weights, and each table has its own updates",
                where=_PLACE,
                hint="look up one table in both places, " + _ALONE,
            )


def _ids_of(batch: TensorBatch | None) -> Tensor:
    """All ids that the inputs name."""
    nothing = torch.zeros(0, dtype=torch.int64)
    named = {} if batch is None else {n: t for n, t in batch.items() if t.dtype == torch.int64}
    return torch.cat([nothing, *(t.reshape(-1) for name, t in named.items() if name != OF_ITEM)])


@final
class _ShardedAdagrad:
    """The optimisers of shards, as TorchRec has fused them into its backward pass. Satisfies `TableOptimizer`."""

    def __init__(self, shards: Sequence[_Shard], config: TrainerConfig, operation: Operation) -> None:
        self._operation = operation
        self._shards, self._row_wise = shards, config.embedding_optimizer == "row_wise_adagrad"
        self.rate = config.embedding_learning_rate

    @property
    def parameters(self) -> Sequence[Tensor]:
        """The rows that were looked up since the last update."""
        return [vectors for shard in self._shards for _, vectors, _ in shard.asked]

    def step(self) -> int:
        """Updates the rows that were looked up, in all processes at once, but those whose gradient is not finite.

        Returns:
            how many lookups of all processes were left, so that all of them end where one has such a gradient.
        """
        left = torch.tensor([sum(shard.update(self.rate) for shard in self._shards)])
        with self._operation():
            dist.all_reduce(left)  # pyright: ignore[reportUnknownMemberType]
        return int(left)

    def state_dict(self) -> dict[str, Any]:
        """The accumulators of whole tables in the first process, in the form that optimisers of such have."""
        sums = [shard.whole(shard.sums) for shard in self._shards]
        return {"sums": sums} if self._row_wise else {"state": {i: {"sum": one} for i, one in enumerate(sums)}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over this process's rows of the accumulators."""
        saved = enumerate(state["sums"]) if self._row_wise else ((i, of["sum"]) for i, of in state["state"].items())
        for i, sums in saved:
            self._shards[i].sums.copy_(self._shards[i].own(sums))


@final
class _Shard:
    """This process's rows of one table.

    Attributes:
        table: of the model.
        rows: of the whole table.
        weights: [k, width], this process's rows.
        sums: [k] or [k, width], the accumulators.
        asked: of each lookup since the last update the ids, their vectors with the gradient, and TorchRec's output.
    """

    def __init__(
        self, name: str, table: FusedEmbedding, config: TrainerConfig, folder: Path, operation: Operation
    ) -> None:
        self.table, self._folder, self._operation = table, folder, operation
        self.rows, self.width = table.weight.shape
        self._rank, self._count = dist.get_rank(), dist.get_world_size()
        self._check(name)
        self._jagged: Any = require_torchrec().KeyedJaggedTensor
        with self._operation():
            self._lookups = _sharded_collection(self.rows, self.width, config)
            [(_, weights)] = self._lookups.state_dict().items()
            [state] = self._lookups.fused_optimizer.state_dict()["state"].values()
            [sums] = state.values()
            self.weights: Tensor = weights.local_shards()[0].tensor
            self.sums: Tensor = sums.local_shards()[0].tensor
        self._at_once, self._rate = config.accumulate == 1, config.embedding_learning_rate
        self.asked: list[tuple[Tensor, Tensor, Tensor]] = []
        self._spread(table.weight)
        self._learns = table.weight.requires_grad
        table.weight = nn.Parameter(torch.empty(self.rows, self.width, device="meta"), requires_grad=self._learns)

    def _check(self, name: str) -> None:
        if self.width % 4:
            raise ConfigError(
                f"'{name}' has vectors of {self.width} numbers, expected a multiple of 4: TorchRec has no others",
                where=_PLACE,
                hint=f"choose another width, {_ALONE}",
            )
        if self._span(self._count - 1).start >= self.rows:
            raise ConfigError(
                f"'{name}' has {self.rows} rows, too few for {self._count} processes",
                where=_PLACE,
                hint=f"take fewer processes, {_ALONE}",
            )

    def _span(self, rank: int) -> slice:
        """The rows of a process, as TorchRec divides them."""
        most = -(-self.rows // self._count)
        return slice(rank * most, min((rank + 1) * most, self.rows))

    def own(self, whole: Tensor) -> Tensor:
        """This process's rows of a whole tensor."""
        return whole[self._span(self._rank)]

    def fetch(self, ids: Tensor, rate: float) -> None:
        """Looks rows up for the model, with a gradient where torch takes gradients.

        Args:
            ids: ascending, each once, without 0.
            rate: the learning rate of the update that follows.
        """
        learns = torch.is_grad_enabled() and self._learns
        self._set_rate(rate)
        with torch.set_grad_enabled(learns and self._at_once):
            found = self._looked_up(ids)
        vectors = torch.cat((found.new_zeros(1, self.width), found.detach())).requires_grad_(learns)
        self.table.window = Window(torch.cat((ids.new_zeros(1), ids)), vectors)
        if learns:
            self.asked.append((ids, vectors, found))

    def update(self, rate: float) -> int:
        """Updates rows by the gradients of what was looked up since the last update.

        Returns:
            how many of this process's lookups were left since their gradient is not finite.
        """
        if not self._learns:
            return 0
        at_once = self._at_once and rate == self._rate
        every = [(ids, torch.zeros_like(v) if v.grad is None else v.grad, found) for ids, v, found in self.asked]
        if at_once:
            [(_, gradient, found)] = every
            gradient = gradient[1:]
        else:
            ids, gradient = summed_rows(torch.cat([i for i, _, _ in every]), torch.cat([g[1:] for _, g, _ in every]))
            self._set_rate(rate)
            found = self._looked_up(ids)
        finite = torch.isfinite(gradient).all(dim=1)
        left = len(finite) - int(finite.sum())
        if left:
            gradient = gradient.where(finite.unsqueeze(1), 0.0)
        with self._operation():
            found.backward(gradient)  # pyright: ignore[reportUnknownMemberType]
        self.asked.clear()
        return left

    def _set_rate(self, rate: float) -> None:
        """Sets the learning rate of lookups from now on: the backward pass of each has that of its forward pass."""
        if rate != self._rate:
            self._rate = rate
            self._lookups.fused_optimizer.param_groups[0]["lr"] = rate
            self._lookups.fused_optimizer.step()  # updates nothing; the backward pass does

    def _looked_up(self, ids: Tensor) -> Tensor:
        """[n, width]: what all processes answer together."""
        lengths = torch.tensor([len(ids)], dtype=torch.int32)
        with self._operation():
            found = self._lookups(self._jagged(keys=["ids"], values=ids, lengths=lengths))
            return found["ids"].values()

    @torch.no_grad()
    def _spread(self, whole: Tensor) -> None:
        """Gives every process its rows of the first one's table."""
        with self._operation():
            if self._rank == 0:
                self.weights.copy_(self.own(whole))
                for rank in range(1, self._count):
                    for piece in _pieces(whole[self._span(rank)]):
                        dist.send(piece.contiguous(), rank)
            else:
                for piece in _pieces(self.weights):
                    dist.recv(piece, 0)  # pyright: ignore[reportUnknownMemberType]

    @torch.no_grad()
    def whole(self, own: Tensor) -> Tensor:
        """The rows of all processes, in the first one; in the others a tensor without values."""
        shape = (self.rows, *own.shape[1:])
        whole = in_file(shape, self._folder) if self._rank == 0 else torch.empty(shape, device="meta")
        with self._operation():
            if self._rank:
                for piece in _pieces(own):
                    dist.send(piece, 0)
                return whole
            self.own(whole).copy_(own)
            for rank in range(1, self._count):
                for piece in _pieces(whole[self._span(rank)]):
                    dist.recv(piece, rank)  # pyright: ignore[reportUnknownMemberType]
        return whole

    def close(self) -> None:
        """Frees the shard; the model of the first process gets a table without values."""
        self.table.window = None
        if self._rank == 0:
            self.table.weight = nn.Parameter(torch.empty(self.rows, self.width), requires_grad=self._learns)
        self.asked.clear()
        del self._lookups, self.weights, self.sums


def _sharded_collection(rows: int, width: int, config: TrainerConfig) -> Any:
    """TorchRec's collection of one table, of which each process has some rows."""
    torchrec = require_torchrec()
    kinds: Any = import_module("fbgemm_gpu.split_embedding_configs").EmbOptimType
    embedding: Any = import_module("torchrec.distributed.embedding")
    plans: Any = import_module("torchrec.distributed.sharding_plan")
    types: Any = import_module("torchrec.distributed.types")
    # Each process has the gradient of its part of a batch's loss: they are added up, not averaged.
    import_module("torchrec.distributed.comm_ops").set_gradient_division(False)
    kind, eps = _KINDS[config.embedding_optimizer]
    fused = {"optimizer": getattr(kinds, kind), "learning_rate": config.embedding_learning_rate, "eps": eps}
    table = torchrec.EmbeddingConfig(num_embeddings=rows, embedding_dim=width, name="table", feature_names=["ids"])
    collection = torchrec.EmbeddingCollection(tables=[table], device=torch.device("meta"))
    sharder = embedding.EmbeddingCollectionSharder(fused_params=fused)
    count = dist.get_world_size()
    plan = plans.construct_module_sharding_plan(
        collection, {"table": plans.row_wise(compute_kernel="fused")}, sharder, count, count, "cpu"
    )
    world = types.ShardingEnv.from_process_group(dist.group.WORLD)
    return sharder.shard(collection, plan, world, torch.device("cpu"))


def _pieces(rows: Tensor) -> Iterator[Tensor]:
    """Views of rows, each of about so many numbers as are told at once."""
    most = max(1, _PIECE // max(1, rows[:1].numel()))
    return (rows[at : at + most] for at in range(0, len(rows), most))

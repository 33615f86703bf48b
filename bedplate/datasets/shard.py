"""Shards: disjoint parts of a dataset's requests, the same ones in every epoch, by the hash of a key."""

from __future__ import annotations

from typing import final

import msgspec
import numpy as np

from bedplate.datasets.counter import streams
from bedplate.errors import ConfigError, suggest
from bedplate.features.assemble import Candidates
from bedplate.types import Bools

_SHARDS = 3
"""The purpose of the hashes; see `counter.streams`."""


@final
class Shard(msgspec.Struct, frozen=True):
    """One of `count` disjoint parts of all requests, which together are all of them.

    A request is in the shard that the hash of its id says, or the hash of an entity's key: then all requests of a user,
    say, are in one shard. Which shard that is depends on nothing else: neither on other requests nor on seeds.

    Attributes:
        index: from 0.
        count: how many shards there are.
        by: the name of an entity of the request; None: the request's id.

    Raises:
        ConfigError: the index is not within the count.
    """

    index: int
    count: int
    by: str | None = None

    def __post_init__(self) -> None:
        """Checks the range."""
        if not 0 <= self.index < self.count:
            raise ConfigError(f"got shard {self.index} of {self.count}, expected 0 to {self.count - 1}", where="loader")

    def holds(self, rows: Candidates) -> Bools:
        """[R]: which requests are in the shard.

        Raises:
            ConfigError: the requests have no such entity.
        """
        if self.by is not None and self.by not in rows.request_keys:
            raise ConfigError(
                f"requests have no entity '{self.by}' to shard by",
                where="loader",
                hint=suggest(self.by, rows.request_keys, "their entities"),
            )
        keys = rows.request_ids if self.by is None else rows.request_keys[self.by]
        return streams(0, 0, _SHARDS, keys) % np.uint64(self.count) == self.index

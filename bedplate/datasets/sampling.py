"""The popularity of items as of any time, and draws from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from bedplate.batch import Dense
from bedplate.datasets import kernels
from bedplate.datasets.counter import streams
from bedplate.datasets.negatives import ATTEMPTS
from bedplate.features.assemble import Candidates
from bedplate.types import Bools, Int64s

_DRAWS = 2
"""The purpose of the random numbers; see `counter.streams`."""


@final
@dataclass(frozen=True, slots=True)
class Drawn:
    """Requests with their positives and, after them, their negatives.

    Attributes:
        rows: r requests with n candidates.
        sampled: [n] which candidates are negatives.
        log_q: [n] float32, see `negatives.LOG_Q`.
        repeated: draws that met an item that the request had already.
        missing: negatives that were given up.
    """

    rows: Candidates
    sampled: Bools
    log_q: Dense
    repeated: int
    missing: int


@final
class PopularitySampler:
    """Draws negatives for the requests of a spine.

    Args:
        requests: all requests with their positives, in order of time.
        times: [E] int64, the times of the events that are drawn from, ascending.
        items: [E] int64, their items.
        window: how far back an event counts, microseconds.
        wanted: [R] int64, how many negatives each request is to get.
    """

    __slots__ = (
        "_codes",
        "_event_codes",
        "_item_offsets",
        "_positions",
        "catalogue",
        "highs",
        "lows",
        "requests",
        "wanted",
    )

    def __init__(self, requests: Candidates, times: Int64s, items: Int64s, window: int, wanted: Int64s) -> None:
        self.requests = requests
        self.catalogue, codes = np.unique(items, return_inverse=True)
        self._event_codes = codes.astype(np.int32)
        self._positions = np.argsort(codes, kind="stable")
        self._item_offsets = np.searchsorted(codes[self._positions], np.arange(len(self.catalogue) + 1))
        self.lows: Int64s = np.searchsorted(times, requests.times - window)
        self.highs: Int64s = np.searchsorted(times, requests.times)
        self.wanted: Int64s = np.where(self.highs > self.lows, wanted, 0)
        self._codes = self.codes(requests.candidates)

    def codes(self, items: Int64s) -> Int64s:
        """The place of each item in the catalogue of items that have events, or -1."""
        if not len(self.catalogue):
            return np.full(len(items), -1, np.int64)
        places = np.minimum(np.searchsorted(self.catalogue, items), len(self.catalogue) - 1)
        return np.where(self.catalogue[places] == items, places, -1)

    def draw(self, chosen: Int64s, seed: int, epoch: int) -> Drawn:
        """The chosen requests with negatives that depend on seed, epoch and request id alone.

        Args:
            chosen: [r] int64, positions of requests.
            seed: of the run.
            epoch: of the run.
        """
        spine = self.requests
        sizes = spine.offsets[chosen + 1] - spine.offsets[chosen] + self.wanted[chosen]
        room = int(sizes.sum())
        largest = max(int(sizes.max(initial=0)), 1)
        table: Int64s = np.zeros(1 << (2 * largest - 1).bit_length(), np.int64)
        offsets: Int64s = np.zeros(len(chosen) + 1, np.int64)
        items, codes, sampled = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.bool_)
        ids = spine.request_ids[chosen]
        repeated, missing = kernels.draw(
            chosen,
            spine.offsets,
            spine.candidates,
            self._codes,
            streams(seed, epoch, _DRAWS, ids),
            self.lows,
            self.highs,
            self.wanted,
            self._event_codes,
            self.catalogue,
            ATTEMPTS,
            table,
            offsets,
            items,
            codes,
            sampled,
        )
        total = int(offsets[-1])
        rows = Candidates(
            request_keys={n: k[chosen] for n, k in spine.request_keys.items()},
            item=spine.item,
            candidates=items[:total],
            offsets=offsets,
            times=spine.times[chosen],
            request_ids=ids,
            context={n: c.take(chosen) for n, c in spine.context.items()},
        )
        log_q = self._log_q(codes[:total], np.repeat(chosen, np.diff(offsets)))
        return Drawn(rows, sampled[:total], log_q, repeated, missing)

    def _log_q(self, codes: Int64s, requests: Int64s) -> Dense:
        lows, highs = self.lows[requests], self.highs[requests]
        counts = np.empty(len(codes), np.int64)
        kernels.count_events(codes, self._item_offsets, self._positions, lows, highs, counts)
        present = counts > 0
        share = np.where(present, counts, 1) / np.where(present, highs - lows, highs - lows + 1)
        return Dense(np.log(share).astype(np.float32), None if present.all() else present)

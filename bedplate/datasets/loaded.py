"""A dataset over its data: requests as arrays, and the join of features and labels to any candidates."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Self, final

import numpy as np

from bedplate.batch import Batch, Column, Dense, Ids, Ragged, TextLookup, expand
from bedplate.datasets.dataset import CompiledDataset
from bedplate.datasets.ends import LabelEnd, read_ends
from bedplate.datasets.feedback import FeedbackSummary, read_feedback
from bedplate.datasets.labelled import Labelled
from bedplate.datasets.labels import CompiledLabel
from bedplate.datasets.negatives import LOG_Q, SAMPLED
from bedplate.datasets.sampling import PopularitySampler
from bedplate.datasets.split import SPLITS, TimeSplit
from bedplate.datasets.summary import DatasetSummary, SplitSummary
from bedplate.datasets.unknown import UnknownValues, read_unknown
from bedplate.errors import ConfigError, DataError, NotFoundError, suggest
from bedplate.features.assemble import Candidates, Join
from bedplate.features.model import Scorers, check_time_true
from bedplate.offline.base import History
from bedplate.types import LATEST_TIME, Float32s, Int64s

if TYPE_CHECKING:
    import polars as pl

_AT_ONCE = 65_536
"""Requests whose negatives are drawn at once for a summary; bounds its memory."""


def select_requests(rows: Candidates, chosen: Int64s) -> Candidates:
    """The requests at these positions, with their candidates, copied."""
    lists = Ragged(Ids(rows.candidates), rows.offsets).take(chosen)
    return Candidates(
        request_keys={n: k[chosen] for n, k in rows.request_keys.items()},
        item=rows.item,
        candidates=lists.values.values,
        offsets=lists.offsets,
        times=rows.times[chosen],
        request_ids=rows.request_ids[chosen],
        context={n: c.take(chosen) for n, c in rows.context.items()},
    )


def with_candidates(rows: Candidates, candidates: Int64s, offsets: Int64s) -> Candidates:
    """The same requests with other candidates.

    Args:
        rows: R requests.
        candidates: [N] int64 keys.
        offsets: [R + 1] int64.
    """
    return replace(rows, candidates=candidates, offsets=offsets)


def without_candidates(rows: Candidates) -> Candidates:
    """The same requests with no candidates, for what is computed of a request alone."""
    return with_candidates(rows, np.zeros(0, np.int64), np.zeros(len(rows.times) + 1, np.int64))


def _one_each(read: Sequence[tuple[str, str, str]]) -> dict[str, str]:
    """The snapshot of each source; `read` has a source's name, a snapshot and what read it."""
    found: dict[str, tuple[str, str]] = {}
    for source, snapshot, place in read:
        first, reader = found.setdefault(source, (snapshot, place))
        if first != snapshot:
            raise DataError(
                f"the source '{source}' was read in two states: {reader} is of snapshot {first}, {place} of {snapshot}",
                where="dataset",
                hint="run: bedplate apply; then open the project anew",
            )
    return {source: snapshot for source, (snapshot, _) in found.items()}


def _split(compiled: CompiledDataset, history: History, times: Int64s) -> TimeSplit:
    """The splits at their times: one that moves is counted back from where the data of all labels and requests end.

    Raises:
        DataError: it moves, and a source has no rows to count back from.
    """
    dataset = compiled.dataset
    if isinstance(dataset.split, TimeSplit):
        return dataset.split
    empty = [] if len(times) else [f"'{dataset.spine.source.name}' of the spine"]
    empty += [f"'{c.label.source.name}' of {c.label.place}" for c in compiled.labels if history.known(c.view) < 0]
    if empty:
        raise DataError(
            f"no rows are in source {' and in source '.join(empty)}: the split is counted back from their last",
            where=dataset.place,
            hint="was the table written, and does its prepare step leave rows?",
        )
    return dataset.split.at(min([int(times[-1]), *(c.last_time(history) for c in compiled.labels)]) + 1)


@final
class LoadedDataset:
    """A compiled dataset with its requests in memory and its features in history.

    The requests take about 50 bytes each and 16 bytes a positive; no features are held.

    Args:
        compiled: the dataset.
        history: where features and labels are read; it must hold `compiled.views`.
        indexed: the id of the source's snapshot behind each view in history, by the view's id; views that are not here
            are taken to be of the snapshot that the rest is of.
        scorers: the models behind the features.

    Attributes:
        scorers: as given.
        split: its splits, at their times.
        snapshots: the snapshot that was read of each source, by the source's name: by the spine, by the negatives and
            by the indexes of the features and labels.

    Raises:
        DataError: a source does not hold what the definition says, or was read in two states; or a model behind a
            feature has seen what is to be predicted.
    """

    __slots__ = (
        "_feedback", "_join", "_labelled", "_ranges", "_sampler", "_summary", "_texts", "_uncensored", "compiled",
        "history", "scorers", "snapshots", "spine", "split",
    )  # fmt: skip

    def __init__(
        self,
        compiled: CompiledDataset,
        history: History,
        indexed: Mapping[str, str] | None = None,
        scorers: Scorers = MappingProxyType({}),
    ) -> None:
        self.compiled, self.history, self.scorers = compiled, history, scorers
        self.spine = compiled.spine.read()
        self._texts = compiled.spine.texts(self.spine)
        self._feedback: tuple[FeedbackSummary, ...] | None = None
        self._summary: tuple[tuple[int, int], DatasetSummary] | None = None
        rows = self.spine.rows
        self._join = Join(compiled.selected, rows.item, scorers)
        read = [(compiled.dataset.spine.source.name, self.spine.snapshot, compiled.dataset.spine.place)]
        self._sampler: PopularitySampler | None = None
        if compiled.negatives is not None:
            definition = compiled.negatives.negatives
            wanted = definition.wanted(np.diff(rows.offsets))
            events = compiled.negatives.read()
            self._sampler = PopularitySampler(rows, events.times, events.items, definition.window, wanted)
            read.append((definition.source.name, events.snapshot, definition.place))
        known = indexed or {}
        read += [(v.view.source.name, known[v.id], f"index of {v.place}") for v in compiled.views if v.id in known]
        self.snapshots: Mapping[str, str] = _one_each(read)
        self.split = split = _split(compiled, history, rows.times)
        waits = [c.label.complete_after for c in compiled.labels]
        self._ranges = split.ranges(rows.times, min(waits, default=0))
        self._labelled = {c.label.name: Labelled.of(c, split, rows.times, history) for c in compiled.labels}
        used = [int(rows.times[first]) for first, last in self._ranges.values() if first < last]
        check_time_true(compiled.selected.models, scorers, min(used, default=LATEST_TIME), compiled.dataset.place)

    def since(self, time: int) -> Self:
        """The dataset whose training split has only the requests from a time on, microseconds."""
        found = copy(self)
        first, last = self._ranges["train"]
        first = min(max(first, int(np.searchsorted(self.spine.rows.times, time))), last)
        found._ranges = {**self._ranges, "train": (first, last)}
        found._labelled = {name: known.without("train", first) for name, known in self._labelled.items()}
        found._summary = None
        return found

    @property
    def learnt_until(self) -> int:
        """The time of the last training request: what a model that is continued has not learnt from is later."""
        first, last = self.positions("train")
        return int(self.spine.rows.times[last - 1]) if first < last else 0

    @property
    def trained_until(self) -> int:
        """Up to which time a model knows what happened that learns from training and is chosen by validation.

        That is the last of their requests and, for each label, the end of the horizon of the last one that has it, or
        what a model behind a feature knows.
        """
        learnt = ("train", "validation")
        ranges = [(self.positions(split), 0) for split in learnt]
        ranges += [(known.positions(split), known.horizon) for known in self._labelled.values() for split in learnt]
        own = [int(self.spine.rows.times[last - 1]) + horizon for (first, last), horizon in ranges if first < last]
        return max([0, *own, *(scorer.trained_until or 0 for scorer in self.scorers.values())])

    @property
    def item_texts(self) -> TextLookup | None:
        """The text behind each candidate of the spine, where items are strings."""
        return self.spine.item_texts

    def positions(self, split: str) -> tuple[int, int]:
        """The requests `[first, last)` of a split that have a label; positions in order of time.

        Without those that have none: each is censored or would look into the next split. Of the others some labels may
        be so, which are NaN in a batch.

        Raises:
            NotFoundError: there is no such split.
        """
        if split not in self._ranges:
            raise NotFoundError(
                f"no split '{split}'", where=self.compiled.dataset.place, hint=suggest(split, SPLITS, "splits")
            )
        first, last = self._ranges[split]
        return first, max((known.positions(split)[1] for known in self._labelled.values()), default=last)

    def labelled(self, label: str, split: str, after: int | None = None) -> int:
        """How many requests of a split have a label, which is known by then and does not look into the next split.

        Of a label that is masked where its aggregation gives no value, those with a listed candidate that has one.

        Args:
            label: the name of one of its labels.
            split: train, validation or test.
            after: count those that are later than this, microseconds; None: all.
        """
        first, last = self._labelled[label].positions(split)
        if after is not None:
            first = min(max(first, int(np.searchsorted(self.spine.rows.times, after, side="right"))), last)
        compiled = next(c for c in self.compiled.labels if c.label.name == label)
        if not compiled.is_masked:
            return last - first
        read = self._label_of(compiled, first, last)
        return sum(len(np.unique(expand(rows.offsets)[np.isfinite(values)])) for rows, values in read)

    def requests(self, split: str) -> Candidates:
        """The requests of a split in order of time, with the items that were truly chosen: each once, in order."""
        return select_requests(self.spine.rows, np.arange(*self.positions(split)))

    def sizes(self) -> Int64s:
        """[R] how many candidates each request of the spine has, negatives included (before any is given up)."""
        positives = np.diff(self.spine.rows.offsets)
        return positives if self._sampler is None else positives + self._sampler.wanted

    def assemble(self, rows: Candidates, *, labels: bool = True) -> Batch:
        """A batch of any requests and candidates, such as a retrieved set or a whole catalogue.

        Args:
            rows: the requests and candidates.
            labels: whether to read labels too; those that are not known yet, or would look into the next split, are
                NaN.
        """
        wanted = self.compiled.labels if labels else ()
        values = {c.label.name: c.read(self.history, rows, self.split) for c in wanted}
        return replace(self._join.batch(self.history, rows, values), texts=self._texts)

    def sample(self, chosen: Int64s, seed: int, epoch: int) -> Batch:
        """A batch of requests with positives, negatives (of this seed and epoch), features and labels.

        Args:
            chosen: [r] int64, positions of requests in order of time.
            seed: of the run.
            epoch: of the run.
        """
        if self._sampler is None:
            return self.assemble(select_requests(self.spine.rows, chosen))
        drawn = self._sampler.draw(chosen, seed, epoch)
        batch = self.assemble(drawn.rows)
        added: Mapping[str, Column] = {LOG_Q: drawn.log_q, SAMPLED: Dense(drawn.sampled)}
        return replace(batch, item={**batch.item, **added})

    def frame(self, split: str, rows: int = 1000, seed: int = 0, epoch: int = 0) -> pl.DataFrame:
        """A sample of a split as a table, with features, labels and negatives; see `Batch.to_frame`.

        Whole requests, evenly spread over the split and in order of time, are joined for it alone.

        Args:
            split: train, validation or test.
            rows: how many rows the table has at most, where more than one request fits into them.
            seed: of the run whose negatives are shown.
            epoch: of the run.

        Raises:
            ConfigError: `rows` is below 1.
            NotFoundError: there is no such split.
        """
        if rows < 1:
            raise ConfigError(f"rows is {rows}, expected at least 1", where="frame of a dataset")
        first, last = self.positions(split)
        sizes = self.sizes()
        count = min(rows, last - first)
        while True:
            chosen = np.unique(np.linspace(first, last - 1, count).astype(np.int64))
            total = int(sizes[chosen].sum())
            if total <= rows or count <= 1:
                return self.sample(chosen, seed, epoch).to_frame()
            count = max(1, min(count - 1, count * rows // total))

    def summary(self, seed: int = 0, epoch: int = 0) -> DatasetSummary:
        """What each split holds; the negatives are those of this seed and epoch. Counted once."""
        if self._summary is None or self._summary[0] != (seed, epoch):
            self._summary = (seed, epoch), self._summarized(seed, epoch)
        return self._summary[1]

    def _summarized(self, seed: int, epoch: int) -> DatasetSummary:
        used = sum(last - first for first, last in self._ranges.values())
        splits = tuple(self._split_summary(name, seed, epoch) for name in SPLITS)
        gap = len(self.spine.rows.times) - used
        return DatasetSummary(self.compiled.dataset.name, splits, gap, self.feedback(), self.ends(), self.unknown())

    def ends(self) -> tuple[LabelEnd, ...]:
        """Where the data of each label end, and whether a few stray rows say so; reads the times of their sources."""
        return read_ends(self.compiled.labels, self.compiled.root, self.history, self.spine.rows.times)

    def unknown(self) -> tuple[UnknownValues, ...]:
        """Of each label that reads a value, of how many events it is null or NaN; reads that column of its source."""
        times = self.spine.rows.times
        if not len(times):
            return ()
        ends = int(times[0]), int(times[-1])
        found = (read_unknown(c, self.compiled.root, *ends) for c in self.compiled.labels)
        return tuple(one for one in found if one is not None)

    def feedback(self) -> tuple[FeedbackSummary, ...]:
        """Of each label that is joined by the request's id, what its rows are; reads its source, once.

        Raises:
            DataError: rows that can't be read, or another state of the source than the rest was read in.
        """
        if self._feedback is None:
            self._feedback = tuple(
                read_feedback(c, self.spine.rows, self.compiled.root, self.snapshots)
                for c in self.compiled.labels
                if c.label.request is not None
            )
        return self._feedback

    def _split_summary(self, name: str, seed: int, epoch: int) -> SplitSummary:
        first, last = self.positions(name)
        offsets = self.spine.rows.offsets
        positives = int(offsets[last] - offsets[first])
        negatives = repeated = missing = without = 0
        if self._sampler is not None:
            without = int(np.count_nonzero(self._sampler.wanted[first:last] == 0))
            for start in range(first, last, _AT_ONCE):
                drawn = self._sampler.draw(np.arange(start, min(last, start + _AT_ONCE)), seed, epoch)
                negatives += int(np.count_nonzero(drawn.sampled))
                repeated, missing = repeated + drawn.repeated, missing + drawn.missing
        return SplitSummary(
            name=name,
            requests=last - first,
            rows=positives + negatives,
            listed=positives,
            drawn=negatives,
            censored=self._ranges[name][1] - last,
            without_negatives=without,
            missing_negatives=missing,
            repeated_draws=repeated,
            duplicates=int(self.spine.duplicates[first:last].sum()),
            censored_labels={n: known.censored(name, last) for n, known in self._labelled.items()},
            crossing_labels={n: known.crossing(name, last) for n, known in self._labelled.items()},
            labels={c.label.name: self._label_summary(c, first, last) for c in self.compiled.labels},
        )

    def _label_summary(self, label: CompiledLabel, first: int, last: int) -> tuple[int, float]:
        """Of how many listed candidates of these requests a label is known, and its mean."""
        count, total = 0, 0.0
        for _, values in self._label_of(label, first, last):
            known = values[np.isfinite(values)]
            count, total = count + len(known), total + float(known.sum(dtype=np.float64))
        return count, total / count if count else math.nan

    def _label_of(self, label: CompiledLabel, first: int, last: int) -> Iterator[tuple[Candidates, Float32s]]:
        """The listed candidates of the requests `[first, last)`, some at once, and their label."""
        for start in range(first, last, _AT_ONCE):
            rows = select_requests(self.spine.rows, np.arange(start, min(last, start + _AT_ONCE)))
            yield rows, label.read(self.history, rows, self.split)

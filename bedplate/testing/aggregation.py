"""The contract suite of aggregations: what a subclass of `Aggregation` must do, as a test class to inherit.

class TestMyAggregation(AggregationContract):
    def make(self, windows=None, where=None) -> Aggregation:
        return MyAggregation("price", windows=windows, where=where)

The laws need no oracle: they compare an aggregation with itself, over simulated events (`simulator.simulate`) with the
columns `user`, `item`, `time`, `quantity`, `price`, `amount`, `kind`, `flag` and `seen`. `make` is to pass on both
arguments; floats are compared at float32 precision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, final

import numpy as np
import polars as pl

from bedplate.aggregations.base import Aggregation, ExpressionLike, Output, Partial, Reduce, Reduction
from bedplate.aggregations.merge import merge_sets
from bedplate.aggregations.window import Window, WindowLike
from bedplate.batch import Column, Dense, Embedding, Ids, Ragged
from bedplate.canonical import digest, to_json
from bedplate.errors import DefinitionError
from bedplate.features.rows import prepare_rows
from bedplate.features.view import CompiledView, FeatureView
from bedplate.offline.history import IndexedHistory
from bedplate.online.base import Changes
from bedplate.online.codec import Layout
from bedplate.online.fetch import OnlineReader
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.online.rows import group, merged_rows, texts_of
from bedplate.sources.base import Source
from bedplate.testing.columns import mismatches
from bedplate.testing.online_store import grouped
from bedplate.testing.simulator import USER, Simulation, simulate
from bedplate.types import DAY, HOUR, Int64s, Type, format_duration

WINDOWS: tuple[Window, ...] = (
    Window.of("15m"),
    Window.of("1d"),
    Window.of("2d", hop="1d"),
    Window.of("3d", hop="exact", bound=3),
)
"""Windows with hops of five minutes, an hour and a day, and one without."""

SEEDS = (1, 2, 3)
"""The histories that each law is tried on."""

_VALUES = ("quantity", "price", "amount", "kind", "flag", "seen")


def view_of(events: pl.DataFrame, features: Mapping[str, Aggregation], delay: int | None = None) -> CompiledView:
    """A view of the users of simulated events."""
    source = Source("events", events, time="time", delay=None if delay is None else format_duration(delay))
    return FeatureView("simulated", USER, source, features).compile()


def from_history(folder: Path, view: CompiledView, users: Int64s, times: Int64s) -> dict[str, Column]:
    """Every feature of the view, from an index in the folder, which is built where it is not there."""
    history = IndexedHistory(folder)
    history.build(view).run()
    return dict(history.read(view, list(view.features), users.reshape(-1, 1), times))


def filled(view: CompiledView, parts: Sequence[pl.DataFrame], rewind: int = 0) -> tuple[MemoryStore, int]:
    """A store with the first part of the events loaded in bulk and the others folded in, one after the other.

    Returns:
        the store, and the time from which reads are exact.
    """
    store, layout = MemoryStore(), Layout(view)
    watermark = int(np.max(parts[0]["time"].to_numpy(), initial=0)) + 1
    bulk_load(store, view, [grouped(view, parts[0])], watermark, rewind=rewind, batch=30)
    for part in parts[1:]:
        rows = prepare_rows(view, part.lazy())
        watermark = max(watermark, int(rows.times.max(initial=0)))
        puts = merged_rows(store, layout, group(layout, rows), watermark - rewind)
        store.commit(Changes(puts + texts_of(rows, set())))
    return store, watermark


def from_store(view: CompiledView, store: MemoryStore, users: Int64s, times: Int64s) -> dict[str, Column]:
    """Every feature of the view as a store has it."""
    return dict(OnlineReader(store).read(view, list(view.features), users.reshape(-1, 1), times))


class AggregationContract:
    """Inherit, say how the aggregation is made, and run with pytest."""

    def make(
        self, windows: WindowLike | Sequence[WindowLike] | None = None, where: ExpressionLike | None = None
    ) -> Aggregation:
        """The aggregation over these windows, of the events for which a condition is true."""
        raise DefinitionError("a contract suite says how its aggregation is made", where=type(self).__name__)

    def test_history_and_online_store_give_the_same(self, tmp_path: Path) -> None:
        """Whatever was loaded in bulk, streamed, late, tied, delayed or still pending."""
        for seed, delay, rewind in ((1, None, 0), (2, HOUR, DAY), (3, None, HOUR)):
            simulation = simulate(seed)
            view = view_of(simulation.events, self._over_all_windows(), delay)
            cuts = [0, 60, 130, 140, 200] if seed > 1 else [0, 0, 200]
            store, watermark = filled(view, [simulation.events[a:b] for a, b in pairwise(cuts)], rewind)
            asked = simulation.since(watermark)
            expected = from_history(tmp_path, view, asked.users, asked.times)
            assert mismatches(from_store(view, store, asked.users, asked.times), expected) == []

    def test_the_order_in_which_events_arrive_does_not_matter(self) -> None:
        """Online, unless two events of a key have the same time."""
        for seed in SEEDS:
            simulation = _untied(simulate(seed))
            view = view_of(simulation.events, self._over_all_windows())
            users, times = _users(), np.full(6, int(simulation.events["time"].to_numpy().max()) + 1)
            parts = [simulation.events[a:b] for a, b in pairwise([0, 50, 90, 160, 200])]
            store, _ = filled(view, [parts[0][:0], *parts])
            other, _ = filled(view, [parts[0][:0], *reversed(parts)])
            expected = from_store(view, store, users, times)
            assert mismatches(from_store(view, other, users, times), expected) == []

    def test_partials_of_pieces_merge(self, tmp_path: Path) -> None:
        """Associative and commutative: events may be split in any way, and their pieces merged in any order."""
        reductions = self._windowless().reductions
        if any(r.reduce is Reduce.DISTINCT for r in reductions):
            return  # its pieces are values, not numbers: see `merge.merge`
        for seed in SEEDS:
            simulation = _untied(simulate(seed))
            piece = np.random.default_rng(seed).integers(0, 3, len(simulation.events))
            a, b, c = (self._partials(tmp_path, simulation, simulation.events.filter(piece == i)) for i in range(3))
            whole, probe = self._partials(tmp_path, simulation, simulation.events), self._windowless()
            expected = _finalized(probe, whole, simulation.times)
            for first, second, third in ((a, b, c), (c, a, b), (b, c, a)):
                left = _merged(reductions, _merged(reductions, first, second), third)
                right = _merged(reductions, first, _merged(reductions, second, third))
                for merged in (left, right):
                    assert mismatches(_finalized(probe, merged, simulation.times), expected) == []

    def test_pieces_of_equal_times_merge_in_order_of_arrival(self, tmp_path: Path) -> None:
        """Of two events of a key and time that of the earlier piece came first."""
        reductions = self._windowless().reductions
        if any(r.reduce is Reduce.DISTINCT for r in reductions):
            return
        for seed in SEEDS:
            simulation = simulate(seed)
            pieces = [
                self._partials(tmp_path, simulation, simulation.events[a:b]) for a, b in pairwise([0, 70, 71, 200])
            ]
            merged = _merged(reductions, _merged(reductions, pieces[0], pieces[1]), pieces[2])
            expected = _finalized(
                self._windowless(), self._partials(tmp_path, simulation, simulation.events), simulation.times
            )
            assert mismatches(_finalized(self._windowless(), merged, simulation.times), expected) == []

    def test_the_order_of_different_keys_does_not_matter(self, tmp_path: Path) -> None:
        """Events of equal time keep their order within a key, wherever the rows of other keys are."""
        for seed in SEEDS:
            simulation = simulate(seed)
            got, expected = (
                from_history(tmp_path, view_of(events, self._over_all_windows()), simulation.users, simulation.times)
                for events in (simulation.events.sort("user", descending=True, maintain_order=True), simulation.events)
            )
            assert mismatches(got, expected) == []

    def test_no_events(self, tmp_path: Path) -> None:
        """An empty source, a key that never occurs and a condition that is never true are the same, online too."""
        simulation = simulate(1)
        times = np.full(6, int(simulation.events["time"].to_numpy().max()) + 1)
        never, features = pl.col("user") < 0, self._over_all_windows()
        empty = view_of(simulation.events[:0], features)
        expected = from_history(tmp_path, empty, _users(), times)
        stranger = from_history(tmp_path, view_of(simulation.events, features), _users() + 1000, times)
        excluded = from_history(tmp_path, view_of(simulation.events, self._over_all_windows(never)), _users(), times)
        assert mismatches(stranger, expected) == []
        assert mismatches(excluded, expected) == []
        store, _ = filled(empty, [simulation.events[:0]])
        assert mismatches(from_store(empty, store, _users(), times), expected) == []
        assert all(len(column) == 6 for column in expected.values())

    def test_a_null_is_no_event(self, tmp_path: Path) -> None:
        """Events without any value change nothing, unless events as such are counted."""
        if any(not r.selection.inputs for r in self._windowless().reductions):
            return
        for seed in SEEDS:
            simulation = simulate(seed)
            nothing = simulation.events.with_columns(pl.lit(None, t).alias(n) for n, t in _types(simulation.events))
            both = pl.concat([simulation.events, nothing])
            windows = [w for w in WINDOWS if w.bound is None]  # a bound is of the view's events, with values or without
            features = {"value": self.make(windows)} | self._all_history()
            got, expected = (
                from_history(tmp_path, view_of(events, features), simulation.users, simulation.times)
                for events in (both, simulation.events)
            )
            assert mismatches(got, expected) == []

    def test_a_window_covers_what_it_says(self, tmp_path: Path) -> None:
        """The events with `floor(t - w, hop) <= time < t`, of an exact window the last `bound` of them."""
        for seed in SEEDS:
            simulation = simulate(seed, questions=40)
            questions = np.arange(len(simulation.times))
            for window in WINDOWS:
                whole = view_of(simulation.events, {"value": self.make(window)})
                got = from_history(tmp_path, whole, simulation.users, simulation.times)
                inside = _inside(simulation, window)
                same = from_history(
                    tmp_path, view_of(inside, {"value": self.make(window)}), questions, simulation.times
                )
                assert mismatches(got, same) == [], window
                if self._has_all_history():
                    every = from_history(tmp_path, view_of(inside, {"value": self.make()}), questions, simulation.times)
                    stem = f"value_{window.label}"
                    renamed = {name.replace(stem, "value", 1): column for name, column in got.items()}
                    assert mismatches(renamed, every) == [], window

    def test_where_leaves_events_out(self, tmp_path: Path) -> None:
        """A condition is the same as a table without the other events."""
        condition = (pl.col("kind") == "buy") | pl.col("flag")
        windows = [w for w in WINDOWS if w.bound is None]  # a bound is of the view's events, whatever the condition
        for seed in SEEDS:
            simulation = simulate(seed)
            features = {"value": self.make(windows)} | self._all_history()
            conditional = {"value": self.make(windows, condition)} | self._all_history(condition)
            got = from_history(tmp_path, view_of(simulation.events, conditional), simulation.users, simulation.times)
            left = view_of(simulation.events.filter(condition), features)
            assert mismatches(got, from_history(tmp_path, left, simulation.users, simulation.times)) == []

    def test_columns_are_of_the_types_that_are_declared(self, tmp_path: Path) -> None:
        """Of every output: numbers, identities of strings or lists of them, in history and online."""
        simulation = simulate(2)
        view = view_of(simulation.events, self._over_all_windows())
        store, watermark = filled(view, [simulation.events])
        times = np.full(6, watermark)
        for found in (from_history(tmp_path, view, _users(), times), from_store(view, store, _users(), times)):
            for name, feature in view.features.items():
                column = found[name]
                assert isinstance(column, Ragged) == feature.is_list, name
                values = column.values if isinstance(column, Ragged) else column
                assert isinstance(values, Ids if feature.type is Type.STRING else Dense), name
                assert not isinstance(values, Embedding), name
                assert values.values.dtype == feature.type.dtype, name

    def test_equal_definitions_have_equal_forms(self) -> None:
        """The canonical form is JSON, the same each time, and another for another window or condition."""
        windows, events = list(WINDOWS), simulate(1).events
        forms = [to_json(self.make(windows).form()) for _ in range(2)]
        others = [self.make(windows[:1]), self.make(windows, pl.col("flag")), self.make(windows, ~pl.col("flag"))]
        assert forms[0] == forms[1]
        assert len({*forms, *(to_json(other.form()) for other in others)}) == 4
        ids = [[f.id for f in view_of(events, self._over_all_windows()).features.values()] for _ in range(2)]
        assert ids[0] == ids[1]
        assert len(set(ids[0])) == len(ids[0])
        assert self.make(windows).text == self.make(windows).text != ""

    def test_many_rows_are_answered_as_few(self, tmp_path: Path) -> None:
        """A large lookup, which works block by block, equals a small one."""
        simulation = simulate(3, questions=30)
        view = view_of(simulation.events, self._over_all_windows())
        draw = np.random.default_rng(3).integers(0, 30, 17_000)
        few = from_history(tmp_path, view, simulation.users, simulation.times)
        many = from_history(tmp_path, view, simulation.users[draw], simulation.times[draw])
        first = np.array([int((draw == i).argmax()) for i in range(30)])
        last = len(draw) - 1 - np.array([int((draw[::-1] == i).argmax()) for i in range(30)])
        for rows in (first, last):
            assert mismatches({n: c.take(rows) for n, c in many.items()}, few) == []

    def _has_all_history(self) -> bool:
        try:
            self.make()
        except DefinitionError:
            return False
        return True

    def _windowless(self) -> Aggregation:
        return self.make() if self._has_all_history() else self.make(WINDOWS[2]).over(WINDOWS[2])

    def _all_history(self, where: ExpressionLike | None = None) -> dict[str, Aggregation]:
        return {"whole": self.make(None, where)} if self._has_all_history() else {}

    def _over_all_windows(self, where: ExpressionLike | None = None) -> dict[str, Aggregation]:
        return {"value": self.make(list(WINDOWS), where)} | self._all_history(where)

    def _partials(self, tmp_path: Path, simulation: Simulation, events: pl.DataFrame) -> list[Partial]:
        """The partials of the aggregation at the questions, from some of the events."""
        probe = _Probe(self._windowless())
        from_history(tmp_path, view_of(events, {"value": probe}), simulation.users, simulation.times)
        return probe.partials


@final
class _Probe(Aggregation):
    """Another aggregation that keeps what it is given to finalise."""

    __slots__ = ("partials", "whole")

    def __init__(self, whole: Aggregation) -> None:
        super().__init__(whole.selection.inputs, [w for w in whole.windows if w is not None] or None)
        self.whole, self.partials = whole, list[Partial]()

    @property
    def reductions(self) -> tuple[Reduction, ...]:
        return self.whole.reductions

    def outputs(self, types: Sequence[Type]) -> tuple[Output, ...]:
        return self.whole.outputs(types)

    def finalize(self, partials: Sequence[Partial], times: Int64s) -> tuple[Column, ...]:
        self.partials = list(partials)
        return self.whole.finalize(partials, times)

    def options(self) -> Mapping[str, Any]:
        return {"whole": digest(self.whole.form())}


def _merged(reductions: Sequence[Reduction], first: Sequence[Partial], second: Sequence[Partial]) -> list[Partial]:
    return [merge_sets(r, [one, other]) for r, one, other in zip(reductions, first, second, strict=True)]


def _finalized(aggregation: Aggregation, partials: Sequence[Partial], times: Int64s) -> dict[str, Column]:
    return {str(i): column for i, column in enumerate(aggregation.finalize(partials, times))}


def _users() -> Int64s:
    return np.arange(6, dtype=np.int64)


def _types(events: pl.DataFrame) -> list[tuple[str, pl.DataType]]:
    return [(name, events.schema[name]) for name in (*_VALUES, "item")]


def _untied(simulation: Simulation) -> Simulation:
    """The same events, no two at the same time."""
    times = simulation.events["time"].to_numpy()
    apart = times * 2 // 1000 * 500 + np.arange(len(times))
    events = simulation.events.with_columns(pl.Series("time", apart))
    return Simulation(events, simulation.users, simulation.items, simulation.times)


def _inside(simulation: Simulation, window: Window) -> pl.DataFrame:
    """For each question the events that its window covers, with the question's number in place of the user."""
    parts: list[pl.DataFrame] = []
    for number, (user, time) in enumerate(zip(simulation.users.tolist(), simulation.times.tolist(), strict=True)):
        seen = simulation.events.filter((pl.col("user") == user) & (pl.col("time") < time))
        if window.bound is not None:
            seen = seen.sort("time", maintain_order=True).tail(window.bound)
        covered = seen.filter(pl.col("time") >= window.start(time))
        parts.append(covered.with_columns(pl.lit(number, pl.Int64).alias("user")))
    return pl.concat(parts)

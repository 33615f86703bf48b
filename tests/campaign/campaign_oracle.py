"""What a parity campaign compares: every online answer with the oracle, and the smallest events that still differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from campaign_world import VIEWS, World, questions

from bedplate.canonical import string_ids
from bedplate.features.links import Link
from bedplate.features.view import CompiledView
from bedplate.offline.reference import Reference, linked
from bedplate.online.base import OnlineStore, open_store
from bedplate.online.fetch import OnlineReader
from bedplate.online.state import REWIND, ViewState, read_state
from bedplate.project import Project
from bedplate.testing.columns import mismatches, plain
from bedplate.testing.online_store import fill

_TRIES = 400


@dataclass(frozen=True)
class Wrong:
    """A feature of which the store answers something else than the oracle."""

    view: CompiledView
    feature: str
    key: tuple[int, ...]
    time: int
    line: str
    taken: np.ndarray


def compare(world: World, count: int) -> Iterator[Wrong]:
    """Compares each view's answers for keys and times with the oracle over the events that its state says are in.

    Args:
        world: the campaign's.
        count: how many keys and times of each view.
    """
    project = world.project()
    with open_store(world.store, world.folder) as store:
        states = {name: read_state(store, project.views[name]) for name in VIEWS}
        taken = {name: world.feed.taken(state) for name, state in states.items()}
        references = {n: Reference(project.views[n], world.events.filter(taken[n]).lazy()) for n in VIEWS}
        for name in VIEWS:
            yield from _of_view(world, store, project.views[name], references[name], states[name], count)
        if all((mask == taken[VIEWS[0]]).all() for mask in taken.values()):
            yield from _behind_link(world, store, project, references, max(s.watermark for s in states.values()))


def _of_view(
    world: World, store: OnlineStore, view: CompiledView, reference: Reference, state: ViewState, count: int
) -> Iterator[Wrong]:
    times = questions(world.draw, state.watermark, count)
    keys = _keys(world, view, count)
    names = list(view.features)
    got = OnlineReader(store).read(view, names, keys, times)
    expected = reference.read(view, names, keys, times)
    for name in names:
        for line in mismatches({name: got[name]}, {name: expected[name]}):
            row = int(line.partition("first is row ")[2].partition(":")[0])
            yield Wrong(view, name, tuple(keys[row].tolist()), int(times[row]), line, world.feed.taken(state))


def _keys(world: World, view: CompiledView, count: int) -> np.ndarray:
    """[count, entities] keys of users and items, of which one each has no event."""
    items = np.array(string_ids([f"item {i}" for i in range(5)]), np.int64)
    drawn = {"user": world.draw.integers(0, 7, count), "item": items[world.draw.integers(0, 5, count)]}
    return np.stack([drawn[e.name] for e in view.view.entities], axis=1)


def _behind_link(
    world: World, store: OnlineStore, project: Project, references: dict[str, Reference], watermark: int
) -> Iterator[Wrong]:
    """A few features of items, reached from users by a link, each side by its own way."""
    names = [n for n in project.graph.features if n.startswith("favourite.")]
    names = [names[i] for i in world.draw.integers(0, len(names), 5).tolist()]
    users, times = np.arange(7), np.full(7, watermark + int(world.draw.integers(0, 10**10)))
    selected = project.graph.select(names)
    found = project.lookup(names, {"user": users.tolist()}, times.tolist(), OnlineReader(store))
    links = {link.name: link for link in project.definitions.of(Link)}
    for name in selected.names:
        expected = [linked(name, links, references, {"user": u}, t) for u, t in zip(users, times, strict=True)]
        got = found[name].to_list()
        for user, ours, theirs in zip(users.tolist(), got, expected, strict=True):
            if not _same(ours, theirs):
                line = f"{name}: got {ours!r}, expected {theirs!r}"
                yield Wrong(
                    references["by_user"].view,
                    name,
                    (user,),
                    int(times[0]),
                    line,
                    np.arange(len(world.events)) < world.sent,
                )


def _same(ours: object, theirs: object) -> bool:
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(_same, ours, theirs))
    if isinstance(ours, float) and isinstance(theirs, int | float):
        return bool(np.isclose(ours, theirs, rtol=1e-6, atol=1e-9, equal_nan=True))
    return ours == theirs


def smallest(world: World, wrong: Wrong) -> str:
    """The fewest events of the key that differ in memory too, as what makes them again; or that there are none."""
    columns = [e.key for e in wrong.view.view.entities]
    rows = world.events.with_row_index("number").filter(wrong.taken)
    for column, key in zip(columns, wrong.key, strict=True):
        ids = rows[column] if rows[column].dtype.is_integer() else pl.Series(string_ids(rows[column].to_list()))
        rows = rows.filter(ids == key)
    if not _differs(world, wrong, rows):
        return (
            "not in memory with the key's events alone: look at what was killed, at the load and at the order of steps"
        )
    step, tries = max(1, len(rows) // 2), 0
    while step and tries < _TRIES:
        begin = 0
        while begin < len(rows) and tries < _TRIES:
            left, tries = pl.concat([rows[:begin], rows[begin + step :]]), tries + 1
            if _differs(world, wrong, left):
                rows = left
            else:
                begin += step
        step //= 2
    kept = [f"event {r['number']}: {r}" for r in rows.iter_rows(named=True)]
    return f"{len(rows)} events, loaded before event {world.loaded}, then one by one:\n" + "\n".join(kept)


def _differs(world: World, wrong: Wrong, rows: pl.DataFrame) -> bool:
    """Whether a feature differs where these rows were loaded and streamed in memory."""
    cut = int((rows["number"] < world.loaded).sum())
    events = rows.drop("number")
    store, watermark = fill(wrong.view, events, [cut, *range(cut + 1, len(rows))], REWIND)
    keys, times = np.array([wrong.key], np.int64), np.array([max(wrong.time, watermark)], np.int64)
    names: Sequence[str] = [wrong.feature]
    got = OnlineReader(store).read(wrong.view, names, keys, times)
    expected = Reference(wrong.view, events.lazy()).read(wrong.view, names, keys, times)
    return plain(got[wrong.feature]) != plain(expected[wrong.feature]) and mismatches(got, expected) != []

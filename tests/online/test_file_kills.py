"""Workers on streams of JSON with poison rows, duplicates and late events are killed: all counts once, letters too."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest
from mortal import LOADED, load
from mortal_world import NURSERY, World, assert_oracle
from stream_files import jsonl, put
from test_deaths import die_at_every_moment
from test_kills import AHEAD, EACH, PARTITIONS, USERS, WORKERS, Crowd

from bedplate.online.base import OnlineStore, open_store
from bedplate.online.files import FileStream
from bedplate.online.ingest import Ingest
from bedplate.online.letters import Letter, read_letters
from bedplate.online.replay import LetterStream

KILLS = int(os.environ.get("BEDPLATE_KILLS", "4"))


@pytest.fixture(autouse=True)
def nursery() -> Generator[None]:
    """Ends where the tests' processes come from."""
    yield
    NURSERY.close()


class PoisonWorld(World):
    """A world whose stream is of JSON, some rows of which are poison and some there twice, each file backwards."""

    def __init__(self, url: str, folder: Path, size: tuple[int, int], batch: int) -> None:
        super().__init__(url, folder, size, batch)
        self.aside, self.living = folder / "aside", folder / "living"
        self.files = folder / "json"
        self.good, self.meant = [self.rows[:LOADED]], dict[tuple[str, int], dict[str, Any]]()

    def put(self, partition: str, name: str, rows: pl.DataFrame) -> None:
        """Appends rows as a file of the stream."""
        lines = list[Any]()
        for number, row in enumerate(rows.reverse().to_dicts()):
            event = (row["time"] // 3_600_000_000) % 77
            if event % 7 == 3:
                self.meant[f"{partition}/{name}" if partition else name, len(lines)] = row
                lines.append(b'{"user"' if event % 2 else row | {"time": 0})
            else:
                copies = 2 if event % 11 == 5 else 1
                lines += [row] * copies
                self.good += [rows.reverse()[number : number + 1]] * copies
        put(self.files / partition, name, jsonl(lines))

    def stream(self, letters: Path) -> FileStream:
        return FileStream(self.files, self.views[0], letters)

    def ingest(self, store: OnlineStore) -> Ingest:
        return Ingest(store, self.views, self.stream(self.living), batch=self.batch)

    def start(self, doing: str, **options: Any) -> int:
        return super().start(doing, aside=str(self.aside), **({"files": str(self.files)} | options))

    def letters(self) -> list[tuple[Path, list[Letter]]]:
        return [(path, read_letters(path)) for path in sorted(self.aside.glob("*.jsonl"))]

    def check_and_replay(self, store: OnlineStore) -> None:
        """Each poison row has a letter and counts nowhere; once it is mended and taken in it counts once."""
        assert_oracle(store, self.views, pl.concat(self.good))
        found = [(letter.file, letter.row) for _, letters in self.letters() for letter in letters]
        assert len(found) == len(set(found))
        assert set(found) == self.meant.keys()
        for path, letters in self.letters():
            mended = list[Letter]()
            for letter in letters:
                payload = msgspec.json.encode(self.meant[letter.file, letter.row]).decode()
                mended.append(msgspec.structs.replace(letter, payload=payload))
            path.write_bytes(b"".join(msgspec.json.encode(letter) + b"\n" for letter in mended))
        for expected in (len(self.meant), 0):
            for view in self.views:
                taken = [Ingest(store, [view], LetterStream(path, view, store)).run() for path, _ in self.letters()]
                assert sum(done.events for done in taken) == expected
        whole = pl.concat([*self.good, pl.DataFrame(list(self.meant.values()), self.rows.schema)])
        assert_oracle(store, self.views, whole)


def test_a_worker_may_die_at_any_moment_about_a_letter(tmp_path: Path, url: str) -> None:
    world = PoisonWorld(url, tmp_path, (LOADED + 20, 4), 4)
    for begin in range(LOADED, LOADED + 20, 7):
        world.put("", f"{begin:04}.jsonl", world.rows[begin : begin + 7])
    assert len(world.meant) >= 3
    with open_store(url) as store:
        load(store, world.views, world.rows[:LOADED], 100)
        before, after = die_at_every_moment(world, store)
        assert after == 2 * (len(world.expected) - 1)
        assert before > 2 * after + 2  # those of letters too
        world.check_and_replay(store)


class PoisonCrowd(Crowd):
    """Workers on a stream with poison."""

    def __init__(self, world: PoisonWorld, store: OnlineStore, folder: Path) -> None:
        self.world = world
        super().__init__(world, store, folder)

    def send(self) -> None:
        """Appends events as long as few are left."""
        sent = sum(map(len, self.world.good))
        while sent < self.taken() + AHEAD:
            rows = self.world.rows[self.sent : self.sent + EACH]
            assert len(rows)
            for part in range(PARTITIONS):
                chosen = rows.filter(rows["user"].str.slice(5).cast(int) % PARTITIONS == part)
                self.world.put(f"{part}", f"{self.sent:08}.json", chosen)
            self.sent += len(rows)
            sent = sum(map(len, self.world.good))


def test_workers_on_poison_that_are_killed_lose_nothing_and_count_nothing_twice(tmp_path: Path, url: str) -> None:
    world, taken = PoisonWorld(url, tmp_path, (5_000 * (KILLS + 5), USERS), 2), LOADED
    world.files = tmp_path / "parts"
    world.files.mkdir()
    with open_store(url) as store:
        load(store, world.views, world.rows[:LOADED], 100)
        crowd = PoisonCrowd(world, store, tmp_path)
        crowd.send()
        for kill in range(KILLS):
            taken = crowd.kill(kill % WORKERS, taken, 0.013 * kill)
        crowd.end()
        Ingest(store, world.views, world.stream(world.aside)).run()
        world.check_and_replay(store)

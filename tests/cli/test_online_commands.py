"""`online ls`, `online compact` and `online drop`, as a person and as a program calls them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from bedplate.cli.main import run
from bedplate.online.base import open_store
from bedplate.online.readers import Notices
from bedplate.project import Project
from bedplate.registry.manifest import gather
from bedplate.registry.registry import Registry
from bedplate.testing.simulator import START
from bedplate.types import DAY, HOUR, format_time

FEATURES = """
from bedplate import Count, Entity, FeatureView, Last, Source

events = Source("events", "events.parquet", time="time")
user = Entity("user", key="user")
view = FeatureView("visits", user, events, {{"n": Count(windows="{window}"), "page": Last("page", windows="2d")}})
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bedplate.toml").touch()
    (tmp_path / "features.py").write_text(FEATURES.format(window="1d"))
    times = [START + i * 3 * DAY for i in range(10)]
    frame = pl.DataFrame({"user": range(10), "time": times, "page": [f"page {i}" for i in range(10)]})
    frame.write_parquet(tmp_path / "events.parquet")
    return tmp_path


def test_listing_compacting_and_dropping(folder: Path, call: Any) -> None:
    assert call("apply")[0] == 0
    open_store("lmdb:.bedplate/online", folder).close()
    assert call("online", "ls")[:2] == (0, "the online store is empty; run: bedplate materialize\n")
    assert call("materialize", "--until", format_time(START + 28 * DAY))[0] == 0
    code, out, _ = call("online", "ls")
    lines = [line.split() for line in out.splitlines()]
    assert (code, lines[1][0], lines[1][2:5]) == (0, "visits", ["current", "0", "10"])
    assert lines[2][:7] == ["1", "versions", "of", "views,", "10", "rows,", lines[2][6]]
    (view,) = json.loads(call("online", "ls", "--json")[1])["views"]
    assert (view["rows"], view["left_rows"], view["loading"], view["is_current"]) == (10, 0, None, True)
    assert view["state"]["until"] == START + 28 * DAY

    would = json.loads(call("online", "compact", "--dry-run", "--json")[1])
    assert (would["dry_run"], would["views"][0]["deleted"], would["texts"]) == (True, 9, 0)
    code, out, _ = call("online", "compact")
    assert (code, out.splitlines()[-1]) == (0, "dropped 9 texts")
    assert json.loads(call("online", "ls", "--json")[1])["views"][0]["rows"] == 1

    (folder / "features.py").write_text(FEATURES.format(window="3d"))
    assert call("apply")[0] == 0
    assert call("materialize", "--until", format_time(START + 28 * DAY))[0] == 0
    out = call("online", "ls")[1]
    assert sorted(line.split()[2] for line in out.splitlines()[1:3]) == ["current", "not"]
    done = json.loads(call("online", "compact", "--json")[1])["views"]
    assert sorted(v["dropped"] for v in done) == [False, True]

    assert call("online", "drop", "visit")[0] == 4
    assert call("online", "drop", "visits")[1].startswith("deleted 1 versions of 'visits': 1 rows")
    assert json.loads(call("online", "ls", "--json")[1])["views"] == []


READING = [
    ["online", "ls"],
    ["online", "verify"],
    ["online", "compact"],
    ["online", "drop", "visits"],
    ["online", "claim"],
    ["online", "refresh", "visits"],
    ["lookup", "visits.n", "--key", "user=1", "--online"],
    ["ingest", "replay", "events.parquet"],
]


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_a_command_that_only_reads_makes_no_store_and_says_that_there_is_none(
    folder: Path, call: Any, words: list[str]
) -> None:
    if words[1] == "refresh":
        (folder / "bedplate.toml").write_text('[online]\nresident = ["visits"]\n')
    if words[0] == "ingest":
        words = ["ingest", "replay", str(folder / words[2])]
    assert call("apply")[0] == 0
    store = folder / ".bedplate" / "online"
    code, out, err = call(*words)
    assert (code, out) == (5, "")
    assert f"lmdb:{store}: the files of the online store are not there\n" in err
    assert "put them back" in err
    assert "bedplate materialize" in err
    assert not store.exists()
    assert call("materialize")[0] == 0
    assert (store / "data.mdb").exists()


def test_a_view_that_is_read_is_dropped_only_when_asked(folder: Path, call: Any) -> None:
    call("apply")
    call("materialize")
    view = Project(folder).views["visits"]
    registry = Registry(folder / ".bedplate/registry")
    (folder / "model").mkdir()
    (folder / "model/weights").write_text("1")
    facts = {"sources": {}, "config": {}, "seeds": {}, "metrics": {}}
    manifest = gather(folder, definitions={"view visits": view.id}, **facts)
    registry.register("ranker", folder / "model", manifest=manifest)
    registry.promote("ranker", 1)
    code, out, err = call("online", "drop", "visits")
    assert (code, out) == (5, "")
    assert f"view 'visits' is read: version {view.id[:12]} by the model ranker@champion\n" in err
    assert "--in-use" in err
    with open_store("lmdb:.bedplate/online", folder) as store:
        Notices(store, "the feature server").put([view])
    assert "by the feature server and the model ranker@champion\n" in call("online", "drop", "visits")[2]
    assert len(json.loads(call("online", "ls", "--json")[1])["views"]) == 1
    assert json.loads(call("online", "drop", "visits", "--in-use", "--json")[1])["views"][0]["rows"] == 10
    assert json.loads(call("online", "ls", "--json")[1])["views"] == []


def test_what_the_project_does_not_have_goes_only_when_asked(folder: Path, call: Any) -> None:
    call("apply")
    call("materialize")
    renamed = (folder / "features.py").read_text().replace('"visits"', '"others"')
    (folder / "features.py").write_text(renamed)
    assert json.loads(call("online", "compact", "--json")[1]) == {"dry_run": False, "views": [], "texts": 0}
    done = json.loads(call("online", "compact", "--removed", "--json")[1])
    assert ([v["dropped"] for v in done["views"]], done["texts"]) == ([True], 10)


def test_a_changed_view_goes_on_with_its_old_rows_unless_it_is_to_be_loaded_anew(folder: Path, call: Any) -> None:
    until = format_time(START + 28 * DAY)
    call("apply")
    assert call("materialize", "--until", until)[0] == 0
    (folder / "features.py").write_text(FEATURES.format(window="1d").replace('"n":', '"visits":'))
    call("apply")
    code, out, err = call("materialize", "--until", until, "--adopt")
    assert (code, "kept: goes on with the rows of its old version" in out) == (0, True)
    assert "warning: 'visits' reads rows of its old version, which is frozen" in err
    assert json.loads(call("materialize", "--json")[1])["views"][0]["adopted"] is True
    found = {v["state"]["id"]: v for v in json.loads(call("online", "ls", "--json")[1])["views"]}
    (new,) = [v for v in found.values() if v["is_current"]]
    assert (new["rows"], new["adopted_rows"], new["state"]["events"]) == (10, 10, 10)
    out = call("online", "ls")[1]
    assert sorted(line.split()[2:5:2] for line in out.splitlines()[1:3]) == [["current", "10"], ["frozen", "10"]]
    assert ", 10 rows, " in out.splitlines()[-1]
    assert found[new["state"]["adopted"]["id"]]["state"]["successor"] == new["state"]["id"]

    done = json.loads(call("materialize", "--until", until, "--replace", "--json")[1])["views"][0]
    assert (done["adopted"], done["kept"], done["events"]) == (False, False, 10)
    (new,) = [v for v in json.loads(call("online", "ls", "--json")[1])["views"] if v["is_current"]]
    assert (new["rows"], new["state"]["adopted"]) == (10, None)


def test_a_changed_view_is_loaded_where_another_time_is_asked_for(folder: Path, call: Any) -> None:
    call("apply")
    call("materialize", "--until", format_time(START + 28 * DAY))
    (folder / "features.py").write_text(FEATURES.format(window="1d").replace('"n":', '"visits":'))
    call("apply")
    done = json.loads(call("materialize", "--until", format_time(START + 20 * DAY), "--json")[1])["views"][0]
    assert (done["adopted"], done["kept"], done["events"]) == (False, False, 7)


def test_a_changed_view_leaves_its_old_version_alone_unless_it_is_told_to_adopt_it(folder: Path, call: Any) -> None:
    changed = FEATURES.format(window="1d").replace('"n":', '"visits":')
    call("apply")
    call("materialize")
    stream(folder, call)
    (folder / "features.py").write_text(changed)
    call("apply")
    done = json.loads(call("materialize", "--json")[1])["views"][0]
    assert (done["adopted"], done["events"]) == (False, 10)
    states = {v["is_current"]: v["state"] for v in json.loads(call("online", "ls", "--json")[1])["views"]}
    assert (states[True]["adopted"], states[False]["successor"]) == (None, "")


def test_the_time_that_an_adoption_shows_is_the_one_to_ask_for(folder: Path, call: Any) -> None:
    until = format_time(START + 28 * DAY)
    call("apply")
    call("materialize", "--until", until)
    (folder / "features.py").write_text(FEATURES.format(window="1d").replace('"n":', '"visits":'))
    call("apply")
    shown = json.loads(call("materialize", "--adopt", "--json")[1])["views"][0]
    assert (shown["adopted"], shown["until"]) == (True, START + 28 * DAY)
    again = json.loads(call("materialize", "--adopt", "--until", until, "--json")[1])["views"][0]
    assert again["adopted"] is True


def test_a_view_that_can_not_adopt_is_loaded_up_to_where_its_stream_began(folder: Path, call: Any) -> None:
    until = START + 20 * DAY
    call("apply")
    call("materialize", "--until", format_time(until))
    stream(folder, call)
    (folder / "features.py").write_text(FEATURES.format(window="9d"))  # of which the old rows do not hold enough
    call("apply")
    done = json.loads(call("materialize", "--adopt", "--json")[1])["views"][0]
    assert (done["adopted"], done["kept"], done["until"]) == (False, False, until)
    assert call("ingest", str(folder / "stream"))[0] == 0  # whose first file has events from then on


def test_an_old_version_that_was_frozen_goes_on_once_it_is_materialized(folder: Path, call: Any) -> None:
    old, changed = FEATURES.format(window="1d"), FEATURES.format(window="1d").replace('"n":', '"visits":')
    call("apply")
    call("materialize")
    stream(folder, call)
    (folder / "features.py").write_text(changed)
    call("apply")
    assert call("materialize", "--adopt")[0] == 0

    (folder / "features.py").write_text(old)
    code, _, err = call("ingest", str(folder / "stream"))
    assert (code, "bedplate materialize" in err) == (5, True)
    out = call("online", "compact", "--dry-run")[1]
    assert "kept: newer than the project's" in out
    assert "kept: its stream goes on" in call("materialize")[1]
    assert call("ingest", str(folder / "stream"))[0] == 0

    (folder / "features.py").write_text(changed)
    assert call("ingest", str(folder / "stream"))[0] == 0
    found = json.loads(call("online", "ls", "--json")[1])["views"]
    assert [(v["rows"], v["adopted_rows"], v["state"]["adopted"], v["state"]["successor"]) for v in found] == [
        (11, 0, None, "")
    ] * 2


def stream(folder: Path, call: Any) -> None:
    """Takes in an event of an eleventh user."""
    (folder / "stream").mkdir()
    row = pl.DataFrame({"user": [10], "time": [START + 28 * DAY], "page": ["late"]})
    row.write_parquet(folder / "stream" / "000000.parquet")
    assert call("ingest", str(folder / "stream"))[0] == 0


def project(folder: Path, name: str | None, *, window: str = "1d", page: str = "page") -> Path:
    """A project whose store is beside its folder."""
    folder.mkdir()
    named = f'[project]\nname = "{name}"\n' if name else ""
    (folder / "bedplate.toml").write_text(f'{named}[online]\nurl = "lmdb:../store"\n')
    (folder / "features.py").write_text(FEATURES.format(window=window))
    times = [START + i * HOUR for i in range(5)]
    frame = pl.DataFrame({"user": range(5), "time": times, "page": [f"{page} {i}" for i in range(5)]})
    frame.write_parquet(folder / "events.parquet")
    return folder


def test_projects_that_share_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def call(folder: Path, *words: str) -> tuple[int, str, str]:
        return run([*words, "--project", str(folder)]), *capsys.readouterr()

    shop, search, alike = (
        project(tmp_path / "a", "shop"),
        project(tmp_path / "search", None, window="3d"),
        project(tmp_path / "alike", "alike", page="other"),
    )
    for folder in (shop, search, alike):
        assert call(folder, "apply")[0] == 0
    assert call(shop, "materialize")[0] == call(search, "materialize")[0] == 0
    code, _, err = call(alike, "materialize")
    assert (code, "holds it for the project 'shop'" in err, "?namespace=NAME" in err) == (5, True, True)
    found = json.loads(call(search, "online", "compact", "--newer", "--removed", "--json")[1])["views"]
    assert sorted(v["kept"] for v in found) == ["", "of project 'shop'"]
    assert "of shop" in call(search, "online", "ls")[1]
    assert "0 differ" in call(shop, "online", "verify")[1]
    assert json.loads(call(alike, "online", "verify", "--json")[1])["causes"] == {"another project's rows": 5}

    moved = shop.rename(tmp_path / "checkout")  # of the same name in bedplate.toml
    (moved / "features.py").write_text(FEATURES.format(window="12h"))
    assert call(moved, "apply")[0] == call(moved, "materialize")[0] == 0
    assert "of shop" not in call(moved, "online", "ls")[1]
    found = json.loads(call(moved, "online", "compact", "--json")[1])["views"]
    assert sorted((v["dropped"], v["kept"]) for v in found) == [
        (False, ""),
        (False, "of project 'search'"),
        (True, ""),
    ]
    (moved / "bedplate.toml").write_text('[project]\nname = "store"\n[online]\nurl = "lmdb:../store"\n')
    assert call(moved, "materialize")[0] == 5
    assert json.loads(call(moved, "online", "claim", "shop", "--json")[1])["project"] == "store"
    assert call(moved, "materialize")[0] == 0

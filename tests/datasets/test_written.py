"""A training set in files: the loader's batches to the last bit, whole or not there, and nothing in its place."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from dataset_world import SPLIT, assert_same_batch, built, drawing, shop_dataset, shop_events, shop_graph
from hypothesis import given
from hypothesis import strategies as st

from bedplate.aggregations.ordered import Last, LastN
from bedplate.batch import Batch, Dense, Embedding, Ids, Ragged, column_to_series
from bedplate.canonical import string_ids
from bedplate.datasets import writing
from bedplate.datasets.dataset import Dataset
from bedplate.datasets.layout import Layout, WrittenColumn
from bedplate.datasets.loaded import LoadedDataset
from bedplate.datasets.loader import Loader
from bedplate.datasets.negatives import SAMPLED
from bedplate.datasets.spine import Spine
from bedplate.datasets.split import SPLITS, TimeSplit
from bedplate.datasets.writing import write_dataset
from bedplate.datasets.written import WrittenDataset
from bedplate.errors import ConfigError, DataError, DefinitionError, NotFoundError, StoreError
from bedplate.features.context import Context
from bedplate.features.derived import DerivedFeature, series_to_column
from bedplate.features.entity import Entity
from bedplate.features.graph import FeatureGraph
from bedplate.features.vectors import vector
from bedplate.features.view import FeatureView
from bedplate.offline.history import IndexedHistory
from bedplate.sources.base import Source
from bedplate.testing.simulator import ITEM, START, USER
from bedplate.types import HOUR, Type

KILLS = int(os.environ.get("BEDPLATE_KILLS", "2"))

MORE = {
    "image": Last("image"),
    "style": Last(vector("style", 2)),
    "flag": Last("flag"),
    "seen": Last("seen"),
    "recent": LastN(["item", "quantity"], 4, age="age"),
}
KIND = Context("kind", str)


def make(folder: Path, seed: int = 3, **options: object) -> LoadedDataset:
    """A dataset with a feature of every form, at both levels."""
    events = shop_events(seed, 300).with_columns(kind=pl.format("k{}", pl.col("request").hash(1) % 4))
    source = Source("events", events, time="time")
    graph = shop_graph(source)
    views = [v.view for v in graph.views.values()]
    views += [FeatureView("u2", USER, source, MORE), FeatureView("i2", ITEM, source, MORE)]
    seen = DerivedFeature("asked", pl.col("request.time").dt.truncate("1h"))
    graph = FeatureGraph(views, [*graph.derived.values(), seen], contexts=[KIND])
    features = ("user.*", "item.*", "pair.n", "hour", "share", "u2.*", "i2.*", "asked", KIND)
    dataset = shop_dataset(source, drawing(source), features=features, **options)
    compiled = dataset.compile(graph)
    return LoadedDataset(compiled, built(folder / "offline", compiled.views))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> LoadedDataset:
    return make(tmp_path_factory.mktemp("written"))


def test_the_batches_of_the_files_are_the_loaders(dataset: LoadedDataset, tmp_path: Path) -> None:
    steps: list[str] = []
    manifest = write_dataset(dataset, tmp_path / "out", seed=5, epochs=2, part_items=20, progress=steps.append)
    written = WrittenDataset(tmp_path / "out")
    written.verify()
    written.check(dataset)
    assert written.manifest == manifest
    assert len([p for p in manifest.parts if p.split == "train"]) > 4
    assert any(s.startswith("train epoch 1: ") for s in steps)
    for split in SPLITS:
        loader, files = Loader(dataset, split), written.loader(split)
        assert len(files) == len(loader) > 1
        for epoch in range(2):
            expected = list(loader.epoch(5, epoch))
            for start in (0, 1, len(loader)):
                got = list(files.epoch(5, epoch, start))
                assert len(got) == len(loader) - start
                for one, other in zip(got, expected[start:], strict=True):
                    assert_same_batch(one, other)
    first, second = (list(written.loader("train").epoch(5, e)) for e in range(2))
    assert [b.request_ids.tolist() for b in first] != [b.request_ids.tolist() for b in second]
    assert not list(tmp_path.glob(".*"))


def test_the_tables_join_by_request_for_other_tools(dataset: LoadedDataset, tmp_path: Path) -> None:
    write_dataset(dataset, tmp_path / "out")
    requests = pl.read_parquet(tmp_path / "out" / "validation-0" / "*.requests.parquet")
    items = pl.read_parquet(tmp_path / "out" / "validation-0" / "*.items.parquet")
    flat = items.join(requests, on="request_id", how="left")
    rows = dataset.requests("validation")
    assert flat.height == requests["items"].sum() > len(rows.candidates)
    assert requests["time"].to_physical().to_list() == rows.times.tolist()
    assert {"request_id", "candidate", "candidate_text", "label.again", "item.price_1d", SAMPLED} <= set(items.columns)
    assert {"user.kind", "request.kind", "u2.image", "hour", "batch"} <= set(requests.columns)
    assert items.schema["i2.recent_item"] == pl.List(pl.String)
    assert requests.schema["u2.seen"] == pl.Datetime("us", "UTC")
    assert set(items["candidate_text"].unique()) <= {f"item {i}" for i in range(9)}


def test_the_keys_of_the_request_are_in_the_files_with_their_texts(dataset: LoadedDataset, tmp_path: Path) -> None:
    """A tool that knows neither the hashes nor the project can join the source's own columns."""
    write_dataset(dataset, tmp_path / "out")
    requests = pl.read_parquet(tmp_path / "out" / "*" / "*.requests.parquet")
    log = dataset.compiled.dataset.spine.source.scan().select("request", "user").unique().collect()
    assert requests.height > 20
    joined = requests.join(log, left_on="request_text", right_on="request", how="left")
    assert joined["user"].equals(requests["key.user"], null_equal=False)
    assert requests["request_id"].to_list() == string_ids(requests["request_text"].to_list())


def test_keys_that_are_texts_are_read_when_they_are_written_and_come_back(tmp_path: Path) -> None:
    events = shop_events(5, 120).with_columns(who=pl.format("u{}", "user"), shop=pl.col("user") * 7)
    path = tmp_path / "events.parquet"
    events.write_parquet(path)
    source = Source("events", str(path), time="time")
    who = [Entity("who", key="who"), Entity("shop", key="shop")]
    spine = Spine(source, request="request", entities=who, item=ITEM)
    features = FeatureGraph([], [DerivedFeature("asked", pl.col("request.time").dt.truncate("1h"))])

    def opened() -> LoadedDataset:
        shop = Dataset("shop", spine=spine, labels=(), features=["asked"], split=SPLIT, batch_items=20)
        return LoadedDataset(shop.compile(features), IndexedHistory(tmp_path / "none"))

    loaded = opened()
    write_dataset(loaded, tmp_path / "out")
    requests = pl.read_parquet(tmp_path / "out" / "train-0" / "*.requests.parquet")
    assert {"key.who": pl.Int64, "text.who": pl.String, "key.shop": pl.Int64}.items() <= requests.schema.items()
    assert "text.shop" not in requests.columns
    log = events.select("request", "who", "shop").unique()
    joined = requests.join(log, left_on="request_text", right_on="request", how="left")
    assert joined["who"].equals(joined["text.who"], null_equal=False)
    assert joined["shop"].equals(joined["key.shop"], null_equal=False)
    for one, other in zip(
        WrittenDataset(tmp_path / "out").loader("train").epoch(0, 0), Loader(loaded, "train").epoch(0, 0), strict=True
    ):
        assert_same_batch(one, other)
        assert one.to_frame().equals(other.to_frame())
    late = opened()
    events.head(100).write_parquet(path)
    with pytest.raises(DataError, match=r"column 'request': the source was changed since the dataset was(.|\n)*anew"):
        late.frame("train")


def test_every_form_of_column_comes_back() -> None:
    columns = {
        "whole": (Dense(np.array([1, 2**60, 0]), np.array([True, True, False])), Type.INT, False),
        "real": (Dense(np.array([0.1, 0.0, -1e300]), np.array([True, False, True])), Type.FLOAT, False),
        "flag": (Dense(np.array([True, False, False])), Type.BOOL, False),
        "name": (Ids(np.array([5, 0, 5]), np.array([True, False, True]), {5: "x"}), Type.STRING, False),
        "list": (Ragged(Dense(np.array([1.5, 2.5])), np.array([0, 0, 2, 2])), Type.FLOAT, True),
        "none": (Ragged(Dense(np.zeros(0)), np.zeros(4, np.int64)), Type.FLOAT, True),
        "gaps": (Ragged(Dense(np.array([1, 0]), np.array([True, False])), np.array([0, 1, 1, 2])), Type.INT, True),
        "vec": (Embedding(np.array([[1, 2], [0, 0], [3, 4]], np.float32), np.arange(3) != 1), "vector[2]", False),
    }  # fmt: skip
    layout = Layout([WrittenColumn(n, "item", Type(k), is_list) for n, (_, k, is_list) in columns.items()], ["y"])
    ids = np.arange(3)
    given = Batch(
        {}, {n: c for n, (c, _, _) in columns.items()}, np.array([0, 1, 3]), ids[:2] + START, ids[:2], ids,
        {"y": np.array([0, 1, 0.5], np.float32)}, np.array([1, 2, 3], np.float32),
    )  # fmt: skip
    back = layout.batch(*layout.tables(given, 0))
    name = back.item["name"]
    assert isinstance(name, Ids)
    assert [name.texts[i] for i in name.values[[0, 2]].tolist()] == ["x", "x"]  # pyright: ignore[reportOptionalSubscript]
    assert_same_batch(back, given)
    assert back.weights is not None
    assert back.weights.tolist() == [1, 2, 3]
    for name, (column, _, _) in columns.items():
        values = column.values.values if isinstance(column, Ragged) else column.values
        got = back.item[name]
        assert (got.values.values if isinstance(got, Ragged) else got.values).dtype == values.dtype, name


VALUES: dict[Type, st.SearchStrategy[Any]] = {
    Type.INT: st.integers(-(2**63), 2**63 - 1),
    Type.FLOAT: st.floats(allow_nan=False, allow_infinity=False),
    Type.BOOL: st.booleans(),
    Type.STRING: st.text(max_size=4),
    Type.TIME: st.integers(0, 2**50),
    Type.vector(3): st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=3),
}


@st.composite
def written_columns(draw: st.DrawFn) -> tuple[WrittenColumn, pl.Series, int]:
    """A column of any type with nulls, or with lists that are empty or hold nulls."""
    kind = draw(st.sampled_from(list(VALUES)))
    is_list = not kind.width and draw(st.booleans())
    rows = draw(st.integers(0, 6))
    value = VALUES[kind] | st.none()
    chosen = st.lists(value, max_size=4) if is_list else value
    values = draw(st.lists(chosen, min_size=rows, max_size=rows))
    column = WrittenColumn("x", draw(st.sampled_from(["request", "item"])), kind, is_list)
    plain = pl.Int64() if kind is Type.TIME else None
    dtype = (pl.List(plain) if is_list else plain) if plain is not None else column.dtype
    return column, pl.Series("x", values, dtype=dtype), rows


@given(written_columns())
def test_any_column_comes_back(made: tuple[WrittenColumn, pl.Series, int]) -> None:
    column, series, rows = made
    ids = np.arange(rows)
    given = series_to_column(series)
    sides: dict[str, Any] = {"request": {}, "item": {}}
    sides[column.level]["x"] = given
    layout = Layout([column], [])
    batch = Batch(sides["request"], sides["item"], np.arange(rows + 1), ids, ids, ids)
    tables = layout.tables(batch, 7)
    assert tables[column.level == "item"].schema["x"] == column.dtype
    assert tables[0]["batch"].to_list() == [7] * rows
    back = layout.batch(*tables)
    got = getattr(back, column.level)["x"]
    assert type(got) is type(given)
    assert column_to_series(got).to_list() == column_to_series(given).to_list()
    assert back.offsets.tolist() == list(range(rows + 1))


@pytest.mark.parametrize("seed", [0, 3])
def test_training_from_files_gives_equal_weights(tmp_path: Path, seed: int) -> None:
    """The job of the example on a small part of its data: from files, and from the join."""
    import torch
    from small_retail import EXAMPLE, make_project

    from bedplate import Job, Project, Registry
    from bedplate.cli.main import run as command
    from bedplate.training.run import train

    folder = make_project(tmp_path / "small")
    shutil.copy(EXAMPLE / "train.py", folder)
    project = Project(folder)
    project.apply()
    job = project.find(Job, "retail_logistic").with_settings(["trainer.epochs=2", f"trainer.seed={seed}"])
    loaded = project.load(job.dataset)
    out = tmp_path / "files"
    words = ["--epochs", "2", "--seed", str(seed), "--project", str(folder)]
    assert command(["datasets", "write", job.dataset, str(out), *words]) == 0
    arguments = (job, loaded, project.graph.features, Registry(tmp_path / "registry"), folder)
    joined, read = train(*arguments), train(*arguments, files=WrittenDataset(out))
    assert joined.metrics == read.metrics
    for name, weights in joined.result.model.state_dict().items():
        assert torch.equal(weights, read.result.model.state_dict()[name]), name
    assert str(joined.version) == str(read.version)
    longer = ["trainer.epochs=3", f"trainer.seed={seed}", "--from", str(out), "--project", str(folder)]
    assert command(["train", "retail_logistic", *longer]) == 2


def test_what_is_there_already_is_not_written_again(dataset: LoadedDataset, tmp_path: Path) -> None:
    first = write_dataset(dataset, tmp_path / "out")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")}
    steps: list[str] = []
    assert write_dataset(dataset, tmp_path / "out", progress=steps.append) == first
    assert steps == []
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")} == before
    with pytest.raises(StoreError, match="the folder holds another training set: its seed differ"):
        write_dataset(dataset, tmp_path / "out", seed=1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    with pytest.raises(StoreError, match="is this a folder that 'bedplate datasets write' wrote"):
        write_dataset(dataset, tmp_path / "full")
    for wrong in ({"epochs": 0}, {"part_items": 0}):
        with pytest.raises(ConfigError, match="expected at least 1"):
            write_dataset(dataset, tmp_path / "other", **wrong)


def test_what_the_files_do_not_hold_is_said(dataset: LoadedDataset, tmp_path: Path) -> None:
    write_dataset(dataset, tmp_path / "out", seed=5)
    written = WrittenDataset(tmp_path / "out")
    with pytest.raises(ConfigError, match="the files hold the batches of seed 5, got 0"):
        written.loader("validation").epoch(0, 0)
    with pytest.raises(ConfigError, match="the files hold 1 epochs of training, got epoch 1"):
        written.loader("train").epoch(5, 1)
    with pytest.raises(ConfigError, match="got start=-1"):
        written.loader("train").epoch(5, 0, -1)
    with pytest.raises(NotFoundError, match="no split 'training'"):
        written.loader("training")


def test_files_of_other_definitions_or_data_are_refused(dataset: LoadedDataset, tmp_path: Path) -> None:
    write_dataset(dataset, tmp_path / "out")
    written = WrittenDataset(tmp_path / "out")
    with pytest.raises(DataError, match="of other definitions than the project's: dataset shop, split"):
        written.check(make(tmp_path / "other", split=TimeSplit(START + 11 * HOUR, START + 24 * HOUR, gap="6h")))
    with pytest.raises(DataError, match="of another state of the sources events"):
        written.check(make(tmp_path / "seed", seed=4))


@pytest.mark.parametrize("damage", ["gone", "short", "changed", "manifest", "format"])
def test_damaged_files_are_refused(dataset: LoadedDataset, tmp_path: Path, damage: str) -> None:
    out = tmp_path / "out"
    manifest = write_dataset(dataset, out)
    path, index = manifest.parts[0].files(out)[1], out / "manifest.json"
    if damage == "gone":
        path.unlink()
    elif damage == "short":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "changed":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "manifest":
        index.write_bytes(index.read_bytes()[:-9])
    else:
        index.write_text(index.read_text().replace('"format": 2', '"format": 1', 1))
    with pytest.raises(StoreError) as caught:
        WrittenDataset(out).verify()
    assert str(out) in str(caught.value)


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    source = Source("events", shop_events(1), time="time")
    graph = FeatureGraph(
        [v.view for v in shop_graph(source).views.values()], [DerivedFeature("time", pl.col("user.n_1h"))]
    )
    spine = Spine(source, request="request", entities=USER, item=ITEM)
    compiled = Dataset("d", spine=spine, features=["time"], split=SPLIT).compile(graph)
    loaded = LoadedDataset(compiled, built(tmp_path / "offline", compiled.views))
    with pytest.raises(DefinitionError, match="'time' has the name of another column"):
        write_dataset(loaded, tmp_path / "out")


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_it_goes_on_after_what_is_whole(dataset: LoadedDataset, tmp_path: Path) -> None:
    """Stopped after each part in turn, a torn line and half a file left behind: the end is that of one run."""
    write_dataset(dataset, tmp_path / "whole", part_items=20)

    class StoppedError(Exception):
        pass

    def stop(step: str) -> None:
        if " batches" in step:
            raise StoppedError

    working = tmp_path / ".out.writing"
    for _ in range(4):
        with pytest.raises(StoppedError):
            write_dataset(dataset, tmp_path / "out", part_items=20, progress=stop)
        assert not (tmp_path / "out").exists()
        with (working / "parts.jsonl").open("ab") as journal:
            journal.write(b'{"path": "train-0/000')
    (working / "train-0" / "00005.items.parquet").write_bytes(b"half")
    steps: list[str] = []
    write_dataset(dataset, tmp_path / "out", part_items=20, progress=steps.append)
    assert steps[0] == "goes on after 4 parts"
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert not working.exists()


def test_another_writing_that_was_left_begins_anew(dataset: LoadedDataset, tmp_path: Path) -> None:
    def stop(step: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(dataset, tmp_path / "out", part_items=20, seed=1, progress=stop)
    steps: list[str] = []
    write_dataset(dataset, tmp_path / "out", part_items=20, seed=2, progress=steps.append)
    assert not any("goes on" in s for s in steps)
    write_dataset(dataset, tmp_path / "whole", part_items=20, seed=2)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_one_process_writes_at_a_time(dataset: LoadedDataset, tmp_path: Path) -> None:
    (tmp_path / ".out.writing").mkdir()
    with (tmp_path / ".out.writing" / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="another process is writing it"):
            write_dataset(dataset, tmp_path / "out")
    write_dataset(dataset, tmp_path / "out")


def test_a_disk_that_is_full_leaves_nothing_in_place(
    dataset: LoadedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "fsync_file", full)
    with pytest.raises(StoreError, match="can't write the training set: No space left on device"):
        write_dataset(dataset, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    write_dataset(dataset, tmp_path / "out")


WRITE = """
import sys, resource
from pathlib import Path
sys.path[:0] = sys.argv[2].split(":")
import test_written
dataset = test_written.make(Path(sys.argv[1]))
print("ready", flush=True)
from bedplate.datasets.writing import write_dataset
write_dataset(dataset, Path(sys.argv[1]) / "out", part_items=20, epochs=20)
"""


def test_killed_at_any_moment_it_is_whole_or_not_there(tmp_path: Path) -> None:
    paths = ":".join(str(Path(__file__).parent / p) for p in (".", ".."))
    command = [sys.executable, "-c", WRITE, str(tmp_path), paths]
    draw = random.Random(3)
    for _ in range(KILLS):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(draw.random() * 0.4)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if (tmp_path / "out").exists():
            WrittenDataset(tmp_path / "out").verify()
            shutil.rmtree(tmp_path / "out")
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    dataset = make(tmp_path)
    write_dataset(dataset, tmp_path / "whole", part_items=20, epochs=20)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


CAPPED = """
import resource, sys
from pathlib import Path
import numpy as np, polars as pl
from bedplate import Dataset, Entity, FeatureView, Last, Source, Spine, TimeSplit
from bedplate.datasets.loaded import LoadedDataset
from bedplate.datasets.writing import write_dataset
from bedplate.datasets.written import WrittenDataset
from bedplate.features.graph import FeatureGraph
from bedplate.offline.history import IndexedHistory

folder, rows, width = Path(sys.argv[1]), 200_000, 64
item, user = Entity("item", key="item"), Entity("user", key="user")
images = np.random.default_rng(0).normal(size=(500, width)).astype(np.float32)
source = Source("items", pl.DataFrame({"item": np.arange(500), "time": np.ones(500, np.int64) * 10**15}).with_columns(
    image=pl.Series(images, dtype=pl.Array(pl.Float32, width))), time="time")
log = Source("log", pl.DataFrame({"user": np.arange(rows) // 20, "item": np.arange(rows) % 500,
    "time": 2 * 10**15 + np.arange(rows) // 20}), time="time")
view = FeatureView("items", item, source, {f"image{i}": Last(pl.col("image") * i) for i in range(1, 9)})
dataset = Dataset("d", spine=Spine(log, request="user", entities=user, item=item), features=[view],
    split=TimeSplit(3 * 10**15, 4 * 10**15))
compiled = dataset.compile(FeatureGraph([view]))
history = IndexedHistory(folder / "offline")
for one in compiled.views:
    history.build(one).run()
loaded = LoadedDataset(compiled, history)
used = int(next(l for l in open("/proc/self/status") if l.startswith("VmData")).split()[1]) * 1024
cap = used + 250 * 2**20
resource.setrlimit(resource.RLIMIT_DATA, (cap, cap))
manifest = write_dataset(loaded, folder / "out", part_items=4096)
items = sum(b.items for b in WrittenDataset(folder / "out").loader("train").epoch(0, 0))
print(items, items * 8 * width * 4)
"""


def test_a_set_larger_than_memory_is_written_and_read(tmp_path: Path) -> None:
    """410 MB of vectors, with room for 250 MB."""
    environment = os.environ | {"POLARS_MAX_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    done = subprocess.run(
        [sys.executable, "-c", CAPPED, str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    items, size = map(int, done.stdout.split())
    assert items == 200_000
    assert size > 400_000_000


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from small_retail import make_project

    from bedplate.cli.main import run

    folder = make_project(tmp_path / "small")
    project = ["--project", str(folder)]
    assert run(["apply", *project]) == 0
    out = tmp_path / "baskets"
    capsys.readouterr()
    assert run(["datasets", "write", "baskets", str(out), "--json", *project]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["plan"]["dataset"] == "baskets"
    assert {p["split"] for p in shown["parts"]} == set(SPLITS)
    assert run(["datasets", "show", str(out), "--verify"]) == 0
    printed = capsys.readouterr().out
    assert "dataset   baskets" in printed
    assert "train" in printed
    assert run(["datasets", "write", "baskets", str(out), "--seed", "1", *project]) == 5
    assert "the folder holds another training set: its seed differ" in capsys.readouterr().err
    assert run(["datasets", "write", "basket", str(out), *project]) == 4
    assert run(["datasets", "show", str(tmp_path)]) == 5

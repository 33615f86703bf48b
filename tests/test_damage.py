"""Files that a disk, a copy or a person damaged: every reader gives what can be read, or an error of its own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bedplate.batch import Batch, Dense, Ids
from bedplate.config import load_config
from bedplate.errors import ArtifactError, BedplateError, ConfigError, DataError, StoreError
from bedplate.features.applied import read_applied, write_applied
from bedplate.features.artifact import (
    GOLDEN,
    GOLDEN_ABSOLUTE,
    GOLDEN_INDEX,
    GOLDEN_RELATIVE,
    Golden,
    GoldenRequest,
    compare,
    read_golden,
    write_golden,
)
from bedplate.features.encoder import Encoder
from bedplate.features.encoding import Category, Number, TensorSpec
from bedplate.features.fitting import fit
from bedplate.features.signature import Input, Signature
from bedplate.features.view import Feature
from bedplate.sources.base import Source
from bedplate.sources.events import read_events
from bedplate.sources.parquet import ParquetTable
from bedplate.types import Type

damage = st.one_of(
    st.tuples(st.just("flip"), st.floats(0, 1, exclude_max=True), st.integers(1, 255)),
    st.tuples(st.just("cut"), st.floats(0, 1, exclude_max=True), st.just(0)),
    st.tuples(st.just("zero"), st.floats(0, 1, exclude_max=True), st.integers(1, 64)),
    st.tuples(st.just("grow"), st.floats(0, 1), st.integers(0, 255)),
)


def damaged(content: bytes, how: tuple[str, float, int]) -> bytes:
    kind, place, amount = how
    at = int(place * len(content))
    if kind == "flip":
        return content[:at] + bytes([content[at] ^ amount]) + content[at + 1 :]
    if kind == "cut":
        return content[:at]
    if kind == "zero":
        return content[:at] + bytes(min(amount, len(content) - at)) + content[at + amount :]
    return content[:at] + bytes([amount]) + content[at:]


def read_or_error(read: Callable[[], Any], *kinds: type[BedplateError]) -> Any:
    """What is read, or None where one of these errors says that it can't be."""
    refusal: BedplateError | None = None
    try:
        return read()
    except kinds as error:
        refusal = error
    assert refusal.message
    assert refusal.where
    return None


ROWS = pl.DataFrame(
    {"key": ["a", "b", None, "d"] * 25, "price": [1.5, None, -2.0, 4.0] * 25, "time": range(10**15, 10**15 + 100)}
)


@settings(max_examples=200)
@given(how=damage)
def test_a_damaged_parquet_file(tmp_path_factory, how):
    folder = tmp_path_factory.mktemp("table")
    ROWS.write_parquet(folder / "rows.parquet")
    whole = (folder / "rows.parquet").read_bytes()
    (folder / "rows.parquet").write_bytes(damaged(whole, how))
    table, source = ParquetTable("rows.parquet", folder), Source("s", "rows.parquet", time="time")

    def read() -> pl.DataFrame:
        table.snapshot()
        columns = [pl.col("key").alias("k"), pl.col("price").alias("p")]
        return read_events(source, table.scan(), columns, keys={}, place="view 'v'", name=table.row_name)

    got = read_or_error(read, BedplateError)
    assert got is None or isinstance(got, pl.DataFrame)


FEATURES = {
    f.name: f for f in (Feature("a.b", Type.INT, False, "1", "Count()"), Feature("c", Type.STRING, True, "2", "ä"))
}


@given(how=damage)
def test_a_damaged_record_of_what_was_applied(tmp_path_factory, how):
    path = tmp_path_factory.mktemp("applied") / "p.json"
    write_applied(path, FEATURES)
    path.write_bytes(damaged(path.read_bytes(), how))
    got = read_or_error(lambda: read_applied(path), StoreError)
    assert got is None or all(isinstance(f, Feature) for f in got.values())
    write_applied(path, FEATURES)
    assert read_applied(path) == FEATURES


SIGNATURE = Signature(
    (Input("a.b", "1" * 40, Type.FLOAT, False, "request", "number"), Input("ä", "2", Type.STRING, True, "item", "bag")),
    (TensorSpec("item_ids", "int64", ("items", 2)),),
    (TensorSpec("score", "float32", ("items",)),),
)


@settings(max_examples=150)
@given(how=damage)
def test_a_damaged_signature(tmp_path_factory, how):
    folder = tmp_path_factory.mktemp("artifact")
    (folder / "signature.json").write_bytes(damaged(SIGNATURE.to_json(), how))
    got = read_or_error(lambda: Signature.load(folder), ArtifactError)
    assert got is None or isinstance(got, Signature)


@given(content=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_bytes_that_are_no_signature(content):
    assert read_or_error(lambda: Signature.from_json(content), ArtifactError) is None


GOLDENS = Golden(
    GoldenRequest("0.npz", [1], [5], {"user": [3]}, [0, 2], [7, 8]),
    {"item_ids": np.arange(6).reshape(2, 3), "numbers": np.array([[0.5], [1.5]], np.float32)},
    {"score": np.array([0.25, 0.75], np.float32)},
)


def golden_folder(folder: Path) -> Path:
    write_golden(folder, 0, GOLDENS)
    (folder / GOLDEN_INDEX).write_bytes(msgspec.json.encode([GOLDENS.request]))
    return folder


def test_golden_requests_are_read_as_they_were_written(tmp_path):
    (got,) = read_golden(golden_folder(tmp_path))
    assert got.request == GOLDENS.request
    for ours, theirs in ((got.inputs, GOLDENS.inputs), (got.outputs, GOLDENS.outputs)):
        assert list(ours) == list(theirs)
        assert all(ours[n].dtype == theirs[n].dtype and np.array_equal(ours[n], theirs[n]) for n in theirs)
    assert compare(GOLDENS.outputs, got.outputs, "golden") == 0.0


@settings(max_examples=300)
@given(how=damage, file=st.sampled_from(["0.npz", "requests.json"]))
def test_damaged_golden_requests(tmp_path_factory, how, file):
    folder = golden_folder(tmp_path_factory.mktemp("artifact"))
    path = folder / GOLDEN / file
    path.write_bytes(damaged(path.read_bytes(), how))
    got = read_or_error(lambda: read_golden(folder), ArtifactError)
    assert got is None or all(isinstance(g, Golden) for g in got)


@pytest.mark.parametrize(
    ("got", "message"),
    [
        ({}, "output 'score' has shape None, expected (2,)"),
        ({"score": np.zeros(3)}, "output 'score' has shape (3,), expected (2,)"),
        ({"score": np.array([0.25, 0.7501])}, "output 'score' differs by 0.0001, value 1 is 0.7501, expected 0.75 "),
        ({"score": np.array([0.25, np.nan])}, "output 'score' differs by nan"),
        ({"score": np.array([0.25, np.inf])}, "output 'score' differs by inf"),
    ],
)
def test_outputs_that_are_not_reproduced(got, message):
    with pytest.raises(ArtifactError) as caught:
        compare(GOLDENS.outputs, got, "golden 0")
    assert caught.value.message.startswith(message)
    assert caught.value.where == "golden 0"


@given(values=st.lists(st.floats(-5, 5), min_size=1, max_size=6), share=st.floats(-2, 2), data=st.data())
def test_outputs_within_the_tolerance_are_reproduced(values, share, data):
    assume(abs(abs(share) - 1) > 0.01)
    at = data.draw(st.integers(0, len(values) - 1))
    allowed = GOLDEN_RELATIVE * abs(values[at]) + GOLDEN_ABSOLUTE
    expected = {"score": np.array(values)}
    got = {"score": np.array([*values[:at], values[at] + share * allowed, *values[at + 1 :]])}
    if abs(share) < 1:
        assert compare(expected, got, "golden") == pytest.approx(abs(share) * allowed, abs=1e-12)
    else:
        with pytest.raises(ArtifactError, match=f"differs by .*, value {at} is "):
            compare(expected, got, "golden")


def encoder() -> Encoder:
    zeros = np.zeros(3, np.int64)
    columns = {"u.spend": Dense(np.array([1.0, 3.0, 5.0])), "u.word": Ids(np.array([7, 8, 7]))}
    batch = Batch(columns, {}, np.array([0, 1, 2, 3]), zeros, np.arange(3), np.array([7, 9, 7]))
    return fit({"u.spend": Number(), "u.word": Category(), "candidate": Category()}, [batch])


@pytest.fixture(scope="module")
def encoder_folder() -> Any:
    folder = Path(tempfile.mkdtemp())
    encoder().save(folder / "encoder")
    yield folder / "encoder"
    shutil.rmtree(folder)


@settings(max_examples=200)
@given(how=damage)
def test_a_damaged_encoder(encoder_folder, tmp_path_factory, how):
    folder = tmp_path_factory.mktemp("copy") / "encoder"
    shutil.copytree(encoder_folder, folder)
    (path,) = folder.glob("*.json")
    path.write_bytes(damaged(path.read_bytes(), how))
    got = read_or_error(lambda: Encoder.load(folder), BedplateError)
    assert got is None or isinstance(got, Encoder)


TOML = b"""\
[project]
name = "shop"
definitions = ["features.py"]

[offline]
path = "data/offline"

[online]
url = "lmdb:data/online"

[registry]
path = "data/registry"
"""


@settings(max_examples=300)
@given(how=damage)
def test_a_damaged_configuration(tmp_path_factory, how):
    folder = tmp_path_factory.mktemp("project")
    (folder / "features.py").touch()
    (folder / "bedplate.toml").write_bytes(damaged(TOML, how))
    config = read_or_error(lambda: load_config(folder), ConfigError)
    assert config is None or (config.offline_path.is_absolute() and config.registry_path.is_absolute() and config.name)


@given(content=st.binary(max_size=80) | st.text(max_size=80).map(str.encode))
def test_bytes_that_are_no_configuration(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("project")
    (folder / "bedplate.toml").write_bytes(content)
    config = read_or_error(lambda: load_config(folder), ConfigError)
    assert config is None or config.name == folder.name


@given(how=damage)
def test_a_damaged_file_of_a_stream_is_named(tmp_path_factory, how):
    from bedplate import Count, Entity, FeatureView
    from bedplate.online.ingest import Ingest
    from bedplate.online.load import bulk_load
    from bedplate.online.memory import MemoryStore
    from bedplate.online.state import read_state

    rows = ROWS.with_columns(key=pl.int_range(pl.len()) % 3)
    view = FeatureView("v", Entity("key", key="key"), Source("s", rows, time="time"), {"n": Count()}).compile()
    store, folder = MemoryStore(), tmp_path_factory.mktemp("stream")
    bulk_load(store, view, [], 0)
    rows.write_parquet(folder / "1.parquet")
    content = (folder / "1.parquet").read_bytes()
    (folder / "1.parquet").write_bytes(damaged(content, how))
    try:
        taken = Ingest(store, [view], folder).run().events
    except DataError as error:
        assert str(folder / "1.parquet") in str(error.where)  # noqa: PT017
        taken = 0
    assert read_state(store, view).events == taken


def test_every_bit_of_a_golden_file(tmp_path):
    """Also those that make an archive seem encrypted, compressed or of a newer version."""
    path = golden_folder(tmp_path) / GOLDEN / "0.npz"
    whole, refused = path.read_bytes(), 0
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        refused += read_or_error(lambda: read_golden(tmp_path), ArtifactError) is None
    assert refused > len(whole) // 2

"""How a definition says where a table is: paths, URLs, and the kinds of table that other packages bring."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import polars as pl
import pytest

from bedplate import extensions
from bedplate.errors import DefinitionError, MissingExtraError
from bedplate.sources.base import Source, Table
from bedplate.sources.location import Location
from bedplate.sources.memory import MemoryTable
from bedplate.sources.parquet import ParquetTable

FRAME = pl.DataFrame({"n": [1, 2], "time": [10, 20]})


def opened(text: str, root: Path = Path()) -> Table:
    return Source("s", text, time="time").table(root)


def test_a_path_is_parquet_whatever_its_name(tmp_path):
    for name in ("rows.parquet", "c:rows.parquet", "delta:rows.parquet"):
        FRAME.write_parquet(tmp_path / name)
        table = opened(name, tmp_path)
        assert isinstance(table, ParquetTable)
        assert table.snapshot().rows == 2


@pytest.mark.parametrize(
    ("url", "message", "hint"),
    [
        ("dleta:rows", "unknown kind of table 'dleta'", "did you mean 'delta'?"),
        ("mysql://db/shop", "unknown kind of table 'mysql'", "kinds: delta, iceberg, lance, postgresql"),
        ("delta:", "got 'delta:', which names no table", ""),
        ("lance:?version=1", "got 'lance:', which names no table", ""),
        ("delta:rows?verson=1", "unknown option 'verson'", "did you mean 'version'?"),
        ("delta:rows?version=one", "the option 'version' is 'one', expected a whole number", ""),
        ("delta:rows?version=-1", "the option 'version' is '-1', expected a whole number", ""),
        ("lance:rows?version=", "the option 'version' has no value", ""),
        ("iceberg:rows?snapshot=1&snapshot=2", "the option 'snapshot' has several values", ""),
        ("iceberg:rows?snapshot=1&at=2026-01-01", "got at and snapshot, expected at most one of them", ""),
    ],
)
def test_a_wrong_url_is_refused(url, message, hint):
    with pytest.raises(DefinitionError) as caught:
        opened(url)
    assert caught.value.message == message
    assert hint in (caught.value.hint or "")


def test_relative_paths_start_at_the_project():
    location = Location("orders", Path("/shop"), "source 's'")
    assert (location.full, location.where("delta")) == ("/shop/orders", "source 's': delta:orders")
    assert Location("/other/orders", Path("/shop")).full == "/other/orders"
    remote = Location("s3://bucket/orders", Path("/shop"))
    assert (remote.full, remote.is_remote, remote.where("delta")) == (
        "s3://bucket/orders",
        True,
        "delta:s3://bucket/orders",
    )


@pytest.mark.parametrize(
    ("url", "library", "extra"),
    [
        ("delta:rows", "deltalake", "delta"),
        ("iceberg:rows", "pyiceberg", "iceberg"),
        ("lance:rows", "lance", "lance"),
        ("postgresql://db/shop?table=rows", "adbc_driver_manager", "postgresql"),
    ],
)
def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch, url, library, extra):
    for name in [
        n for n in sys.modules if n.startswith(f"bedplate.sources.{extra}") or n == "bedplate.sources.connection"
    ]:
        monkeypatch.delitem(sys.modules, name)
    for name in [n for n in sys.modules if n.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Refusing(library), *sys.meta_path])
    with pytest.raises(
        MissingExtraError, match=rf"'{library}' is not installed\n  .*pip install 'bedplate\[{extra}\]'"
    ):
        opened(url)


class Refusing:
    """Finds nothing under a name, as if the library were not installed."""

    def __init__(self, library: str) -> None:
        self._library = library

    def find_spec(self, name: str, *_: object) -> None:
        if name.partition(".")[0] == self._library:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)


def open_rows(url: str, root: Path, place: str) -> Table:
    """The kind of table that the tests bring."""
    return MemoryTable(FRAME.with_columns(url=pl.lit(url), root=pl.lit(str(root)), place=pl.lit(place)))


@pytest.fixture
def bring(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets packages bring kinds of table, by name."""

    def bring(**found: str) -> None:
        points = [EntryPoint(name, value, "bedplate.sources") for name, value in found.items()]
        monkeypatch.setattr(extensions, "entry_points", lambda group: points if group == "bedplate.sources" else [])

    monkeypatch.setitem(sys.modules, "brought", sys.modules[__name__])
    return bring


def test_a_package_brings_a_kind_of_table(bring, tmp_path):
    bring(rows="brought:open_rows")
    row = opened("rows:a/b?c=1", tmp_path).scan().collect().row(0, named=True)
    assert row == {"n": 1, "time": 10, "url": "rows:a/b?c=1", "root": str(tmp_path), "place": "source 's'"}
    with pytest.raises(DefinitionError, match="did you mean 'rows'"):
        opened("row:a")


@pytest.mark.parametrize("value", ["brought:not_there", "no_such_module:open_rows"])
def test_a_kind_of_table_that_can_not_be_loaded_is_an_error(bring, value):
    bring(rows=value)
    with pytest.raises(DefinitionError, match=rf"^bedplate.sources: rows: can't load {value}: "):
        opened("rows:a")


def test_a_kind_of_table_may_need_an_extra(bring, monkeypatch):
    bring(rows="deltalake.nothing:open_rows")
    with pytest.raises(MissingExtraError, match=r"bedplate\[delta\]"):
        opened("rows:a")


def test_a_kind_that_two_packages_bring_is_refused(monkeypatch):
    points = [EntryPoint("rows", f"package_{i}:open_table", "bedplate.sources") for i in (1, 2)]
    monkeypatch.setattr(extensions, "entry_points", lambda group: points)
    with pytest.raises(DefinitionError, match=r"2 installed packages bring it, expected one: package_1.*, package_2"):
        opened("rows:a")
    monkeypatch.setattr(extensions, "entry_points", lambda group: points[:1] * 2)  # listed twice by an editable install
    assert extensions.names("sources") == ["rows"]


@pytest.mark.parametrize("url", ["s3://bucket/orders/*.parquet", "gs://bucket/orders.parquet", "https://x/o.parquet"])
def test_parquet_files_in_buckets_are_said_not_to_be_read(url):
    with pytest.raises(DefinitionError) as caught:
        opened(url)
    assert caught.value.message.startswith(f"got '{url}': Parquet files in buckets or on servers are not read")
    assert "'delta:s3://bucket/orders'" in (caught.value.hint or "")

"""What a scraper gets of workers, and what becomes of an address that can't be had."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from pathlib import Path

import polars as pl
import pytest

from bedplate.cli.main import run
from bedplate.cli.standing import standing_text
from bedplate.errors import ConfigError
from bedplate.exposition import CONTENT_TYPE
from bedplate.online import keys
from bedplate.online.base import Changes
from bedplate.online.ingest_metrics import MetricsEndpoint, metrics_text, parse_address
from bedplate.online.lmdb import LmdbStore
from bedplate.online.measures import Measures
from bedplate.online.state import states
from bedplate.online.streams import Position


def standing() -> Measures:
    measures = Measures("clicks", conflicts=1, letters=2, stream_errors=4)
    measures.took("clicks/0", Position("", 1_050), 50, 1_000_000)
    measures.took("clicks/1", Position("", 7), 7, -1)
    measures.found_lags({"clicks/0": 1_200, "clicks/1": None}, ["clicks/0", "clicks/1"])
    measures.watermarks["v"] = 2_500_000
    return measures


def test_each_metric_has_its_type_help_and_labels() -> None:
    lines = metrics_text([standing()], lambda: 3_000_000).splitlines()
    samples = {line.rpartition(" ")[0]: line.rpartition(" ")[2] for line in lines if not line.startswith("#")}
    assert float(samples.pop('bedplate_ingest_events_per_second{source="clicks"}')) > 0
    first, second = 'source="clicks",partition="clicks/0"', 'source="clicks",partition="clicks/1"'
    assert samples == {
        f"bedplate_ingest_events_total{{{first}}}": "50",
        f"bedplate_ingest_events_total{{{second}}}": "7",
        f"bedplate_ingest_passed_over_total{{{first}}}": "0",
        f"bedplate_ingest_passed_over_total{{{second}}}": "0",
        f"bedplate_ingest_lag_events{{{first}}}": "1200",
        f"bedplate_ingest_freshness_seconds{{{first}}}": "2.0",
        'bedplate_ingest_watermark_seconds{source="clicks",view="v"}': "2.5",
        'bedplate_ingest_conflicts_total{source="clicks"}': "1",
        'bedplate_ingest_dead_letters_total{source="clicks"}': "2",
        'bedplate_ingest_ahead_total{source="clicks"}': "0",
        'bedplate_ingest_stuck_partitions{source="clicks"}': "0",
        'bedplate_ingest_swept_rows_total{source="clicks"}': "0",
        'bedplate_ingest_store_errors_total{source="clicks"}': "0",
        'bedplate_ingest_store_up{source="clicks"}': "1",
        'bedplate_ingest_stream_up{source="clicks"}': "1",
        'bedplate_ingest_stream_errors_total{source="clicks"}': "4",
    }
    names = {name.partition("{")[0] for name in samples} | {"bedplate_ingest_events_per_second"}
    assert {line.split()[2] for line in lines if line.startswith("# HELP ")} == names
    kinds = {line.split()[2]: line.split()[3] for line in lines if line.startswith("# TYPE ")}
    assert kinds == {name: "counter" if name.endswith("_total") else "gauge" for name in names}


def test_a_partition_that_another_worker_has_is_no_lag_of_this_one() -> None:
    measures = standing()
    measures.found_lags({"clicks/1": 3}, ["clicks/1"])
    assert measures.lag == 3
    assert measures.partitions["clicks/0"].lag is None


def test_what_is_shown_says_what_went_wrong() -> None:
    measures = standing()
    text = standing_text(measures, lambda: 91_000_000)
    assert text.startswith("clicks: clicks/1, 7 rows; ")
    assert text.endswith(" events/s, 1,200 left, newest 1m 30s old, 1 conflict, 2 dead letters, 4 stream errors")
    measures.failed(ConfigError("gone", where="redis", hint="look"))
    assert standing_text(measures) == (
        "clicks: 1 conflict, 2 dead letters, 1 store error, 4 stream errors, trying again: redis: gone"
    )
    assert standing_text(Measures("clicks")) == "clicks: nothing yet; 0 events/s"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_endpoint_answers_with_how_workers_stand_now(host: str) -> None:
    shown: list[Measures] = []
    with MetricsEndpoint(host, 0, shown) as endpoint:
        shown.append(standing())
        with urllib.request.urlopen(endpoint.url) as answer:
            assert answer.headers["Content-Type"] == CONTENT_TYPE
            assert b'bedplate_ingest_events_total{source="clicks",partition="clicks/0"} 50\n' in answer.read()
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(endpoint.url + "/more")
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(endpoint.url)


@pytest.mark.parametrize("text", ["", "x", "-1", "65536", "1.2.3.4:", ":80", "host:http", "٣"])
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected PORT or HOST:PORT"):
        parse_address(text)


FEATURES = """
from bedplate import Count, Entity, FeatureView, Source

clicks = Source("clicks", "clicks.parquet", time="time")
activity = FeatureView("activity", Entity("user", key="user"), clicks, {"n": Count()})
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    frame = pl.DataFrame({"user": [1, 2, 3], "time": pl.Series([1, 2, 3]).cast(pl.Datetime("us"))})
    frame[:1].write_parquet(tmp_path / "clicks.parquet")
    (tmp_path / "stream").mkdir()
    frame[1:].write_parquet(tmp_path / "stream" / "1.parquet")
    (tmp_path / "features.py").write_text(FEATURES)
    (tmp_path / "bedplate.toml").touch()
    for words in (["apply"], ["materialize"]):
        assert run([*words, "--project", str(tmp_path)]) == 0
    return tmp_path


def test_a_port_that_is_taken_is_an_error_before_anything_is_taken_in(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = ["ingest", str(folder / "stream"), "--project", str(folder), "--metrics", f"127.0.0.1:{port}"]
        assert run(words) == 2
    assert f"--metrics: can't listen on port {port} of 127.0.0.1: Address already in use" in capsys.readouterr().err
    with LmdbStore(folder / ".bedplate" / "online") as store:
        assert [state.events for state in states(store)] == [1]


def test_a_step_has_as_many_events_as_are_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[bool] = []  # of each step whether it changes rows
    commit = LmdbStore.commit

    def counted(store: LmdbStore, changes: Changes) -> None:
        found.append(any(key.startswith(keys.ROWS) for key, _ in changes.puts))
        commit(store, changes)

    monkeypatch.setattr(LmdbStore, "commit", counted)
    assert run(["ingest", str(folder / "stream"), "--project", str(folder), "--batch", "1", "--metrics", "0"]) == 0
    assert sum(found) == 2

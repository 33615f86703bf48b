"""The demo from end to end on a small part of its data, and what makes it fail."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bedplate import Project
from bedplate.batch import Column
from bedplate.datasets.loaded import LoadedDataset
from bedplate.errors import ProofError, StoreError
from bedplate.features.reader import Reader
from bedplate.features.view import CompiledView
from bedplate.offline.base import History
from bedplate.online import keys
from bedplate.online.base import Changes, OnlineStore, open_store
from bedplate.online.fetch import OnlineReader
from bedplate.online.state import read_state
from bedplate.types import Int64s


def test_the_demo_from_raw_events_to_the_report(
    demo: SimpleNamespace, small_example: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "found.json"
    assert demo.demo.main(["--work", str(tmp_path / "work"), "--json", str(report)], small_example) == 0
    shown, found = capsys.readouterr().out, json.loads(report.read_bytes())
    assert found["features"] == 49
    assert len(found["parity"]["mismatches"]) == 49, "views and derived features"
    assert sum(found["parity"]["mismatches"].values()) == 0
    assert found["parity"]["values"] == 49 * found["parity"]["rows"]
    assert found["oracle"] == {"orders": 6, "rows": 60, "features": 49, "values": 49 * 60}
    assert found["served"]["golden"] == 8
    assert [len(one["recommended"]) for one in found["served"]["recommendations"]] == [5, 5, 5]
    assert set(found["served"]["latency"]) == {"recommend, 200 retrieved and ranked", "rank, 200 candidates"}
    for model in ("retail_ranker", "retail_logistic"):
        assert 0.4 < found["models"][model]["metrics"]["test_auc"] < 1
    for one in found["winners"]:
        assert f"{one['metric']:19} {one['winner']}" in shown
    assert f"{49 * 60:,} values (49 features of 60 candidates of" in shown
    assert "0 differ" in shown


def test_a_store_that_answers_something_else_fails_the_demo(
    demo: SimpleNamespace,
    small_example: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    load = demo.stream.bulk_load

    def load_wrongly(store: OnlineStore, view: CompiledView, *arguments: Any) -> None:
        load(store, view, *arguments)
        if view.name == "customer_lines":
            rows = store.scan(keys.rows_of(view))
            store.commit(Changes([(key, rows[i - 1][1]) for i, (key, _) in enumerate(rows)]))

    monkeypatch.setattr(demo.stream, "bulk_load", load_wrongly)
    report = tmp_path / "found.json"
    code = demo.demo.main(["--work", str(tmp_path / "work"), "--json", str(report)], small_example)
    shown = capsys.readouterr()
    assert code == ProofError.exit_code
    assert "error: parity: " in shown.err
    assert "customer_lines." in shown.err
    assert "Proven in this run" not in shown.out
    assert not report.exists()


@pytest.fixture(scope="module")
def project(small_example: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("proof") / "project"
    folder.symlink_to(small_example)
    project = Project(folder)
    project.apply()
    return project


class Shifted(History):
    """History that answers as of a little later than it is asked for."""

    def __init__(self, project: Project, shift: int) -> None:
        self.history, self.shift = project.history, shift

    def read(self, view: CompiledView, names: Sequence[str], asked: Int64s, times: Int64s) -> Mapping[str, Column]:
        return self.history.read(view, names, asked, times + self.shift)

    def ahead(self, *arguments: Any) -> Mapping[str, Column]:
        return self.history.ahead(*arguments)

    def end(self, view: CompiledView) -> int:
        return self.history.end(view)


def test_a_feature_that_sees_its_own_order_is_found(demo: SimpleNamespace, project: Project) -> None:
    compiled = project.dataset("baskets")
    honest = demo.proof.prove_features(project, LoadedDataset(compiled, Shifted(project, 0)))
    assert honest["values"] == 49 * 60
    with pytest.raises(ProofError, match="differ between the dataset and the oracle"):
        demo.proof.prove_features(project, LoadedDataset(compiled, Shifted(project, 1)))


def test_an_order_that_is_asked_for_late_is_found(demo: SimpleNamespace, project: Project) -> None:
    rows = project.load("baskets").spine.rows
    demo.proof.prove_times(project, rows.request_ids[:50], rows.times[:50])
    with pytest.raises(ProofError, match="its first line is of"):
        demo.proof.prove_times(project, rows.request_ids[:50], rows.times[:50] + np.eye(50, dtype=np.int64)[7])


class Late(Reader):
    """A store's reader that can't look back: it answers as of after the last event that it has taken in."""

    def __init__(self, store: OnlineStore) -> None:
        self.store, self.reader = store, OnlineReader(store)

    def read(self, view: CompiledView, names: Sequence[str], asked: Int64s, times: Int64s) -> Mapping[str, Column]:
        return self.reader.read(view, names, asked, np.maximum(times, read_state(self.store, view).newest + 1))


@pytest.mark.parametrize(("reader", "holds"), [(OnlineReader, True), (Late, False)])
def test_the_stream_is_asked_within_its_files(
    demo: SimpleNamespace, project: Project, monkeypatch: pytest.MonkeyPatch, reader: type[Any], holds: bool
) -> None:
    monkeypatch.setattr(demo.stream, "OnlineReader", reader)
    start = project.dataset("baskets").dataset.split.test
    end = max(project.history.end(view) for view in project.views.values())
    with open_store("memory:") as store:
        report, rows, _ = demo.stream.replay(project, store, start, end, lambda _: None)
    assert set(report.rows.values()) == {rows}
    assert report.rows.keys() == project.graph.features.keys()
    assert (report.mismatches["customer_product.since"] == 0) is holds
    assert (report.mismatches["customer_lines.lines_28d"] == 0) is holds


def test_times_asked_for_lie_at_within_and_before_a_files_last_event(demo: SimpleNamespace) -> None:
    watermark, end = 10**15, 10**15 + 5_000_000
    times = demo.stream.sample_times(watermark, end, 30, np.random.default_rng(0))
    assert (times[::3] == end).all()
    assert ((times[1::3] >= watermark - 60_000_000) & (times[1::3] <= watermark)).all()
    assert ((times[2::3] >= watermark) & (times[2::3] <= end)).all()
    assert len(np.unique(times)) > 15


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--work", "/proc/nothing"], "/proc/nothing: the folder can't be written: No such file or directory"),
        (["--work", "{file}"], "{file}: the folder can't be written: File exists"),
        (["--work", "{file}/below"], "{file}/below: the folder can't be written: Not a directory"),
        (["--work", "{folder}/w", "--json", "{folder}/no/f.json"], "{folder}/no/f.json: the report can't be written"),
        (["--work", "{folder}/w", "--json", "{folder}"], "{folder}: this is a folder, expected a file"),
    ],
)
def test_a_bad_place_is_found_before_anything_runs(
    demo: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    places = {"file": tmp_path / "file", "folder": tmp_path / "folder"}
    places["file"].touch()
    places["folder"].mkdir()
    monkeypatch.setattr(demo.demo, "run", lambda *_: pytest.fail("the job began"))
    assert demo.demo.main([a.format(**places) for a in arguments]) == StoreError.exit_code
    assert says.format(**places) in capsys.readouterr().err


def test_a_failing_disk_is_said_in_a_line(
    demo: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*_: object) -> None:
        raise OSError(28, "No space left on device", "/a/file")

    monkeypatch.setattr(demo.demo, "run", run)
    assert demo.demo.main(["--work", str(tmp_path)]) == StoreError.exit_code
    assert capsys.readouterr().err == "error: /a/file: No space left on device\n"

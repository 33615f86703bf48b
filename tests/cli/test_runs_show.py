"""The charts of `bedplate runs show`, and the files that they are."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import click
import numpy as np
import pytest
from kept import predicted, times_of

from bedplate.cli.drawing import draw
from bedplate.cli.main import run
from bedplate.metrics.chart import Chart, Line
from bedplate.registry.registry import Registry
from bedplate.training.importance import IMPORTANCE, read_importance, write_importance
from bedplate.training.plots import charts, write_plots
from bedplate.training.predictions import write_predictions


def test_a_line_is_drawn_from_corner_to_corner_between_its_axes() -> None:
    text = click.unstyle(draw(Chart("Rise", "step", "auc", [Line("auc", [0, 100], [0.0, 1.0])]), width=20, height=5))
    title, *rows, axis, below, name = text.splitlines()
    assert (title, name.strip()) == ("Rise", "step")
    assert [row[:5].strip(" │┤") for row in rows] == ["1", "", "0.5", "", "0"]
    assert rows[0].endswith("⠁") or rows[0][-1] > "⠀"
    area = [row.partition("┤")[2] or row.partition("│")[2] for row in rows]
    first = [len(row) - len(row.lstrip()) for row in area]
    assert first == sorted(first, reverse=True), "it falls to the left"
    assert first[-1] == 0
    assert axis.strip().startswith("└")
    assert below.split()[0] == "0"


def test_lines_are_named_at_their_ends_and_nothing_breaks_it() -> None:
    lines = [Line("training", [0, 1], [1.0, 0.0]), Line("validation", [0, 1], [1.0, 0.9])]
    rows = click.unstyle(draw(Chart("Loss", "step", "loss", lines))).splitlines()
    assert rows[-4].endswith("training")
    assert any(row.endswith("validation") for row in rows[:4])
    for y in ([], [float("nan")], [5.0], [float("inf"), 1.0]):
        draw(Chart("x", "step", "y", [Line("a", list(range(len(y))), y)], diagonal=True))


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "bedplate.toml").touch()
    registry = Registry(tmp_path / ".bedplate" / "registry")
    config = {"model": {"label": "liked"}, "trainer": {"metric": "auc"}}
    with registry.start_run("ranker", config) as going:
        for step in (10, 20, 30):
            going.log_metrics(step, {"train_loss": 3.0 / step, "loss": 4.0 / step, "auc": step / 40, "once/odd": 1.0})
        going.log_metrics(30, {"test_auc": 0.7})
        one = predicted(500)
        write_predictions(going.folder, one, times_of(one))
    return tmp_path


def test_show_draws_what_matters_and_the_files_hold_all(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    registry = Registry(shop / ".bedplate" / "registry")
    (stored,) = registry.runs()
    assert run(["runs", "show", stored.id, "--project", str(shop)]) == 0
    out = capsys.readouterr().out
    for text in (
        "Loss by step",
        "Validation auc by step",
        "Calibration of 'liked' on the test split",
        "all 4 charts: ",
    ):
        assert text in out
    files = {path.stem for path in (stored.folder / "plots").iterdir()}
    assert files == {"loss", "auc", "once_odd", "calibration"}
    for path in (stored.folder / "plots").iterdir():
        ET.parse(path)
    assert run(["runs", "show", stored.id, "--no-plots", "--project", str(shop)]) == 0
    assert "by step\n" not in capsys.readouterr().out.replace("BY STEP", "")
    assert run(["runs", "show", stored.id, "--json", "--project", str(shop)]) == 0
    assert len(json.loads(capsys.readouterr().out)["plots"]) == 4


def test_the_calibration_curve_holds_the_rates_of_the_rows(shop: Path) -> None:
    (stored,) = Registry(shop / ".bedplate" / "registry").runs()
    (line,) = charts(stored)["calibration"].lines
    scores, labels, _, _ = predicted(500).of("liked")
    order = np.argsort(scores)
    lowest = order[: len(order) // 12]
    assert line.x[0] == pytest.approx(scores[lowest].mean(), abs=0.01)
    assert line.y[0] == pytest.approx(labels[lowest].mean(), abs=0.02)
    assert all(low <= y <= high for low, y, high in zip(line.low, line.y, line.high, strict=True))
    before = write_plots(stored)
    assert write_plots(stored) == before, "written again in their place"


def test_the_columns_that_count_most_for_an_estimator_are_shown_first(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (stored,) = Registry(shop / ".bedplate" / "registry").runs()
    words = ["runs", "show", stored.id, "--no-plots", "--project", str(shop)]
    assert run(words) == 0
    assert "COLUMN" not in capsys.readouterr().out, "a network has none"
    gain = {f"users.n{i}": float(i * i) for i in range(23)}
    write_importance(stored.folder, {"gain": gain, "splits": {"users.n3": 7.0, "users.late": 2.0}})
    assert run(words) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    at = lines.index(["COLUMN", "GAIN", "SPLITS"])
    assert lines[at + 1 : at + 3] == [["users.n22", "484", "-"], ["users.n21", "441", "-"]]
    assert ["users.n3", "9", "7"] in lines[at : at + 21]
    assert lines[at + 21] == ["...", "4", "more;", "--json", "has", "all"]
    assert run([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["importance"]
    assert found == read_importance(stored.folder) == {"gain": gain, "splits": {"users.n3": 7.0, "users.late": 2.0}}


def test_a_damaged_file_of_importance_is_named(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (stored,) = Registry(shop / ".bedplate" / "registry").runs()
    (stored.folder / IMPORTANCE).write_text('{"gain": [1]}')
    assert run(["runs", "show", stored.id, "--project", str(shop)]) != 0
    assert f"{stored.folder / IMPORTANCE}: the importance can't be read" in capsys.readouterr().err

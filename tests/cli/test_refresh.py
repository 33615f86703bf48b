"""`online refresh`, as a person, a timer and a program call it, and servers that read what it made."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from bedplate.batch import Dense
from bedplate.cli.main import run
from bedplate.errors import NotFoundError
from bedplate.online.base import open_store
from bedplate.online.resident import ResidentReader, open_resident
from bedplate.project import Project
from bedplate.testing.simulator import START
from bedplate.types import DAY

FEATURES = """
from bedplate import Count, Entity, FeatureView, Last, Source

events = Source("events", "events.parquet", time="time")
item = Entity("item", key="item")
items = FeatureView("items", item, events, {"n": Count(windows="1d"), "price": Last("price")})
prices = FeatureView("prices", item, events, {"price": Last("price")})
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bedplate.toml").write_text('[online]\nresident = ["prices"]\n')
    (tmp_path / "features.py").write_text(FEATURES)
    times = [START + i * DAY for i in range(10)]
    frame = pl.DataFrame({"item": range(10), "time": times, "price": np.arange(10.0)})
    frame.write_parquet(tmp_path / "events.parquet")
    for words in (["apply"], ["materialize"]):
        assert run([*words, "--project", str(tmp_path)]) == 0
    return tmp_path


@pytest.fixture
def call(folder: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    capsys.readouterr()

    def call(*words: str) -> tuple[int, str, str]:
        code = run(["online", "refresh", *words, "--project", str(folder)])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_what_is_resident_is_refreshed_and_read(folder: Path, call: Any) -> None:
    code, out, _ = call()
    assert (code, [line.split()[:4] for line in out.splitlines()[1:]]) == (0, [["prices", "1", "new", "10"]])
    (again,) = json.loads(call("--json")[1])["views"]
    assert (again["view"], again["version"], again["kept"], again["rows"]) == ("prices", 1, True, 10)
    project = Project(folder)
    resident = open_resident(project.config, project.views)
    assert resident is not None
    with open_store(project.config.online_url) as store:
        view = project.views["prices"]
        columns = ResidentReader(store, resident).read(
            view, ["prices.price"], np.array([[3]]), np.array([START + 99 * DAY])
        )
    resident.close()
    column = columns["prices.price"]
    assert isinstance(column, Dense)
    assert column.values.tolist() == [3.0]
    assert resident.ages()["prices"] < 60


def test_views_by_name_and_wrong_names(folder: Path, call: Any) -> None:
    assert call("items")[1].splitlines()[1].split()[:2] == ["items", "1"]
    code, _, err = call("item")
    assert (code != 0, "no view is named 'item'" in err, "items" in err) == (True, True, True)
    code, _, err = call("--every", "1")
    assert (code != 0, "--every" in err) == (True, True)
    (folder / "bedplate.toml").write_text('[online]\nresident = ["price"]\n')
    with pytest.raises(NotFoundError, match=r"online\.resident"):
        open_resident(Project(folder).config, Project(folder).views)
    (folder / "bedplate.toml").write_text("")
    code, _, err = call()
    assert (code != 0, "no view is resident" in err) == (True, True)
    assert open_resident(Project(folder).config, {}) is None


def test_a_view_that_is_not_loaded_is_an_error(folder: Path, call: Any) -> None:
    (folder / "features.py").write_text(FEATURES.replace('"price": Last("price")})\n', '"p": Last("price")})\n'))
    code, _, err = call()
    assert (code != 0, "bedplate materialize" in err) == (True, True)


def test_it_goes_on_until_it_is_ended(folder: Path) -> None:
    command = [sys.executable, "-m", "bedplate", "online", "refresh", "--every", "50ms", "--json"]
    process = subprocess.Popen(
        [*command, "--project", str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    assert process.stdout is not None
    rounds = [json.loads(process.stdout.readline()) for _ in range(3)]
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert [r["views"][0]["kept"] for r in rounds] == [False, True, True]
    assert (process.returncode, "still read" in err) == (130, True)

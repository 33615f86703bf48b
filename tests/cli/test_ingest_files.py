"""`bedplate ingest` of a directory: what goes aside, what is told, and what the command line refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bedplate.cli.main import run


@pytest.fixture
def folder(clicks: Path) -> Path:
    return clicks


def put(folder: Path, name: str, *rows: object) -> None:
    path = folder / "stream" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def call(
    folder: Path, capsys: pytest.CaptureFixture[str], *words: str | Path, code: int = 0
) -> pytest.CaptureResult[str]:
    capsys.readouterr()
    assert run([*map(str, words), "--project", str(folder)]) == code
    return capsys.readouterr()


def counts(folder: Path, capsys: pytest.CaptureFixture[str]) -> list[int]:
    words = ["lookup", "clicked.n", "--key", "user=1", "--key", "user=2", "--online", "--json"]
    return [row["values"]["clicked.n"] for row in json.loads(call(folder, capsys, *words).out)]


def event(user: object, day: int = 4) -> dict[str, object]:
    return {"user": user, "time": f"2026-01-{day:02}T00:00:00"}


@pytest.mark.parametrize("aside", [None, "elsewhere"])
def test_poison_rows_are_counted_told_and_replayed(
    folder: Path, capsys: pytest.CaptureFixture[str], aside: str | None
) -> None:
    put(folder, "a/1.jsonl", event(1), event(None), event("x"), event(2))
    put(folder, "b/1.jsonl", event(1))
    options = [] if aside is None else ["--letters", str(folder / aside)]
    printed = call(folder, capsys, "ingest", folder / "stream", "--json", *options)
    [source] = json.loads(printed.out)["sources"]
    assert (source["rows"], source["files"], source["letters"], source["lag"]) == (3, 2, 2, 0)
    letters = folder / (aside or ".bedplate/letters") / "clicks"
    assert f"warning: 2 dead letters in {letters}: mend them, then run: bedplate ingest replay" in printed.err
    assert counts(folder, capsys) == [3, 2]
    [path] = letters.glob("*.jsonl")
    call(folder, capsys, "ingest", "replay", path, code=3)
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(x["file"], x["row"]) for x in found] == [("a/1.jsonl", 1), ("a/1.jsonl", 2)]
    assert "the key 'user' is null" in found[0]["reason"]
    path.write_text("".join(json.dumps(x | {"payload": json.dumps(event(2))}) + "\n" for x in found))
    for taken in (2, 0):
        printed = call(folder, capsys, "ingest", "replay", path, "--json")
        assert json.loads(printed.out) == {"views": [{"view": "clicked", "letters": taken, "passed_over": 2 - taken}]}
        assert ("warning: no letter was taken in" in printed.err) == (not taken)
        assert counts(folder, capsys) == [3, 4]
    assert json.loads(call(folder, capsys, "ingest", folder / "stream", "--json").out)["sources"][0]["rows"] == 0


def test_a_damaged_file_ends_the_command_with_an_error_once_the_others_are_in(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(folder, "a/1.parquet", "no")
    put(folder, "b/1.jsonl", event(1))
    printed = call(folder, capsys, "ingest", folder / "stream", code=3)
    assert printed.out == ""
    assert f"error: {folder}/stream/a/1.parquet: can't read the file: " in printed.err
    assert counts(folder, capsys) == [2, 1]
    printed = call(folder, capsys, "ingest", folder / "stream", "--json", code=3)
    [source] = json.loads(printed.out)["sources"]
    assert list(source["stuck"]) == ["a"]


def test_files_of_other_names_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(folder, "1.csv", "no")
    printed = call(folder, capsys, "ingest", folder / "stream", "--json")
    assert "no files with a name of a stream: 1.csv" in printed.err
    assert "holds no file *.parquet, *.jsonl" in printed.err
    assert json.loads(printed.out)["sources"][0]["strangers"] == ["1.csv"]


@pytest.mark.parametrize(("option", "value"), [("--group", "g"), ("--settings", "bedplate.toml")])
def test_options_of_topics_are_refused_for_a_directory(
    folder: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    printed = call(folder, capsys, "ingest", folder / "stream", option, value, code=2)
    assert f"{option} is of a topic, and '{folder}/stream' is a directory" in printed.err


def test_a_directory_that_is_not_there_is_an_error_before_anything_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = call(folder, capsys, "ingest", folder / "nowhere", "--follow", code=3)
    assert printed.err.startswith(f"error: {folder}/nowhere: can't read the directory")


def test_a_wrong_form_is_an_error_of_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = call(folder, capsys, "ingest", folder / "stream", "--format", "xml", code=2)
    assert "got the form of payloads 'xml'" in printed.err

"""`bedplate ingest` of a topic, and of the dead letters that it leaves."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from confluent_kafka import Producer

from bedplate.cli.main import run
from bedplate.online.lmdb import LmdbStore
from bedplate.online.state import states


@pytest.fixture
def folder(clicks: Path) -> Path:
    return clicks


def test_a_topic_is_followed_and_its_letters_are_replayed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    producer = Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 1})
    address = next(f"{b.host}:{b.port}" for b in producer.list_topics(timeout=10).brokers.values())
    for user in (1, "x", 1, None):
        producer.produce("clicks", json.dumps({"user": user, "time": "2026-01-04T00:00:00"}), partition=0)
    assert producer.flush(10) == 0

    def letter_files() -> list[Path]:
        return list((folder / ".bedplate" / "letters" / "clicks").glob("*.jsonl"))

    def stop() -> None:
        began = time.monotonic()
        while not letter_files() and time.monotonic() < began + 60:
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    capsys.readouterr()
    waiting = threading.Thread(target=stop)
    waiting.start()
    assert run(["ingest", f"kafka://{address}/clicks", "--follow", "--json", "--project", str(folder)]) == 0
    waiting.join()
    assert json.loads(capsys.readouterr().out)["sources"][0]["rows"] == 2
    (letters,) = letter_files()
    assert letters.name == "clicks-0-00000000000000000001.jsonl"

    words = ["ingest", "replay", str(letters), "--json", "--project", str(folder)]
    assert run(words) == 3
    assert "letters are still wrong" in capsys.readouterr().err
    letters.write_text(letters.read_text().replace('\\"x\\"', "5").replace("null", "6"))
    for expected in (2, 0):
        assert run(words) == 0
        found = {"view": "clicked", "letters": expected, "passed_over": 2 - expected, "left": 0}
        assert json.loads(capsys.readouterr().out) == {"views": [found], "interrupted": False}
    with LmdbStore(folder / ".bedplate" / "online") as store:
        assert [state.events for state in states(store)] == [2 + 2 + 2]


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["kafka://host:1/clicks"], 2, "expected --follow"),
        (["kafka://host:1", "--follow"], 2, "expected kafka://HOST:PORT/TOPIC"),
        (
            ["kafka://host:1/clicks", "--follow", "--format", "xml"],
            2,
            "expected json, avro:FILE or protobuf:FILE:MESSAGE",
        ),
        (["replay", "missing.jsonl"], 2, "does not exist"),
    ],
)
def test_a_wrong_command_line_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, text: str
) -> None:
    assert run(["ingest", *words, "--project", str(folder)]) == code
    assert text in capsys.readouterr().err

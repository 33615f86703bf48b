"""A password in the URL of a store or a stream is in no message, wherever it stands and whatever is in it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bedplate.cli.main import run
from bedplate.config import load_config, without_password
from bedplate.errors import BedplateError
from bedplate.online.base import open_store
from bedplate.online.kafka import parse_url
from bedplate.online.redis_address import parse_address

PLACES = [
    "redis://:{}@h:1/0",
    "redis://user:{}@h/0",
    "redis://:{}@h,i/0",
    "redis:/user:{}@h",
    "redis:user:{}@h",
    "rediss://user:{}@h/0?namespace=a",
    "redis+cluster://u:{}@h:1,i:2",
    "redis://h/0?password={}",
    "redis://u:{}@h/0?password=x",
    "redis://h:1/0?namespace=a&pasword={}",
    "redis://:{}@h/no",
    "kafka://u:{}@h/t",
    "kafka:u:{}@h/t",
    "other://u:{}@h",
    "memory:u:{}@h",
    "u:{}@h",
]
SECRET = "hunter2"


def shown(url: str, folder: Path) -> str:
    """All that anything says of a URL."""
    found = [without_password(url)]
    (folder / "bedplate.toml").write_text(f"[online]\nurl = '''{url}'''\n[engine]\nurl = '''{url}'''")
    with contextlib.suppress(BedplateError):
        found.append(repr(parse_address(url)) + parse_address(url).shown)
    for ask in (parse_url, parse_address, open_store, lambda _: load_config(folder)):
        try:
            ask(url)
        except BedplateError as error:
            found.append(f"{error}{error.message}{error.where}{error.hint}")
    return "\n".join(found)


@given(place=st.sampled_from(PLACES), before=st.text("/?#@:&=%a.", max_size=4), after=st.text("/?#@:&=%a.", max_size=4))
@example("redis://:{}@h/0", "", "/x")
@example("redis:/user:{}@host", "", "")
@example("redis://:{}@h", "p@ss/", "#x")
@example("redis://h/0?password={}", "", "")
@example("kafka://u:{}@h/t", "", "")
def test_no_message_holds_it(tmp_path_factory: pytest.TempPathFactory, place: str, before: str, after: str) -> None:
    folder = tmp_path_factory.getbasetemp()
    assert SECRET not in shown(place.format(before + SECRET + after), folder)


def test_commands_do_not_show_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "features.py").write_text("")
    for url in ("redis://:hunter2/x@h/0", "redis://h/0?password=hunter2"):
        (tmp_path / "bedplate.toml").write_text(f'[online]\nurl = "{url}"')
        for words in (["online", "ls", "--json"], ["online", "verify", "--json"], ["ingest", "kafka://u:hunter2@h/t"]):
            assert run([*words, "--project", str(tmp_path)]) != 0
        assert run(["ingest", "amqp://u:hunter2@h/t", "--project", str(tmp_path)]) != 0
    said = capsys.readouterr()
    assert said.err
    assert SECRET not in said.err + said.out


def test_what_is_no_password_is_shown() -> None:
    assert (
        without_password("redis://app:x@cache:6380/2?namespace=shop") == "redis://app:***@cache:6380/2?namespace=shop"
    )
    assert without_password("rediss+cluster://one:6379,two:6379") == "rediss+cluster://one:6379,two:6379"
    assert without_password("kafka://one:9092,two:9092/events") == "kafka://one:9092,two:9092/events"
    assert without_password("lmdb:/a b/online") == "lmdb:/a b/online"

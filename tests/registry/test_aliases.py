"""Aliases: promote, roll back, and the history of both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bedplate.errors import ConfigError, ConflictError, NotFoundError, StoreError
from bedplate.registry.manifest import Manifest
from bedplate.registry.registry import Registry


@pytest.fixture
def ranker(registry: Registry, artifact: Callable[..., Path], manifest: Manifest) -> Registry:
    """A registry with three versions of a model."""
    for content in (b"1", b"2", b"3"):
        registry.register("ranker", artifact(model=content), manifest=manifest)
    return registry


def test_rollback_goes_back_holder_by_holder(ranker: Registry) -> None:
    for version in (1, 2, 3):
        ranker.promote("ranker", version)
    assert [ranker.rollback("ranker").version for _ in range(2)] == [2, 1]
    with pytest.raises(NotFoundError, match="no version held the alias 'champion' before version 1"):
        ranker.rollback("ranker")
    assert ranker.aliases("ranker") == {"champion": 1}
    ranker.promote("ranker", 3)
    assert ranker.rollback("ranker").version == 1, "2 was rolled back, so 1 held it before 3"


def test_history_says_when_who_what_and_why(ranker: Registry) -> None:
    ranker.promote("ranker", 1, reason="first")
    ranker.promote("ranker", 2, "candidate")
    ranker.promote("ranker", 2, reason="better")
    ranker.rollback("ranker", reason="slow")
    history = ranker.history("ranker")
    assert [(c.sequence, c.alias, c.action, c.previous, c.version, c.reason) for c in history] == [
        (1, "champion", "promote", None, 1, "first"),
        (2, "candidate", "promote", None, 2, None),
        (3, "champion", "promote", 1, 2, "better"),
        (4, "champion", "rollback", 2, 1, "slow"),
    ]
    assert all("@" in c.who for c in history)
    assert [c.time for c in history] == sorted({c.time for c in history})
    assert ranker.aliases("ranker") == {"candidate": 2, "champion": 1}


def test_promoting_the_holder_changes_nothing(ranker: Registry) -> None:
    first = ranker.promote("ranker", 1)
    assert ranker.promote("ranker", 1, reason="again") == first
    assert len(ranker.history("ranker")) == 1


def test_an_alias_is_given_only_where_it_is_still_as_expected(ranker: Registry) -> None:
    with pytest.raises(ConflictError, match="no version has the alias 'champion', expected version 2"):
        ranker.promote("ranker", 1, previous=2)
    ranker.promote("ranker", 1, previous=None)
    for expected in (None, 2):
        with pytest.raises(ConflictError, match=r"version 1 has the alias 'champion', expected (no version|version 2)"):
            ranker.promote("ranker", 3, previous=expected)
    assert ranker.promote("ranker", 2, previous=1).previous == 1
    assert ranker.promote("ranker", 2, previous=1).sequence == 2, "it holds it already"
    assert [c.version for c in ranker.history("ranker")] == [1, 2]


def test_what_is_not_there_cannot_be_promoted_or_rolled_back(ranker: Registry) -> None:
    with pytest.raises(NotFoundError, match="no version 9"):
        ranker.promote("ranker", 9)
    with pytest.raises(NotFoundError, match="did you mean 'ranker'"):
        ranker.promote("rankr", 1)
    with pytest.raises(NotFoundError, match="no version has the alias 'champion'"):
        ranker.rollback("ranker")
    for alias in ("7", "a b", "", "../x"):
        with pytest.raises(ConfigError, match="an alias"):
            ranker.promote("ranker", 1, alias)
    assert ranker.history("ranker") == []
    assert not list((ranker.root / "models").rglob("*.jsonl"))


def test_an_incomplete_last_line_never_happened(ranker: Registry) -> None:
    ranker.promote("ranker", 1)
    log = ranker.root / "models" / "ranker" / "aliases.jsonl"
    complete = log.read_bytes()
    log.write_bytes(complete + complete[:20])
    assert Registry(ranker.root).aliases("ranker") == {"champion": 1}
    assert log.read_bytes() == complete, "cut off when opened"
    log.write_bytes(complete + complete[:20])
    ranker.promote("ranker", 2)
    assert [c.version for c in Registry.rebuild(ranker.root).history("ranker")] == [1, 2]
    complete = log.read_bytes()
    log.write_bytes(complete + complete[:-1].splitlines()[-1] + b"x" * 500)
    ranker.promote("ranker", 3)
    assert log.read_bytes().startswith(complete)
    assert b"x" not in log.read_bytes(), "nor is what is longer than the next line left behind it"
    ranker.promote("ranker", 1)
    assert [c.version for c in Registry.rebuild(ranker.root).history("ranker")] == [1, 2, 3, 1]


def test_a_history_put_back_from_a_backup_counts(ranker: Registry) -> None:
    ranker.promote("ranker", 1)
    log = ranker.root / "models" / "ranker" / "aliases.jsonl"
    backup = log.read_bytes()
    ranker.promote("ranker", 2)
    log.write_bytes(backup)
    again = Registry(ranker.root)
    assert again.aliases("ranker") == {"champion": 1}
    assert len(again.history("ranker")) == 1


def test_a_damaged_history_is_an_error_that_shows_the_line(ranker: Registry) -> None:
    ranker.promote("ranker", 1)
    log = ranker.root / "models" / "ranker" / "aliases.jsonl"
    log.write_bytes(log.read_bytes() + b'{"sequence": "x"}\n')
    with pytest.raises(StoreError, match=r"alias history is damaged.*sequence"):
        Registry(ranker.root)

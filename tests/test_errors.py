"""The text of errors, their exit codes, and the suggestions in them."""

from __future__ import annotations

import inspect

import pytest

from bedplate import errors
from bedplate.errors import (
    BedplateError,
    DataError,
    DefinitionError,
    MissingExtraError,
    RequestError,
    StoreError,
    missing_extra,
    suggest,
)

CODES = {
    "BedplateError": (1, 500),
    "ConfigError": (2, 500),
    "DefinitionError": (2, 500),
    "MissingExtraError": (2, 500),
    "DataError": (3, 500),
    "NotFoundError": (4, 404),
    "NotServedError": (4, 404),
    "StoreError": (5, 503),
    "AheadError": (5, 409),
    "ConflictError": (5, 409),
    "DeadlineError": (5, 504),
    "UnavailableError": (5, 503),
    "UncertainError": (5, 503),
    "ArtifactError": (6, 500),
    "ProofError": (7, 500),
    "NotReadyError": (1, 503),
    "RequestError": (1, 400),
}


def test_every_error_has_its_exit_code_and_status():
    kinds = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, Exception)]
    assert {c.__name__: (c.exit_code, c.http_status) for c in kinds} == CODES
    assert all(issubclass(c, BedplateError) for c in kinds)


@pytest.mark.parametrize(
    ("where", "hint", "text"),
    [
        (None, None, "wrong"),
        ("view 'v'", None, "view 'v': wrong"),
        (None, "do this", "wrong\n  do this"),
        ("view 'v'", "do this", "view 'v': wrong\n  do this"),
    ],
)
def test_an_error_reads_place_message_and_what_to_do(where, hint, text):
    error = DataError("wrong", where=where, hint=hint)
    assert str(error) == text
    assert (error.message, error.where, error.hint) == ("wrong", where, hint)


def test_a_place_that_becomes_known_later_is_shown():
    error = DefinitionError("wrong", where="view 'v'")
    error.where = f"features.py:3: {error.where}"
    assert str(error) == "features.py:3: view 'v': wrong"


@pytest.mark.parametrize(
    ("name", "options", "hint"),
    [
        ("pric", ["quantity", "price"], "did you mean 'price'?"),
        ("Price", ["price"], "did you mean 'price'?"),
        ("zzz", ["b", "a", "b"], "columns: a, b"),
        ("zzz", [], "columns: none"),
        (
            "zzz",
            [f"c{i:02}" for i in range(15)],
            f"columns: {', '.join(f'c{i:02}' for i in range(12))}, ... (15 in all)",
        ),
    ],
)
def test_suggestions(name, options, hint):
    assert suggest(name, options, "columns") == hint
    assert suggest(name, (o for o in options), "columns") == hint


def test_a_library_that_is_missing_names_its_extra():
    error = missing_extra(ModuleNotFoundError(name="onnxruntime.capi"))
    assert isinstance(error, MissingExtraError)
    assert "pip install 'bedplate[serve]'" in str(error)
    assert missing_extra(ModuleNotFoundError(name="left_pad")) is None
    assert missing_extra(ModuleNotFoundError()) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/srv/shop/registry/index.sqlite", ".../index.sqlite"),
        ("/srv/my shop/registry/index.sqlite", ".../index.sqlite"),
        (
            "the folder /srv/models/ranker/3 was changed by hand; restore it",
            "the folder .../3 was changed by hand; restore it",
        ),
        ("Load model from '/srv/c d/model.onnx' failed (/a/b).", "Load model from '.../model.onnx' failed (.../b)."),
        ("lmdb:///srv/online can't be read", ".../online can't be read"),
        ("file:/srv/online, redis://:secret@cache:6379/0", ".../online, .../0"),
        ("POST /v2/models/a/infer, /rank and $.inputs[0] of views/a.py", None),
        ("model 'a/b': and/or 1/2", None),
    ],
)
def test_clients_are_told_no_paths_of_the_server(text: str, told: str | None) -> None:
    error = StoreError(text, where=text, hint=text)
    found = error.for_client()
    assert {found.message, found.where, found.hint} == {told or text}
    assert str(error).count(text) == 3
    assert RequestError(text).for_client().message == text  # it is the client's own


def test_what_is_not_for_clients_is_told_in_other_words() -> None:
    assert str(StoreError("secret", where="/a/b", told="it fails").for_client()) == ".../b: it fails"

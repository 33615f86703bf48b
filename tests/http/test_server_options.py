"""The options of a server: what they mean, and what is said where they can't be meant."""

from __future__ import annotations

import dataclasses
import importlib
import logging
import os
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from bedplate.cli.features import serve as features_serve
from bedplate.cli.serve import serve
from bedplate.cli.server import ServerOptions, server_options
from bedplate.errors import ConfigError
from bedplate.http.message import Limits
from bedplate.http.settings import Settings
from bedplate.http.tokens import Role

VARIABLE = "BEDPLATE_TEST_TOKEN"
TOKEN, OTHER = "token-of-the-environment", "token-of-the-file-of-ours"
CERTIFICATES = Path(__file__).parent / "certificates"


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def given_options(*arguments: str) -> ServerOptions:
    """The options as the command line gives them."""
    found: list[ServerOptions] = []

    @click.command()
    @server_options(VARIABLE, most_waiting=64)
    def command(server: ServerOptions) -> None:
        found.append(server)

    result = CliRunner().invoke(command, list(arguments))
    if result.exit_code:
        raise click.UsageError(result.output)
    return found[0]


def settings_of(*arguments: str) -> Settings:
    return given_options(*arguments).settings(VARIABLE)


def test_without_options_the_limits_are_those_of_the_guide() -> None:
    settings = settings_of()
    assert (settings.host, settings.port, settings.grace_seconds) == ("127.0.0.1", 8000, 10.0)
    assert settings.limits == dataclasses.replace(Limits(), body_bytes=16_000_000, waiting=64)
    assert not settings.tokens
    assert settings.certificate is None


def test_each_option_is_its_limit() -> None:
    limits = settings_of(
        "--most-megabytes", "3", "--most-connections", "7", "--most-waiting", "0", "--most-wait", "90s",
        "--most-per-client", "5",
    ).limits  # fmt: skip
    assert (limits.body_bytes, limits.connections, limits.waiting) == (3_000_000, 7, 0)
    assert (limits.wait_seconds, limits.client_requests) == (90.0, 5)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port", "65536"], ["--port", "-1"], ["--port", "http"], ["--workers", "0"], ["--most-megabytes", "0"],
        ["--most-connections", "0"], ["--most-waiting", "-1"], ["--most-per-client", "-1"], ["--workers", "1.5"],
    ],
)  # fmt: skip
def test_numbers_that_mean_nothing_are_an_error_of_use(arguments: list[str]) -> None:
    with pytest.raises(click.UsageError, match=arguments[0]):
        given_options(*arguments)


@pytest.mark.parametrize("option", ["--most-wait", "--grace"])
@given(
    text=st.sampled_from(["", "1", "0s", "-1s", "1.5s", "soon", "1 second", "9" * 30 + "d", "1s2s"])
    | st.text(max_size=4)
)
def test_a_duration_that_is_none_is_said_with_its_option(option: str, text: str) -> None:
    options = dataclasses.replace(given_options(), **{option[2:].replace("-", "_"): text})
    try:
        settings = options.settings(VARIABLE)
    except ConfigError as error:
        told = str(error)
    else:
        told = f"{option} ok" if min(settings.grace_seconds, settings.limits.wait_seconds) > 0 else ""
    assert option in told


@pytest.mark.parametrize("alone", [("--certificate", "first.pem"), ("--key", "first.key")])
def test_a_certificate_and_its_key_go_together(alone: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match="--certificate and --key go together"):
        settings_of(alone[0], str(CERTIFICATES / alone[1]))


def test_a_pair_is_read_before_anything_is_served(tmp_path: Path) -> None:
    certificate, key = str(CERTIFICATES / "first.pem"), str(CERTIFICATES / "first.key")
    made = settings_of("--certificate", certificate, "--key", key).certificate
    assert made is not None
    assert made.paths == (Path(certificate), Path(key))
    (tmp_path / "empty").touch()
    for wrong in (str(CERTIFICATES / "second.key"), str(tmp_path / "empty"), str(tmp_path), certificate):
        with pytest.raises(ConfigError, match="can't use the certificate") as caught:
            settings_of("--certificate", certificate, "--key", wrong)
        assert wrong in str(caught.value)


def test_tokens_are_those_of_the_file_and_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# ours\nread dashboard {OTHER}\n")
    monkeypatch.setenv(VARIABLE, f"operate deploy {TOKEN}")
    tokens = settings_of("--tokens", str(file)).tokens
    held = [tokens.holder(f"bearer   {token} ".encode()) for token in (OTHER, TOKEN)]
    assert [(h.name, h.role) for h in held if h is not None] == [("dashboard", Role.READ), ("deploy", Role.OPERATE)]
    monkeypatch.setenv(VARIABLE, "")
    assert not settings_of().tokens  # an empty variable is none, not a token of no characters
    monkeypatch.setenv(VARIABLE, "short")
    with pytest.raises(ConfigError, match="token 1 has 5 characters"):
        settings_of()


def test_a_file_of_tokens_that_is_not_there_is_no_server_for_everybody(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ConfigError, match="can't read the tokens") as caught:
            settings_of("--tokens", str(path))
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "cores", "threads"),
    [
        ([], 2, 2), ([], 1, 1), ([], 64, 4), (["--workers", "2"], 2, 1), (["--workers", "2"], 6, 3),
        (["--workers", "9"], 8, 1), (["--threads", "3"], 1, 3), (["--threads", "1", "--workers", "2"], 64, 1),
    ],
)  # fmt: skip
def test_the_cores_are_divided_among_the_workers(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], cores: int, threads: int
) -> None:
    module = importlib.import_module("bedplate.cli.serve")
    asked: list[int] = []
    monkeypatch.setattr(module, "_load", lambda *given: asked.append(given[3]))
    monkeypatch.setattr(ServerOptions, "serve", lambda self, app, load, variable, **_: load())
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    result = CliRunner().invoke(module.serve, [*arguments, "shop"])
    assert result.exit_code == 0, result.output
    assert asked == [threads]


@pytest.mark.parametrize("command", [serve, features_serve])
def test_more_workers_or_threads_than_the_machine_can_bear_are_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, command: click.Command
) -> None:
    started: list[str] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr("bedplate.cli.server.take_hangups", lambda **_: None)
    monkeypatch.setattr(ServerOptions, "_supervise", lambda *_: started.append("workers"))
    monkeypatch.setattr("bedplate.http.server.run_application", lambda *_, **__: started.append("server"))
    # Far below what hurts: were nothing refused, nothing would start here all the same.
    for option in ("--workers", "--threads") if command is serve else ("--workers",):
        result = CliRunner().invoke(command, [option, "17"])
        assert isinstance(result.exception, ConfigError)
        said = f"options: {option} is 17, expected at most 16: 8 for each of this machine's 2 cores"
        assert str(result.exception) == said
    assert started == []
    assert CliRunner().invoke(command, ["--workers", "16"]).exit_code == 0
    assert started == ["workers"]


def test_no_secret_is_in_the_help_or_in_an_error(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setenv(VARIABLE, TOKEN)
    with caplog.at_level(logging.DEBUG):
        shown = [repr(given_options()), repr(settings_of())]
        for arguments in (["--help"], ["--port", "x"]):
            command = click.command()(server_options(VARIABLE, most_waiting=0)(lambda server: None))
            shown.append(CliRunner().invoke(command, arguments).output)
    assert VARIABLE in shown[2]
    assert not any(TOKEN in text for text in (*shown, caplog.text))


@pytest.mark.parametrize(
    ("given_", "what"), [("nan", "no finite number"), ("-1", "range"), ("101", "range"), ("inf", "range")]
)
def test_a_delay_that_is_no_time_is_refused(given_: str, what: str) -> None:
    result = CliRunner().invoke(serve, ["--batch-delay", given_])
    assert (result.exit_code, "'--batch-delay'" in result.output, what in result.output) == (2, True, True)

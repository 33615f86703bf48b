"""What commands promise for programs and for readers: --json everywhere, examples, exit codes that are written down."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from bedplate import errors
from bedplate.cli import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "commands.md").read_text()


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command by its words, those in groups included."""
    context = click.Context(main.cli)
    for name in main.cli.list_commands(context):
        command = main.cli.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from ((f"{name} {below}", command.commands[below]) for below in command.commands)
        else:
            yield name, command


COMMANDS = dict(commands())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_writes_json_and_shows_how(name: str) -> None:
    command = COMMANDS[name]
    assert "--json" in [o for p in command.params for o in p.opts]
    examples = (command.help or "").partition("Examples:")[2].splitlines()
    shown = [line.strip() for line in examples if line.strip().startswith("bedplate ")]
    assert any("--json" in line for line in shown)
    assert all(line.startswith(f"bedplate {name}") for line in shown)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_options_in_examples_exist(name: str) -> None:
    command = COMMANDS[name]
    known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
    examples = (command.help or "").partition("Examples:")[2]
    used = set(re.findall(r"(?<=\s)--[a-z-]+", "\n".join(e for e in examples.splitlines() if "bedplate " in e)))
    assert used <= known


def test_the_page_lists_the_commands_as_the_help_does() -> None:
    listed = re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE, re.MULTILINE)
    assert listed == [(name, line) for name, (_, line) in main.COMMANDS.items()]


def test_the_page_lists_the_exit_codes_as_the_help_does() -> None:
    listed = re.findall(r"^\| (\d+) \| (.*) \|$", PAGE, re.MULTILINE)
    assert listed == re.findall(r"^  (\d+) +(.*)$", main.EXIT_CODES, re.MULTILINE)


def test_every_error_exits_with_a_code_on_the_list() -> None:
    codes = {int(code) for code, _ in re.findall(r"^  (\d+) +(.*)$", main.EXIT_CODES, re.MULTILINE)}
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.BedplateError)]
    assert len(kinds) > 8
    assert {k.exit_code for k in kinds} <= codes
    assert {main.UNEXPECTED_EXIT, main.INTERRUPTED_EXIT, main.CLOSED_EXIT, 0} <= codes


def test_init_tells_a_program_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["init", str(tmp_path / "shop"), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["directory"] == str(tmp_path / "shop")
    assert made["example"] is None
    assert sorted(made["files"]) == sorted(p.name for p in (tmp_path / "shop").iterdir())


SERVICES = """\
from bedplate import Count, Entity, FeatureView, Service, Source
import polars as pl
orders = Source("orders", pl.DataFrame({"user": [1], "time": [1767225600000000]}), time="time")
spending = FeatureView("spending", Entity("user", key="user"), orders, {"n": Count()})
"""


@pytest.mark.parametrize(
    ("more", "words", "message"),
    [
        ("", [], "the project defines no service\n  define a Service in service.py; 'bedplate plan' checks it\n"),
        ("", ["shop"], "no service is named 'shop'\n"),
        (
            'a, b = (Service(n, ranking="m", item="user") for n in ("shop", "feed"))\n',
            [],
            "the project defines 2 services\n  name one of: shop, feed\n",
        ),
    ],
)
def test_serving_what_is_not_defined(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: str, words: list[str], message: str
) -> None:
    (tmp_path / "bedplate.toml").write_text("")
    (tmp_path / "features.py").write_text(SERVICES + more)
    assert main.run(["serve", "--port", "0", "--project", str(tmp_path), *words]) == 4
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err

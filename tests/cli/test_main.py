"""The command line: what it loads, what it prints on an error, and the code it exits with."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from bedplate import cli, errors
from bedplate.cli import main
from bedplate.errors import BedplateError, DataError


@pytest.fixture
def outcome(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What the command `try` of the test's command line does: raise this, or exit with this code."""
    outcome: dict[str, object] = {}

    def attempt() -> None:
        if "raise" in outcome:
            raise outcome["raise"]  # type: ignore[misc]
        click.get_current_context().exit(outcome["exit"])  # type: ignore[arg-type]

    monkeypatch.setitem(main.COMMANDS, "try", ("bedplate.cli:attempt", "For this test."))
    monkeypatch.setattr(cli, "attempt", click.command()(attempt), raising=False)
    return outcome


def test_an_error_is_printed_with_its_place_and_hint(
    outcome: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    outcome["raise"] = DataError("no time", where="source 'events'", hint="name the column")
    assert main.run(["try"]) == 3
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "error: source 'events': no time\n  name the column\n"


def test_an_unexpected_error_names_the_flag_that_shows_the_traceback(
    outcome: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    outcome["raise"] = ZeroDivisionError("no rows")
    assert main.run(["try"]) == 70
    assert "unexpected error: ZeroDivisionError: no rows\n  'bedplate --debug" in (err := capsys.readouterr().err)
    assert "Traceback" not in err
    assert main.run(["--debug", "try"]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_a_missing_library_names_its_extra(outcome: dict[str, object], capsys: pytest.CaptureFixture[str]) -> None:
    outcome["raise"] = ModuleNotFoundError(name="torch")
    assert main.run(["try"]) == 2
    assert "pip install 'bedplate[train]'" in capsys.readouterr().err
    outcome["raise"] = ModuleNotFoundError("No module named 'shop'", name="shop")
    assert main.run(["try"]) == 70


def test_other_ends(outcome: dict[str, object], capsys: pytest.CaptureFixture[str]) -> None:
    outcome["exit"] = 9
    assert main.run(["try"]) == 9
    outcome["raise"] = click.BadParameter("not a time")
    assert main.run(["try"]) == 2
    outcome["raise"] = KeyboardInterrupt()
    assert main.run(["try"]) == 130
    assert capsys.readouterr().err.endswith("\ninterrupted\n")


def test_a_misspelt_command_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["inti"]) == 2
    assert "no command 'inti'; did you mean 'init'?" in capsys.readouterr().err
    assert main.run(["--dbug"]) == 2
    assert "--debug" in capsys.readouterr().err


def test_help_lists_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--help"]) == 0
    shown = capsys.readouterr().out
    listed = {int(code) for code in re.findall(r"^ +(\d+)  ", shown, re.MULTILINE)}
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, BedplateError)]
    raised = {c.exit_code for c in classes}
    assert listed == raised | {
        0,
        main.PARTIAL_EXIT,
        main.REFUSED_EXIT,
        main.UNEXPECTED_EXIT,
        main.INTERRUPTED_EXIT,
        main.CLOSED_EXIT,
    }
    for name, (_, line) in main.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(line)}$", shown, re.MULTILINE)


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_is_there_with_an_example_in_its_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([name, "--help"]) == 0
    assert f"  bedplate {name}" in (shown := capsys.readouterr().out)
    assert re.search(r"Examples?:", shown)


def start(*args: str, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bedplate", *args]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)  # type: ignore[call-overload]


def test_version() -> None:
    out, _ = (process := start("--version")).communicate(timeout=60)
    assert process.returncode == 0
    assert re.fullmatch(r"bedplate \d+\.\d+\.\d+\n", out)


def test_output_that_nobody_reads_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with subprocess.Popen(
        [sys.executable, "-m", "bedplate", "--help"], stdout=writer, stderr=subprocess.PIPE, text=True
    ) as process:
        os.close(writer)
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == main.CLOSED_EXIT


def test_ctrl_c_prints_one_line(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, time\n"
        "import click\n"
        "from bedplate.cli import main\n"
        "sys.modules['slow'] = sys.modules['__main__']\n"
        "@click.command()\n"
        "def slow():\n"
        "    print('started', flush=True)\n"
        "    time.sleep(60)\n"
        "main.COMMANDS['slow'] = ('slow:slow', 'Wait.')\n"
        "sys.exit(main.run(['slow']))\n"
    )
    with subprocess.Popen(
        [sys.executable, program], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "\ninterrupted\n"
    assert process.returncode == 130

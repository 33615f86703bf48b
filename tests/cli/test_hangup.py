"""SIGHUP that comes while a server's process begins, before it can listen to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HUNG_UP = """
import os, signal
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # who starts the tests may ignore it, as nohup does
from bedplate.cli import main

def run(args, run=main.run):
    os.kill(os.getpid(), signal.SIGHUP)  # the command's own modules are not imported yet
    return run(args)

main.run = run
main.main()
"""


def ended(project: Path, *words: str) -> int:
    """The exit code of a command that gets SIGHUP as soon as it begins, in a project that defines nothing."""
    (project / "bedplate.toml").write_text("")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HUNG_UP, *words, "--project", str(project)]
    return subprocess.run(command, env=environment, capture_output=True, check=False, timeout=60).returncode


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("serve", "--port", "0", "--workers", "2"), 4),  # as without the signal: there is no service
        (("features", "serve", "--port", "0"), 2),
        (("features", "serve", "--port", "0", "--workers", "2"), 2),
        (("serve", "--port", "0"), -signal.SIGHUP),
        (("serve", "--port", "nowhere"), 2),
        (("models", "list"), -signal.SIGHUP),
    ],
)
def test_it_ends_those_that_do_not_listen_to_it(tmp_path: Path, words: tuple[str, ...], expected: int) -> None:
    assert ended(tmp_path, *words) == expected


STARTS = """
import os, signal, subprocess, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from bedplate.cli.hangup import defer_hangups, take_hangups

defer_hangups(["--debug", "serve", "shop"])
os.kill(os.getpid(), signal.SIGHUP)
take_hangups(is_awaited=True)
os.kill(os.getpid(), signal.SIGHUP)
print(subprocess.run([sys.executable, "-c", "import os; os.kill(os.getpid(), 1)"]).returncode)
"""


def test_what_a_server_starts_is_ended_by_it() -> None:
    """A worker of a service does not listen to it, and is no program that ignores it."""
    command, environment = [sys.executable, "-c", STARTS], os.environ | {"PYTHONPATH": str(ROOT)}
    found = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=60, text=True)
    assert (found.returncode, found.stdout) == (0, f"{-signal.SIGHUP}\n")

"""What the documentation shows is run: the blocks of every page, and the examples in every docstring.

The blocks of a page run in order, in an empty folder:

- `python`: executed; the blocks of a page share their names. One whose first line is `# NAME.py` is that file instead.
- `console`: in a block that begins with `$ `, the commands `bedplate`, `cd` and `curl` are executed. What the page has
  below a command must be what it prints, where `...` stands for anything. A service runs until the end of the page, on
  a free port in place of 8000. Other console blocks are shown only.
"""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from bedplate.cli.main import run

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
MODULES = sorted(
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    for path in (ROOT / "bedplate").rglob("*.py")
)
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\w+\.py)\n")
COMMAND = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)|(?:src|srcset)=\"([^\"]+)\"")
SHOWN = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Reader:
    """Follows a page as a person would: writes its files, runs its programs and commands."""

    def __init__(self, page: Path) -> None:
        self.text = page.read_text()
        self.page = page
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.service: subprocess.Popen[str] | None = None
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = str(free.getsockname()[1])

    def follow(self) -> None:
        for block in BLOCK.finditer(self.text):
            content, line = block[2].replace(":8000", f":{self.port}"), self.text.count("\n", 0, block.start(2))
            named = FILE.match(content)
            if block[1] == "console":
                for command in COMMAND.finditer(content) if content.startswith("$ ") else ():
                    self.check(command[1], command[2], line + content.count("\n", 0, command.start()) + 1)
            elif named:
                Path(named[1]).write_text(content)
            else:
                exec(compile("\n" * line + content, str(self.page), "exec"), self.names)

    def check(self, command: str, shown: str, line: int) -> None:
        printed = self.execute(shlex.split(command, comments=True))
        same = not shown.strip() or doctest.OutputChecker().check_output(shown, printed, SHOWN)
        assert same, f"{self.page}:{line}: {command}\n--- shown\n{shown}--- printed\n{printed}"

    def execute(self, words: list[str]) -> str:
        if words[0] == "cd":
            os.chdir(words[1])
            return ""
        if words[0] == "curl":
            return curl(words[1:])
        assert words[0] == "bedplate", f"{self.page}: '{words[0]}' is not a command that the tests execute"
        if "serve" in words[1:3]:
            return self.serve(words[1:])
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as problems:
            code = run(words[1:])
        assert code == 0, f"{self.page}: {words} ended with {code}: {problems.getvalue()}"
        return out.getvalue()

    def serve(self, words: list[str]) -> str:
        command = [sys.executable, "-m", "bedplate", *words, "--port", self.port]
        self.service = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.service.stdout is not None
        return self.service.stdout.readline()

    def stop(self) -> None:
        if self.service is not None:
            self.service.terminate()
            self.service.communicate(timeout=30)


def curl(words: list[str]) -> str:
    """What `curl [-H HEADER] [-d BODY] URL` prints."""
    body = words[words.index("-d") + 1].encode() if "-d" in words else None
    named = [words[i + 1].split(": ") for i, word in enumerate(words) if word == "-H"]
    request = urllib.request.Request(f"http://{words[-1]}", body, dict(named))
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read().decode()


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def reader(request: pytest.FixtureRequest) -> Generator[Reader]:
    reader = Reader(request.param)
    yield reader
    reader.stop()


@pytest.mark.parametrize("reader", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix(), indirect=True)
def test_a_page_can_be_followed(reader: Reader) -> None:
    reader.follow()


def test_every_block_is_found() -> None:
    """An indented or misspelt fence would not be run."""
    for page in PAGES:
        fences = re.findall(r"^\s*(?:```|~~~)\s*(?:py|python|console|shell|sh)\b", page.read_text(), re.MULTILINE)
        assert len(fences) == len(BLOCK.findall(page.read_text())), page


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for link in (a or b for a, b in LINK.findall(page.read_text())):
            assert "://" in link or (page.parent / link).exists(), f"{page}: {link}"


def test_the_figures_of_the_overload_are_those_of_its_record() -> None:
    text = (ROOT / "docs/serving-load.md").read_text()
    record, in_time, goodput = re.search(
        r"\[what it found\]\(\.\./(\S+)\): ([\d.]+) % in time, goodput (\d+) % of the\s+capacity", text
    ).groups()  # type: ignore[union-attr]
    found = json.loads((ROOT / record).read_text())
    assert float(in_time) == pytest.approx(100 * found["in time of the accepted"], abs=0.05)
    assert float(goodput) == pytest.approx(100 * found["goodput of the capacity"], abs=0.5)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_hold(name: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0

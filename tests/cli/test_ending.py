"""How a command's process ends."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import atexit, gzip, io, sys, threading, time
from bedplate.cli import main

class Heavy:
    def __del__(self):
        print("taken apart")

class Own(io.TextIOWrapper):
    pass

heavy = Heavy()
left = open("left.txt", "w")
own = Own(open("own.txt", "wb"))
packed = gzip.open("packed.gz", "wt")
detached = io.TextIOWrapper(io.BytesIO())
detached.detach()

def command(args):
    for file in (left, own, packed):
        file.write("all of it")
    release = threading.Event()
    threading.Thread(target=lambda: (release.wait(), print("the thread is done"))).start()
    atexit.register(lambda: print("told"))
    print("done", args)
    release.set()
    return 4

main.run = command
main.main()
"""


def test_a_process_ends_with_its_code_after_what_others_rely_on(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, "train"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 4, ended.stderr
    lines = ended.stdout.splitlines()
    assert sorted(lines) == ["done ['train']", "the thread is done", "told"]  # nothing was "taken apart"
    assert lines[-1] == "told"
    assert ended.stderr == ""
    for text in ((tmp_path / "left.txt").read_text(), (tmp_path / "own.txt").read_text()):
        assert text == "all of it"
    assert gzip.decompress((tmp_path / "packed.gz").read_bytes()) == b"all of it"


def test_output_that_can_not_be_written_is_left_to_the_interpreter(tmp_path: Path) -> None:
    program = "from bedplate.cli import main; main.run = lambda args: print('done') or 0; main.main()"
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert ended.returncode != 0
    assert "No space left on device" in ended.stderr

"""Files and folders that are wholly there or not at all, and the processes they belong to."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bedplate import process as processes
from bedplate.files import aside, leftovers, move_folder, new_folder, remove_leftovers, write_atomic
from bedplate.process import process_alive, process_gone, process_token


def _names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_write_atomic_replaces_the_whole_content_and_leaves_nothing_aside(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_atomic(path, b"a long first content")
    write_atomic(path, b"short")
    assert path.read_bytes() == b"short"
    assert _names(tmp_path) == ["state.json"]


def test_a_failed_write_keeps_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_atomic(path, b"old")
    with pytest.raises(TypeError):
        write_atomic(path, "text")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert _names(tmp_path) == ["state.json"]
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "absent" / "x", b"")


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with new_folder(tmp_path / "index") as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "part").write_bytes(b"1")
        assert not (tmp_path / "index").exists()
    assert _names(tmp_path) == ["index", "index/deep", "index/deep/part"]
    with pytest.raises(IsADirectoryError), new_folder(tmp_path / "other") as folder:
        folder.write_bytes(b"1")
    assert _names(tmp_path) == ["index", "index/deep", "index/deep/part"]


def test_the_first_of_two_equal_folders_is_kept(tmp_path: Path) -> None:
    for content in (b"first", b"second"):
        with new_folder(tmp_path / "index") as folder:
            (folder / "part").write_bytes(content)
    assert (tmp_path / "index" / "part").read_bytes() == b"first"
    assert _names(tmp_path) == ["index", "index/part"]


def test_move_folder_says_whether_it_moved(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text(name)
    assert move_folder(tmp_path / "a", tmp_path / "target") is True
    assert move_folder(tmp_path / "b", tmp_path / "target") is False
    assert (tmp_path / "target" / "x").read_text() == "a"
    with pytest.raises(FileNotFoundError):
        move_folder(tmp_path / "absent", tmp_path / "elsewhere")


_LEAVE = """
import sys, time
from pathlib import Path
from bedplate.files import aside
folder = aside(Path(sys.argv[1], "7"))
folder.mkdir()
(folder / "part").write_text("x")
aside(Path(sys.argv[1], "8.json")).write_text("x")
print("ready", flush=True)
time.sleep(60)
"""


def test_only_what_a_dead_process_left_aside_is_removed(tmp_path: Path) -> None:
    mine = aside(tmp_path / "mine")
    mine.write_text("x")
    (tmp_path / ".tmp").write_text("x")
    (tmp_path / ".a.b.c.tmp").write_text("x")
    kept = sorted([mine.name, ".tmp", ".a.b.c.tmp"])
    with subprocess.Popen([sys.executable, "-c", _LEAVE, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert remove_leftovers(tmp_path) == 0
        process.kill()
    assert len(leftovers(tmp_path)) == 2
    assert remove_leftovers(tmp_path) == 2
    assert _names(tmp_path) == kept
    assert remove_leftovers(tmp_path / "absent") == 0


def test_a_killed_process_is_gone_even_before_it_is_waited_for() -> None:
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_tell_and_sleep, args=(send,))
    process.start()
    token = receive.recv()
    assert process_alive(token)
    assert not process_gone(token)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while process_alive(token) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not process_alive(token)
    assert process_gone(token)
    process.join()
    assert process_gone(token)
    receive.close()
    send.close()


def test_processes_elsewhere_count_as_running() -> None:
    machine, boot, space, pid, start = process_token().split("-")
    assert process_alive(f"00000000-{boot}-{space}-1-1"), "another machine"
    assert process_alive(f"{machine}-{boot}-00000000-1-1"), "another container"
    assert not process_alive(f"{machine}-00000000-{space}-{pid}-{start}"), "before the machine was started again"
    assert process_alive("nonsense")


def test_a_process_that_is_not_seen_from_here_is_not_surely_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, boot, space, pid, start = process_token().split("-")
    absent = 1 << 23  # more than any pid
    assert process_gone(f"{machine}-{boot}-{space}-{absent}-{start}")
    assert process_gone(f"{machine}-{boot}-{space}-{pid}-1"), "its number was used again"
    assert not process_gone(f"00000000-{boot}-{space}-{absent}-1"), "another machine"
    assert not process_gone(f"{machine}-00000000-{space}-{absent}-1"), "another one of the same name"
    assert not process_gone(f"{machine}-{boot}-00000000-{absent}-1"), "another container"
    assert not process_gone(f"{machine}-{boot}-{space}-{pid}-0"), "it did not know when it had started"
    assert not any(process_gone(token) for token in ("", "-", "nonsense", "1-2", f"{absent}-1"))
    monkeypatch.setattr(processes, "_BOOT", Path("/absent"))  # as where there is no /proc
    monkeypatch.setattr(processes, "_SPACE", Path("/absent"))
    processes._place.cache_clear()
    token = f"{process_token().rsplit('-', 2)[0]}-{absent}-0"
    assert not process_alive(token)
    assert not process_gone(token)
    monkeypatch.undo()
    processes._place.cache_clear()


def test_a_process_that_is_hidden_is_not_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where /proc shows those of its own user alone."""
    token, read = process_token(), Path.read_text

    def hide(path: Path, *args: str) -> str:
        if path == Path(f"/proc/{os.getpid()}/stat"):
            raise FileNotFoundError(path)
        return read(path, *args)

    monkeypatch.setattr(Path, "read_text", hide)
    assert process_alive(token)
    assert not process_gone(token)


def _tell_and_sleep(send) -> None:  # type: ignore[no-untyped-def]
    send.send(process_token())
    time.sleep(60)

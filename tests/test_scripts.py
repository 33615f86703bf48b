"""The scripts' environment says what the machine lacks before it installs anything."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def check_machine(folder: Path, free_gb: int) -> subprocess.CompletedProcess[str]:
    """Runs the check with so much free disk, as a `df` in front of the PATH says it."""
    df = folder / "df"
    df.write_text(f"#!/bin/sh\necho Filesystem blocks used available\necho disk 1 1 {free_gb * 1024 * 1024}\n")
    df.chmod(0o755)
    return subprocess.run(
        ["bash", "-c", f". '{ROOT}/scripts/environment'; check_machine"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"},
    )


@pytest.mark.parametrize("free", [12, 500])
def test_a_machine_with_room_is_accepted_in_silence(tmp_path: Path, free: int) -> None:
    done = check_machine(tmp_path, free)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("free", [5, 11])
def test_a_disk_too_small_for_cuda_is_noted(tmp_path: Path, free: int) -> None:
    done = check_machine(tmp_path, free)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"note: {free} GB are free" in done.stdout
    assert "12 GB" in done.stdout


def test_a_disk_too_small_for_anything_is_an_error(tmp_path: Path) -> None:
    done = check_machine(tmp_path, 4)
    assert done.returncode == 1
    assert "4 GB are free" in done.stderr
    assert "expected at least 5 GB" in done.stderr


def test_a_python_that_is_not_there_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHON", "python-that-is-not-there")
    done = check_machine(tmp_path, 500)
    assert done.returncode == 1
    assert "no python-that-is-not-there on the PATH" in done.stderr


def prepare_postgresql(folder: Path, *, installed: bool, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs the preparation on a machine with and without the server; `apt-get` writes down what it was asked."""
    bin_folder, root = folder / "bin", folder / "postgresql"
    for path in (bin_folder, root / "15" / "bin"):
        path.mkdir(parents=True)
    if installed:
        (root / "15" / "bin" / "initdb").touch()
    for name, content in (("apt-get", f'echo "$@" >>{folder}/asked; exit {code}'), ("sudo", '"$@"')):
        (bin_folder / name).write_text(f"#!/bin/sh\n{content}\n")
        (bin_folder / name).chmod(0o755)
    script = f". '{ROOT}/scripts/environment'; PATH={bin_folder}:/usr/bin:/bin; prepare_postgresql"
    return subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"POSTGRESQL_ROOT": str(root)},
    )


def test_a_server_that_is_there_is_not_installed(tmp_path: Path) -> None:
    done = prepare_postgresql(tmp_path, installed=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (tmp_path / "asked").exists()


def test_a_server_that_is_missing_is_installed(tmp_path: Path) -> None:
    done = prepare_postgresql(tmp_path, installed=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "asked").read_text().splitlines()[-1].endswith("install -y -qq postgresql")


@pytest.mark.parametrize(("extras", "asked"), [("dev", True), ("train,sharding", True), ("train,serve", False)])
def test_torchrec_is_installed_without_what_it_requires(tmp_path: Path, extras: str, asked: bool) -> None:
    """It requires builds for CUDA; what it needs comes with the extra, and its version from the list of all."""
    python, folder = tmp_path / "python", tmp_path / "venv"
    python.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\n')
    python.chmod(0o755)
    folder.mkdir()
    script = f". '{ROOT}/scripts/environment'; venv={folder}; python={python}; install_libraries {extras}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    *_, before, last = (tmp_path / "asked").read_text().splitlines()
    assert last.endswith(" --no-deps -c constraints.txt torchrec fbgemm-gpu-cpu") == asked
    assert (before if asked else last).endswith(f"-c constraints.txt -e .[{extras}]")
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    assert {line.partition("==")[0] for line in pinned} >= {"torchrec", "fbgemm-gpu-cpu", "tensordict", "pyvers"}


@pytest.mark.parametrize("there", [["redis-server", "openssl"], ["valkey-server", "openssl"], ["redis-server"], []])
def test_redis_is_installed_where_it_is_missing(tmp_path: Path, there: list[str]) -> None:
    for name, content in {"apt-get": f'echo "$@" >>{tmp_path}/asked', "sudo": '"$@"', "id": "echo 1"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{content}\n")
    for name in there:
        (tmp_path / name).touch()
    for path in tmp_path.iterdir():
        path.chmod(0o755)
    for name in ("env", "sh", "dirname"):
        (tmp_path / name).symlink_to(shutil.which(name) or "")
    script = f". '{ROOT}/scripts/environment'; PATH={tmp_path}; prepare_redis"
    done = subprocess.run([shutil.which("bash") or "bash", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    asked = (tmp_path / "asked").read_text().splitlines() if (tmp_path / "asked").exists() else []
    assert [line.endswith("install -y -qq redis-server openssl") for line in asked[1:]] == [True] * (len(there) < 2)


def test_a_server_that_can_not_be_installed_is_noted(tmp_path: Path) -> None:
    done = prepare_postgresql(tmp_path, installed=False, code=100)
    assert done.returncode == 0
    assert "note: PostgreSQL's server was not installed" in done.stderr
    assert "apt-get install postgresql" in done.stderr

"""How a Feast repository is read: its files are executed as Feast would, whatever they do, and left as they are."""

from __future__ import annotations

import os
import stat
import sys
import textwrap
from pathlib import Path

import pytest
from feast_world import SHOP, YAML, World

from bedplate.cli.main import run


def state(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_repository_is_left_as_it_is(world: World) -> None:
    world.define(SHOP)
    before = state(world.repository)
    world.imported()
    assert state(world.repository) == before


def test_the_repository_is_found_where_feast_init_puts_it(world: World, tmp_path: Path) -> None:
    world.define(SHOP)
    outer = tmp_path / "outer"
    outer.mkdir()
    world.repository.rename(outer / "feature_repo")
    world.repository = outer
    assert world.imported()["not_carried"] == []
    assert '"../outer/feature_repo/orders.parquet"' in world.code()


def test_feast_itself_is_not_asked_where_it_is_installed(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "feast"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.setenv("PYTHONPATH", str(package.parent), prepend=os.pathsep)
    world.define(SHOP)
    assert world.imported()["not_carried"] == []


def test_a_file_that_fails_is_named_and_the_others_are_read(world: World) -> None:
    world.define(SHOP)
    world.define("x = 1\nraise ValueError('no table')\n", "broken.py")
    world.write("nested/wrong.py", "def f(:\n")
    world.write("ends.py", "import sys\nsys.exit(3)\n")
    world.write("asks.py", "import os\nos.environ['SHOP_BUCKET_OF_NOBODY']\n")
    report = world.imported()
    assert [(n["place"], n["reason"]) for n in report["not_carried"]] == [
        ("asks.py:2", "it failed with KeyError: 'SHOP_BUCKET_OF_NOBODY'"),
        ("broken.py:6", "it failed with ValueError: no table"),
        ("ends.py:2", "it failed with SystemExit: 3"),
        ("nested/wrong.py:1", "it failed with SyntaxError: invalid syntax (wrong.py, line 1)"),
    ]
    assert "spending = FeatureView(" in world.code()


def test_files_that_feast_ignores_are_not_executed(world: World) -> None:
    world.define(SHOP)
    for name in ("skipped.py", "notes/deep/a.py", ".venv/lib/b.py", "package/__init__.py", "many_1.py", "many_2.py"):
        world.write(name, "raise ValueError('executed')\n")
    world.write(".feastignore", "skipped.py  # a script\n\n# all of them\nnotes\nmany_*.py\n")
    assert world.imported()["not_carried"] == []


def test_a_missing_library_is_stood_in_for(world: World) -> None:
    world.define(
        textwrap.dedent("""
        import no_such_frames as nf
        from no_such_engine.deep import Session, decorate

        class Job(Session.Base):
            pass

        @decorate(retries=3)
        def transform(frame: nf.Frame | None) -> nf.Frame:
            return frame

        with Session() as session:
            for row in session.rows[0] + 1:
                raise ValueError(row)
        """)
        + SHOP
        + 'late = FileSource(name=nf.settings["name"], path=f"{nf.folder}/x.parquet", timestamp_field="at")\n'
    )
    report = world.imported()
    assert report["not_carried"] == []
    assert report["notes"][0].endswith("executed: `no_such_engine`, `no_such_frames`.")
    assert '"../repository/<no_such_frames.folder>/x.parquet"' in world.code()


def test_what_installed_libraries_do_without_is_not_stood_in_for(world: World) -> None:
    """The standard library itself asks for modules of other systems, and would take a stand-in for one."""
    world.define("import subprocess\nassert not subprocess._mswindows\nimport numpy\n" + SHOP)
    report = world.imported()
    assert report["not_carried"] == []
    assert report["notes"] == []


def test_missing_parts_of_installed_libraries_are_errors_as_ever(world: World) -> None:
    world.define("try:\n    import json.no_such_part\nexcept ImportError:\n    fallback = 1\nassert fallback\n" + SHOP)
    assert world.imported()["not_carried"] == []


def test_what_files_print_is_not_the_command_s_output(world: World) -> None:
    world.define("import sys\nprint('{')\nprint('noise', file=sys.stderr)\nassert input is not None\n" + SHOP)
    code, out, err = world.run("--json")
    assert (code, err) == (0, "")
    assert out.startswith('{\n  "directory"')


def test_a_thread_that_never_ends_does_not_keep_the_command(world: World) -> None:
    world.define("import threading\nthreading.Thread(target=threading.Event().wait).start()\n" + SHOP)
    assert world.imported()["not_carried"] == []


def test_files_may_read_their_neighbours_and_be_named_as_libraries_are(world: World) -> None:
    world.define("NAME = open('feature_store.yaml').read().split()[1]\nassert __file__\n", "names.py")
    world.define("from names import NAME\n" + SHOP.replace('path="orders', 'name=NAME, path="orders'), "json.py")
    assert world.imported()["not_carried"] == []
    assert 'Source("shop", "../repository/orders.parquet"' in world.code()


def test_another_python_executes_the_files(world: World, tmp_path: Path) -> None:
    other = tmp_path / "python"
    other.write_text(f'#!/bin/sh\nNAME=price exec {sys.executable} "$@"\n')
    other.chmod(other.stat().st_mode | stat.S_IXUSR)
    world.define("import os\n" + SHOP.replace('name="price"', 'name=os.environ["NAME"]'))
    assert world.imported("--python", str(other))["not_carried"] == []


def test_a_python_that_is_not_there(world: World) -> None:
    world.define(SHOP)
    code, _, err = world.run("--python", "/no/such/python")
    assert code == 2
    assert "error: /no/such/python: can't be started: No such file or directory" in err
    assert not world.target.exists()


def test_a_file_that_ends_the_process_leaves_nothing(world: World) -> None:
    world.define("import os, sys\nprint('out of luck', file=sys.stderr, flush=True)\nos._exit(9)\n")
    code, out, err = world.run()
    assert (code, out) == (2, "")
    assert "ended the process with 9: out of luck" in err
    assert ".feastignore" in err
    assert not world.target.exists()
    assert [p.name for p in world.target.parent.iterdir()] == ["repository"]


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("project: [", "not valid YAML"),
        ("provider: local\n", "names no project"),
        ("- project\n", "names no project"),
        ("", "names no project"),
    ],
)
def test_a_feature_store_yaml_that_is_wrong(world: World, yaml: str, message: str) -> None:
    world.write("feature_store.yaml", yaml)
    code, _, err = world.run()
    assert code == 2
    assert f"feature_store.yaml: {message}" in err
    assert not world.target.exists()


def test_a_folder_that_is_no_repository(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["import", "feast", str(tmp_path), "--to", str(tmp_path / "made")]) == 2
    assert f"error: {tmp_path}: no feature_store.yaml in this folder" in capsys.readouterr().err


def test_a_folder_in_use_is_refused_and_left_alone(world: World) -> None:
    world.define(SHOP)
    world.target.mkdir()
    (world.target / "mine").write_text("mine")
    code, _, err = world.run()
    assert code == 2
    assert "the folder is not empty, it holds 'mine'" in err
    assert state(world.target) == {"mine": b"mine"}


def test_an_empty_folder_is_used(world: World) -> None:
    world.define(SHOP)
    world.target.mkdir()
    assert world.imported()["not_carried"] == []
    assert sorted(state(world.target)) == [".gitignore", "README.md", "bedplate.toml", "features.py"]


def test_servers_are_left_and_their_secrets_are_copied_nowhere(world: World) -> None:
    world.define(SHOP)
    world.write(
        "feature_store.yaml",
        YAML + "online_store: {type: dynamodb, password: hunter2}\n"
        "offline_store: {type: snowflake.offline, password: hunter2}\n"
        "auth: {type: oidc, client_secret: hunter2}\nfeature_server: {enabled: true}\nflags: {}\n",
    )
    left = world.left()
    assert list(left) == [
        "online store dynamodb",
        "offline store snowflake.offline",
        "setting auth",
        "setting feature_server",
    ]
    written = "".join(content.decode() for content in state(world.target).values())
    assert "hunter2" not in written
    assert "# Feast's online store was dynamodb.\n" in written


def test_the_settings_of_a_local_store_are_all_carried_over(world: World) -> None:
    world.define(SHOP)
    world.write(
        "feature_store.yaml",
        YAML + "online_store: {type: sqlite, path: x.db}\noffline_store: file\nauth: {type: no_auth}\n"
        "entity_key_serialization_version: 3\nproject_description: Of a shop.\n",
    )
    assert world.left() == {}
    assert world.project().config.name == "shop"

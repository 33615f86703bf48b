"""`bedplate init`: a new project, empty or from an example."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import click

import bedplate
from bedplate.cli.options import json_option
from bedplate.config import CONFIG_FILE
from bedplate.errors import ConfigError, suggest
from bedplate.files import aside, fsync_dir, fsync_tree, move_folder

_CONFIG = """\
# Where the parts of this project are. Every key may be left out: a value in a comment is the default.

[project]
name = {name}
# definitions = ["features.py", "datasets.py", "service.py", "train.py"]  (those that exist)

[offline]
# path = ".bedplate/offline"

[online]
# url = "lmdb:.bedplate/online"

[registry]
# path = ".bedplate/registry"

[engine]
# url = "local"
"""

_FEATURES = '''\
"""The definitions of this project: one definition gives a feature's value in training and in serving."""

from datetime import datetime

import polars as pl

from bedplate import Count, Entity, FeatureView, Last, Source, Sum

# A source is a table of events and the column that says when each happened. This one is in memory, so that the project
# works at once; a path of Parquet files in its place is read from this folder: Source("orders", "data/*.parquet", ...).
orders = Source(
    "orders",
    pl.DataFrame(
        {
            "customer_id": [1, 1, 2],
            "price": [9.5, 20.0, 3.25],
            "time": [datetime(2026, 1, 5, 9, 30), datetime(2026, 1, 20, 18), datetime(2026, 1, 21, 12)],
        }
    ),
    time="time",
)

# An entity is what features describe; its key is a column of the source.
customer = Entity("customer", key="customer_id")

# A feature view aggregates the events of each key. This one has five features: purchases.orders_7d,
# purchases.orders_30d, purchases.spend_7d, purchases.spend_30d and purchases.last_price.
purchases = FeatureView(
    "purchases",
    customer,
    orders,
    {
        "orders": Count(windows=["7d", "30d"]),
        "spend": Sum("price", windows=["7d", "30d"]),
        "last_price": Last("price"),
    },
)
'''

_LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__")


@click.command()
@click.option("--example", metavar="NAME", help="Copy this example: online_retail.")
@json_option
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
def init(directory: Path, example: str | None, as_json: bool) -> None:
    """Make a new project in DIR, a folder that is new or empty.

    Without --example it holds bedplate.toml and features.py with a small definition that works.

    \b
    Examples:
      bedplate init shop
      bedplate init --example online_retail retail
      bedplate init shop --json
    """
    target = directory.absolute()
    with new_project(target) as folder:
        if example is None:
            _write_minimal(folder, target.resolve().name)
        else:
            shutil.copytree(
                _example(example), folder, ignore=_LEFT_OUT, dirs_exist_ok=True, copy_function=shutil.copyfile
            )
        (folder / ".gitignore").write_text(".bedplate/\n__pycache__/\n")
    files = sorted(p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file())
    if as_json:
        click.echo(json.dumps({"directory": str(target), "example": example, "files": files}, indent=2))
        return
    click.echo(f"made {directory}: {', '.join(files)}")
    enter = "" if target == Path.cwd() else f"cd {shlex.quote(str(directory))} && "
    click.echo(f"next: {enter}bedplate plan")


def _write_minimal(folder: Path, name: str) -> None:
    (folder / CONFIG_FILE).write_text(_CONFIG.format(name=json.dumps(name)))
    (folder / "features.py").write_text(_FEATURES)


def _example(name: str) -> Path:
    """The folder of an example: inside an installed package, or beside the package in a source tree."""
    package = Path(bedplate.__file__).parent
    examples = package / "examples"
    if not examples.is_dir() and (package.parent / "pyproject.toml").is_file():
        examples = package.parent / "examples"
    known = sorted(p.parent.name for p in examples.glob(f"*/{CONFIG_FILE}"))
    if name not in known:
        raise ConfigError(f"no example '{name}'", where="--example", hint=suggest(name, known, "examples"))
    return examples / name


@contextmanager
def new_project(target: Path) -> Generator[Path]:
    """Gives an empty folder aside; what it holds at the end is moved to `target`, which must be new or empty."""
    try:
        present = target.is_dir() and os.listdir(target)  # noqa: PTH208  (any entry, hidden ones too)
        if present or (target.exists() and not target.is_dir()):
            kind = f"the folder is not empty, it holds '{sorted(present)[0]}'" if present else "it is a file"
            raise ConfigError(kind, where=str(target), hint="name a folder that is new or empty")
        folder = aside(target / "project" if target.is_dir() else target)
        folder.mkdir(parents=True)
        try:
            yield folder
            fsync_tree(folder)
            _move(folder, target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise ConfigError(
            f"can't make the project: {error.strerror or error}", where=str(error.filename or target)
        ) from error


def _move(folder: Path, target: Path) -> None:
    if folder.parent != target:
        if not move_folder(folder, target):
            raise ConfigError("another process made this folder", where=str(target), hint="name another folder")
        return
    # The folder is there already, and may be a shell's current one: it stays, and its files move in, the one that makes
    # it a project last.
    for entry in sorted(folder.iterdir(), key=lambda p: p.name == CONFIG_FILE):
        entry.rename(target / entry.name)
    fsync_dir(target)

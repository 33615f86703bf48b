"""`bedplate datasets`: write a training set to Parquet files, and show what such files hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from bedplate.cli.main import INTERRUPTED_EXIT
from bedplate.cli.options import echo_json, json_option, project_option
from bedplate.cli.progress import ProgressLine
from bedplate.cli.tables import facts, size, table

if TYPE_CHECKING:
    from bedplate.datasets.writing import Manifest


@click.group()
def datasets() -> None:
    """Write training sets to files, and show what such files hold.

    Training needs no files: it joins features while it reads. Files are for other tools, and for keeping.

    \b
    Examples:
      bedplate datasets write baskets baskets-2011
      bedplate datasets show baskets-2011
    """


@datasets.command()
@click.option("--seed", default=0, show_default=True, help="Of the order of training requests and of the negatives.")
@click.option("--epochs", default=1, show_default=True, type=click.IntRange(1), help="Epochs of training to write.")
@project_option
@json_option
@click.argument("name")
@click.argument("out", type=click.Path(path_type=Path))
def write(name: str, out: Path, seed: int, epochs: int, directory: Path, as_json: bool) -> None:
    """Write the dataset NAME to the folder OUT, as Parquet files with a manifest.

    Each epoch of training has an order and negatives of its own; validation and test are the same in all. OUT appears
    when it is whole. After Ctrl-C or a crash the same command goes on after the last whole part; where OUT holds
    exactly this already, nothing is written. 'bedplate train JOB --from OUT' trains from it.

    \b
    Examples:
      bedplate datasets write baskets baskets-2011
      bedplate datasets write baskets /data/baskets --epochs 3 --seed 7 --json
    """
    from bedplate.datasets.writing import write_dataset
    from bedplate.project import Project

    project = Project(directory)
    loaded = project.load(name)
    try:
        with ProgressLine(every=1.0) as progress:
            manifest = write_dataset(loaded, out, seed=seed, epochs=epochs, progress=progress)
    except KeyboardInterrupt:
        click.echo("interrupted: the whole parts are kept; the same command goes on from them", err=True)
        click.get_current_context().exit(INTERRUPTED_EXIT)
    _echo(out, manifest, as_json)


@datasets.command()
@click.option("--verify", is_flag=True, help="Check the hash of every file.")
@json_option
@click.argument("out", metavar="DIR", type=click.Path(path_type=Path))
def show(out: Path, verify: bool, as_json: bool) -> None:
    """Show what the files in DIR hold: rows, columns, definitions and snapshots.

    \b
    Examples:
      bedplate datasets show baskets-2011
      bedplate datasets show baskets-2011 --verify --json
    """
    from bedplate.datasets.written import WrittenDataset

    written = WrittenDataset(out)
    if verify:
        written.verify()
    _echo(out, written.manifest, as_json)


def _echo(out: Path, manifest: Manifest, as_json: bool) -> None:
    if as_json:
        echo_json({"directory": str(out)} | msgspec.to_builtins(manifest))
        return
    plan = manifest.plan
    click.echo(
        facts(
            [
                ("dataset", plan.dataset),
                ("id", plan.id[:12]),
                ("seed", str(plan.seed)),
                ("features", f"{len(plan.columns)} columns, {len(plan.labels)} labels"),
                ("sources", ", ".join(f"{name} {snapshot[:12]}" for name, snapshot in plan.snapshots.items())),
            ]
        )
    )
    click.echo(table(["split", "epoch", "batches", "requests", "rows", "size"], _rows(manifest), [1, 2, 3, 4, 5]))


def _rows(manifest: Manifest) -> list[list[str]]:
    found: dict[tuple[str, int], list[Any]] = {}
    for part in manifest.parts:
        total = found.setdefault((part.split, part.epoch), [0, 0, 0, 0])
        added = (part.batches, part.requests, part.items, sum(part.sizes))
        found[part.split, part.epoch] = [a + b for a, b in zip(total, added, strict=True)]
    return [
        [split, str(epoch), *(f"{n:,}" for n in counts[:3]), size(counts[3])]
        for (split, epoch), counts in found.items()
    ]

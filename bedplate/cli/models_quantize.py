"""`bedplate models quantize`: the int8 variant of a version, within a bound on every score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from bedplate.cli.options import Between, echo_json, json_option, open_registry, project_option

if TYPE_CHECKING:
    from bedplate.registry.version import ModelVersion
    from bedplate.types import Array


@click.command()
@click.argument("model")
@click.option("--most", required=True, type=Between(0, min_open=True), help="The largest change of a score.")
@click.option("--dataset", help="Compare the scores of this dataset's test split too.")
@click.option("--batches", default=100, show_default=True, type=click.IntRange(1), help="Of the dataset, at most.")
@project_option
@json_option
def quantize(model: str, most: float, dataset: str | None, batches: int, directory: Path, as_json: bool) -> None:
    """Register the int8 variant of MODEL as its next version, if no score changes by more than --most.

    Compared are the golden requests, each of their candidates with each of their requests, and with --dataset the rows
    of its test split. The numbers are in the manifest, and every loader of the new version proves the bound again on
    the golden requests. Nothing is promoted. Exits with 7 where a score changes by more; then nothing is registered.

    \b
    Examples:
      bedplate models quantize ranker:3 --most 0.01
      bedplate models quantize ranker@champion --most 0.005 --dataset sessions --json
    """
    from bedplate.training.quantize import quantize as register

    registry = open_registry(directory)
    version = registry.get(model)
    more = () if dataset is None else _rows(version, dataset, batches, directory)
    made, found = register(version, registry, most, more)
    if as_json:
        echo_json({"name": made.name, "version": made.version, "of": str(version), **msgspec.to_builtins(found)})
        return
    click.echo(f"registered {made}, the int8 variant of {version}")
    click.echo(f"  scores change by at most {found.largest:.3g}, on average {found.mean:.3g}, over {found.rows:,}")
    click.echo(f"  a golden call takes {found.after_ms:.3f} ms, was {found.before_ms:.3f}")
    click.echo(f"  the graph has {found.after_bytes:,} bytes, was {found.before_bytes:,}")


def _rows(version: ModelVersion, name: str, most: int, directory: Path) -> Iterator[Mapping[str, Array]]:
    from bedplate.datasets.loader import Loader
    from bedplate.features import artifact
    from bedplate.features.encoder import Encoder
    from bedplate.project import Project

    encoder, loaded = Encoder.load(version.path / artifact.ENCODER), Project(directory).load(name)
    for i, batch in enumerate(Loader(loaded, "test").epoch(0, 0)):
        if i == most:
            return
        if batch.items:
            yield encoder.encode(batch)

"""`bedplate models`: model versions, their aliases, and where they come from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import click
import msgspec

from bedplate.cli.models_add import add
from bedplate.cli.models_quantize import quantize
from bedplate.cli.options import echo_json, json_option, open_registry, project_option
from bedplate.cli.tables import facts, moment, number, table

if TYPE_CHECKING:
    from bedplate.registry.aliases import AliasChange
    from bedplate.registry.registry import Registry
    from bedplate.registry.version import ModelVersion

_LIBRARIES = ("bedplate", "numpy", "polars", "torch", "onnxruntime")


@click.group()
def models() -> None:
    """List, show, add and promote the versions of models.

    \b
    Examples:
      bedplate models list
      bedplate models show ranker@champion
      bedplate models promote ranker 3 --reason "AUC 0.78, was 0.76"
      bedplate models rollback ranker
      bedplate models add spam spam.txt --golden rows.npz
      bedplate models quantize ranker:3 --most 0.01
    """


models.add_command(add)
models.add_command(quantize)


@models.command("list")
@project_option
@json_option
def list_models(directory: Path, as_json: bool) -> None:
    """List every model with its latest version, aliases and metrics.

    \b
    Examples:
      bedplate models list
      bedplate models list --json
    """
    found = open_registry(directory).models()
    if as_json:
        echo_json(found)
        return
    if not found:
        click.echo("no models yet: a training job registers one")
        return
    rows = [
        [
            model.name,
            str(model.latest),
            str(model.versions),
            moment(model.created),
            ", ".join(f"{alias} -> {version}" for alias, version in model.aliases.items()) or "-",
            ", ".join(f"{name} {number(value)}" for name, value in list(model.metrics.items())[:3]) or "-",
        ]
        for model in found
    ]
    click.echo(table(["model", "latest", "versions", "registered", "aliases", "metrics of the latest"], rows, [1, 2]))


@models.command()
@click.argument("model")
@click.option("--verify", is_flag=True, help="Read every file and compare it with the manifest.")
@project_option
@json_option
def show(model: str, verify: bool, directory: Path, as_json: bool) -> None:
    """Show MODEL: its manifest, metrics, lineage and the history of its aliases.

    MODEL is NAME (its latest version), NAME:VERSION or NAME@ALIAS.

    \b
    Examples:
      bedplate models show ranker
      bedplate models show ranker:3 --verify
      bedplate models show ranker@champion --json
    """
    from bedplate.registry.dependents import dependents
    from bedplate.registry.version import parse_reference

    registry = open_registry(directory)
    name, which = parse_reference(model)
    found = registry.get(name, registry.versions(name)[-1] if which is None else which)
    if verify:
        found.verify()
    lineage, history = registry.lineage(name, found.version), registry.history(name)
    read_by = dependents(registry, name).get(found.version, [])
    if as_json:
        echo_json(
            {
                "name": found.name,
                "version": found.version,
                "aliases": found.aliases,
                "path": str(found.path),
                "verified": verify,
                "manifest": found.manifest,
                "lineage": lineage,
                "read_by": read_by,
                "history": history,
            }
        )
        return
    click.echo(facts([*_facts_of(found, verify), *([("read by", ", ".join(read_by))] if read_by else [])]))
    if found.manifest.metrics:
        click.echo("\nmetrics")
        click.echo(_indented(facts([(k, number(v)) for k, v in found.manifest.metrics.items()])))
    click.echo("\nlineage")
    click.echo(_indented(lineage.tree()))
    if history:
        click.echo("\nhistory of the aliases")
        click.echo(_indented(_history_table(history)))


def _facts_of(found: ModelVersion, verified: bool) -> list[tuple[str, str]]:
    manifest = found.manifest
    size, count = sum(record.bytes for record in manifest.files.values()), len(manifest.files)
    libraries = [f"{name} {manifest.environment.libraries.get(name)}" for name in _LIBRARIES]
    shown = [text for text in libraries if not text.endswith(" None")]
    return [
        ("model", str(found)),
        ("aliases", ", ".join(found.aliases) or "-"),
        ("registered", moment(manifest.created)),
        ("folder", str(found.path)),
        ("files", f"{count} with {size:,} bytes" + (", each as in the manifest" if verified else "")),
        ("config", msgspec.json.encode(manifest.config).decode()),
        ("seeds", ", ".join(f"{use} {seed}" for use, seed in manifest.seeds.items()) or "-"),
        ("made with", ", ".join([f"Python {manifest.environment.python}", *shown])),
        ("platform", manifest.environment.platform),
    ]


def _history_table(history: list[AliasChange]) -> str:
    rows = [
        [
            moment(change.time),
            change.action,
            change.alias,
            "-" if change.previous is None else str(change.previous),
            str(change.version),
            change.who,
            change.reason or "-",
        ]
        for change in history
    ]
    return table(["time", "action", "alias", "from", "to", "who", "reason"], rows, [3, 4])


def _indented(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.splitlines())


@final
class _Version(click.IntRange):
    """The number of a version, from 1."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, or a usage error that says where numbers are listed."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"got '{value}', expected the number of a version; 'bedplate models list' shows them", param, ctx)


@models.command()
@click.argument("name")
@click.argument("version", type=_Version(1))
@click.option("--alias", default="champion", show_default=True, help="The alias to give.")
@click.option("--reason", help="Why, for the history.")
@project_option
@json_option
def promote(name: str, version: int, alias: str, reason: str | None, directory: Path, as_json: bool) -> None:
    """Give an alias to VERSION of the model NAME.

    \b
    Examples:
      bedplate models promote ranker 3
      bedplate models promote ranker 4 --alias candidate --reason "longer history"
      bedplate models promote ranker 3 --json
    """
    registry = open_registry(directory)
    _echo_change(registry, name, registry.promote(name, version, alias, reason), as_json)


@models.command()
@click.argument("name")
@click.option("--alias", default="champion", show_default=True, help="The alias to give back.")
@click.option("--reason", help="Why, for the history.")
@project_option
@json_option
def rollback(name: str, alias: str, reason: str | None, directory: Path, as_json: bool) -> None:
    """Give an alias of the model NAME back to the version that held it before.

    \b
    Examples:
      bedplate models rollback ranker
      bedplate models rollback ranker --reason "slow at the peak"
      bedplate models rollback ranker --json
    """
    registry = open_registry(directory)
    _echo_change(registry, name, registry.rollback(name, alias, reason), as_json)


def _echo_change(registry: Registry, name: str, change: AliasChange, as_json: bool) -> None:
    """Shows the change, and the models that it does not reach: they go on with the version that made their features."""
    from bedplate.registry.dependents import dependents

    others = {version: models for version, models in dependents(registry, name).items() if version != change.version}
    if as_json:
        kept = {model: version for version, models in others.items() for model in models}
        echo_json({"model": name, **msgspec.to_builtins(change), "kept": kept})
        return
    before = "" if change.previous is None else f", before: version {change.previous}"
    click.echo(f"{name}@{change.alias} is version {change.version}{before}")
    for version, models in others.items():
        trained = f"{', '.join(models)} {'was' if len(models) == 1 else 'were'} trained with version {version}"
        click.echo(f"{trained} and {'goes' if len(models) == 1 else 'go'} on with it until trained again")


@models.command()
@project_option
@json_option
def rebuild(directory: Path, as_json: bool) -> None:
    """Build the registry's index again from its folders; nothing else is touched.

    \b
    Examples:
      bedplate models rebuild
      bedplate models rebuild --json
    """
    from bedplate.config import load_config
    from bedplate.registry.registry import Registry

    registry = Registry.rebuild(load_config(directory).registry_path)
    counts = {
        "models": len(registry.models()),
        "versions": sum(model.versions for model in registry.models()),
        "runs": len(registry.runs()),
    }
    if as_json:
        echo_json(counts)
        return
    click.echo("the index holds " + ", ".join(f"{count} {what}" for what, count in counts.items()))

"""`bedplate models add`: a model from elsewhere as a version of the registry."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click

from bedplate.cli.options import echo_json, json_option, open_registry, project_option


@click.command()
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--golden",
    metavar="ROWS.npz",
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Rows that every loader must score alike: a NumPy archive with an array for each input, and with "
    "output.NAME for outputs that are known.",
)
@click.option("--runtime", default="", help="What runs the file; by default told by its suffix.")
@click.option("--option", "options", metavar="NAME=VALUE", multiple=True, help="An option of the runtime.")
@click.option("--function", default="", help="Of a Python file: the name of the function.")
@click.option("--promote", is_flag=True, help="Make it the champion.")
@project_option
@json_option
def add(
    name: str,
    file: Path,
    golden: Path,
    runtime: str,
    options: tuple[str, ...],
    function: str,
    promote: bool,
    directory: Path,
    as_json: bool,
) -> None:
    """Register the model in FILE, which was trained elsewhere, as the next version of NAME.

    FILE is an ONNX graph, a text file of LightGBM, a JSON or UBJSON file of XGBoost, a program of torch.export, or a
    Python file of the project with a function from tensors to tensors. Nothing is converted: its own runtime runs it.
    Pickles are not taken; scikit-learn models go through ONNX (skl2onnx).

    \b
    Examples:
      bedplate models add spam spam.txt --golden rows.npz
      bedplate models add spam spam.json --golden rows.npz --option raw=true --promote
      bedplate models add blend scoring.py --function blend --golden rows.npz --json
    """
    from bedplate.project import Project
    from bedplate.registry.lookup import CHAMPION
    from bedplate.registry.manifest import gather
    from bedplate.runtimes.adding import Brought, read_rows, write_brought

    given = dict(_option(text) for text in options)
    if function:
        Project(directory)  # its files are loaded, and so is the function's
        given["function"] = function
    rows, known = read_rows(golden)
    model, registry = Brought(file.absolute(), runtime, given), open_registry(directory)
    with tempfile.TemporaryDirectory(prefix="bedplate-add-") as folder:
        artifact = Path(folder) / "artifact"
        signature = write_brought(model, artifact, rows, known)
        config = {"file": file.name, "runtime": model.chosen(), "options": given}
        facts = gather(directory, definitions={}, sources={}, config=config, seeds={}, metrics={})
        version = registry.register(name, artifact, manifest=facts)
    if promote:
        registry.promote(name, version.version, alias=CHAMPION, reason="added")
    if as_json:
        echo_json({"name": name, "version": version.version, "inputs": signature.tensors, "outputs": signature.outputs})
        return
    click.echo(f"registered {version}, run by {model.chosen()}")
    for word, tensors in (("takes", signature.tensors), ("gives", signature.outputs)):
        for t in tensors:
            click.echo(f"  {word} {t.name}: {t.dtype} [{', '.join(map(str, t.shape))}]")


def _option(text: str) -> tuple[str, Any]:
    name, mark, value = text.partition("=")
    if not mark or not name:
        raise click.BadParameter(f"got '{text}', expected NAME=VALUE", param_hint="--option")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value

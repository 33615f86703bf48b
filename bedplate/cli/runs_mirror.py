"""`bedplate runs mirror`: copy runs to MLflow; and the copy that is made when a run has ended."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from bedplate.cli.options import echo_json, json_option, open_registry, project_option
from bedplate.cli.runs_diff import run_of
from bedplate.cli.tables import table
from bedplate.process import process_token

if TYPE_CHECKING:
    from bedplate.config import Config
    from bedplate.registry.mlflow import Mirrored
    from bedplate.registry.registry import Registry

LOG = "mirror.log"


@click.command()
@click.argument("runs", metavar="[RUN]...", nargs=-1)
@click.option("--to", "target", metavar="URI", help="The MLflow store: a URI, or a folder; by default registry.mirror.")
@project_option
@json_option
def mirror(runs: tuple[str, ...], target: str | None, directory: Path, as_json: bool) -> None:
    """Copy RUNs, or all runs, to an MLflow store: config, metrics, charts and records.

    URI is a tracking server (http://HOST:PORT), a database (sqlite:///FILE), or a folder, in which a SQLite file is
    made. A run is copied to the experiment of its job's name, once: what is there already is left as it is, and what
    was cut off is completed. With registry.mirror in bedplate.toml each run is copied when it has ended, by a process
    of its own, which training does not wait for; what that said is in mirror.log in the run's folder.

    \b
    Examples:
      bedplate runs mirror --to http://tracking:5000
      bedplate runs mirror ranker:3 ranker:4 --to tracking
      bedplate runs mirror --to sqlite:///runs.db --json
    """
    from bedplate.config import load_config
    from bedplate.errors import ConfigError
    from bedplate.registry.mlflow import Mirror, store_uri

    config = load_config(directory)
    text = target or config.registry_mirror
    if not text:
        raise ConfigError("no store is named", where="runs mirror", hint="give --to URI, or set registry.mirror")
    registry = open_registry(directory)
    chosen = [run_of(registry, run) for run in runs] or registry.runs()[::-1]
    store = Mirror(store_uri(text, config.root))
    done: list[Mirrored] = []
    for run in chosen:
        done.append(store.copy(run))
        if not as_json:
            click.echo(f"{done[-1].state:9} {run.id}", err=True)
    if as_json:
        echo_json(msgspec.to_builtins(done))
    elif done:
        click.echo(
            table(["run", "experiment", "in mlflow", ""], [[m.run, m.experiment, m.mlflow_run, m.state] for m in done])
        )
    else:
        click.echo("no runs yet")


def mirror_own(config: Config, registry: Registry) -> None:
    """Has the runs that this process made copied, those that have ended; see `mirror_later`."""
    if config.registry_mirror:
        own = process_token()
        ended = [r.id for r in registry.runs() if r.record.process == own and r.status != "running"]
        mirror_later(config, *sorted(ended))


def mirror_later(config: Config, *runs: str) -> subprocess.Popen[bytes] | None:
    """Has runs copied by a process of its own, where the project says so; neither waited for nor able to fail them.

    Args:
        config: of the project.
        runs: the ids of runs that have ended; the first one's folder has the log.

    Returns:
        the process; None: the project has no mirror, there is no run, or it could not be started.
    """
    if not config.registry_mirror or not runs:
        return None
    log = config.registry_path / "runs" / runs[0] / LOG
    words = [sys.executable, "-m", "bedplate", "runs", "mirror", *runs, "--project", str(config.root)]
    try:
        with log.open("ab") as out:
            return subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
    except OSError as error:
        click.echo(f"warning: run {' and '.join(runs)} is not mirrored: {error}", err=True)
        return None

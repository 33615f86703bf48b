"""Run by a Python that has Feast: makes a repository from each of its templates, and reads history from one.

    python feast_session.py FOLDER

`feast init` asks some templates' questions, which are answered; the drivers that these import to upload their example
data are stood in for, and nothing is uploaded.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import io
import json
import os
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

warnings.simplefilter("ignore")

DRIVERS = ("boto3", "botocore", "couchbase_columnar", "cryptography", "psycopg", "psycopg_pool", "snowflake")
ANSWERS = {
    "aws": ["eu-west-1", "cluster", "shop", "me", "s3://bucket/staging", "arn:aws:iam::1:role/me", "n"],
    "couchbase": ["n", "n", "n", "n"],
    "postgres": ["", "", "", "", "me", "secret", "", "n"],
    "snowflake": ["account", "me", "secret", "ROLE", "WAREHOUSE", "SHOP", "n"],
}
LABELS = 600


class Module(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return MagicMock()


class Drivers(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        known = name.partition(".")[0] in DRIVERS
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if known else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


sys.meta_path.append(Drivers())  # the last to be asked: installed ones are used


def main(folder: Path) -> None:
    import click
    from click.testing import CliRunner
    from feast.cli import cli

    os.chdir(folder)
    command = cli.cli.commands["init"]
    choice = next(p.type for p in command.params if p.name == "template")
    assert isinstance(choice, click.Choice)
    made = ["minimal", *choice.choices]
    for template in made:
        words = ["init", "--minimal", template] if template == "minimal" else ["init", "-t", template, template]
        answers = "\n".join(ANSWERS.get(template, [""] * 12)) + "\n"
        done = CliRunner().invoke(cli.cli, words, input=answers)
        assert done.exit_code == 0, (template, done.output, done.exception)
    (folder / "made.json").write_text(json.dumps(made))
    read_history(folder)


def read_history(folder: Path) -> None:
    """Writes what Feast answers for labels at odd times, and at the very times of rows, in the template `local`."""
    import numpy as np
    import pandas as pd
    from click.testing import CliRunner
    from feast import FeatureStore
    from feast.cli import cli

    repository = folder / "local" / "feature_repo"
    done = CliRunner().invoke(cli.cli, ["-c", str(repository), "apply"])
    assert done.exit_code == 0, (done.output, done.exception)
    rows = pd.read_parquet(repository / "data" / "driver_stats.parquet")
    draw = np.random.default_rng(7)
    first = rows["event_timestamp"].sort_values().iloc[len(rows["driver_id"].unique())]
    span = int((rows["event_timestamp"].max() - first).total_seconds()) + 3 * 86400
    odd = first - pd.Timedelta(days=1) + pd.to_timedelta(draw.integers(0, span, LABELS) * 2 + 1, unit="s") / 2
    exact = rows["event_timestamp"].sample(LABELS, random_state=7)
    store = FeatureStore(repository)
    service = store.get_feature_service("driver_activity_v2")
    for name, times in (("odd", odd), ("exact", exact)):
        keys = draw.choice([*rows["driver_id"].unique(), 999], LABELS)
        labels = pd.DataFrame({"driver_id": keys, "event_timestamp": np.asarray(times), "row": range(LABELS)})
        labels["event_timestamp"] = pd.to_datetime(labels["event_timestamp"], utc=True)
        labels["val_to_add"], labels["val_to_add_2"] = 1, 2
        answered = store.get_historical_features(labels, features=service).to_df()
        wanted = ["row", "driver_id", "event_timestamp", "conv_rate", "acc_rate", "avg_daily_trips", "driver_config"]
        answered[wanted].to_parquet(folder / f"{name}.parquet")


if __name__ == "__main__":
    with contextlib.redirect_stdout(io.StringIO()):
        main(Path(sys.argv[1]).resolve())

"""A copy of runs in MLflow (https://mlflow.org): a tracking server, a database, or a folder with one.

The registry stays what counts: of the mirror only what is there already is read. A run is found again by its tag
`bedplate.run`; what was cut off is completed, and nothing is logged twice.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, final

import msgspec

from bedplate.config import without_password
from bedplate.errors import BedplateError, MissingExtraError, UnavailableError, missing_extra, reason
from bedplate.registry.diff import by_path
from bedplate.registry.run import Point, StoredRun

_RUN, _DONE, _RESUMED = "bedplate.run", "bedplate.mirrored", "bedplate.resumed."
_STATES = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "damaged": "FAILED"}
_BATCH, _PARAMS, _TEXT = 1000, 100, 6000
_WRONG = re.compile(r"[^\w\-. :/]")
_RAISED = ("mlflow", "sqlalchemy", "requests", "alembic")
_FILES = ("run.json", "data.json", "environment.json")
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Where nothing else is set: how long a silent server is waited for, and that nobody is told of the use."""


@final
class Mirrored(msgspec.Struct, frozen=True):
    """What became of a run: its id in MLflow, and whether it was made, completed or there already."""

    run: str
    experiment: str
    mlflow_run: str
    state: Literal["made", "completed", "there"]


def store_uri(text: str, root: Path) -> str:
    """The tracking URI of what a user names: a URI as it is, a folder as the SQLite file in it.

    >>> store_uri("tracking", Path("/project")), store_uri("http://127.0.0.1:5000", Path("/project"))
    ('sqlite:////project/tracking/mlflow.db', 'http://127.0.0.1:5000')
    """
    if "://" in text:
        return text
    return f"sqlite:///{(root / Path(text).expanduser()).absolute() / 'mlflow.db'}"


@final
class Mirror:
    """An MLflow store that runs are copied to.

    Args:
        uri: of the store, as `store_uri` gives it.

    Raises:
        MissingExtraError: MLflow is not installed.
        UnavailableError: the store can't be opened.
    """

    def __init__(self, uri: str) -> None:
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        try:
            from mlflow.tracking import MlflowClient
        except ModuleNotFoundError as error:
            raise missing_extra(error) or MissingExtraError("mlflow", "mlflow") from error
        self._uri, self._folder = uri, None
        if uri.startswith("sqlite:///"):
            self._folder = Path(uri.removeprefix("sqlite:///")).parent
            self._folder.mkdir(parents=True, exist_ok=True)
        self._experiments: dict[str, str] = {}
        with _answering(uri):
            self._client: Any = MlflowClient(tracking_uri=uri)

    def copy(self, run: StoredRun) -> Mirrored:
        """Copies a run: its config as parameters, its metrics by step, its charts and records as artifacts.

        Raises:
            UnavailableError: the store does not answer, or refuses it.
            StoreError: the run's metrics are damaged.
        """
        with _answering(self._uri):
            return self._copy(run)

    def _copy(self, run: StoredRun) -> Mirrored:
        experiment = self._experiment(run.record.name or "runs")
        known = self._client.search_runs([experiment], f"tags.`{_RUN}` = '{run.id}'", max_results=1)
        metrics = run.metrics()
        mark = f"{run.status} {sum(map(len, metrics.values()))}"
        if known and known[0].data.tags.get(_DONE) == mark:
            return Mirrored(run.id, run.record.name, known[0].info.run_id, "there")
        if known:
            made = known[0]
        else:
            made = self._client.create_run(
                experiment, start_time=run.record.started // 1000, tags=_tags(run), run_name=run.id
            )
        self._log_config(made.info.run_id, run, known[0].data.params if known else {})
        self._log_metrics(made.info.run_id, metrics, set(known[0].data.metrics) if known else set())
        for path, folder in _artifacts(run.folder):
            self._client.log_artifact(made.info.run_id, str(path), folder)
        if run.status != "running":
            ended = run.record.ended or run.record.started
            self._client.set_terminated(made.info.run_id, _STATES[run.status], ended // 1000)
        self._client.set_tag(made.info.run_id, _DONE, mark)
        return Mirrored(run.id, run.record.name, made.info.run_id, "completed" if known else "made")

    def _experiment(self, name: str) -> str:
        """The id of the experiment of a job; made where it is not there."""
        if name not in self._experiments:
            found = self._client.get_experiment_by_name(name)
            if found is None:
                place = None if self._folder is None else (self._folder / "artifacts" / name).as_uri()
                self._experiments[name] = self._client.create_experiment(name, artifact_location=place)
            else:
                self._experiments[name] = found.experiment_id
        return self._experiments[name]

    def _log_config(self, target: str, run: StoredRun, there: Mapping[str, str]) -> None:
        """Logs the parameters that are not there yet; what a run was resumed with is a tag: parameters stay."""
        from mlflow.entities import Param

        named = {_name(path): _text(value)[:_TEXT] for path, value in by_path(run.record.config).items()}
        params = [Param(name, value) for name, value in named.items() if name not in there]
        for start in range(0, len(params), _PARAMS):
            self._client.log_batch(target, params=params[start : start + _PARAMS])
        for name, value in named.items():
            if there.get(name, value) != value:
                self._client.set_tag(target, _name(f"{_RESUMED}{name}"), value)

    def _log_metrics(self, target: str, metrics: Mapping[str, Sequence[Point]], begun: set[str]) -> None:
        """Logs the points that are not there yet."""
        from mlflow.entities import Metric

        points: list[Any] = []
        for name, own in metrics.items():
            key = _name(name)
            there: list[Any] = self._client.get_metric_history(target, key) if key in begun else []
            steps: set[int] = {point.step for point in there}
            points += [Metric(key, p.value, p.time // 1000, p.step) for p in own if p.step not in steps]
        for start in range(0, len(points), _BATCH):
            self._client.log_batch(target, metrics=points[start : start + _BATCH])


def _tags(run: StoredRun) -> dict[str, str]:
    tags = {_RUN: run.id, "bedplate.host": run.record.host}
    if run.record.git.commit is not None:
        tags["mlflow.source.git.commit"] = run.record.git.commit
    if run.record.error is not None:
        tags["bedplate.error"] = run.record.error[:_TEXT]
    return tags


def _artifacts(folder: Path) -> Iterator[tuple[Path, str | None]]:
    """The small files of a run and where they go; what it made stays in the registry."""
    for name in _FILES:
        if (folder / name).is_file():
            yield folder / name, None
    for path in sorted((folder / "plots").glob("*.svg")):
        yield path, "plots"


def _name(text: str) -> str:
    """A name that MLflow takes."""
    return _WRONG.sub("_", text)[:250]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _without_secret(text: str, uri: str) -> str:
    """A message without the password of the URI, which the store's own messages repeat."""
    user, _, _ = uri.rpartition("@")
    secret = user.partition("://")[2].partition(":")[2]
    return text.replace(uri, without_password(uri)).replace(secret, "***") if secret else text


@contextlib.contextmanager
def _answering(uri: str) -> Generator[None]:
    """Turns what MLflow and its database raise into `UnavailableError`."""
    try:
        yield
    except BedplateError:
        raise
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in _RAISED and not isinstance(error, OSError):
            raise
        raise UnavailableError(
            f"MLflow: {_without_secret(reason(error), uri)}",
            where=without_password(uri),
            hint="check that the server runs and the address is right; then mirror again: bedplate runs mirror",
        ) from error

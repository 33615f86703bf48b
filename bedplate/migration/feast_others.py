"""What Feast has and Bedplate has not, or not as the same thing: why, and what to do by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bedplate.migration.feast_views import Aggregated, View, aggregation, fields_of
from bedplate.migration.recording import Record, Recording
from bedplate.migration.report import Report

_FILES_OF_A_STREAM = (
    "write the new rows as Parquet files with the columns of its batch source into a folder, let 'bedplate ingest' "
    "follow it, and add them to the batch source too, which is history"
)
_OTHERS = {
    "PushSource": (
        "push source",
        "rows are not pushed into Bedplate, it follows a stream of files; views of it read its batch source",
        _FILES_OF_A_STREAM,
    ),
    "KafkaSource": (
        "Kafka source",
        "Bedplate follows a stream of files; views of it read its batch source",
        _FILES_OF_A_STREAM,
    ),
    "KinesisSource": (
        "Kinesis source",
        "Bedplate follows a stream of files; views of it read its batch source",
        _FILES_OF_A_STREAM,
    ),
    "LabelView": (
        "label view",
        "labels are no features: in Bedplate they belong to a dataset",
        "its batch source is a source here: read labels from it in a Spine of a Dataset, or count what comes after "
        "with a Label",
    ),
    "Permission": ("permission", "Bedplate has no users", "protect the project's folder and its service"),
    "SavedDataset": ("saved dataset", "a Dataset is a definition", "define it again as a Dataset"),
    "ValidationReference": ("validation reference", "there is nothing like it", "compare with 'bedplate plan'"),
}
_HANDLED = {
    *("name", "source", "batch_source", "sink_source", "schema", "features", "entities", "ttl", "description", "tags"),
    *("owner", "org", "offline", "enable_validation", "enabled", "mode", "aggregations", "timestamp_field"),
    *("udf", "udf_string", "feature_transformation"),
}
"""Arguments of a view that are carried over, that say what Bedplate always does, or that are reported otherwise."""
_DEFAULTS: Mapping[str, Any] = {"version": "latest"}
_NOTHING = (None, "", False)


def leave_unread(recording: Recording, report: Report) -> None:
    """Puts down the files that failed and the libraries that are not installed."""
    for failure in recording.failures:
        place = f"{failure.file}:{failure.line}" if failure.line else failure.file
        report.leave(
            "file",
            failure.file,
            place,
            f"it failed with {failure.error}: {failure.message}",
            "make it run on its own, or name it in .feastignore, and run this again; --python names the Python to use",
        )
    if recording.missing:
        names = ", ".join(f"`{name}`" for name in sorted(recording.missing))
        report.note(f"Not installed, and stood in for while the files were executed: {names}.")


def leave_other(record: Record, report: Report) -> None:
    """Puts down something that is neither entity, source with a table, view nor feature service."""
    known = _OTHERS.get(record.kind)
    if known is not None:
        label, reason, todo = known
    elif record.kind.endswith("View"):
        label, reason, todo = record.kind, "a kind of view that is not known here", "write it as a FeatureView"
    else:
        return
    report.leave(label, record.text("name"), record.place, reason, todo)


def leave_argument(view: View, argument: str, report: Report) -> None:
    """Puts down an argument of a view that has no counterpart, unless it says what is so anyway."""
    value = view.record.kwargs[argument]
    if argument == "online":
        if value is not False:
            return
        reason, todo = "'bedplate materialize' loads every view unless some are named", "name the views to load"
    elif argument in _HANDLED or value in _NOTHING or value == _DEFAULTS.get(argument):
        return
    else:
        reason, todo = "a FeatureView of Bedplate's has no such argument", "see whether you need it"
    report.leave(f"argument of {view.label}", f"{view.name}.{argument}", view.place, reason, todo)


def transformed(view: View, aggregations: list[Aggregated], report: Report) -> None:
    """Puts down a view whose rows go through a Python function."""
    made = {part.short: aggregation([part]) for part in aggregations}
    named = ", ".join(name for name, found in made.items() if found is not None)
    todo = "write the function as the source's prepare step, with Polars expressions, and the view by hand"
    if named:
        todo += f", with aggregations for {named}"
    report.leave(view.label, view.name, view.place, f"its rows go through {_function(view)}", todo)


def on_demand(view: View, features: Mapping[str, Mapping[str, str]], report: Report) -> None:
    """Puts down a view that is computed from other views and from the request."""
    sources = view.record.records("sources")
    from_views = [s for s in sources if s.kind != "RequestSource"]
    requests = [f"request.{f.name}" for s in sources if s.kind == "RequestSource" for f in fields_of(s)]
    inputs = [full for s in from_views for full in features.get(s.text("name"), {}).values()]
    outputs = ", ".join(f.name for f in fields_of(view.record))
    todo = f"write {outputs or 'each of its features'} as a DerivedFeature, a Polars expression or a function of arrays"
    if inputs or requests:
        todo += f", of {', '.join([*inputs, *requests])}"
    report.leave(view.label, view.name, view.place, f"it is computed by {_function(view)}", todo)


def _function(view: View) -> str:
    name = view.function.name if view.function is not None else "?"
    return f"the Python function {name}" if name not in ("?", "<lambda>") else "a Python function"

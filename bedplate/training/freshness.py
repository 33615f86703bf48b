"""Whether fresh rows are such as a model can be judged on: inputs that went missing, numbers and labels that moved."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bedplate.batch import Batch, Dense
from bedplate.datasets.loaded import LoadedDataset
from bedplate.datasets.rates import label_rate
from bedplate.features.encoding import CANDIDATE, Encoding, Number
from bedplate.metrics.rates import changed
from bedplate.registry.version import ModelVersion
from bedplate.training.promotion import PromotionRules
from bedplate.training.sameness import column_of, missing
from bedplate.types import Float64s


def problems(batches: Mapping[str, Batch], inputs: Mapping[str, Encoding], rules: PromotionRules) -> list[str]:
    """How the inputs of the test split differ from those of the training split by more than the rules allow.

    Args:
        batches: of both splits, see `unlearnt.samples`.
        inputs: what a job's model reads.
        rules: how much they may.
    """
    found: list[str] = []
    if "train" not in batches or "test" not in batches:
        return found
    was, now = batches["train"], batches["test"]
    for name, encoding in inputs.items():
        if name == CANDIDATE:
            continue
        before, after = column_of(was, name), column_of(now, name)
        nulls = [missing(column) for column in (before, after)]
        if nulls[1] - nulls[0] > rules.largest_missing:
            found.append(
                f"the input '{name}' is null in {nulls[1]:.0%} of the test rows, of the training rows in "
                f"{nulls[0]:.0%} (largest_missing is {rules.largest_missing:g})"
            )
        elif isinstance(encoding, Number) and isinstance(before, Dense) and isinstance(after, Dense):
            found += _moved(name, _numbers(before, encoding), _numbers(after, encoding), rules)
    return found


def label_problems(
    dataset: LoadedDataset, label: str, champion: ModelVersion | None, rules: PromotionRules
) -> list[str]:
    """How the rate of a label in the test split differs by more than the rules allow, from what and to what.

    Compared with the training split, and with what the champion was trained on where its manifest says that and the
    label is still the same: a label that has been broken for long is so in all of the training split too.

    Args:
        dataset: with both splits.
        label: its name.
        champion: to be compared with; None: there is none.
        rules: how much it may.
    """
    now = label_rate(dataset, label, "test")
    known = [("training rows", label_rate(dataset, label, "train"))]
    if champion is not None and _same_label(dataset, label, champion):
        rates = champion.manifest.label_rates
        known += [(f"rows that {champion} was trained on", rates["train"])] if "train" in rates else []
    return [
        f"the label '{label}' is positive in {now} test rows, and in {before} {what}: changed by more than a "
        f"factor of {rules.largest_label_change:g} (largest_label_change)"
        for what, before in known
        if changed(before, now, rules.largest_label_change)
    ]


def _same_label(dataset: LoadedDataset, label: str, champion: ModelVersion) -> bool:
    """Whether the champion predicts this label, of the same definition."""
    manifest, name = champion.manifest, f"label {label}"
    predicted = manifest.config.get("model", {}).get("label")
    return predicted == label and manifest.definitions.get(name) == dataset.compiled.definitions().get(name)


def _numbers(column: Dense, encoding: Number) -> Float64s:
    values = column.values if column.present is None else column.values[column.present]
    x = values.astype(np.float64)
    return np.copysign(np.log1p(np.abs(x)), x) if encoding.log else x


def _moved(name: str, before: Float64s, after: Float64s, rules: PromotionRules) -> list[str]:
    if len(before) < 2 or not len(after):
        return []
    spread = float(before.std())
    moved = abs(float(after.mean()) - float(before.mean()))
    if spread == 0 or moved <= rules.largest_shift * spread:
        return []
    return [
        f"the mean of the input '{name}' moved by {moved / spread:.1f} standard deviations from training to test "
        f"(largest_shift is {rules.largest_shift:g})"
    ]

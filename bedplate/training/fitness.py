"""Whether a dataset's data are such that a job can learn from them and be judged on them."""

from __future__ import annotations

from bedplate.datasets.audit import audit
from bedplate.datasets.loaded import LoadedDataset
from bedplate.datasets.loader import require_requests
from bedplate.datasets.rates import label_rate
from bedplate.datasets.split import SPLITS
from bedplate.errors import DataError
from bedplate.metrics.rates import LabelRate
from bedplate.training.checks import check_job
from bedplate.training.job import Job


def check_fitness(job: Job, dataset: LoadedDataset) -> dict[str, LabelRate]:
    """Checks that a job can be run on its dataset.

    Args:
        job: the job.
        dataset: its dataset over its data.

    Returns:
        the rate of its label in each split.

    Raises:
        DefinitionError: the job does not fit the dataset, see `checks.check_job`.
        DataError: a split has no requests; training rows know what the served model can't, labels are not known
            (`datasets.audit`), or a split has no label, or binary ones of one class only.
    """
    check_job(job, {job.dataset: dataset.compiled})
    for split in SPLITS:
        require_requests(dataset, split)
    _check_labelled(job, dataset)
    audit(dataset).require()
    rates = {split: label_rate(dataset, job.model.label, split) for split in SPLITS}
    if job.model.needs_binary:
        for split, found in rates.items():
            _check_both(found, job, dataset, split)
    return rates


def _check_labelled(job: Job, dataset: LoadedDataset) -> None:
    """Raises `DataError` where a split has requests, and none of them has the label of the model."""
    label = job.model.label
    for split in SPLITS:
        first, last = dataset.positions(split)
        if first < last and not dataset.labelled(label, split):
            raise DataError(
                f"label '{label}' is known for none of the {last - first:,} requests of the split '{split}'",
                where=f"{job.place}: dataset '{job.dataset}'",
                hint="its horizon, with its maturity, runs past the end of the data or into the next split: choose "
                "other times for the split; or it is masked where nothing happened, and nothing did",
            )


def _check_both(found: LabelRate, job: Job, dataset: LoadedDataset, split: str) -> None:
    """Raises `DataError` where all rows of a split have the same binary label; drawn negatives are of the other one."""
    drawn = dataset.compiled.negatives is not None
    if found.has_both or not found.rows or (drawn and found.positives):
        return
    raise DataError(
        f"label '{job.model.label}' is {'1' if found.positives else '0'} in all {found.rows:,} rows of the split "
        f"'{split}', expected both 0 and 1",
        where=f"{job.place}: dataset '{job.dataset}'",
        hint="does the label's source still get what happened? Of one class nothing can be learnt, and nothing be "
        "judged on it; a split that is merely short needs more time",
    )

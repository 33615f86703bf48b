"""What to change so that an estimator learns faster; each piece of advice names the figure behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bedplate.models.estimators import BoostedConfig, EstimatorConfig
from bedplate.training.profile_advice import LARGE, Measured, less_to_join
from bedplate.training.stages import CHECKPOINT, ENCODE, FIT, PREPARE, VALIDATION, WRITE

_MOST = 0.5
"""From which share of the time a stage takes most of it."""

_IDLE = 0.6
"""Below which share of the cores busy more of them could be."""


def advice_of_estimator(
    measured: Measured, config: EstimatorConfig, unread: Sequence[str], cores: int
) -> Sequence[str]:
    """What to change, what takes most of the time first.

    Args:
        measured: while it learnt.
        config: of the estimator.
        unread: columns that are joined and that no input reads.
        cores: that the machine has.
    """
    seconds = sum(measured.loop.values())
    if not measured.rows or not seconds:
        return ["nothing was measured: a call before had done all that there is to learn"]
    share = {name: took / seconds for name, took in measured.loop.items()}
    reading = sum(share.get(name, 0.0) for name in (measured.loading, ENCODE, WRITE))
    parts = [
        (reading, _of_reading(reading, share, measured, unread)),
        (share.get(FIT, 0.0), _of_fit(share.get(FIT, 0.0), measured, config, cores)),
        (share.get(PREPARE, 0.0), _of_prepare(share.get(PREPARE, 0.0), config)),
        (share.get(VALIDATION, 0.0), _of_validation(share.get(VALIDATION, 0.0), config)),
        (share.get(CHECKPOINT, 0.0), _of_checkpoints(share.get(CHECKPOINT, 0.0), config)),
    ]
    large = sorted((part for part in parts if part[0] > LARGE), key=lambda part: part[0], reverse=True)
    found = [what for _, some in large for what in some]
    return found or ["nothing stands out: no stage takes much of the time"]


def _of_reading(part: float, share: dict[str, float], measured: Measured, unread: Sequence[str]) -> Iterator[str]:
    """What makes the matrix come sooner."""
    of = {name: share.get(name, 0.0) / part for name in (measured.loading, ENCODE, WRITE)}
    what = f"reading the rows once takes {part:.0%} of the time"
    if measured.loading == "join" and of["join"] > _MOST:
        yield (
            f"{what}, {of['join']:.0%} of it the join: write what is trained on more than once (bedplate datasets "
            "write), and train with --from"
        )
        yield from less_to_join(unread)
    elif of[measured.loading] > _MOST:
        yield f"{what}, {of[measured.loading]:.0%} of it the files: a faster disk, or fewer columns in the dataset"
    elif of[ENCODE] > of[WRITE]:
        yield f"{what}, {of[ENCODE]:.0%} of it encoding: fewer inputs"
    else:
        yield f"{what}, {of[WRITE]:.0%} of it writing the matrix: fewer inputs, or a faster disk for the registry"


def _of_fit(part: float, measured: Measured, config: EstimatorConfig, cores: int) -> Iterator[str]:
    """What makes learning itself shorter."""
    took, rows = measured.loop[FIT], measured.loop_rows.get(FIT, 0)
    busy = measured.loop_cpu.get(FIT, 0.0) / took
    if not isinstance(config, BoostedConfig):
        yield f"fitting takes {part:.0%} of the time: fewer rows, or parameters that do less (model.params)"
        if busy < _IDLE * cores:
            yield f"{busy:.1f} of {cores} cores are busy while it is fitted: model.params.n_jobs=-1 where it has that"
        return
    rounds = max(rows // measured.rows, 1)
    yield (
        f"growing {rounds:,} trees takes {part:.0%} of the time, {took / rounds * 1e3:.1f} ms each: fewer of them (a "
        "higher model.learning_rate, a lower model.early_stopping), smaller ones (model.leaves, model.depth), or each "
        "on a share of the rows and columns (model.subsample, model.colsample)"
    )


def _of_prepare(part: float, config: EstimatorConfig) -> Iterator[str]:
    """What makes the library's own form of the rows come sooner."""
    bins = " or fewer bins (model.params.max_bin)" if isinstance(config, BoostedConfig) else ""
    yield f"bringing the rows into the library's form takes {part:.0%} of the time: fewer inputs{bins}"


def _of_validation(part: float, config: EstimatorConfig) -> Iterator[str]:
    """What makes judging shorter."""
    rarer = (
        f"raise model.evaluate_every, which is {config.evaluate_every}"
        if isinstance(config, BoostedConfig)
        else "a shorter validation split"
    )
    yield f"{part:.0%} of the time goes to validation: {rarer}"


def _of_checkpoints(part: float, config: EstimatorConfig) -> Iterator[str]:
    """What makes writing checkpoints shorter."""
    if isinstance(config, BoostedConfig):
        yield (
            f"{part:.0%} of the time goes to checkpoints: raise model.checkpoint_every, which is "
            f"{config.checkpoint_every}; it is part of the model"
        )

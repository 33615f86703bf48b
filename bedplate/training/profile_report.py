"""What a profile says: a row for each stage with its limit, and what to change."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import final

import msgspec

from bedplate.models.estimators import EstimatorConfig
from bedplate.training.config import TrainerConfig
from bedplate.training.profile_advice import Limits, Measured, advice, shown_bytes
from bedplate.training.profile_estimator import advice_of_estimator
from bedplate.training.stages import CHECKPOINT, ENCODE, FIT, OTHER, PREPARE, VALIDATION, WRITE

_CORES = os.cpu_count() or 1

_LOOP = ("waiting", "forward", "backward", "optimizer", "exchange", "rehearsal", "validation", "checkpoint", "other")
"""What the loop's thread does, in the order in which it is shown."""

_RATED = ("forward", "backward", "optimizer")
"""Those that all rows of training go through."""


@final
class Stage(msgspec.Struct, frozen=True):
    """One stage of a training.

    Attributes:
        name: of the stage.
        where: `loop`, or `loader` for the threads that prepare batches.
        seconds: that it took; of the loader those of all threads together.
        share: of the seconds of the loop, or of the loader's threads.
        rows_per_second: candidates a second of the stage's own time, for stages that have to do with rows.
        limit: candidates a second of the stage alone on this machine; None where that has no meaning.
    """

    name: str
    where: str
    seconds: float
    share: float
    rows_per_second: float | None = None
    limit: float | None = None


@final
class ProfileReport(msgspec.Struct, frozen=True):
    """Where the time of a training went.

    Attributes:
        rows: candidates that were trained on.
        batches: of them; 1 of an estimator, which learns from all at once.
        seconds: of the loop, validations and checkpoints included.
        cores_busy: seconds of processor time a second, by all threads of the process.
        cores: that the machine has.
        stages: of the loop, which add up to its seconds, and of the loader.
        limits: what was measured of each stage alone; None where nothing was trained, and of an estimator.
        advice: what to change, what helps most first.
    """

    rows: int
    batches: int
    seconds: float
    cores_busy: float
    cores: int
    stages: tuple[Stage, ...]
    limits: Limits | None
    advice: tuple[str, ...]

    def to_json(self) -> bytes:
        """The report as `profile.json` has it."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1)


def report(measured: Measured, limits: Limits | None, config: TrainerConfig) -> ProfileReport:
    """The report of what was measured.

    Args:
        measured: while training.
        limits: of each stage alone, afterwards.
        config: that was trained with.
    """
    seconds = sum(measured.loop.values())
    alone: Mapping[str, float] = {} if limits is None else limits.by_stage(measured.loading)
    stages = [*_loop(measured, seconds, alone), *_loader(measured, config.loader_threads, alone)]
    return _report(measured, stages, limits, advice(measured, limits, config, _CORES))


def report_of_estimator(measured: Measured, config: EstimatorConfig, unread: Sequence[str]) -> ProfileReport:
    """The report of what was measured while an estimator learnt: the stages that it has, one after the other.

    Args:
        measured: while it learnt.
        config: of the estimator.
        unread: columns that are joined and that no input reads.
    """
    seconds = sum(measured.loop.values())
    stages: list[Stage] = []
    for name in (measured.loading, ENCODE, WRITE, PREPARE, FIT, VALIDATION, CHECKPOINT, OTHER):
        if took := measured.loop.get(name, 0.0):
            rows = measured.loop_rows.get(name, 0)
            stages.append(Stage(name, "loop", took, took / seconds, rows / took if rows else None))
    return _report(measured, stages, None, advice_of_estimator(measured, config, unread, _CORES))


def _report(measured: Measured, stages: Sequence[Stage], limits: Limits | None, advice: Sequence[str]) -> ProfileReport:
    seconds = sum(measured.loop.values())
    return ProfileReport(
        rows=measured.rows,
        batches=measured.batches,
        seconds=seconds,
        cores_busy=measured.cpu / seconds if seconds else 0.0,
        cores=_CORES,
        stages=tuple(stages),
        limits=limits,
        advice=tuple(advice),
    )


def _loop(measured: Measured, seconds: float, alone: Mapping[str, float]) -> list[Stage]:
    found: list[Stage] = []
    for name in _LOOP:
        took = measured.loop.get(name, 0.0)
        if took > 0.001 * seconds or name in _LOOP[:4]:
            rate = measured.rows / took if took and name in _RATED else None
            found.append(Stage(name, "loop", took, took / seconds if seconds else 0.0, rate, alone.get(name)))
    return found


def _loader(measured: Measured, threads: int, alone: Mapping[str, float]) -> list[Stage]:
    busy = sum(measured.threads.values())
    total = busy + measured.idle(threads)
    found: list[Stage] = []
    for name in (measured.loading, "encode", "transfer"):
        took = measured.threads.get(name, 0.0)
        rate = measured.thread_rows.get(name, 0) / took if took else None
        found.append(Stage(name, "loader", took, took / total if total else 0.0, rate, alone.get(name)))
    return [*found, Stage("idle", "loader", total - busy, (total - busy) / total if total else 0.0)]


def text_of(report: ProfileReport) -> str:
    """The report for a person."""
    alone = f"{'alone, rows/s':>15}" if report.limits is not None else ""
    lines = [
        f"{report.rows:,} rows in {report.seconds:.2f} s, {report.cores_busy:.1f} of {report.cores} cores busy",
        *([f"{'':8}{'stage':12}{'seconds':>9}{'share':>7}{'rows/s':>13}{alone}"] if report.stages else []),
    ]
    for stage in report.stages:
        rates = "".join(
            f"{'' if v is None else f'{v:,.0f}':>{w}}" for v, w in ((stage.rows_per_second, 13), (stage.limit, 15))
        )
        lines.append(f"{stage.where:8}{stage.name:12}{stage.seconds:>9.2f}{stage.share:>7.0%}{rates}".rstrip())
    if report.limits is not None:
        limits = report.limits
        moved, bandwidth = shown_bytes(limits.update_bytes), limits.bandwidth / 1e9
        lines.append(f"an update moves at least {moved}; memory gives {bandwidth:.1f} GB/s")
    return "\n".join([*lines, *(f"- {what}" for what in report.advice)])

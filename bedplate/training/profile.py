"""Where the time of a training goes: what its loop and the threads that prepare batches do, measured while they do it.

The trainer tells a `Profile` the end of each stage; nothing that it computes depends on that. What each stage could do
alone on this machine is measured afterwards, on a copy of the model (`profile_limits`).
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from bedplate.features.encoder import Encoder
from bedplate.files import write_atomic
from bedplate.models.estimators import EstimatorConfig
from bedplate.training.config import TrainerConfig
from bedplate.training.profile_advice import Measured, unread_columns
from bedplate.training.profile_report import ProfileReport, report, report_of_estimator, text_of
from bedplate.training.stages import LOAD

if TYPE_CHECKING:
    from bedplate.datasets.blocks import Batches

FILE, TEXT = "profile.json", "profile.txt"
"""The report in the run's folder, for programs and for people."""


@final
class Profile:
    """The profile of one training, by one process.

    Args:
        loading: what making a batch is called: `join`, or `read` where it comes from files.

    Attributes:
        measured: the seconds of each stage so far.
        report: what was found; None before `examine`.
    """

    def __init__(self, loading: str = "join") -> None:
        self.loading = loading
        self.report: ProfileReport | None = None
        self._loop: defaultdict[str, float] = defaultdict(float)
        self._loop_cpu: defaultdict[str, float] = defaultdict(float)
        self._loop_rows: defaultdict[str, int] = defaultdict(int)
        self._threads: defaultdict[str, float] = defaultdict(float)
        self._thread_rows: defaultdict[str, int] = defaultdict(int)
        self._rows = self._batches = 0
        self._start: float | None = None  # how long the first batch was waited for
        self._lock = threading.Lock()
        self._at = self._cpu = self._cpu_at = 0.0

    def begin(self) -> None:
        """From here on the time of the loop counts."""
        self._at, self._cpu = time.perf_counter(), time.process_time()
        self._cpu_at = self._cpu

    def lap(self, stage: str, rows: int = 0) -> None:
        """A stage of the loop, which began where the one before ended, has ended; see `stages.Lap`."""
        now, cpu = time.perf_counter(), time.process_time()
        name = self.loading if stage == LOAD else stage
        self._loop[name] += now - self._at
        self._loop_cpu[name] += cpu - self._cpu_at
        self._loop_rows[name] += rows
        if self._start is None and stage == "waiting":
            self._start = now - self._at
        self._at, self._cpu_at = now, cpu

    def prepared(self, stage: str, seconds: float, rows: int) -> None:
        """A stage of preparing a batch has ended, in any thread; see `stages.Watch`."""
        name = self.loading if stage == LOAD else stage
        with self._lock:
            self._threads[name] += seconds
            self._thread_rows[name] += rows

    def trained(self, rows: int) -> None:
        """A batch of so many candidates was trained on."""
        self._rows, self._batches = self._rows + rows, self._batches + 1

    @property
    def measured(self) -> Measured:
        """What was measured so far."""
        cpu = time.process_time() - self._cpu if self._at else 0.0
        return Measured(
            self.loading,
            dict(self._loop),
            dict(self._threads),
            dict(self._thread_rows),
            self._rows,
            self._batches,
            cpu,
            self._start or 0.0,
            dict(self._loop_cpu),
            dict(self._loop_rows),
        )

    def examine(
        self, config: TrainerConfig, model: Any, encoder: Encoder, training: Batches, folder: Path
    ) -> ProfileReport:
        """Measures each stage alone, and writes `profile.json` and `profile.txt`.

        A copy of a network is trained on for some seconds; the model and torch's random numbers stay as they are. Of an
        estimator each stage is alone while it learns: nothing is measured again.

        Args:
            config: that it was trained with.
            model: that was trained.
            encoder: of its batches.
            training: its batches.
            folder: the run's.
        """
        measured, limits = self.measured, None
        choices = getattr(model, "config", None)
        if isinstance(choices, EstimatorConfig):
            unread = unread_columns(next(training.epoch(config.seed, 0)), encoder) if measured.rows else ()
            self.report = report_of_estimator(measured, choices, unread)
        else:
            if measured.rows:
                from bedplate.training.profile_limits import limits_of

                limits = limits_of(config, model, encoder, training)
            self.report = report(measured, limits, config)
        write_atomic(folder / FILE, self.report.to_json())
        write_atomic(folder / TEXT, (text_of(self.report) + "\n").encode())
        return self.report

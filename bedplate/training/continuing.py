"""Continuing from a model version: which rows are learnt and what is recorded; `inheritance` takes weights over."""

from __future__ import annotations

from typing import Any, Literal, Self, TypeAlias, final

import msgspec

from bedplate.datasets.loaded import LoadedDataset
from bedplate.datasets.split import TimeSplit
from bedplate.errors import ConfigError, DataError, StoreError
from bedplate.registry.manifest import CONTINUED
from bedplate.registry.registry import Registry
from bedplate.registry.run import RunRecord
from bedplate.registry.version import ModelVersion
from bedplate.training.carried_encoder import Definitions
from bedplate.types import format_time

Rows: TypeAlias = Literal["since", "all"]
"""Which training rows a continued run learns from: those that its parent did not learn from, or all."""


@final
class Continuation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From which model version a run goes on, and on which rows.

    Attributes:
        parent: the version, as `name:version`.
        rows: which training rows are learnt.
        since: where `rows` is "since", the time of the first request that is learnt, microseconds.
    """

    parent: str
    rows: Rows = "since"
    since: int | None = None

    @classmethod
    def of(cls, version: ModelVersion, rows: Rows = "since") -> Self:
        """The continuation of a version.

        Raises:
            StoreError: which rows it learnt from is not known.
        """
        manifest = version.manifest
        since = manifest.trained_until if manifest.learnt_until is None else manifest.learnt_until
        if rows == "since" and since is None:
            raise StoreError(
                "it is not known until when the version was trained",
                where=f"model '{version}'",
                hint="continue on all rows: --rows all",
            )
        return cls(str(version), rows, None if since is None or rows == "all" else since + 1)

    @classmethod
    def began(cls, record: RunRecord) -> Self | None:
        """That of a run; None where it began from nothing."""
        found = record.config.get(CONTINUED)
        return None if found is None else msgspec.convert(found, cls)

    def dataset(self, dataset: LoadedDataset, *, files: bool = False) -> LoadedDataset:
        """The dataset whose training split has only the rows that are learnt.

        Args:
            dataset: with all rows.
            files: whether batches will be read from files, which hold all of them.

        Raises:
            DataError: there is none.
            ConfigError: they are not those of the files.
        """
        if self.since is None:
            return dataset
        if files:
            raise ConfigError(
                "the files hold rows that the parent has learnt from",
                where=f"continuing from '{self.parent}'",
                hint="leave --from out, or continue on all rows: --rows all",
            )
        found = dataset.since(self.since)
        first, last = found.positions("train")
        if first == last:
            _, ends = dataset.split.bounds()["train"]
            raise DataError(
                f"no training request is at {format_time(self.since)} or later, from when on '{self.parent}' has "
                f"learnt nothing; the split's training ends at {format_time(ends)}",
                where=dataset.compiled.dataset.place,
                hint="wait for newer data; move the split, or have it move with the data (RollingSplit); or continue "
                "on all rows: --rows all",
            )
        return found


@final
class Beginning:
    """What a run begins with: nothing, or a parent.

    Args:
        continued: from what it goes on; None: it begins from nothing.
        registry: where the parent is.
        definitions: behind the run.
    """

    def __init__(self, continued: Continuation | None, registry: Registry, definitions: Definitions) -> None:
        self.continued, self.registry, self.definitions = continued, registry, definitions

    def parent(self) -> ModelVersion | None:
        """The version that the run goes on from, if there is one.

        Raises:
            NotFoundError: it is no longer there.
        """
        return None if self.continued is None else self.registry.get(self.continued.parent)

    @property
    def parents(self) -> list[str]:
        """The version that the run goes on from, if there is one."""
        return [] if self.continued is None else [self.continued.parent]

    @property
    def form(self) -> dict[str, Any]:
        """What the config of the run and of its version says of it."""
        return {} if self.continued is None else {CONTINUED: msgspec.to_builtins(self.continued)}

    def check(self, split: TimeSplit) -> None:
        """Checks that the parent has learnt from no request that the run is judged on.

        Raises:
            DataError: it has.
        """
        parent = self.parent()
        if parent is None:
            return
        manifest = parent.manifest
        known = {"validation": manifest.learnt_until, "test": manifest.trained_until}
        for name, until in known.items():
            begins, _ = split.bounds()[name]
            if until is not None and until >= begins:
                raise DataError(
                    f"'{parent}' knows what happened until {format_time(until)}, later than "
                    f"{format_time(begins)}, when {name} begins: it would be judged on what it has seen",
                    where="the split",
                    hint="move it later, have it move with the data (RollingSplit), or train from the beginning",
                )

    def until(self, learnt: int, trained: int) -> tuple[int, int]:
        """`Manifest.learnt_until` and `trained_until` of the run's version: what the parent knows counts too."""
        parent = self.parent()
        if parent is None:
            return learnt, trained
        manifest = parent.manifest
        return max(learnt, manifest.learnt_until or 0), max(trained, manifest.trained_until or 0)

"""What the training data of a run were: rows of each split, and a small summary of each input and label.

    RUN/data.json   written once, when the encodings are fitted; of the very batches that they are fitted on

A summary is small however large the data: quantiles of a sample of numbers, counts of the most frequent categories.
That is what the drift between two runs is computed of, when the data themselves may be gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, final

import msgspec
import numpy as np

from bedplate.batch import Batch, Column, Embedding, Ids, Ragged, known_texts
from bedplate.datasets.split import SPLITS
from bedplate.errors import StoreError
from bedplate.features.encoding import CANDIDATE, Encoding, Number, Sequence, Vector
from bedplate.files import write_record
from bedplate.metrics.stability import shares_of_numbers, stability_index
from bedplate.types import Array, Bools

if TYPE_CHECKING:
    from bedplate.datasets.loaded import LoadedDataset

DATA = "data.json"
_SAMPLE = 20_000
"""About how many values of an input are kept until its summary is made."""
_POINTS = 201
_TOP = 30

Kind: TypeAlias = Literal["number", "category"]


class SplitRows(msgspec.Struct, frozen=True):
    """A split's requests, its rows (negatives included) and the times of its first and last request, microseconds."""

    requests: int
    rows: int
    first: int | None = None
    last: int | None = None


class InputSummary(msgspec.Struct, frozen=True):
    """The values of an input: of lists those of their elements, of vectors their lengths.

    Attributes:
        kind: numbers or categories.
        rows: how many rows were looked at, evenly spread.
        absent: the share of them without a value.
        mean: of numbers.
        points: of numbers, 201 quantiles at even steps, values that occur.
        shares: of categories, the share of the rows that have a value, of the 30 most frequent.
        distinct: of categories, how many there were among these rows.
    """

    kind: Kind
    rows: int
    absent: float
    mean: float | None = None
    points: tuple[float, ...] = ()
    shares: dict[str, float] = {}
    distinct: int = 0


class DataSummary(msgspec.Struct, frozen=True):
    """What `data.json` holds; labels are the means over the rows in which each is known."""

    splits: dict[str, SplitRows]
    labels: dict[str, float | None]
    inputs: dict[str, InputSummary]


@final
class Watcher:
    """Looks at batches that pass, and writes down what they hold.

    Args:
        inputs: the encodings by feature.
        batches: about how many will pass.
    """

    def __init__(self, inputs: Mapping[str, Encoding], batches: int) -> None:
        self._each = max(1, _SAMPLE // max(batches, 1))
        self._samples = {name: _Sample(_kind(encoding)) for name, encoding in inputs.items()}
        self._labels: dict[str, tuple[float, int]] = {}

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches."""
        for batch in batches:
            for name, sample in self._samples.items():
                column = Ids(batch.candidates) if name == CANDIDATE else batch.request.get(name, batch.item.get(name))
                if column is not None:  # fitting says which is missing
                    sample.add(column, self._each)
            for name, values in batch.labels.items():
                known = values[np.isfinite(values)]
                total, count = self._labels.get(name, (0.0, 0))
                self._labels[name] = total + float(known.sum(dtype=np.float64)), count + len(known)
            yield batch

    def write(self, folder: Path, dataset: LoadedDataset) -> None:
        """Writes `data.json` into a run's folder.

        Raises:
            StoreError: it can't be written.
        """
        labels = {name: total / count if count else None for name, (total, count) in self._labels.items()}
        inputs = {name: sample.summary() for name, sample in self._samples.items()}
        summary = DataSummary(_splits(dataset), labels, inputs)
        write_record(folder / DATA, msgspec.json.encode(summary), "what the training data hold")


def read_summary(folder: Path) -> DataSummary | None:
    """What the training data of a run were; None of a run that did not come so far, or of an earlier version.

    Raises:
        StoreError: the file can't be read.
    """
    path = folder / DATA
    try:
        return msgspec.json.decode(path.read_bytes(), type=DataSummary)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StoreError(
            f"can't read it: {error}", where=str(path), hint="delete the file: a diff goes without"
        ) from error


def drift_between(before: InputSummary, after: InputSummary) -> float | None:
    """The population stability index of an input between two runs; absent values are a bin of their own.

    None where one is of numbers and the other of categories, or where one has nothing.
    """
    if before.kind != after.kind or not before.rows or not after.rows:
        return None
    there = [1 - before.absent, 1 - after.absent]
    parts = [np.ones(1), np.ones(1)]
    if before.kind == "category":
        names = sorted({*before.shares, *after.shares})
        # What is not among the most frequent of one has a share below its least, and is counted with the others.
        parts = [np.array([one.shares.get(n, 0.0) for n in names] + [0.0]) for one in (before, after)]
        for part in parts:
            part[-1] = max(0.0, 1.0 - part.sum())
    elif before.points and after.points:
        parts = [shares_of_numbers(np.array(one.points), np.array(before.points)) for one in (before, after)]
    p, q = (np.append(part * share, 1 - share) for part, share in zip(parts, there, strict=True))
    return stability_index(p, q)


@final
class _Sample:
    """Values of one input, evenly taken from each batch."""

    def __init__(self, kind: Kind) -> None:
        self.kind: Kind = kind
        self.rows = self.absent = 0
        self.numbers: list[Array] = []
        self.counts: Counter[str | int] = Counter()

    def add(self, column: Column, most: int) -> None:
        """Takes at most so many values of a batch."""
        if isinstance(column, Ragged):
            column = column.values
        rows = len(column)
        at = np.unique(np.linspace(0, rows - 1, min(rows, most)).astype(np.int64)) if rows else np.zeros(0, np.int64)
        taken = column.take(at)
        present: Bools = np.ones(len(at), np.bool_) if taken.present is None else taken.present
        if isinstance(taken, Embedding):
            values: Array = np.linalg.norm(taken.values, axis=1)
        else:
            values = taken.values
        if self.kind == "number":
            present = present & np.isfinite(values)
        self.rows, self.absent = self.rows + len(at), self.absent + int((~present).sum())
        values = values[present]
        if self.kind == "number":
            self.numbers.append(np.asarray(values, np.float64))
            return
        unique, counts = np.unique(values, return_counts=True)
        texts = taken.texts if isinstance(taken, Ids) else None
        names = unique.tolist() if texts is None else known_texts(texts, unique.tolist()).to_list()
        for name, key, count in zip(names, unique.tolist(), counts.tolist(), strict=True):
            self.counts[key if name is None else name] += count

    def summary(self) -> InputSummary:
        absent = self.absent / self.rows if self.rows else 0.0
        if self.kind == "category":
            total = max(self.counts.total(), 1)
            shares = {str(name): count / total for name, count in self.counts.most_common(_TOP)}
            return InputSummary("category", self.rows, absent, shares=shares, distinct=len(self.counts))
        values = np.concatenate(self.numbers) if self.numbers else np.zeros(0)
        if not len(values):
            return InputSummary("number", self.rows, absent)
        points = np.quantile(values, np.linspace(0, 1, _POINTS), method="inverted_cdf")
        return InputSummary("number", self.rows, absent, float(values.mean()), tuple(points.tolist()))


def _kind(encoding: Encoding) -> Kind:
    element = encoding.of if isinstance(encoding, Sequence) else encoding
    return "number" if isinstance(element, Number | Vector) else "category"


def _splits(dataset: LoadedDataset) -> dict[str, SplitRows]:
    sizes, times, found = dataset.sizes(), dataset.spine.rows.times, dict[str, SplitRows]()
    for name in SPLITS:
        first, last = dataset.positions(name)
        if first < last:
            rows = int(sizes[first:last].sum())
            found[name] = SplitRows(last - first, rows, int(times[first]), int(times[last - 1]))
        else:
            found[name] = SplitRows(0, 0)
    return found

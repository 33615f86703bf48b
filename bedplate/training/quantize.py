"""Int8 variants of registered models: weights of matrix products in 8 bits, where scores stay close enough.

Quantisation is dynamic (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html): weights are
int8, and the numbers that a call multiplies them with are made 8 bits wide by their range in that call. So a score
depends a little on the rows beside it, and the bound is on every score, over the golden requests, each of their
candidates with each of their requests, and as many rows of a test split as are given.
"""

from __future__ import annotations

import importlib
import logging
import math
import shutil
import tempfile
import time
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import msgspec
import numpy as np

from bedplate.errors import ArtifactError, ConfigError, ProofError
from bedplate.features import artifact
from bedplate.features.tables import tables_of, with_tables, without_tables
from bedplate.files import aside
from bedplate.registry.manifest import MANIFEST_NAME, QUANTIZED, SEAL_NAME
from bedplate.registry.registry import Registry
from bedplate.registry.version import ModelVersion
from bedplate.training.packing import Session
from bedplate.types import Array, Float64s

# The library has no type stubs.
_quantization: Any = importlib.import_module("onnxruntime.quantization")

_REPEATS = 5


@final
@dataclass(frozen=True, slots=True)
class Quantization:
    """What quantising a model changes.

    Attributes:
        largest: the largest difference of an output.
        mean: the mean absolute difference.
        rows: outputs that were compared.
        before_ms: a golden call of the model.
        after_ms: of the quantised one.
        before_bytes: of the model's graph.
        after_bytes: of the quantised one.
    """

    largest: float
    mean: float
    rows: int
    before_ms: float
    after_ms: float
    before_bytes: int
    after_bytes: int


def quantize(
    version: ModelVersion, registry: Registry, most: float, more: Iterable[Mapping[str, Array]] = ()
) -> tuple[ModelVersion, Quantization]:
    """Registers the int8 variant of a version as the next version, if no output differs by more than a bound.

    Its golden outputs remain those of the trained model, to be reproduced within the bound by every loader.

    Args:
        version: of a model that ONNX Runtime runs.
        registry: where it goes.
        most: the bound, absolute.
        more: tensors of further calls, such as of a test split.

    Raises:
        ConfigError: the bound is not above 0 and finite.
        ArtifactError: the version is damaged, is run by another runtime, or is quantised already.
        ProofError: an output differs by more; nothing is registered.
    """
    if not 0 < most < math.inf:
        hint = "a loader proves the bound again, so it has to be a number"
        raise ConfigError(f"most is {most:g}, expected above 0 and finite", where="quantize", hint=hint)
    version.verify()
    place, spec = f"model '{version}'", artifact.RuntimeSpec.load(version.path)
    if spec.runtime != "onnx" or spec.absolute != artifact.GOLDEN_ABSOLUTE:
        what = "is quantised already" if spec.runtime == "onnx" else f"is run by {spec.runtime}"
        raise ArtifactError(f"it {what}, expected a graph of ONNX Runtime", where=place)
    graph = (version.path / spec.file).read_bytes()
    small = _int8(graph, place)
    folder = version.path.absolute()
    golden = artifact.read_golden(version.path)
    first, second = Session(graph, folder), Session(small, folder)
    largest, mean, rows = _differences(first, second, _calls([g.inputs for g in golden], more))
    calls = [g.inputs for g in golden]
    found = Quantization(
        largest, mean, rows, _milliseconds(first, calls), _milliseconds(second, calls), len(graph), len(small)
    )
    if not largest <= most:
        raise ProofError(
            f"int8 changes an output by {largest:.3g} (on average by {mean:.3g}, over {rows:,}), "
            f"expected at most {most:g}",
            where=place,
            hint="nothing was registered; raise --most if such a difference does no harm, or serve it as it is",
        )
    with _linked(version.path, {MANIFEST_NAME, SEAL_NAME, artifact.RUNTIME, spec.file}) as made:
        (made / spec.file).write_bytes(small)
        msgspec.structs.replace(spec, absolute=most).write(made)
        facts = {**msgspec.to_builtins(found), "of": str(version), "most": most}
        manifest = version.manifest
        changed = msgspec.structs.replace(
            manifest,
            config={**manifest.config, QUANTIZED: facts},
            parents=(*manifest.parents, str(version)),
        )
        return registry.register(version.name, made, manifest=changed, run_id=manifest.run), found


@contextmanager
def _linked(folder: Path, without: Collection[str]) -> Generator[Path]:
    """A folder beside another that has its files but some, as long as the context lasts: large ones are not copied."""
    made = aside(folder.parent / "int8")
    try:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            if path.is_file() and str(name) not in without:
                (made / name).parent.mkdir(parents=True, exist_ok=True)
                try:
                    (made / name).hardlink_to(path)
                except OSError:  # of another user, or on a file system without links
                    shutil.copyfile(path, made / name)
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _int8(graph: bytes, place: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="bedplate-int8-") as folder, _quiet():
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        tables = tables_of(graph, artifact.TABLES)
        before.write_bytes(without_tables(graph, tables))
        try:
            _quantization.quantize_dynamic(
                before,
                after,
                op_types_to_quantize=["MatMul", "Gemm"],
                weight_type=_quantization.QuantType.QInt8,
                per_channel=True,
                reduce_range=False,
            )
        except Exception as error:
            raise ArtifactError(f"the graph can't be quantised: {error}", where=place) from error
        return with_tables(after.read_bytes(), tables, artifact.TABLES)


@contextmanager
def _quiet() -> Generator[None]:
    """The library advises on standard error to prepare graphs first, which exported ones don't need."""
    root = logging.getLogger()
    disabled, root.disabled = root.disabled, True
    try:
        yield
    finally:
        root.disabled = disabled


def _calls(golden: Iterable[Mapping[str, Array]], more: Iterable[Mapping[str, Array]]) -> Iterator[Mapping[str, Array]]:
    """Golden calls, all of their candidates with each of their requests, and the others."""
    for tensors in golden:
        yield tensors
        of_item = tensors.get("request_of_item")
        if of_item is not None and len(of_item):
            for request in np.unique(of_item):
                yield {**tensors, "request_of_item": np.full_like(of_item, request)}
    yield from more


def _differences(first: Session, second: Session, calls: Iterable[Mapping[str, Array]]) -> tuple[float, float, int]:
    largest = total = 0.0
    count = 0
    for tensors in calls:
        taken = {name: tensors[name] for name in first.inputs}
        before, after = first.run(taken), second.run(taken)
        for name, exact in before.items():
            difference = _apart(exact.astype(np.float64), after[name].astype(np.float64))
            largest = max(largest, float(difference.max(initial=0.0)))
            total += float(difference.sum())
            count += difference.size
    return largest, total / max(count, 1), count


def _apart(exact: Float64s, found: Float64s) -> Float64s:
    """The absolute difference of each value: 0 where both are the same, infinite where one of them is no number."""
    with np.errstate(invalid="ignore"):
        difference = np.abs(exact - found)
    difference[np.isnan(difference)] = np.inf
    difference[(exact == found) | (np.isnan(exact) & np.isnan(found))] = 0.0
    return difference


def _milliseconds(session: Session, calls: Iterable[Mapping[str, Array]]) -> float:
    """The least time of the golden calls, a call."""
    some, best = list(calls), float("inf")
    for _ in range(_REPEATS):
        begin = time.perf_counter()
        for tensors in some:
            session.run(tensors)
        best = min(best, (time.perf_counter() - begin) / max(len(some), 1))
    return best * 1e3

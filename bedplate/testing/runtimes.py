"""The contract suite of runtimes: what an implementation of `Runtime` must do, as a test class to inherit.

class TestMyRuntime(RuntimeContract):
    runtime = "mine"

    def make(self, folder: Path) -> RuntimeCase:
        write_my_model(folder / "model.bin")
        return RuntimeCase("model.bin", inputs={"x": x}, outputs={"y": y}, wrong={"x": x[:, 1:]})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np

from bedplate.errors import ArtifactError, BedplateError, RequestError
from bedplate.features.encoding import TensorSpec
from bedplate.runtimes.base import Opening, Runtime, open_runtime
from bedplate.runtimes.tensors import array_dtype
from bedplate.types import Array

PLACE = "model 'contract:1'"


@final
@dataclass(frozen=True, slots=True)
class RuntimeCase:
    """A model with known answers.

    Attributes:
        file: the model's file, in the folder that `make` was given.
        inputs: an array for each input of the model.
        outputs: what it gives for them, every output.
        wrong: arrays of the same names that it can't run on.
        options: of the runtime.
        tolerance: the largest relative difference of an output that is right.
    """

    file: str
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    wrong: Mapping[str, Array]
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    tolerance: float = 1e-5


class RuntimeContract:
    """Inherit, and say how a model of the runtime is made.

    Attributes:
        runtime: the name under which it is opened.
    """

    runtime: str

    def make(self, folder: Path) -> RuntimeCase:
        """Writes a model into a folder."""
        raise ArtifactError("a contract suite says how its model is made", where=type(self).__name__)

    def damage(self, path: Path) -> None:
        """Makes the model's file one that can't be loaded: cuts it off."""
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    def open(self, folder: Path, case: RuntimeCase) -> Runtime:
        """The model, opened."""
        return open_runtime(self.runtime, Opening(folder / case.file, PLACE, 1, case.options))

    def test_it_says_what_it_takes_and_gives(self, tmp_path: Path) -> None:
        """Names, dtypes and shapes are those of the arrays, and equal names are equal sizes."""
        case = self.make(tmp_path)
        opened = self.open(tmp_path, case)
        assert opened.platform
        assert set(opened.inputs) == set(case.inputs)
        assert set(opened.outputs) == set(case.outputs)
        sizes: dict[str, int] = {}
        for specs, arrays in ((opened.inputs, case.inputs), (opened.outputs, case.outputs)):
            for name, spec in specs.items():
                assert spec.name == name
                assert _fits(spec, arrays[name], sizes), f"{spec}, got {arrays[name].dtype} {arrays[name].shape}"
        opened.close()

    def test_it_gives_the_known_answers(self, tmp_path: Path) -> None:
        """Every output is as the case says."""
        case = self.make(tmp_path)
        opened = self.open(tmp_path, case)
        for name, found in zip(case.outputs, opened.run(case.inputs, list(case.outputs)), strict=True):
            assert found.dtype == case.outputs[name].dtype
            np.testing.assert_allclose(found, case.outputs[name], rtol=case.tolerance, atol=1e-6)

    def test_it_answers_as_before_after_it_has_given_memory_back(self, tmp_path: Path) -> None:
        """`trim` changes no answer."""
        case = self.make(tmp_path)
        opened = self.open(tmp_path, case)
        expected = opened.run(case.inputs, list(case.outputs))
        opened.trim(case.inputs)
        found = opened.run(case.inputs, list(case.outputs))
        assert all(_same(a, b) for a, b in zip(found, expected, strict=True))

    def test_it_gives_the_outputs_that_are_asked_for_in_their_order(self, tmp_path: Path) -> None:
        """Some outputs, in another order, are those that it gives together."""
        case = self.make(tmp_path)
        opened = self.open(tmp_path, case)
        names = list(case.outputs)[::-1]
        together = opened.run(case.inputs, names)
        for name, found in zip(names, together, strict=True):
            [alone] = opened.run(case.inputs, [name])
            assert _same(found, alone)

    def test_it_changes_no_tensor_and_keeps_none(self, tmp_path: Path) -> None:
        """Read-only tensors do; an answer stays as it is when others are made."""
        case = self.make(tmp_path)
        opened = self.open(tmp_path, case)
        given = {name: array.copy() for name, array in case.inputs.items()}
        for array in given.values():
            array.flags.writeable = False
        first = opened.run(given, list(case.outputs))
        kept = [array.copy() for array in first]
        assert all(_same(given[name], case.inputs[name]) for name in given)
        other = {name: np.zeros_like(array) for name, array in case.inputs.items()}
        opened.run(other, list(case.outputs))
        assert all(_same(a, b) for a, b in zip(first, kept, strict=True)), "an answer changed afterwards"
        again = opened.run(given, list(case.outputs))
        assert all(_same(a, b) for a, b in zip(again, kept, strict=True)), "the same tensors, another answer"

    def test_tensors_that_it_can_not_run_on_are_the_clients_mistake(self, tmp_path: Path) -> None:
        """A `RequestError` says so, and the next call works."""
        case = self.make(tmp_path)
        opened = self.open(tmp_path, case)
        error = _raised(lambda: opened.run(case.wrong, list(case.outputs)))
        assert isinstance(error, RequestError), f"got {error!r}"
        assert error.where == PLACE
        opened.run(case.inputs, list(case.outputs))  # and goes on

    def test_a_file_that_is_missing_or_damaged_is_refused(self, tmp_path: Path) -> None:
        """An `ArtifactError` says so."""
        case = self.make(tmp_path)
        self.damage(tmp_path / case.file)
        damaged = _raised(lambda: self.open(tmp_path, case))
        assert isinstance(damaged, ArtifactError), f"got {damaged!r}"
        (tmp_path / case.file).unlink()
        missing = _raised(lambda: self.open(tmp_path, case))
        assert isinstance(missing, ArtifactError), f"got {missing!r}"

    def test_two_are_open_at_once(self, tmp_path: Path) -> None:
        """Closing one doesn't touch the other."""
        case = self.make(tmp_path)
        first, second = self.open(tmp_path, case), self.open(tmp_path, case)
        expected = first.run(case.inputs, list(case.outputs))
        first.close()
        found = second.run(case.inputs, list(case.outputs))
        assert all(_same(a, b) for a, b in zip(found, expected, strict=True))


def _fits(spec: TensorSpec, array: Array, sizes: dict[str, int]) -> bool:
    shape: Sequence[int] = array.shape
    return (
        len(spec.shape) == len(shape)
        and array_dtype(spec.dtype) == array.dtype
        and all(
            got == (sizes.setdefault(want, got) if isinstance(want, str) else want)
            for got, want in zip(shape, spec.shape, strict=True)
        )
    )


def _same(a: Array, b: Array) -> bool:
    """Whether two arrays are equal to the last bit, NaN to NaN."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return a.tolist() == b.tolist() if a.dtype.hasobject else a.tobytes() == b.tobytes()


def _raised(call: Any) -> BedplateError | None:
    try:
        call()
    except BedplateError as error:
        return error
    return None

"""The signature: exactly what a model reads and gives. The server fetches these features and no others.

It says for every feature which definition it must have (the id of the feature), so that a model is never fed values of
another definition than it was trained on, and for every tensor its name, dtype and shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, final

import msgspec

from bedplate.errors import ArtifactError, DataError, DefinitionError, suggest
from bedplate.features.encoding import CANDIDATE, Level, TensorSpec
from bedplate.types import Array, Type

if TYPE_CHECKING:
    from bedplate.features.encoder import Encoder  # it brings compiled loops along

FILE = "signature.json"
"""The signature's name in an artifact."""


class Described(Protocol):
    """What the signature records of a feature's definition (`view.Feature` has it)."""

    @property
    def type(self) -> Type:
        """The type of the value, or of the elements of a list."""
        ...

    @property
    def is_list(self) -> bool:
        """Whether the value is a list."""
        ...

    @property
    def id(self) -> str:
        """The hash of all that defines the feature."""
        ...

    @property
    def context(self) -> tuple[tuple[str, Type], ...]:
        """The name and type of each context of the request that it is computed from."""
        ...


class Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A feature that the model reads.

    Attributes:
        feature: its full name.
        id: the hash of its definition.
        type: of the value, or of the elements of a list.
        is_list: whether the value is a list.
        level: read once per request, or per candidate.
        encoding: the kind of its encoding.
    """

    feature: str
    id: str
    type: Type
    is_list: bool
    level: Level
    encoding: str


class ContextInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Context that a request must bring for the model's features: its full name and type; missing, it is null."""

    name: str
    type: Type


@final
class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a model reads and gives.

    Attributes:
        inputs: the features, in the encoder's order. The candidate's own key is no feature and not listed.
        tensors: what the graph takes; a text in a shape is a size that differs from call to call.
        outputs: what the graph gives.
        context: what the features are computed from that a request brings of itself.
        models: the model version behind each feature that a model makes and that inputs are computed from, as
            `name:version` by the feature's name. Serving computes the feature with this version.
    """

    inputs: tuple[Input, ...]
    tensors: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    context: tuple[ContextInput, ...] = ()
    models: dict[str, str] = {}

    @classmethod
    def of(
        cls,
        encoder: Encoder,
        features: Mapping[str, Described],
        tensors: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
    ) -> Signature:
        """The signature of a model on an encoder's tensors.

        Args:
            encoder: the fitted encoder.
            features: the definitions by full name; those of the encoder's features must be among them.
            tensors: what the exported graph takes.
            outputs: what it gives.

        Raises:
            DefinitionError: a feature of the encoder is not among the definitions.
        """
        inputs: list[Input] = []
        context: dict[str, ContextInput] = {}
        for field in encoder.fields:
            if field.feature == CANDIDATE:
                continue
            if field.feature not in features:
                raise DefinitionError(
                    f"the encoder reads '{field.feature}', which is not among the definitions",
                    where="signature",
                    hint=suggest(field.feature, features, "features"),
                )
            defined = features[field.feature]
            kind = type(field.encoding).__name__.lower()
            inputs.append(Input(field.feature, defined.id, defined.type, defined.is_list, field.level, kind))
            context |= {name: ContextInput(name, kind) for name, kind in defined.context}
        return cls(tuple(inputs), tensors, outputs, tuple(context.values()))

    def features(self, level: Level | None = None) -> tuple[str, ...]:
        """The full names of the features to fetch, all or those of a level."""
        return tuple(i.feature for i in self.inputs if level in (None, i.level))

    def to_json(self) -> bytes:
        """Readable JSON, the inverse of `from_json`."""
        return msgspec.json.format(msgspec.json.encode(self)) + b"\n"

    @classmethod
    def from_json(cls, content: bytes) -> Signature:
        """Reads what `to_json` wrote.

        Raises:
            ArtifactError: it is not JSON, or not a signature.
        """
        try:
            return msgspec.json.decode(content, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ArtifactError(f"this is not a signature: {error}", where=FILE) from error

    @classmethod
    def load(cls, folder: Path) -> Signature:
        """The signature of an artifact.

        Raises:
            ArtifactError: it is missing or not a signature.
        """
        try:
            content = (folder / FILE).read_bytes()
        except OSError as error:
            raise ArtifactError(f"the signature can't be read: {error}", where=str(folder)) from error
        return cls.from_json(content)

    def diff(self, other: Signature) -> list[str]:
        r"""What differs, one line each, `-` of this one and `+` of the other; empty when equal.

        >>> a = Signature((), (TensorSpec("item_ids", "int64", ("items", 2)),), ())
        >>> b = Signature((), (TensorSpec("item_ids", "int64", ("items", 3)),), ())
        >>> print(*a.diff(b), sep="\n")
        tensor 'item_ids' shape: - [items, 2] + [items, 3]
        """
        return [
            *_differences("input", {i.feature: i for i in self.inputs}, {i.feature: i for i in other.inputs}),
            *_differences("tensor", {t.name: t for t in self.tensors}, {t.name: t for t in other.tensors}),
            *_differences("output", {t.name: t for t in self.outputs}, {t.name: t for t in other.outputs}),
            *_differences("context", {c.name: c for c in self.context}, {c.name: c for c in other.context}),
        ]

    def check_features(self, offered: Mapping[str, Described], place: str = "signature") -> None:
        """Checks that the features that can be read are those that the model was trained on.

        Args:
            offered: definitions by full name; more than the model needs is fine.
            place: what a message names as the place.

        Raises:
            DefinitionError: a feature is missing, or has another definition; all of them are named.
        """
        missing = [i.feature for i in self.inputs if i.feature not in offered]
        if missing:
            raise DefinitionError(
                f"the model reads {_listed(missing)}, which is not defined",
                where=place,
                hint=suggest(missing[0], offered, "features"),
            )
        changed = [
            f"'{i.feature}' is {_kind(o.type, o.is_list)} with id {o.id[:12]}, expected "
            f"{_kind(i.type, i.is_list)} with id {i.id[:12]}"
            for i in self.inputs
            if (o := offered[i.feature]).id != i.id or o.type != i.type or o.is_list != i.is_list
        ]
        if changed:
            raise DefinitionError(
                "; ".join(changed),
                where=place,
                hint="the definition changed since the model was trained: train again, or restore the definition",
            )

    def check_tensors(self, tensors: Mapping[str, Array]) -> None:
        """Checks that tensors have the names, dtypes and shapes that the graph takes.

        Raises:
            DataError: a tensor is missing, not known, of another dtype or shape, or sizes of one name differ.
        """
        unknown = [t for t in tensors if t not in {s.name for s in self.tensors}]
        if unknown:
            raise DataError(
                f"unknown tensor {_listed(unknown)}",
                where="tensors",
                hint=suggest(unknown[0], [s.name for s in self.tensors], "tensors"),
            )
        sizes: dict[str, int] = {}
        for spec in self.tensors:
            if spec.name not in tensors:
                raise DataError(f"tensor '{spec.name}' is missing", where="tensors")
            tensor = tensors[spec.name]
            shape = tuple(sizes.setdefault(d, n) if isinstance(d, str) else d for d, n in _zipped(spec, tensor))
            same_rank = tensor.ndim == len(spec.shape)
            if tensor.dtype.name != spec.dtype or not same_rank or tensor.shape != shape:
                expected = shape if same_rank else spec.shape
                raise DataError(
                    f"tensor '{spec.name}' is {tensor.dtype.name} {_shape(tensor.shape)}, expected {spec.dtype} "
                    f"{_shape(expected)}",
                    where="tensors",
                )


def _zipped(spec: TensorSpec, tensor: Array) -> list[tuple[int | str, int]]:
    return list(zip(spec.shape, tensor.shape, strict=False))


def _kind(kind: Type, is_list: bool) -> str:
    return f"lists of {kind}" if is_list else str(kind)


def _listed(names: list[str]) -> str:
    return ", ".join(f"'{n}'" for n in names)


def _shape(shape: tuple[int | str, ...]) -> str:
    return "[" + ", ".join(str(d) for d in shape) + "]"


def _differences(kind: str, ours: Mapping[str, msgspec.Struct], theirs: Mapping[str, msgspec.Struct]) -> list[str]:
    lines: list[str] = []
    for name in dict.fromkeys((*ours, *theirs)):
        if name not in theirs:
            lines.append(f"{kind} '{name}': only in -")
        elif name not in ours:
            lines.append(f"{kind} '{name}': only in +")
        else:
            for field in ours[name].__struct_fields__:
                a, b = getattr(ours[name], field), getattr(theirs[name], field)
                if a != b:
                    lines.append(f"{kind} '{name}' {field}: - {_shown(a)} + {_shown(b)}")
    return lines


def _shown(value: object) -> str:
    return "[" + ", ".join(str(d) for d in value) + "]" if isinstance(value, tuple) else str(value)  # pyright: ignore[reportUnknownVariableType,reportUnknownArgumentType]

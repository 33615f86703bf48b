"""The definitions of a service's steps: where its candidates come from, and how an answer is chosen of those scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast, final

from bedplate.arguments import checks_arguments
from bedplate.errors import ConfigError, DefinitionError
from bedplate.registry.version import parse_reference
from bedplate.types import parse_duration

MOST = 10_000
"""The largest `count`, `top` and `most_candidates`."""


@checks_arguments
@final
@dataclass(frozen=True, slots=True)
class Retrieval:
    """Candidates that are near: the items nearest to the request's vector, over the whole catalogue.

    Attributes:
        model: a registered model with a retrieval index: `name`, `name:3` or `name@champion`.
        count: how many candidates are hydrated and scored.
        always: features of the request (a key or a list of keys) whose items are candidates wherever their vectors lie,
            such as those bought before. They come first and count towards `count`.
        name: what answers call this source.
    """

    model: str
    count: int = 200
    always: Sequence[str] = ()
    name: str = "retrieval"

    def __post_init__(self) -> None:
        """Checks the model's reference, the count, the name, and that `always` is a list of names.

        Raises:
            DefinitionError: the reference can't be one, the count is out of range, or `always` is something else.
        """
        place = f"retrieval '{self.model}'"
        check_model(self.model, place)
        check_size(self.count, "count", place)
        check_names(self.always, "always", place)
        check_text(self.name, "name", place)

    def form(self) -> dict[str, Any]:
        """The canonical form."""
        found: dict[str, Any] = {"model": self.model, "count": self.count, "always": list(self.always)}
        return found if self.name == "retrieval" else found | {"name": self.name}


@checks_arguments
@final
@dataclass(frozen=True, slots=True)
class Popular:
    """Candidates that many like: the items of the catalogue with the largest values of a feature.

    All items are ranked by the feature's values as of then when the service starts, and again in the background when a
    request finds the ranking older than `every`; requests don't wait for it. Items without a value are left out.

    Attributes:
        feature: of the item alone, a number, such as how often it was sold in the last day.
        count: how many candidates.
        every: how old the ranking may be, such as "1m".
        catalogue: a registered model whose retrieval index lists the items; by default the one of the first Retrieval.
        name: what answers call this source.
    """

    feature: str
    count: int = 100
    every: str = "1m"
    catalogue: str | None = None
    name: str = "popular"

    def __post_init__(self) -> None:
        """Checks the arguments.

        Raises:
            DefinitionError: a name that is none, a count out of range, or no duration.
        """
        place = f"popular '{self.feature}'"
        check_text(self.feature, "feature", "popular")
        check_size(self.count, "count", place)
        parse_duration(self.every, where=f"{place}: every", error=DefinitionError)
        if self.catalogue is not None:
            check_model(self.catalogue, f"{place}: catalogue")
        check_text(self.name, "name", place)

    def form(self) -> dict[str, Any]:
        """The canonical form."""
        return {"popular": self.feature, "count": self.count, "every": self.every, "catalogue": self.catalogue}


@checks_arguments
@final
@dataclass(frozen=True, slots=True)
class Recent:
    """Candidates that the request's own past brings: the items in a feature of the request, newest first.

    Attributes:
        feature: of the request, a key or a list of keys as `LastN` makes it, such as the items seen last.
        count: how many candidates.
        name: what answers call this source.
    """

    feature: str
    count: int = 50
    name: str = "recent"

    def __post_init__(self) -> None:
        """Checks the arguments.

        Raises:
            DefinitionError: a name that is none, or a count out of range.
        """
        check_text(self.feature, "feature", "recent")
        check_size(self.count, "count", f"recent '{self.feature}'")
        check_text(self.name, "name", f"recent '{self.feature}'")

    def form(self) -> dict[str, Any]:
        """The canonical form."""
        return {"recent": self.feature, "count": self.count}


@checks_arguments
@final
@dataclass(frozen=True, slots=True)
class Given:
    """Candidates that the client names, in the field `candidates` of a `recommend` request.

    Attributes:
        count: how many at most.
        name: what answers call this source.
    """

    count: int = 100
    name: str = "given"

    def __post_init__(self) -> None:
        """Checks the count and the name.

        Raises:
            DefinitionError: the count is out of range, or the name is none.
        """
        check_size(self.count, "count", "given")
        check_text(self.name, "name", "given")

    def form(self) -> dict[str, Any]:
        """The canonical form."""
        return {"given": True, "count": self.count}


CandidateSource: TypeAlias = Retrieval | Popular | Recent | Given


@checks_arguments
@final
@dataclass(frozen=True, slots=True)
class Diversity:
    """Maximal marginal relevance: items that are like those above come later.

    Each position takes the item with the largest

        (1 - weight) * relevance - weight * similarity

    where the relevance is the score, moved so that those of the request's candidates span 0 to 1, and the similarity is
    the largest to an item above. Carbonell and Goldstein, The Use of MMR, Diversity-Based Reranking, SIGIR 1998.

    Attributes:
        weight: from 0, the order of the scores, to 1.
        by: a feature of the item: items are similar, 1, where its values are equal, else 0; of vectors the similarity
            is the cosine. None: the cosine of the vectors in the index of the first Retrieval.
    """

    weight: float = 0.3
    by: str | None = None

    def __post_init__(self) -> None:
        """Checks the arguments.

        Raises:
            DefinitionError: a weight that is not from 0 to 1, or a name that is none.
        """
        check_number(self.weight, "weight", "diversity", 0.0, 1.0)
        if self.by is not None:
            check_text(self.by, "by", "diversity")

    def form(self) -> dict[str, Any]:
        """The canonical form."""
        return {"weight": self.weight, "by": self.by}


@checks_arguments
@final
@dataclass(frozen=True, slots=True)
class Quota:
    """At most so many items of each value of a feature in an answer, such as of one brand.

    Items without a value are not counted. An answer is shorter rather than beyond a quota.

    Attributes:
        feature: of the item: a key, a text, an integer or a boolean.
        most: how many items of each value.
    """

    feature: str
    most: int

    def __post_init__(self) -> None:
        """Checks the arguments.

        Raises:
            DefinitionError: a name that is none, or a number out of range.
        """
        check_text(self.feature, "feature", "quota")
        check_size(self.most, "most", f"quota '{self.feature}'")

    def form(self) -> dict[str, Any]:
        """The canonical form."""
        return {"feature": self.feature, "most": self.most}


@checks_arguments
@final
@dataclass(frozen=True, slots=True)
class Epsilon:
    """Exploration: each position takes, with a probability, any of the candidates left; else the best one.

    Attributes:
        probability: of taking any, from 0 to 1.
        best: only among so many best; None: among all.
    """

    probability: float = 0.05
    best: int | None = None

    def __post_init__(self) -> None:
        """Checks the arguments.

        Raises:
            DefinitionError: one is out of range.
        """
        check_number(self.probability, "probability", "epsilon", 0.0, 1.0)
        if self.best is not None:
            check_size(self.best, "best", "epsilon")

    def form(self) -> dict[str, Any]:
        """The canonical form."""
        return {"epsilon": self.probability, "best": self.best}


@checks_arguments
@final
@dataclass(frozen=True, slots=True)
class Softmax:
    """Exploration: each position takes a candidate left with a probability in proportion to exp(score / temperature).

    The order is then one of the Plackett-Luce model. With a `Diversity`, its value stands for the score.

    Attributes:
        temperature: above 0, in units of the score; a small one takes almost always the best.
        best: only among so many best; None: among all.
    """

    temperature: float
    best: int | None = None

    def __post_init__(self) -> None:
        """Checks the arguments.

        Raises:
            DefinitionError: one is out of range.
        """
        check_number(self.temperature, "temperature", "softmax", 1e-6, 1e6)
        if self.best is not None:
            check_size(self.best, "best", "softmax")

    def form(self) -> dict[str, Any]:
        """The canonical form."""
        return {"softmax": self.temperature, "best": self.best}


@checks_arguments
@final
@dataclass(frozen=True, slots=True)
class Thompson:
    """Exploration: each position takes the candidate left that is the best after normal noise was added to the scores.

    As Thompson sampling does, for a model that is uncertain by the same deviation of every score. With a `Diversity`,
    its value stands for the score.

    Attributes:
        deviation: standard deviation of the noise, above 0, in units of the score.
        best: only among so many best.
    """

    deviation: float
    best: int = 50

    def __post_init__(self) -> None:
        """Checks the arguments.

        Raises:
            DefinitionError: one is out of range.
        """
        check_number(self.deviation, "deviation", "thompson", 1e-6, 1e6)
        check_size(self.best, "best", "thompson")

    def form(self) -> dict[str, Any]:
        """The canonical form."""
        return {"thompson": self.deviation, "best": self.best}


Exploration: TypeAlias = Epsilon | Softmax | Thompson


def check_size(size: object, name: str, place: str) -> None:
    """Raises `DefinitionError` where this is no whole number from 1 to `MOST`."""
    is_whole = isinstance(size, int) and not isinstance(size, bool)
    if not is_whole or not 1 <= cast("int", size) <= MOST:
        raise DefinitionError(f"{name} is {size!r}, expected 1 to {MOST}", where=place)


def check_number(number: object, name: str, place: str, least: float, most: float) -> None:
    """Raises `DefinitionError` where this is no number from `least` to `most`."""
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    if not is_number or not least <= cast("float", number) <= most:
        raise DefinitionError(f"{name} is {number!r}, expected a number from {least:g} to {most:g}", where=place)


def check_text(text: object, name: str, place: str) -> None:
    """Raises `DefinitionError` where this is no text, or an empty one."""
    if not isinstance(text, str) or not text:
        raise DefinitionError(f"got the {name} {text!r}, expected a text", where=place)


def check_names(names: object, part: str, place: str) -> None:
    """Raises `DefinitionError` where this is no list of texts."""
    if isinstance(names, str):
        raise DefinitionError(f"{part} is a list", where=place, hint=f"write {part}=['{names}']")
    if not isinstance(names, list | tuple) or not all(isinstance(n, str) for n in cast("Sequence[object]", names)):
        raise DefinitionError(f"{part} is {names!r}, expected a list of the names of features", where=place)


def check_model(reference: object, place: str) -> None:
    """Raises `DefinitionError` where this can't refer to a model."""
    if not isinstance(reference, str):
        raise DefinitionError(f"got {reference!r}, expected the name of a model", where=place)
    try:
        parse_reference(reference)
    except ConfigError as error:
        raise DefinitionError(error.message, where=place, hint=error.hint) from None

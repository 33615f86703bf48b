"""Links: the key of one entity in a feature of another, and the chains of them that reach a feature.

A link gives features of another entity to a row: this item's creator, then the creator's features. A feature that is
reached through links is called by the names of the links in the order in which they are followed, and then by its own:
`item_creator.creators.followers_7d`. So the same feature that is reached by two ways has two names.

All is as of one time: at `t` the key is the value of its feature at `t`, and the features behind it are those of that
key at `t`. Where the key is null, so is all behind it, counts too: there is no such entity to count for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from bedplate.arguments import checks_arguments
from bedplate.canonical import digest
from bedplate.errors import DefinitionError, suggest
from bedplate.features.entity import Entity
from bedplate.features.view import CompiledView, Feature
from bedplate.types import Type


@checks_arguments
@final
class Link:
    """Where the key of an entity is found: in a feature of another.

    Views about the entity can then be read for rows that have the feature, and views about the entity and others
    together for rows that have the others too.

    Args:
        name: unique in the project, also among its views, without dots; the features behind the link are called by it.
        feature: the full name of a feature of a view; one integer or string, of the type of the entity's key.
        entity: whose key the feature holds.

    Raises:
        DefinitionError: an argument does not fit.

    >>> Link("item_creator", "products.creator_id", Entity("creator", key="creator_id")).form()
    {'feature': 'products.creator_id', 'entity': 'creator'}
    """

    __slots__ = ("entity", "feature", "name")

    def __init__(self, name: str, feature: str, entity: Entity) -> None:
        # Whoever writes definitions may run no type checker.
        for part, value in (("name", name), ("feature", feature)):
            if not isinstance(value, str) or not value or (part == "name" and "." in value):  # pyright: ignore[reportUnnecessaryIsInstance]
                wanted = (
                    "a text without dots" if part == "name" else 'the full name of a feature, such as "view.feature"'
                )
                raise DefinitionError(f"got the {part} {value!r}, expected {wanted}", where=f"link '{name}'")
        if not isinstance(entity, Entity):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError(f"got the entity {entity!r}, expected an Entity", where=f"link '{name}'")
        self.name, self.feature, self.entity = name, feature, entity

    @property
    def place(self) -> str:
        """What a message calls the link."""
        return f"link '{self.name}'"

    def form(self) -> dict[str, Any]:
        """The canonical form."""
        return {"feature": self.feature, "entity": self.entity.name}


@final
@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """A view that is read by keys which features hold.

    Attributes:
        path: the names of the links that lead to the view, in the order in which they are followed.
        view: the view.
        keys: for each of the view's entities the full name of the feature that holds its key, or None: it is the row's.
        entities: those whose keys a row must have for all of this, that of its links included.
        depth: how many reads come before, each of what the one before found: at least 1.
    """

    path: tuple[str, ...]
    view: CompiledView
    keys: tuple[str | None, ...]
    entities: tuple[Entity, ...]
    depth: int

    @property
    def prefix(self) -> str:
        """What comes before a feature's own full name."""
        return f"{'.'.join(self.path)}."

    def feature(self, own: Feature, known: Mapping[str, Feature]) -> Feature:
        """A feature of the view, as it is when it is reached through the links.

        Args:
            own: the feature.
            known: the features that hold the keys, by name.
        """
        held = [None if key is None else known[key].id for key in self.keys]
        named = zip(self.view.view.entities, self.keys, strict=True)
        by = ", ".join(f"{entity.name} = {key}" for entity, key in named if key is not None)
        text = f"{own.text}, of {by}"
        return Feature(self.prefix + own.name, own.type, own.is_list, digest([own.id, "by", held]), text)


@final
class _Links:
    """Links, checked against the views of a project."""

    def __init__(self, links: Sequence[Link], views: Mapping[str, CompiledView], kinds: Mapping[str, Type]) -> None:
        self.links = {link.name: link for link in links}
        self.views = list(views.values())
        # The view that holds the key of each link.
        self.of: dict[str, CompiledView] = {}
        owners = {name: view for view in self.views for name in view.features}
        for link in links:
            self._check(link, owners, kinds)
            self.of[link.name] = owners[link.feature]
        self._check_cycles()

    def _check(self, link: Link, owners: Mapping[str, CompiledView], kinds: Mapping[str, Type]) -> None:
        if self.links[link.name] is not link:
            raise DefinitionError("two links have this name", where=link.place, hint="give one of them another name")
        if any(view.name == link.name for view in self.views):
            raise DefinitionError(
                f"a view is named '{link.name}' too, and '{link.name}.*' must mean one of them",
                where=link.place,
                hint="give the link another name",
            )
        if link.feature not in owners:
            hint = suggest(link.feature, owners, "features of views")
            raise DefinitionError(f"no view has the feature '{link.feature}'", where=link.place, hint=hint)
        if link.entity.name not in kinds:
            hint = suggest(link.entity.name, kinds, "entities")
            raise DefinitionError(f"no view is about the entity '{link.entity.name}'", where=link.place, hint=hint)
        feature, kind = owners[link.feature].features[link.feature], kinds[link.entity.name]
        if feature.is_list or feature.type is not kind:
            got = f"a list of {feature.type}" if feature.is_list else f"of type {feature.type}"
            raise DefinitionError(
                f"'{link.feature}' is {got}, and the key of '{link.entity.name}' of type {kind}",
                where=link.place,
                hint="a link needs one key: the last one of a list is a feature with n=1 or Last"
                if feature.is_list
                else "cast the column in a source's prepare step",
            )

    def _check_cycles(self) -> None:
        """Raises `DefinitionError` where links lead from an entity back to it."""

        def visit(entity: str, path: tuple[Link, ...]) -> None:
            for link in self.links.values():
                if entity not in (e.name for e in self.of[link.name].view.entities):
                    continue
                if link in path:
                    cycle = path[path.index(link) :]
                    way = " -> ".join([entity, *(one.entity.name for one in cycle)])
                    raise DefinitionError(
                        f"the links form a cycle: {way}, by {', '.join(one.name for one in cycle)}",
                        where=cycle[0].place,
                        hint="an entity of another name with the same key ends it, such as "
                        "Entity('parent', key='category_id'), with a view of its own over the same source",
                    )
                visit(link.entity.name, (*path, link))

        for link in self.links.values():
            visit(link.entity.name, (link,))

    def chains(self) -> list[Chain]:
        """Every way to every view, those first that need fewer reads before."""
        chains: list[Chain] = []
        for view in self.views:
            waiting: list[tuple[Link, ...]] = [()]
            while waiting:
                path = waiting.pop(0)
                needed = {e.name for e in self._needed(path, view)}
                waiting += [(link, *path) for link in self.links.values() if link.entity.name in needed]
                if path:
                    chains.append(self._chain(path, view))
        return sorted(chains, key=lambda chain: chain.depth)

    def _chain(self, path: tuple[Link, ...], view: CompiledView) -> Chain:
        held = {link.entity.name: self._key(path[:i], link) for i, link in enumerate(path)}
        keys = tuple(held.get(e.name) for e in view.view.entities)
        return Chain(tuple(n.name for n in path), view, keys, self._needed(path, view), self._depth(path, view))

    def _key(self, before: tuple[Link, ...], link: Link) -> str:
        """The full name of the feature that holds the key of a link which is followed after others."""
        used = self._used(before, self.of[link.name])
        return ".".join([*(one.name for one in used), link.feature])

    def _used(self, path: tuple[Link, ...], view: CompiledView) -> tuple[Link, ...]:
        """The links of a path that a view at its end needs."""
        needed, used = {e.name for e in view.view.entities}, tuple[Link, ...]()
        for link in reversed(path):
            if link.entity.name in needed:
                needed = (needed - {link.entity.name}) | {e.name for e in self.of[link.name].view.entities}
                used = (link, *used)
        return used

    def _needed(self, path: tuple[Link, ...], view: CompiledView) -> tuple[Entity, ...]:
        """The entities whose keys a row must have."""
        needed = dict.fromkeys(view.view.entities)
        for link in reversed(path):
            needed = {e: None for e in needed if e.name != link.entity.name}
            needed |= dict.fromkeys(self.of[link.name].view.entities)
        return tuple(needed)

    def _depth(self, path: tuple[Link, ...], view: CompiledView) -> int:
        used = self._used(path, view)
        held = [i for i, link in enumerate(used) if link.entity.name in (e.name for e in view.view.entities)]
        return 1 + max((self._depth(used[:i], self.of[used[i].name]) for i in held), default=-1)


def chains_of(links: Sequence[Link], views: Mapping[str, CompiledView], kinds: Mapping[str, Type]) -> list[Chain]:
    """Every way in which links reach a view, those first that need fewer reads before.

    Args:
        links: the links of a project.
        views: its views by name.
        kinds: the type of each entity's key.

    Raises:
        DefinitionError: two links of one name, or one with a view's name, a feature or an entity that is not there, a
            feature that holds no such keys, or links that lead from an entity back to it.
    """
    return _Links(links, views, kinds).chains() if links else []

"""The model repository: which versions of which models are served, in which state, and what they have done.

The versions that a service uses are served from its start to its end. Others of the registry are loaded and unloaded by
an operator while the server answers: loading runs on a thread, and a version answers from the moment that it has
reproduced its golden scores. All methods are called on the event loop's thread.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_repository.md
"""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Any, TypeVar, final

from bedplate.errors import BedplateError, NotServedError, RequestError, StoreError, suggest
from bedplate.inference.infer_call import InferCall
from bedplate.inference.model import Model, SharedCalls
from bedplate.inference.model_source import ModelSource
from bedplate.inference.statistics import Spent, Statistics
from bedplate.inference.time_limit import TimeLimit
from bedplate.inference.version_policy import VersionPolicy, asked_versions, choose
from bedplate.malformed import cut
from bedplate.types import Array

READY, LOADING, UNAVAILABLE = "READY", "LOADING", "UNAVAILABLE"
"""The states of a version, as the protocol names them."""

_Answer = TypeVar("_Answer")


@final
@dataclass(slots=True)
class Served:
    """A version that answers.

    Attributes:
        model: what runs.
        fixed: it belongs to the service, and can't be unloaded.
        statistics: what it has done.
    """

    model: Model
    fixed: bool = False
    statistics: Statistics = field(default_factory=Statistics)
    _waiting: int = 0
    _release: Callable[[], None] | None = None
    _limit: TimeLimit = field(init=False)

    def __post_init__(self) -> None:
        """Calls of the model end with the time of the client."""
        self._limit = TimeLimit(None, self.model.place)

    def answer(
        self,
        decode: Callable[[Model], InferCall],
        encode: Callable[[Model, InferCall, Sequence[Array]], _Answer],
        queue_ns: int = 0,
        deadline: float = math.inf,
    ) -> _Answer | Awaitable[_Answer]:
        """The answer to one request, counted; to be awaited where requests share calls of the model.

        Args:
            decode: gives the request's tensors.
            encode: makes the answer of the results.
            queue_ns: what the request has waited.
            deadline: when the answer is of no more use, on the monotonic clock.

        Raises:
            RequestError: the request is wrong.
            DeadlineError: the model takes longer than that.
        """
        if self.model.batcher is not None:
            return self._shared(self.model.batcher, decode, encode, queue_ns, deadline)
        begin = perf_counter_ns()
        try:
            call = self._decoded(decode)
            decoded = perf_counter_ns()
            names = [name for name, _ in call.outputs]
            results = self._limit.run(lambda: self.model.run(call.tensors, names), deadline)
            ran = perf_counter_ns()
            answer = encode(self.model, call, results)
        except BaseException:
            self.statistics.reject(perf_counter_ns() - begin + queue_ns)
            raise
        end = perf_counter_ns()
        self.statistics.succeed(Spent(queue_ns, decoded - begin, ran - decoded, end - ran))
        return answer

    def _decoded(self, decode: Callable[[Model], InferCall]) -> InferCall:
        call, indices = decode(self.model), self.model.indices
        if indices is not None:
            indices.check(call.tensors)
        return call

    def release(self, release: Callable[[], None]) -> None:
        """Calls this when no request needs the model any more: now, or after those under way."""
        self._release = release
        self._release_unused()

    async def _shared(
        self,
        batcher: SharedCalls,
        decode: Callable[[Model], InferCall],
        encode: Callable[[Model, InferCall, Sequence[Array]], _Answer],
        queue_ns: int,
        deadline: float,
    ) -> _Answer:
        """As `answer`; what a request waits for others counts as its queue."""
        begin = perf_counter_ns()
        self._waiting += 1
        try:
            call = self._decoded(decode)
            decoded = perf_counter_ns()
            ran = await batcher.call(call.tensors, [name for name, _ in call.outputs], deadline)
            done = perf_counter_ns()
            answer = encode(self.model, call, ran.results)
        except BaseException:
            self.statistics.reject(perf_counter_ns() - begin + queue_ns)
            raise
        finally:
            self._waiting -= 1
            self._release_unused()
        waited = max(0, done - decoded - ran.took_ns)
        spent = (queue_ns + waited, decoded - begin, ran.took_ns, perf_counter_ns() - done)
        self.statistics.succeed(Spent(*spent, batch=ran.batch, leads=ran.leads))
        return answer

    def _release_unused(self) -> None:
        if self._release is not None and not self._waiting:
            self._release()
            self._release = None


@final
class Repository:
    """The versions that one server answers for.

    Args:
        source: what may be loaded; None: nothing but what `serve` is given.
        is_controlled: whether clients may load and unload.

    Attributes:
        is_controlled: as given.
        is_open: whether the models of the service are there.
    """

    __slots__ = (
        "_changes",
        "_default",
        "_failed",
        "_loading",
        "_lock",
        "_served",
        "_source",
        "is_controlled",
        "is_open",
    )

    def __init__(self, source: ModelSource | None = None, *, is_controlled: bool = False) -> None:
        self._source = source
        self.is_controlled, self.is_open = is_controlled, False
        self._served: dict[str, dict[str, Served]] = {}
        self._default: dict[str, str] = {}
        self._loading: set[tuple[str, str]] = set()
        self._failed: dict[tuple[str, str], str] = {}
        self._lock = asyncio.Lock()  # one change at a time
        self._changes: set[asyncio.Task[None]] = set()

    def attach(self, source: ModelSource) -> None:
        """Says what may be loaded, before the first request."""
        self._source = source

    def serve(self, models: Sequence[Model]) -> None:
        """Serves the models of the service, which stay. A request that names no version gets these."""
        for model in models:
            self._served.setdefault(model.name, {})[model.version] = Served(model, fixed=True)
            self._default[model.name] = model.version
        self.is_open = True

    def find(self, name: str, version: str | None) -> Served:
        """A version that answers; None: the service's, or of those of the last load the champion, or else the newest.

        A load of one version by its number changes that only where none was served.

        Raises:
            NotServedError: it is not served.
        """
        versions = self._served.get(name)
        if not versions:
            raise NotServedError(f"no model '{cut(name)}' is served", hint=suggest(cut(name), self._served, "models"))
        found = versions.get(version or self._default[name])
        if found is None:
            raise NotServedError(
                f"version '{cut(version or '')}' of model '{name}' is not served",
                hint=suggest(cut(version or ""), versions, "versions"),
            )
        return found

    def serves(self, name: str, version: str | None) -> bool:
        """Whether `find` finds this version."""
        versions = self._served.get(name)
        return bool(versions) and (version or self._default[name]) in versions

    @property
    def models(self) -> list[Model]:
        """All versions that answer."""
        return [served.model for versions in self._served.values() for served in versions.values()]

    def versions(self, name: str) -> list[str]:
        """The versions of a model that answer, oldest first."""
        return sorted(self._served.get(name, {}), key=_age)

    def statistics(self, name: str | None = None, version: str | None = None) -> list[dict[str, Any]]:
        """What versions have done: one, all of a model, or all.

        Raises:
            NotServedError: a model or version that is named is not served.
        """
        if name is not None:
            self.find(name, version)
        return [
            {"name": model, "version": v, **self._served[model][v].statistics.form()}
            for model in sorted(self._served)
            if name in (None, model)
            for v in self.versions(model)
            if version in (None, v)
        ]

    async def index(self, *, ready: bool = False) -> list[dict[str, str]]:
        """Every version that is served or may be, with its state and why it is in it.

        Args:
            ready: only those that answer; the registry is not asked for them.

        Raises:
            StoreError: the registry can't be read: what it holds is not known.
        """
        known: Mapping[str, Sequence[str]] = {}
        if not ready and self._source is not None:
            try:
                known = await asyncio.to_thread(self._source.versions)
            except StoreError as error:
                hint = 'versions that are served are listed without it: ask for {"ready": true}'
                hint = f"{error.hint}; {hint}" if error.hint else hint
                raise StoreError(error.message, where=error.where, hint=hint) from error
        found = {(name, v) for name, versions in known.items() for v in versions}
        found |= {(name, v) for name, versions in self._served.items() for v in versions}
        return [
            {"name": name, "version": version, "state": state, "reason": reason}
            for name, version in sorted(found, key=lambda key: (key[0], _age(key[1])))
            for state, reason in [self._state(name, version)]
        ]

    async def load(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Loads versions of a model, and unloads those that the request does not ask for.

        A version that answers already is left as it is: versions never change. A load that has begun is brought to its
        end, whether or not somebody still waits for it.

        Args:
            name: the model.
            parameters: which versions, see `version_policy`; none: the champion, or else the newest. `version` loads
                one and unloads none.

        Raises:
            RequestError: clients may not, or a parameter is wrong.
            NotFoundError: there is no such model or version.
            ArtifactError: a version does not prove itself. The others are loaded, as the hint says.
        """
        source = self._controlled()
        policy = asked_versions(parameters, name)
        # A thread can't be stopped: a version that it loads for nobody would be held, and served to nobody.
        task = asyncio.ensure_future(self._load(source, name, policy, is_one="version" in parameters))
        self._changes.add(task)
        task.add_done_callback(self._changed)
        await asyncio.shield(task)

    def _changed(self, task: asyncio.Task[None]) -> None:
        """A change is over; where nobody waited for it, its error stays in the index."""
        self._changes.discard(task)
        if not task.cancelled():
            task.exception()

    async def _load(self, source: ModelSource, name: str, policy: VersionPolicy | None, *, is_one: bool) -> None:
        async with self._lock:
            known = await asyncio.to_thread(source.versions)
            if name not in known:
                hint = suggest(cut(name), known, "models")
                raise NotServedError(f"the registry has no model '{cut(name)}'", hint=hint)
            default = await asyncio.to_thread(source.default, name)
            wanted = choose(policy, name, known, default)
            of_these = None if is_one or not wanted else default if default in wanted else wanted[-1]
            meant = [self._default.get(name), of_these]
            first = [of_these] if of_these is not None else []  # is served, and meant, as soon as it is there
            missing = [v for v in (*first, *wanted) if v not in self._served.get(name, {})]
            try:
                await self._load_all(source, name, list(dict.fromkeys(missing)))
                if not is_one:
                    self._drop(source, name, [v for v in self.versions(name) if v not in wanted])
                meant.reverse()
            finally:
                self._mean(name, meant)

    async def unload(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Stops serving a model, or one version of it. Requests under way are answered.

        Args:
            name: the model.
            parameters: `version`, or none for all; `unload_dependents` is accepted: nothing depends on a model.

        Raises:
            RequestError: clients may not, the service uses the version, or a parameter is wrong.
            NotServedError: it is not served.
        """
        source = self._controlled()
        version = parameters.get("version")
        unknown = [p for p in parameters if p not in ("version", "unload_dependents")]
        if unknown:
            raise RequestError(f"the parameter '{unknown[0]}' is not supported", where="$.parameters")
        async with self._lock:
            self.find(name, None if version is None else str(version))
            versions = self.versions(name) if version is None else [str(version)]
            if all(self._served[name][v].fixed for v in versions):
                raise RequestError(f"the service uses version {versions[0]} of model '{name}': it stays")
            self._drop(source, name, versions)
            self._mean(name, [self._default.get(name)])

    async def _load_all(self, source: ModelSource, name: str, versions: Sequence[str]) -> None:
        failures: dict[str, BedplateError] = {}
        for version in versions:
            key = (name, version)
            self._loading.add(key)
            self._failed.pop(key, None)
            try:
                model = await asyncio.to_thread(source.load, name, version)
            except BedplateError as error:
                self._failed[key] = error.for_client().message
                failures[version] = error
            else:
                self._served.setdefault(name, {})[version] = Served(model)
                self._default.setdefault(name, version)
            finally:
                self._loading.discard(key)
        if failures:
            raise _with_rest(failures, [version for version in versions if version not in failures])

    def _drop(self, source: ModelSource, name: str, versions: Sequence[str]) -> None:
        served = self._served.get(name, {})
        for version in versions:
            if not served[version].fixed:
                dropped = served.pop(version)
                dropped.release(functools.partial(source.release, dropped.model))
        if not served:
            self._served.pop(name, None)

    def _mean(self, name: str, versions: Sequence[str | None]) -> None:
        """Says which version is meant where none is named: the service's, or the first of these, or else the newest."""
        served = self._served.get(name)
        if not served:
            self._default.pop(name, None)
            return
        fixed = [v for v in self.versions(name) if served[v].fixed]
        chosen = [v for v in (*fixed[-1:], *versions) if v in served]
        self._default[name] = chosen[0] if chosen else self.versions(name)[-1]

    def _controlled(self) -> ModelSource:
        if not self.is_controlled or self._source is None:
            raise RequestError("models can't be loaded and unloaded here", hint="start the server with --model-control")
        return self._source

    def _state(self, name: str, version: str) -> tuple[str, str]:
        if version in self._served.get(name, {}):
            return READY, ""
        if (name, version) in self._loading:
            return LOADING, ""
        return UNAVAILABLE, self._failed.get((name, version), "unloaded")


def _with_rest(failures: Mapping[str, BedplateError], loaded: Sequence[str]) -> BedplateError:
    """The first failure; where more than one version was to be loaded, it says what became of the others."""
    first, *_ = failures.values()
    if len(failures) + len(loaded) > 1:
        served = f"{_named(loaded)} loaded" if loaded else "no other was loaded"
        rest = f"{served}; {_named(list(failures))} not: the index says why of each"
        first.hint = f"{first.hint}; {rest}" if first.hint else rest
    return first


def _named(versions: Sequence[str]) -> str:
    ordered = sorted(versions, key=_age)
    return f"version {ordered[0]} is" if len(ordered) == 1 else f"versions {', '.join(ordered)} are"


def _age(version: str) -> tuple[int, str]:
    """Numbers by their size, before other names."""
    return (int(version), "") if version.isdecimal() else (2**62, version)

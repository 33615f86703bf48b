"""The model repository by any loads and unloads, against sets that are plain; and what asks for versions."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from echo import Echo
from hypothesis import given
from hypothesis import strategies as st

from bedplate.errors import ArtifactError, BedplateError, NotFoundError, NotServedError, RequestError
from bedplate.http.message import Request, Response
from bedplate.inference.model import Model
from bedplate.inference.repository import Repository
from bedplate.inference.statistics import Spent, Statistics
from bedplate.inference.version_policy import asked_versions, choose
from bedplate.oip.model_config import model_config
from bedplate.serving.service_app import App

VERSIONS = {"a": ["1", "2", "3", "10"], "b": ["1", "2"]}
DAMAGED = {("a", "3")}
CHAMPION = {"a": "2", "b": "2"}


class Shelf:
    """Models by name, one of which is damaged. Satisfies `ModelSource`."""

    def __init__(self) -> None:
        self.open: list[tuple[str, str]] = []

    def versions(self) -> Mapping[str, Sequence[str]]:
        return VERSIONS

    def default(self, name: str) -> str:
        return CHAMPION[name]

    def load(self, name: str, version: str) -> Model:
        if (name, version) in DAMAGED:
            raise ArtifactError("a file was changed")
        self.open.append((name, version))
        return Model(Echo("float32"), name, version)

    def release(self, model: Model) -> None:
        self.open.remove((model.name, model.version))


def config(**policy: Any) -> dict[str, Any]:
    return {"config": json.dumps({"version_policy": policy})}


LOADS: list[tuple[dict[str, Any], Any]] = [
    ({}, lambda known, champion: [champion]),
    ({"config": "{}"}, lambda known, champion: [champion]),
    (config(), lambda known, champion: [champion]),
    (config(all={}), lambda known, champion: known),
    (config(latest={}), lambda known, champion: known[-1:]),
    (config(latest={"num_versions": 2}), lambda known, champion: known[-2:]),
    (config(latest={"num_versions": 99}), lambda known, champion: known),
    (config(specific={"versions": [2, "1"]}), lambda known, champion: ["1", "2"]),
    (config(specific={"versions": []}), lambda known, champion: []),
    ({"version": 1}, lambda known, champion: ["1"]),
    ({"version": "2"}, lambda known, champion: ["2"]),
]
"""Parameters of a load, and the versions that they ask for."""

steps = st.lists(
    st.one_of(
        st.tuples(st.just("load"), st.sampled_from(["a", "b"]), st.integers(0, len(LOADS) - 1)),
        st.tuples(st.just("unload"), st.sampled_from(["a", "b"]), st.sampled_from([None, 1, 2, "10"])),
    ),
    max_size=8,
)


async def applied(repository: Repository, step: tuple[str, str, Any]) -> BedplateError | None:
    what, name, how = step
    try:
        if what == "load":
            await repository.load(name, LOADS[how][0])
        else:
            await repository.unload(name, {} if how is None else {"version": how})
    except BedplateError as error:
        return error
    return None


def expected(served: dict[str, set[str]], fixed: set[tuple[str, str]], step: tuple[str, str, Any]) -> bool:
    """Changes what is served as a step does; gives whether it succeeds."""
    what, name, how = step
    there = served.setdefault(name, set())
    if what == "load":
        parameters, wanted_of = LOADS[how]
        wanted = set(wanted_of(VERSIONS[name], CHAMPION[name]))
        there |= {v for v in wanted if (name, v) not in DAMAGED}
        if wanted - there:
            return False
        if "version" not in parameters:
            there &= wanted | {v for n, v in fixed if n == name}
        return True
    versions = there if how is None else {str(how)} & there
    loose = {v for v in versions if (name, v) not in fixed}
    there -= loose
    return bool(loose)


@given(steps, st.sampled_from([set(), {("a", "1")}, {("b", "2")}]))
def test_what_is_served_is_what_the_steps_say(
    sequence: list[tuple[str, str, Any]], fixed: set[tuple[str, str]]
) -> None:
    async def main() -> None:
        shelf = Shelf()
        repository = Repository(shelf, is_controlled=True)
        repository.serve([Model(Echo("float32"), name, version) for name, version in fixed])
        served: dict[str, set[str]] = {}
        for name, version in fixed:
            served.setdefault(name, set()).add(version)
        for step in sequence:
            error = await applied(repository, step)
            assert (error is None) == expected(served, fixed, step), (step, error)
            now = {(name, version) for name, versions in served.items() for version in versions}
            assert {(m.name, m.version) for m in repository.models} == now
            assert sorted(shelf.open) == sorted(now - fixed)  # each loaded once, and closed when nobody needs it
            states = {(v["name"], v["version"]): v["state"] for v in await repository.index()}
            assert set(states) == {(name, v) for name, versions in VERSIONS.items() for v in versions}
            assert {key for key, state in states.items() if state == "READY"} == now
            for name in VERSIONS:
                if served.get(name):
                    meant = repository.find(name, None).model.version
                    kept = [v for n, v in fixed if n == name]
                    assert meant in (kept or served[name])
                    assert repository.versions(name) == sorted(served[name], key=int)
                else:
                    with pytest.raises(NotFoundError):
                        repository.find(name, None)
            if error is None and step[0] == "load" and not [1 for n, _ in fixed if n == step[1]]:
                parameters, wanted_of = LOADS[step[2]]
                wanted = wanted_of(VERSIONS[step[1]], CHAMPION[step[1]])
                if wanted and "version" not in parameters:
                    newest = CHAMPION[step[1]] if CHAMPION[step[1]] in wanted else wanted[-1]
                    assert repository.find(step[1], None).model.version == newest

    asyncio.run(main())


@pytest.mark.parametrize(
    ("loads", "meant"),
    [
        ([{"version": 1}, {"version": 10}], "1"),
        ([{"version": 10}, {}], "2"),
        ([config(all={})], "2"),  # the damaged 3 is not served, and the load says so
        ([config(specific={"versions": [1, 10]})], "10"),
        ([config(specific={"versions": [1, 3]})], "1"),
        ([config(specific={"versions": [1, 10]}), {"version": 2}, {"version": 3}], "10"),
        ([{"version": 1}, {"version": 10}, config(specific={"versions": [3]})], "1"),  # a load that failed
        ([{}, config(latest={"num_versions": 2})], "2"),  # one of which a part failed
    ],
)
def test_a_request_that_names_no_version_gets_the_champion_or_the_newest_of_the_last_load(
    loads: list[dict[str, Any]], meant: str
) -> None:
    async def main() -> None:
        repository = Repository(Shelf(), is_controlled=True)
        for parameters in loads:
            with contextlib.suppress(ArtifactError):
                await repository.load("a", parameters)
        assert repository.find("a", None).model.version == meant

    asyncio.run(main())


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"version": True}, "got version True"),
        ({"version": 1.5}, "got version 1.5"),
        ({"version": 1, "config": "{}"}, "without a config"),
        ({"verson": 1}, "'verson' is not supported"),
        ({"config": 7}, "got 7, expected a text of JSON"),
        ({"config": "[]"}, "not a model configuration"),
        ({"config": b"\xff"}, "not a model configuration"),
        ({"config": "[" * 5000}, "not a model configuration"),
        (config(latest={"num_versions": 0}), "not a model configuration"),
        (config(specific={"versions": [1.5]}), "not a model configuration"),
        (config(latest={}, all={}), "several version policies"),
    ],
)
def test_what_asks_for_no_versions_is_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        asked_versions(parameters, "a")
    if "verson" in parameters:
        assert caught.value.hint == "did you mean 'version'?"
    assert choose(asked_versions({"version": "10"}, "a"), "a", VERSIONS, "2") == ["10"]
    with pytest.raises(NotFoundError, match="no version '11'"):
        choose(asked_versions({"version": 11}, "a"), "a", VERSIONS, "2")


def test_nobody_loads_or_unloads_where_that_is_not_allowed() -> None:
    async def main() -> None:
        for repository in (Repository(Shelf()), Repository(None, is_controlled=True)):
            repository.serve([Model(Echo("float32"), "a", "1")])
            for change in (repository.load("a", {"version": 2}), repository.unload("a", {})):
                with pytest.raises(RequestError, match="can't be loaded and unloaded here") as caught:
                    await change
                assert "--model-control" in (caught.value.hint or "")
            assert [m.version for m in repository.models] == ["1"]

    asyncio.run(main())


def test_changes_come_one_after_another() -> None:
    async def main() -> None:
        shelf = Shelf()
        repository = Repository(shelf, is_controlled=True)
        repository.serve([])
        await asyncio.gather(*(repository.load("a", config(specific={"versions": [1, 2]})) for _ in range(5)))
        assert sorted(shelf.open) == [("a", "1"), ("a", "2")]
        results = await asyncio.gather(*(repository.unload("a", {}) for _ in range(3)), return_exceptions=True)
        assert [type(r) for r in results] == [type(None), NotServedError, NotServedError]
        assert shelf.open == []

    asyncio.run(main())


def test_a_load_that_nobody_waits_for_any_more_comes_to_its_end() -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(Shelf):
        def load(self, name: str, version: str) -> Model:
            begun.set()
            assert go_on.wait(20)
            return super().load(name, version)

    async def main() -> None:
        shelf = Slow()
        repository = Repository(shelf, is_controlled=True)
        repository.serve([])
        gone = [asyncio.ensure_future(repository.load("a", {"version": v})) for v in (1, 3)]
        await asyncio.to_thread(begun.wait, 20)
        for load in gone:
            load.cancel()
        assert await asyncio.gather(*gone, return_exceptions=True)
        assert all(load.cancelled() for load in gone)
        assert (await repository.index())[0]["state"] == "LOADING"
        go_on.set()
        await repository.load("b", {})
        assert sorted(shelf.open) == [("a", "1"), ("b", "2")]
        assert sorted((m.name, m.version) for m in repository.models) == shelf.open
        reasons = {v["version"]: v["reason"] for v in await repository.index() if v["name"] == "a"}
        assert reasons["3"] == "a file was changed"

    asyncio.run(main())


def test_a_damaged_version_is_no_reason_to_ask_again() -> None:
    """It stays so until somebody mends it: a client that is told to would load it for ever."""
    ((name, version), *_) = DAMAGED

    async def main() -> Response:
        repository = Repository(Shelf(), is_controlled=True)
        repository.serve([])
        body = json.dumps({"parameters": {"version": version}}).encode()
        answer = App(repository).handle(Request("POST", f"/v2/repository/models/{name}/load", {}, body))
        return answer if isinstance(answer, Response) else await answer

    found = asyncio.run(main())
    assert (found.status, dict(found.headers)) == (500, {})
    assert json.loads(found.body)["error"] == "a file was changed"


@pytest.mark.parametrize(
    ("parameters", "served", "hint"),
    [
        (
            config(all={}),
            ["1", "2", "10"],
            "versions 1, 2, 10 are loaded; version 3 is not: the index says why of each",
        ),
        (
            config(latest={"num_versions": 2}),
            ["10"],
            "version 10 is loaded; version 3 is not: the index says why of each",
        ),
        ({"version": 3}, [], None),
    ],
)
def test_versions_beside_one_that_is_damaged_are_served_and_the_answer_says_so(
    parameters: dict[str, Any], served: list[str], hint: str | None
) -> None:
    async def main() -> None:
        repository = Repository(Shelf(), is_controlled=True)
        repository.serve([])
        app = App(repository)

        async def ask(method: str, path: str, **body: Any) -> tuple[int, Any]:
            answer = app.handle(Request(method, path, {}, json.dumps(body).encode()))
            found = answer if isinstance(answer, Response) else await answer
            return found.status, json.loads(found.body)

        status, said = await ask("POST", "/v2/repository/models/a/load", parameters=parameters)
        assert (status, said["error"], said.get("hint")) == (500, "a file was changed", hint)
        assert repository.versions("a") == served
        _, index = await ask("POST", "/v2/repository/index")
        states = {v["version"]: (v["state"], v["reason"]) for v in index if v["name"] == "a"}
        assert states["3"] == ("UNAVAILABLE", "a file was changed")
        assert [version for version, (state, _) in states.items() if state == "READY"] == served

    asyncio.run(main())


def test_a_configuration_names_versions_and_free_sizes() -> None:
    shown = model_config(Model(Echo("object", "bool"), "m", "2"), ["1", "2", "old"])
    assert shown["version_policy"] == {"specific": {"versions": [1, 2]}}
    assert [(t["data_type"], t["dims"]) for t in shown["input"]] == [("TYPE_STRING", [-1, 2]), ("TYPE_BOOL", [-1, 2])]
    assert "parameters" not in shown


def test_a_shared_run_is_counted_once_and_its_requests_each() -> None:
    statistics = Statistics(clock=lambda: 5_000)
    for leads in (True, False, False):
        statistics.succeed(Spent(1, 2, 30, 4, batch=3, leads=leads))
    statistics.succeed(Spent(0, 1, 10, 1))
    statistics.reject(77)
    shown = statistics.form()
    assert (shown["inference_count"], shown["execution_count"], shown["last_inference"]) == (4, 2, 5)
    assert shown["inference_stats"]["success"] == {"count": 4, "ns": 3 * 37 + 12}
    assert shown["inference_stats"]["fail"] == {"count": 1, "ns": 77}
    assert [(b["batch_size"], b["compute_infer"]) for b in shown["batch_stats"]] == [
        (1, {"count": 1, "ns": 10}),
        (3, {"count": 1, "ns": 30}),
    ]

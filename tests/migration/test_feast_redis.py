"""Feast's Redis online store becomes the URL of Bedplate's, and no password is written anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from feast_world import SHOP, YAML, World

from bedplate.migration.feast_redis import redis_url
from bedplate.online.redis_address import parse_address

ADDRESS = "cache.internal:6380,ssl=true,username=app,password=hunter2,db=3,ssl_ca_certs=ca.pem,socket_timeout=5"


def written(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.rglob("*") if path.is_file())


def test_the_store_is_carried_over_without_its_password(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.define(SHOP)
    world.write("ca.pem", "")
    world.write(
        "feature_store.yaml",
        YAML + f"online_store: {{type: redis, connection_string: '{ADDRESS}', key_ttl_seconds: 60}}\n",
    )
    report = world.imported()
    left = {f"{n['kind']} {n['name']}" for n in report["not_carried"]}
    assert left == {"setting of the online store socket_timeout", "setting of the online store key_ttl_seconds"}
    assert "hunter2" not in written(world.target) + str(report)
    assert any("ONLINE_STORE_PASSWORD" in note for note in report["notes"])
    monkeypatch.setenv("ONLINE_STORE_PASSWORD", "secret")
    address = parse_address(world.project().config.online_url)
    assert (address.hosts, address.tls, address.cluster) == ((("cache.internal", 6380),), True, False)
    assert (address.user, address.password, address.db) == ("app", "secret", 3)
    assert (address.namespace, address.ca) == ("shop", world.repository.resolve() / "ca.pem")


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ({"type": "redis"}, "redis://localhost:6379/0?namespace=shop"),
        ("redis", "redis://localhost:6379/0?namespace=shop"),
        (
            {"connection_string": "h:1,password=${CACHE_SECRET}"},
            "redis://h:1/0?namespace=shop&password_env=CACHE_SECRET",
        ),
        ({"connection_string": "${CACHE_HOST}:1,db=2"}, "redis://here:1/2?namespace=shop"),
        (
            {"redis_type": "redis_cluster", "connection_string": "a:1,b:2,skip_full_coverage_check=true"},
            "redis+cluster://a:1,b:2?namespace=shop",
        ),
        ({"connection_string": "a:1,username=a@b"}, "redis://a%40b@a:1/0?namespace=shop"),
    ],
)
def test_urls(given: object, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_HOST", "here")
    monkeypatch.setenv("CACHE_SECRET", "x")
    found = redis_url(given, "shop", Path())
    assert found.url == url
    assert parse_address(found.url).namespace == "shop"


@pytest.mark.parametrize(
    "given",
    [
        {"redis_type": "redis_sentinel", "connection_string": "a:1"},
        {"connection_string": "${ADDRESS}"},
        {"connection_string": "${NOT_SET}:1"},
        {"connection_string": ""},
    ],
)
def test_what_has_no_url_is_left(world: World, monkeypatch: pytest.MonkeyPatch, given: dict[str, str]) -> None:
    monkeypatch.setenv("ADDRESS", "a:1,password=hunter2")
    world.define(SHOP)
    world.write("feature_store.yaml", YAML + f"online_store: {given | {'type': 'redis'}}\n")
    ((name, (reason, _)),) = world.left().items()
    assert name == "online store redis"
    assert reason
    assert "hunter2" not in written(world.target)
    assert world.project().config.online_url.startswith("lmdb:")

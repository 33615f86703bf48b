"""Whatever an Arrow body holds, the answer says what is wrong with it, soon and in little memory."""

from __future__ import annotations

import io
import time
import tracemalloc
from typing import Any

import polars as pl
import pytest
import shop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bedplate.features.graph import FeatureGraph
from bedplate.http.message import Request, Response
from bedplate.online.fallback import FallbackReader
from bedplate.online.load import bulk_load
from bedplate.online.memory import MemoryStore
from bedplate.serving.feature_app import FeatureApp
from bedplate.serving.feature_plan import FeatureLookup
from bedplate.testing.online_store import grouped

HEADERS = {b"content-type": b"application/vnd.apache.arrow.stream", b"bedplate-features": b"customers.*,products.price"}
CUSTOMERS, PRODUCTS = [3, 4, 99], ["P01", "a product with a long name", "P02"]
COLUMNS: dict[str, Any] = {"customer": CUSTOMERS, "product": PRODUCTS}


@pytest.fixture(scope="module")
def app() -> FeatureApp:
    graph, store = FeatureGraph([shop.customers, shop.products], []), MemoryStore()
    for view in graph.views.values():
        bulk_load(store, view, [grouped(view, shop.events())], shop.NOW)
    app = FeatureApp()
    app.open(FeatureLookup(graph, FallbackReader(store, 5.0), most_keys=500, clock=lambda: shop.NOW))
    return app


def encoded(columns: dict[str, Any], **options: Any) -> bytes:
    out = io.BytesIO()
    pl.DataFrame(columns).write_ipc_stream(out, **options)
    return out.getvalue()


def ask(app: FeatureApp, body: bytes) -> Response:
    return app.handle(Request("POST", "/v1/features", HEADERS, body))


TEXTS = [pl.String, pl.Categorical, pl.Enum(PRODUCTS)]
BODIES = [
    encoded({"customer": pl.Series(CUSTOMERS, dtype=whole), "product": pl.Series(PRODUCTS, dtype=text)}, compat_level=c)
    for whole, text, c in zip(
        (pl.Int64, pl.UInt8, pl.Int32, pl.Int64),
        [*TEXTS, pl.String],
        [*[None] * 3, pl.CompatLevel.oldest()],
        strict=True,
    )
]


@pytest.mark.parametrize("body", BODIES)
def test_every_form_of_keys_is_taken(app: FeatureApp, body: bytes) -> None:
    assert ask(app, body).status == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (encoded({"customer": pl.Series(CUSTOMERS, dtype=pl.Int128), "product": PRODUCTS}), 400),
        (encoded({"customer": pl.Series(CUSTOMERS, dtype=pl.UInt64), "product": PRODUCTS}), 400),
        (encoded({"customer": pl.Series([None] * 3, dtype=pl.Null), "product": PRODUCTS}), 400),
        (encoded({"customer": CUSTOMERS, "product": [[b"x"]] * 3}), 400),
        (encoded(COLUMNS, compression="zstd"), 415),
        (encoded(COLUMNS, compression="lz4"), 415),
        (encoded({"customer": range(501), "product": ["P01"] * 501}), 413),
        (encoded({"customer": range(500), "product": pl.Series(["x" * 200_000] * 500, dtype=pl.Categorical)}), 413),
        (encoded({"customer": range(500), "product": pl.Series(["x" * 200_000] * 500)}), 413),
        (BODIES[0][:-9], 400),
        (b"", 400),
    ],
)
def test_what_can_not_be_taken_is_refused(app: FeatureApp, body: bytes, status: int) -> None:
    assert ask(app, body).status == status


def test_a_small_body_of_many_rows_takes_no_time_and_memory(app: FeatureApp) -> None:
    rows = 20_000_000
    zeros = pl.repeat(0, rows, dtype=pl.Int64, eager=True)
    body = encoded({"customer": zeros, "product": pl.repeat("P01", rows, eager=True)}, compression="zstd")
    assert len(body) < 1_000_000
    del zeros
    tracemalloc.start()
    began = time.process_time()
    assert ask(app, body).status in (413, 415)
    took, (_, most) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert took < 1.0
    assert most < 16_000_000


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), body=st.sampled_from(BODIES))
def test_no_damage_is_an_error_of_the_server(
    app: FeatureApp, capfd: pytest.CaptureFixture[str], data: st.DataObject, body: bytes
) -> None:
    damaged = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        new = data.draw(
            st.sampled_from([b"\0", b"\x01", b"\x7f", b"\xff", b"\xff" * 4, b"\xff\xff\xff\x7f", b"\0" * 4])
        )
        damaged[at : at + len(new)] = new
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(0, len(damaged) - 1)) :]
    answer = ask(app, bytes(damaged))
    assert answer.status < 500, answer.body
    assert "panicked" not in capfd.readouterr().err

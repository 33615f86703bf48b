"""`bedplate import feast` on repositories written here: what is carried over, with which values, and what is not."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from feast_world import SHOP, YAML, World, at, orders

from bedplate.cli.main import run


def test_a_view_becomes_the_last_values_of_its_columns(world: World) -> None:
    world.define(SHOP)
    report = world.imported()
    assert report["not_carried"] == []
    assert [(c["kind"], c["name"], c["place"]) for c in report["carried"][3:]] == [
        ("entity", "user", "features.py:5"),
        ("source", "orders", "features.py:6"),
        ("feature view", "spending", "features.py:7"),
    ]
    project = world.project()
    assert list(project.graph.features) == ["spending.price", "spending.city"]
    found = project.lookup(["spending.price", "spending.city"], [1, 2, 3], at(5, 13))
    # Of the two rows of 10 o'clock the one that was made last counts, which comes first in the file.
    assert found["spending.price"].to_list() == [5.0, 3.0, None]
    assert found["spending.city"].to_list() == ["Rome", "Kyiv", None]


def test_the_newest_row_counts_as_a_whole(world: World) -> None:
    world.define(SHOP)
    world.imported()
    found = world.project().lookup(["spending.price", "spending.city"], [1], at(6, 11))
    assert (found["spending.price"].to_list(), found["spending.city"].to_list()) == ([None], ["Bern"])


def test_a_ttl_is_kept_to_its_very_end(world: World) -> None:
    world.define(SHOP)
    world.imported()
    project, end = world.project(), at(7, 10) + timedelta(hours=2)
    assert project.lookup(["spending.price"], [2], end)["spending.price"].to_list() == [3.0]
    later = end + timedelta(microseconds=1)
    assert project.lookup(["spending.price"], [2], later)["spending.price"].to_list() == [None]


@pytest.mark.parametrize("ttl", ["", "ttl=timedelta(0),", "ttl=None,"])
def test_no_ttl_and_a_ttl_of_zero_are_none(world: World, ttl: str) -> None:
    world.define(SHOP.replace("ttl=timedelta(days=2),", ttl))
    world.imported()
    assert "ttl" not in world.code()


def test_what_a_definition_says_of_itself_becomes_a_comment(world: World) -> None:
    world.define(
        SHOP.replace('Field(name="price", dtype=Float32)', 'Field(name="price", dtype=Float32, description="In euro.")')
        + 'spending.tags\nother = Entity(name="other", owner="me@shop")\n'
    )
    world.imported()
    assert "# Who buys.\n# Tags: team=shop\nuser = Entity(" in world.code()
    assert "# price: In euro.\nspending = FeatureView(" in world.code()
    assert '# Owner: me@shop\nother = Entity("other", key="other")' in world.code()


def test_columns_get_the_names_of_the_field_mapping(world: World) -> None:
    frame = orders().rename({"user_id": "uid", "price": "eur", "at": "when", "made": "written"})
    frame.write_parquet(world.repository / "orders.parquet")
    mapping = '{"uid": "user_id", "eur": "price", "when": "at", "written": "made"}'
    world.define(SHOP.replace('"made")', f'"made", field_mapping={mapping})'))
    assert world.imported()["not_carried"] == []
    found = world.project().lookup(["spending.price"], [1], at(5, 13))
    assert found["spending.price"].to_list() == [5.0]


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (pl.lit("noon"), "the column is String"),
        (pl.when(pl.col("user_id") == 1).then("made"), "the column has nulls"),
        (None, "the source has no column of this name"),
    ],
)
def test_a_creation_time_that_cannot_order_rows_is_left(world: World, made: pl.Expr | None, reason: str) -> None:
    frame = orders().drop("made") if made is None else orders().with_columns(made=made)
    frame.write_parquet(world.repository / "orders.parquet")
    world.define(SHOP.replace('"made")', '"written", field_mapping={"made": "written"})'))
    got, todo = world.left()["created timestamp orders.written"]
    assert got == reason
    assert "as sequence" in todo
    if made is not None:
        found = world.project().lookup(["spending.price"], [1], at(5, 13))
        assert found["spending.price"].to_list() == [7.0]  # as the file has them


def test_times_may_be_named_by_the_column_s_own_name(world: World) -> None:
    world.define(SHOP.replace('"made")', '"made", field_mapping={"at": "moment", "made": "written"})'))
    assert world.imported()["not_carried"] == []
    assert 'time="moment"' in world.code()
    assert world.project().lookup(["spending.price"], [1], at(5, 13))["spending.price"].to_list() == [5.0]


def test_without_a_schema_every_other_column_is_a_feature(world: World) -> None:
    world.define(
        """
        user = Entity(name="user_id")
        orders = FileSource(path="orders.parquet", created_timestamp_column="made")
        spending = FeatureView(name="spending", entities=[user], source=orders)
        """
    )
    assert list(world.left()) == ["feature spending.tags"]
    assert list(world.project().graph.features) == ["spending.price", "spending.city"]


def test_a_column_of_another_type_is_left_with_its_type(world: World) -> None:
    world.define(SHOP.replace("dtype=String)", 'dtype=String), Field(name="tags", dtype=Array(String))'))
    left = world.left()
    assert list(left) == ["feature spending.tags"]
    assert left["feature spending.tags"][0] == "Bedplate has no value of the column's type, List(String)"
    assert list(world.project().graph.features) == ["spending.price", "spending.city"]


def test_without_data_the_declared_types_count(world: World) -> None:
    (world.repository / "orders.parquet").unlink()
    world.define(SHOP.replace("dtype=String)", 'dtype=String), Field(name="photo", dtype=Bytes)'))
    report = world.imported()
    assert [n["reason"] for n in report["not_carried"]] == ["Bedplate has no value of the type Bytes"]
    assert "Nothing was read at `../repository/orders.parquet` yet" in report["notes"][0]
    assert "before 'bedplate plan'" in report["notes"][0]
    orders().write_parquet(world.repository / "orders.parquet")
    assert list(world.project().graph.features) == ["spending.price", "spending.city"]


def test_a_field_that_is_no_column_is_left(world: World) -> None:
    world.define(SHOP.replace('name="city"', 'name="town"'))
    assert world.left()["feature spending.town"][0] == "the source has no column of this name"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (('["user_id"]', '["uid"]'), "the source 'orders' has no column 'uid', the key of 'user'"),
        (('["user_id"]', '["price"]'), "the key 'price' is Float64, expected integers or strings"),
        (("entities=[user]", "entities=[]"), "it has no entity, and every view of Bedplate's has a key"),
        (("source=orders", "source=None"), "it has no source with a table that could be carried over"),
        (("source=orders", "source=FeatureView(name='x')"), "it has no source with a table that could be carried over"),
        (("source=orders", "source=orders, udf=print"), "its rows go through a Python function"),
        (("source=orders", "source=orders, udf=lambda x: x"), "its rows go through a Python function"),
    ],
)
def test_a_view_that_can_t_be_carried_over_is_left_whole(world: World, change: tuple[str, str], reason: str) -> None:
    world.define(SHOP.replace(*change))
    assert world.left()["feature view spending"][0] == reason
    assert "FeatureView" not in world.code()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (('timestamp_field="at"', 'timestamp_field="when"'), "its column of event times 'when' is not in the data"),
        (('timestamp_field="at"', 'timestamp_field="city"'), "its column of event times 'city' is String"),
        (('timestamp_field="at", created_timestamp_column="made"', ""), "it names no column of event times"),
    ],
)
def test_a_source_without_times_is_left(world: World, change: tuple[str, str], reason: str) -> None:
    world.define(SHOP.replace(*change).replace('parquet", )', 'parquet")'))
    left = world.left()
    assert left["source orders"][0] == reason
    assert "feature view spending" in left
    assert world.code().count("Source(") == 0


def test_two_keys_and_entities_by_name(world: World) -> None:
    world.define(
        """
        user = Entity(name="user", join_keys=["user_id"])
        city = Entity(name="city", join_keys=["city"])
        orders = FileSource(path="orders.parquet", timestamp_field="at")
        pair = FeatureView(name="pair", entities=[user, "city"], features=[Field(name="price", dtype=Float32)],
                           batch_source=orders)
        """
    )
    assert world.imported()["not_carried"] == []
    found = world.project().lookup(["pair.price"], {"user": [1, 1], "city": ["Oslo", "Rome"]}, at(9))
    assert found["pair.price"].to_list() == [7.0, 5.0]


def test_views_may_share_what_another_file_defines(world: World) -> None:
    world.define(SHOP.partition("spending")[0], "shared/base.py")
    world.define("from shared.base import orders, user\nspending" + SHOP.partition("spending")[2])
    world.define("import base_names\n", "z_last.py")
    world.define("NAME = 'x'\n", "base_names.py")
    report = world.imported()
    assert report["not_carried"] == []
    assert [c["place"] for c in report["carried"][3:5]] == ["shared/base.py:5", "shared/base.py:6"]
    assert world.code().count("Source(") == 1


STREAM = """
from feast.aggregation import Aggregation
from feast.stream_feature_view import StreamFeatureView
user = Entity(name="user", join_keys=["user_id"])
orders = FileSource(path="orders.parquet", timestamp_field="at")
pushed = PushSource(name="pushed", batch_source=orders)
hours = [timedelta(hours=3), timedelta(days=1)]
spending = StreamFeatureView(
    name="spending",
    entities=[user],
    source=pushed,
    aggregations=[
        *(Aggregation(column="price", function="sum", time_window=w, slide_interval=timedelta(hours=1)) for w in hours),
        Aggregation("price", "count", hours[1]),
        Aggregation(column="price", function="mean", name="typical"),
        Aggregation(column="city", function="count_distinct", time_window=hours[1]),
        Aggregation(column="price", function="percentile", time_window=hours[1]),
    ],
)
service = FeatureService(name="service", features=[spending[["sum_price_10800s", "typical"]]])
"""


def test_aggregations_become_windows(world: World) -> None:
    world.define(STREAM)
    report = world.imported()
    assert [n["name"] for n in report["not_carried"]] == ["pushed", "spending.percentile_price"]
    assert "`sum_price_10800s` is `spending.sum_price_3h`" in report["notes"][0]
    project = world.project()
    names = ["sum_price_3h", "sum_price_1d", "count_price_1d", "typical", "count_distinct_city_1d"]
    full = [f"spending.{n}" for n in names]
    assert list(project.graph.features) == full
    assert project.lookup(full, [1], at(5, 13)).row(0)[2:] == (12.0, 12.0, 2, 6.0, 2)
    assert "over 3h (hop 1h)" in project.graph.features[full[0]].text
    assert 'SERVICE = ["spending.sum_price_3h", "spending.typical"]' in world.code()


def test_a_service_lists_the_features_that_there_are(world: World) -> None:
    world.define(
        SHOP
        + """
buyers = spending.with_name("buyers")
all = FeatureService(name="all features", features=[spending], description="For the ranker.")
some = FeatureService(name="some", features=["spending:city", spending[["price", "colour"]], buyers, "spending@v2"])
logged = FeatureService(name="logged", features=[spending[["price"]]], logging_config=LoggingConfig(destination="x"))
none = FeatureService(name="none", features=["absent"])
"""
    )
    left = world.left()
    assert left["feature service some"][0] == (
        "its list lacks spending:colour; a view under another name or key (with_name, features.py:15)"
    )
    assert left["feature service none"][0] == "its list lacks absent"
    assert "logging of feature service logged" in left
    code = world.code()
    assert '# For the ranker.\nALL_FEATURES = ["spending.price", "spending.city"]' in code
    assert 'SOME = ["spending.city", "spending.price"]' in code
    assert 'LOGGED = ["spending.price"]' in code
    assert "NONE" not in code


def test_views_on_demand_are_left_with_where_they_are_and_what_they_read(world: World) -> None:
    world.define(
        SHOP
        + """
asked = RequestSource(name="asked", schema=[Field(name="budget", dtype=Float32)])

@on_demand_feature_view(sources=[spending, asked], schema=[Field(name="rest", dtype=Float32)])
def affordable(inputs):
    return inputs

late = OnDemandFeatureView(name="late", sources=[spending], udf=affordable, schema=[])
"""
    )
    report = world.imported()
    left = {f"{n['kind']} {n['name']}": n for n in report["not_carried"]}
    rest = left["on demand feature view affordable"]
    assert rest["place"] == "features.py:17"
    assert rest["reason"] == "it is computed by the Python function affordable"
    assert "write rest as a DerivedFeature" in rest["todo"]
    assert rest["todo"].endswith("a function of arrays, of spending.price, spending.city, request.budget")
    assert left["on demand feature view late"]["place"] == "features.py:21"


def test_what_requests_bring_becomes_context(world: World) -> None:
    world.define(
        """
        one = RequestSource(name="one", schema=[
            Field(name="budget", dtype=Float32, description="In euro."), Field(name="query", dtype=String),
            Field(name="since", dtype=UnixTimestamp), Field(name="photo", dtype=Bytes), Field(name="a b", dtype=Int64),
        ])
        two = RequestSource(name="two", schema=[Field(name="budget", dtype=Float64), Field(name="query", dtype=Int64)])
        """
    )
    report = world.imported()
    assert {n["name"]: n["reason"] for n in report["not_carried"]} == {
        "one.photo": "context is a text, a number, a time, and this is Bytes",
        "one.a b": "it is no Python name",
        "two.query": "context has another type of this name",
    }
    assert report["carried"][3]["became"] == "context `request.budget`, `request.query`, `request.since`"
    assert '# In euro.\nbudget = Context("budget", float)\n' in world.code()
    assert list(world.project().graph.contexts) == ["request.budget", "request.query", "request.since"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ('BigQuerySource(name="s", table="shop.orders"', "Bedplate does not read a BigQuerySource (shop.orders)"),
        ('SnowflakeSource(name="s", query="SELECT 1"', "Bedplate does not read a SnowflakeSource (SELECT 1)"),
        (
            'FileSource(name="s", path="s3://b/x.parquet"',
            "its files are at s3://, and Parquet is read of this machine",
        ),
        ('FileSource(name="s", path="x", file_format=feast.AvroFormat()', "Bedplate does not read a FileSource (x)"),
        ('RaySource(name="s", path="x.csv", reader_type="csv"', "Bedplate does not read a RaySource (x.csv)"),
        ('OwnSource(name="s", path="x"', "Bedplate does not read a OwnSource (x)"),
    ],
)
def test_rows_elsewhere_are_to_be_exported(world: World, source: str, reason: str) -> None:
    start, _, end = SHOP.partition("orders = FileSource(")
    world.define(
        f"import feast\nfrom feast.own import OwnSource, RaySource\n{start}"
        f"orders = {source}, timestamp_field='at')\n{end.partition(chr(10))[2]}"
    )
    got, todo = world.left()["source s"]
    assert got == reason
    assert "data/orders/" in todo
    (world.target / "data" / "orders").mkdir(parents=True)
    orders().write_parquet(world.target / "data" / "orders" / "1.parquet")
    assert world.project().lookup(["spending.city"], [2], at(6))["spending.city"].to_list() == ["Kyiv"]


@pytest.mark.parametrize(
    ("source", "table"),
    [
        ('FileSource(path="/w/orders", file_format=DeltaFormat()', "delta:/w/orders"),
        ('SparkSource(path="s3://b/orders", table_format=DeltaFormat()', "delta:s3://b/orders"),
        ('SparkSource(path="orders", table_format=IcebergFormat(catalog="x")', "iceberg:../repository/orders"),
        ('LanceSource(uri="orders.lance"', "lance:../repository/orders.lance"),
        ('IcebergSource(namespace="shop", table="orders", catalog_name="prod"', "iceberg:shop.orders?catalog=prod"),
        ('PostgreSQLSource(table="orders"', "postgresql://me@db:5433/shop?table=public.orders&order=at,made"),
        (
            'PostgreSQLSource(query="select * FROM old.orders;"',
            "postgresql://me@db:5433/shop?table=old.orders&order=at,made",
        ),
    ],
)
def test_tables_are_read_where_they_are(world: World, source: str, table: str) -> None:
    world.write(
        "feature_store.yaml",
        YAML + "offline_store: {type: postgres, host: db, port: 5433, database: shop, db_schema: public, user: me, "
        "password: hunter2}\n",
    )
    kinds = "DeltaFormat, IcebergFormat, IcebergSource, LanceSource, PostgreSQLSource, SparkSource"
    world.define(
        f"from feast.x import {kinds}\n" + SHOP.replace('FileSource(path="orders.parquet"', f'{source}, name="s"')
    )
    assert list(world.left()) == ["offline store postgres"]
    assert f'"{table}"' in world.code()
    assert "hunter2" not in world.code()


def test_a_query_of_more_than_a_table_is_to_be_exported(world: World) -> None:
    query = 'PostgreSQLSource(name="s", query="SELECT * FROM orders WHERE x"'
    world.define("from feast.x import PostgreSQLSource\n" + SHOP.replace('FileSource(path="orders.parquet"', query))
    assert world.left()["source s"][0] == "Bedplate does not read a PostgreSQLSource (SELECT * FROM orders WHERE x)"


def test_a_delta_table_gives_its_columns(world: World) -> None:
    (world.repository / "orders.parquet").unlink()
    orders().write_delta(world.repository / "orders")
    source = 'FileSource(path="orders", file_format=feast.DeltaFormat()'
    world.define(
        "import feast\n" + SHOP.replace('FileSource(path="orders.parquet"', source).replace('"city"', '"tags"')
    )
    assert list(world.left()) == ["feature spending.tags"]
    assert world.project().lookup(["spending.price"], [1], at(5, 13))["spending.price"].to_list() == [5.0]


@pytest.mark.parametrize("kind", ["SparkSource", "RaySource", "FileSource"])
def test_parquet_is_read_where_it_is(world: World, kind: str, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    orders().write_parquet(elsewhere / "a.parquet")
    known = {"SparkSource": 'file_format="parquet"', "RaySource": 'reader_type="parquet"'}.get(
        kind, "file_format=ParquetFormat()"
    )
    world.define(
        f"from feast.x import {kind}\n"
        + SHOP.replace('FileSource(path="orders.parquet"', f'{kind}(name="s", path="{elsewhere}", {known}')
    )
    assert world.left() == {}
    assert f'"{elsewhere}"' in world.code()
    assert world.project().lookup(["spending.city"], [2], at(6))["spending.city"].to_list() == ["Kyiv"]


def test_a_subclass_of_the_repository_s_own_is_what_it_derives_from(world: World) -> None:
    world.define(
        """
        class Orders(FileSource):
            def __init__(self, month):
                super().__init__(name="orders", path=f"{month}.parquet", timestamp_field="at")

        user = Entity(name="user", join_keys=["user_id"])
        spending = FeatureView(name="spending", entities=[user], source=Orders("orders"))
        """
    )
    assert list(world.left()) == ["feature spending.tags"]
    assert '"../repository/orders.parquet"' in world.code()


def test_other_kinds_are_left_each_with_what_to_do(world: World) -> None:
    world.define(
        """
        from feast.permissions.permission import Permission
        history = FileSource(path="orders.parquet", timestamp_field="at")
        topic = KafkaSource(name="topic", timestamp_field="at", batch_source=history, message_format=None)
        labels = LabelView(name="labels", source=PushSource(name="said", batch_source=history))
        allowed = Permission(name="allowed")
        odd = SomethingView(name="odd")
        store = FeatureStore(repo_path=".")
        """
    )
    left = world.left()
    assert set(left) == {"Kafka source topic", "label view labels", "permission allowed", "SomethingView odd"}
    assert all(reason and todo for reason, todo in left.values())
    assert world.code().count(" = Source(") == 1


def test_arguments_without_a_counterpart_are_named(world: World) -> None:
    more = 'online=False, version="v2", sparkle=3, enable_validation=True, offline=True, mode=None, '
    world.define(SHOP.replace("source=orders", f"{more} source=orders"))
    assert list(world.left()) == [
        "argument of feature view spending.online",
        "argument of feature view spending.version",
        "argument of feature view spending.sparkle",
    ]
    assert "spending = FeatureView(" in world.code()


def test_a_vector_index_is_left_and_its_feature_kept(world: World) -> None:
    world.define(SHOP.replace("dtype=String)", "dtype=String, vector_index=True)"))
    assert list(world.left()) == ["vector index spending.city"]
    assert '"city": Attribute("city")' in world.code()


def test_names_are_made_into_python_s_own(world: World) -> None:
    world.define(
        """
        user = Entity(name="user", join_keys=["user_id"])
        first = FileSource(name='the "orders"', path="orders.parquet", timestamp_field="at")
        price = [Field(name="price", dtype=Float32)]
        FeatureList = FeatureView(name="class", entities=[user], source=first, schema=price)
        Source = FeatureView(name="7 days", entities=[user], source=first, schema=price)
        views = [FeatureView(name="unseen", entities=[user], source=first, schema=price)]
        long = FeatureService(name="long-name", features=[FeatureList, Source])
        """
    )
    assert world.imported()["not_carried"] == []
    assert list(world.project().graph.features) == ["class.price", "7 days.price"]
    assert "Source_2 = FeatureView(" in world.code()
    assert "first = Source('the \"orders\"', " in world.code()
    assert 'LONG_NAME = ["class.price", "7 days.price"]' in world.code()


def test_one_source_name_twice_gets_two(world: World) -> None:
    world.define(
        SHOP
        + 'more = FileSource(path="other/orders.parquet", timestamp_field="at")\n'
        + 'again = FileSource(name="orders", path="orders.parquet", timestamp_field="made")\n'
    )
    world.imported()
    assert re.findall(r'Source\(\s*"(\w+)"', world.code()) == ["orders", "orders_2", "orders_3"]


def test_the_report_stands_in_the_project(world: World) -> None:
    world.define(SHOP + 'allowed = LabelView(name="allowed")\n')
    report = world.imported()
    page = (world.target / "README.md").read_text()
    assert page.startswith("# The Feast project shop in Bedplate\n")
    for left in report["not_carried"]:
        assert (
            f"- {left['place']} **{left['kind']} `{left['name']}`**: {left['reason']}. To do: {left['todo']}." in page
        )
    for carried in report["carried"]:
        assert f"| {carried['kind']} | `{carried['name']}` | {carried['place']} | {carried['became']} |" in page


def test_a_person_reads_counts_reasons_and_what_is_next(world: World) -> None:
    world.define(SHOP + 'allowed = LabelView(name="allowed")\n')
    code, out, err = world.run()
    assert (code, err) == (8, "")
    assert "carried over: 1 project, 1 online store, 1 offline store, 1 entity, 1 source, 1 feature view\n" in out
    assert "not carried over: 1\n  label view allowed (features.py:14)\n    labels are no features" in out
    assert out.endswith(f"next: cd {world.target} && bedplate plan\n")


def test_all_of_it_carried_over_is_success(world: World) -> None:
    world.define(SHOP)
    code, out, _ = world.run()
    assert code == 0
    assert "not carried over" not in out


def test_the_folder_is_named_after_the_project(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.define(SHOP)
    monkeypatch.chdir(tmp_path)
    assert run(["import", "feast", "repository", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["directory"] == str(tmp_path / "shop_bedplate")
    assert pl.read_parquet(tmp_path / "shop_bedplate" / "../repository/orders.parquet").height == 4

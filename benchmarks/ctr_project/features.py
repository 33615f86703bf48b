"""The rows of `ctr_data.py` as Bedplate is used: users and items have views, a row is a request with one candidate."""

import json
from pathlib import Path

from bedplate import Dataset, Entity, FeatureView, Label, Last, Source, Spine, Sum, TimeSplit

user, item = Entity("user", key="user"), Entity("item", key="item")
rows = Source("rows", "rows.parquet", time="time")
people, things = Source("people", "users.parquet", time="time"), Source("things", "items.parquet", time="time")
of_user = FeatureView("users", user, people, {c: Last(c) for c in ("user", "age", "gender", "occupation")})
of_item = FeatureView("items", item, things, {c: Last(c) for c in ("genre", "decade")})
known = json.loads((Path(__file__).parent / "dataset.json").read_text())
ctr = Dataset(
    "ctr",
    spine=Spine(rows, request="row", entities=user, item=item),
    labels=Label("label", item, rows, Sum("label"), within="1s", request="row", at_least=1),
    features=[of_user, of_item],
    split=TimeSplit(validation=known["validation"], test=known["test"], gap="1s"),
    batch_requests=known["batch"],
)

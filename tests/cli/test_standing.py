"""What `bedplate ingest --follow` shows of partitions that can't go on, and of files of other names: once each."""

from __future__ import annotations

import io

from bedplate.cli.progress import ProgressLine
from bedplate.cli.standing import Standing, standing_text
from bedplate.online.measures import Measures


def test_what_came_in_the_way_is_said_once_and_that_it_went() -> None:
    out, measures = io.StringIO(), Measures("clicks")
    standing = Standing(ProgressLine(1e9, out))

    def said() -> list[str]:
        standing(measures)
        lines = [line for line in out.getvalue().splitlines() if "partition '" in line or "not taken in" in line]
        out.truncate(0)
        out.seek(0)
        return lines

    measures.strangers = ("a.csv",)
    assert said() == ["clicks: not taken in, as they are no files with a name of a stream: a.csv"]
    measures.stuck = {"a": "a/1.parquet: can't read the file"}
    assert said() == ["clicks: partition 'a' can't go on, trying again: a/1.parquet: can't read the file"]
    assert "1 stuck partition" in standing_text(measures)
    assert said() == []
    measures.stuck, measures.strangers = {}, ("a.csv", "b.csv")
    assert said() == [
        "clicks: partition 'a' goes on",
        "clicks: not taken in, as they are no files with a name of a stream: b.csv",
    ]

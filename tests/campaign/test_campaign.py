"""A small parity campaign finds no difference, and one that has a fault in it does."""

from __future__ import annotations

from pathlib import Path

import campaign_oracle
import numpy as np
import polars as pl
import pytest
from campaign import ACTIONS, Campaign, DifferenceError, drawn_steps
from campaign_oracle import Wrong, smallest
from campaign_world import VIEWS, World

from bedplate.online.base import Changes, open_store
from bedplate.testing.online_store import fill
from bedplate.testing.simulator import START, every_aggregation, simulate
from bedplate.types import DAY

STORE = "lmdb:.bedplate/online"
pytestmark = pytest.mark.xdist_group("campaign")  # one process runs the campaign for all of them


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """A campaign that has run."""
    folder = tmp_path_factory.mktemp("campaign") / "project"
    campaign = Campaign(folder, 5, 240, ["kill", "poison", "change"], 12, store=STORE, stream="parts", workers=2)
    campaign.run()
    return campaign


def test_a_small_campaign_finds_no_difference(campaign):
    assert campaign.world.sent == 240
    assert len(campaign.done) == 7
    assert "ingest of poisoned rows" in campaign.done[3]
    assert len(campaign.world.feed.poisoned) == 5
    assert campaign.done[-1] == "all taken in (240 events sent)"


def test_an_event_too_many_is_found(campaign):
    world, events = campaign.world, campaign.world.events
    world.events = events.with_columns(pl.when(pl.int_range(pl.len()) != 100).then("quantity"))
    with pytest.raises(DifferenceError, match=r"seed 5, step 8: \d+ features differ") as found:
        campaign._check("planted")
    world.events = events
    assert "what was done: loaded (24 events sent); " in str(found.value)
    assert "smallest: not in memory" in str(found.value)


def test_a_letter_that_is_lost_is_found(campaign):
    with pytest.raises(DifferenceError, match="letters of 'events'"):
        campaign._check_letters([*campaign.world.feed.poisoned, ("p0/another.parquet", 0)])


def test_a_row_that_is_lost_is_found(campaign):
    with open_store(STORE, campaign.world.folder) as store:
        kept = store.scan(b"r")
        store.commit(Changes(deletes=[b"r"]))
    with pytest.raises(DifferenceError):
        campaign._check("rows deleted")
    with open_store(STORE, campaign.world.folder) as store:
        store.commit(Changes(kept))
    campaign._check("rows put back")


def test_what_differs_in_memory_is_made_small(campaign, monkeypatch):
    world = campaign.world

    def forgetful(view, events, cuts, rewind):
        return fill(view, events.filter(pl.col("quantity").is_null() | (pl.col("quantity") != 7)), [0], rewind)

    monkeypatch.setattr(campaign_oracle, "fill", forgetful)
    row = world.events.filter(pl.col("quantity") == 7).row(0, named=True)
    view = world.project().views["by_user"]
    wrong = Wrong(view, "by_user.events", (row["user"],), START + 60 * DAY, "", np.full(len(world.events), True))
    assert smallest(world, wrong).startswith("1 events, loaded before event 24")


def test_steps_are_drawn_from_all():
    assert set(drawn_steps(1, len(ACTIONS))) == set(ACTIONS)
    assert drawn_steps(1, 20) == drawn_steps(1, 20) != drawn_steps(2, 20)


def test_views_hold_every_aggregation(tmp_path: Path):
    chosen = World(tmp_path / "p", 5, 50, STORE)._chosen
    assert set(chosen) == set(VIEWS)
    assert set().union(*chosen.values()) == set(every_aggregation())


def test_a_month_is_a_month():
    times = simulate(3, 2000, span=30 * DAY, pace=30 * DAY // 1000).events["time"]
    assert times.max() - times.min() > 28 * DAY
    assert (times.diff().drop_nulls() >= 0).mean() > 0.6

"""A parity campaign: a month of events goes through the real commands while they are killed, restarted and redefined.

Each seed is a month of its own with late, duplicate, out-of-order and poisoned events, seen by four views that together
hold every aggregation. After each step every view's answers are compared with the oracle over exactly the events that
its state says are in the store: one lost, or counted twice, is a difference. The first difference ends the campaign
with the seed, the step, what was done so far, and the fewest events that show it.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from campaign_feeds import Files, Topic
from campaign_oracle import Wrong, compare, smallest
from campaign_world import SOURCES, STUCK_EXIT, VIEWS, CommandError, World

from bedplate.online.letters import read_letters

ACTIONS = ("ingest", "kill", "follow", "restart", "poison", "again", "compact", "change", "reload")
"""What can happen in a step: the methods of `Campaign`."""


LMDB = "lmdb:.bedplate/online"


class DifferenceError(Exception):
    """The store answered something else than the oracle."""


class Campaign:
    """One seed of a campaign.

    Args:
        folder: an empty folder for the project.
        seed: what happens follows from it, but for the moments of kills.
        events: how many events the month has.
        steps: what happens, of `ACTIONS`; after the last one all that is left is taken in.
        questions: how many keys and times are asked for of each view after each step.
        world: further arguments of `World`.
    """

    def __init__(
        self, folder: Path, seed: int, events: int, steps: Sequence[str], questions: int, **world: Any
    ) -> None:
        self.world = World(folder, seed, events, **world)
        self.done: list[str] = []
        self._steps, self._questions = steps, questions
        self._each = -(-(events - self.world.loaded) // len(steps))

    def run(self) -> None:
        """Runs it.

        Raises:
            DifferenceError: an answer differs from the oracle's.
            CommandError: a command failed.
        """
        world = self.world
        world.run("apply")
        world.run("materialize")
        self._check("loaded")
        for step in self._steps:
            getattr(self, f"_{step}")()
        world.send(len(world.events))
        world.take_in()
        self._check("all taken in")

    def _ingest(self) -> None:
        self._send()
        self.world.take_in()
        self._check("ingest")

    def _kill(self) -> None:
        self._send()
        killed = self.world.take_in(kill=True)
        self._check(f"ingest, {'killed' if killed else 'which ended before it was killed'}")
        self.world.take_in()
        self._check("ingest after the kill")

    def _follow(self) -> None:
        self.world.follow_and_stop(self._each, signal.SIGKILL)
        self._check("a follower, killed")

    def _restart(self) -> None:
        self.world.follow_and_stop(self._each, signal.SIGTERM)
        self._check("a follower, stopped")

    def _poison(self) -> None:
        self._send()
        feed = self.world.feed
        if isinstance(feed, Topic):
            feed.poison(self.world.draw)
            self.world.take_in()
            self._check("ingest of poisoned events")
            return
        assert isinstance(feed, Files)
        path = feed.poison(self.world.draw, self.world.sent)
        self.world.take_in(code=0 if path is None else STUCK_EXIT)
        self._check("ingest of poisoned rows" if path is None else "ingest up to a poisoned file")
        if path is not None:
            path.unlink()
        self._check_letters(feed.poisoned)

    def _again(self) -> None:
        feed = self.world.feed
        name = feed.again(self.world.draw) if isinstance(feed, Files) else ""
        self.world.take_in()
        self._check(f"ingest of {name or 'nothing'} once more")

    def _compact(self) -> None:
        world = self.world
        world.follow_and_stop(self._each, signal.SIGTERM, lambda: world.run("online", "compact"))
        self._check("a compaction beside a follower")

    def _change(self) -> None:
        world = self.world
        view = VIEWS[world.draw.integers(len(VIEWS))]
        world.change(view)
        world.run_and_kill("apply")
        world.run("apply")
        world.run_and_kill("materialize")
        world.run("materialize")
        self._check(f"{view} changed and loaded")
        self._ingest()

    def _reload(self) -> None:
        world = self.world
        world.take_in()
        world.catch_up()
        world.run_and_kill("apply")
        world.run("apply")
        world.clear()
        world.run_and_kill("materialize", "--replace")
        world.run("materialize", "--replace")
        self._check("all loaded anew")

    def _send(self) -> None:
        for _ in range(3):
            self.world.send(self._each // 3 + 1)

    def _check(self, step: str) -> None:
        self.done.append(f"{step} ({self.world.sent:,} events sent)")
        found = list(compare(self.world, self._questions))
        if found:
            raise DifferenceError(self._report(found))

    def _check_letters(self, expected: list[tuple[str, int]]) -> None:
        """Each poisoned row has one letter of each source, and no other row has one."""
        for source in SOURCES:
            paths = (self.world.folder / ".bedplate/letters" / source).glob("*.jsonl")
            found = sorted((letter.file, letter.row) for path in paths for letter in read_letters(path))
            if found != sorted(expected):
                raise DifferenceError(f"seed {self.world.seed}: letters of '{source}': {found}, expected {expected}")

    def _report(self, found: list[Wrong]) -> str:
        first = found[0]
        lines = [
            f"seed {self.world.seed}, step {len(self.done)}: {len(found)} features differ; the first:",
            f"{first.line}",
            f"key {first.key} at {first.time}, {first.taken.sum():,} events taken in",
            *(f"also {w.feature} of {w.key} at {w.time}" for w in found[1:10]),
            "what was done: " + "; ".join(self.done),
            f"the project: {self.world.folder}",
        ]
        if first.feature in first.view.features:
            lines.append("smallest: " + smallest(self.world, first))
        return "\n  ".join(lines)


def drawn_steps(seed: int, count: int) -> list[str]:
    """What happens: each action comes once before any comes again."""
    draw, steps = np.random.default_rng([seed, 2]), list[str]()
    while len(steps) < count:
        steps += draw.permutation(ACTIONS).tolist()
    return steps[:count]


def main() -> int:
    """Runs the campaign of the command line; 0: every answer was the oracle's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--events", type=int, default=2000, help="events of the month")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--questions", type=int, default=25, help="keys and times of each view, after each step")
    parser.add_argument("--store", default=LMDB, help="URL of the online store, or redis: a server is started")
    parser.add_argument("--stream", default="files", choices=["files", "parts", "topic"], help="where events come from")
    parser.add_argument("--workers", type=int, default=1, help="so many share the stream")
    options = parser.parse_args()
    with ExitStack() as opened:
        for seed in range(options.first, options.first + options.seeds):
            began, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix=f"campaign-{seed}-"))
            store = opened.enter_context(_redis()) if options.store == "redis" else options.store
            steps = drawn_steps(seed, options.steps)
            world = {"store": store, "stream": options.stream, "workers": options.workers}
            try:
                campaign = Campaign(folder / "project", seed, options.events, steps, options.questions, **world)
                campaign.run()
            except (DifferenceError, CommandError) as error:
                print(f"seed {seed}: {type(error).__name__}: {error}\n  steps: {', '.join(steps)}\n  {folder}")
                return 7
            took = time.monotonic() - began
            print(f"seed {seed}: {len(campaign.done)} comparisons, all equal, {took:.0f} s", flush=True)
    return 0


@contextmanager
def _redis() -> Generator[str]:
    """The URL of a new server."""
    sys.path.append(str(Path(__file__).parents[1] / "online"))
    from redis_server import running

    with running("--appendonly", "no") as server:
        yield server.url


if __name__ == "__main__":
    sys.exit(main())

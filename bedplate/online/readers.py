"""Who reads which versions of views: servers say so in the store, so that a compaction leaves them their rows.

A notice holds for some minutes and is renewed while its server is at work: that of one that was killed is soon over. It
is over at once where it can be seen that its process is gone: from the same machine and the same container.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import final

import msgspec

from bedplate.clock import Clock, system_clock
from bedplate.errors import StoreError
from bedplate.features.view import CompiledView
from bedplate.online import keys
from bedplate.online.base import Changes, OnlineStore
from bedplate.online.state import decode
from bedplate.process import process_gone, process_token
from bedplate.types import MINUTE

log = logging.getLogger("bedplate.online")

LASTS = 5 * MINUTE
"""How long a notice holds."""
RENEWED_SECONDS = 60.0
_LAST_SECONDS = 2.0  # that a server which ends waits for its notices to be taken back


@final
class Notice(msgspec.Struct, frozen=True):
    """That somebody reads a version of a view.

    Attributes:
        view: the id of the version.
        who: as a person knows it.
        until: how long it holds, microseconds.
        process: which process, see `process_token`; empty: a version of Bedplate wrote it that did not say so.
    """

    view: str
    who: str
    until: int
    process: str = ""

    def holds(self, now: int) -> bool:
        """Whether it counts at a time, microseconds: it is not too old, and its process may still be there."""
        return self.until >= now and not process_gone(self.process)


@final
class Notices:
    """The notices of one server.

    Args:
        store: the store that it reads.
        who: as a person knows it.
        clock: gives the time now.
    """

    def __init__(self, store: OnlineStore, who: str, clock: Clock = system_clock) -> None:
        self._store, self._who, self._clock = store, who, clock
        self._name = uuid.uuid4().bytes
        self._views: frozenset[str] = frozenset()
        self._noted: frozenset[str] = frozenset()
        self._lock = threading.Lock()
        self._is_over, self._woken = False, threading.Event()
        self._thread: threading.Thread | None = None

    def put(self, views: Collection[CompiledView]) -> None:
        """Says once that these views are read, in place of those before; it holds for `LASTS`.

        Raises:
            StoreError: the store can't be written.
        """
        self._views = frozenset(view.id for view in views)
        self._put()

    def keep(self, views: Collection[CompiledView]) -> None:
        """Says from now on, on a thread, that these views are read, in place of those before.

        A store that can't be written is read all the same: that is logged.
        """
        self._views = frozenset(view.id for view in views)
        self._wake()

    def close(self) -> None:
        """Takes the notices back, unless that takes long: they are over by themselves."""
        self._is_over, self._views = True, frozenset()
        self._wake().join(_LAST_SECONDS)

    def _wake(self) -> threading.Thread:
        """Lets the thread write the notices at once."""
        self._woken.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="notices", daemon=True)
            self._thread.start()
        return self._thread

    def _put(self) -> None:
        with self._lock:
            views, until, process = self._views, self._clock() + LASTS, process_token()
            for view in views | self._noted:
                key = keys.of_view(keys.READERS, view) + self._name
                notice = [(key, msgspec.json.encode(Notice(view, self._who, until, process)))] if view in views else []
                self._store.commit(Changes(notice, drops=[] if notice else [key]))
            self._noted = views

    def _work(self) -> None:
        is_over, failed = False, False
        while not is_over:
            self._woken.clear()
            is_over = self._is_over
            try:
                self._put()
                failed = False
            except StoreError as error:
                if not failed:
                    log.warning("'bedplate online compact' can't know which views are read here: %s", error)
                failed = True
            if not is_over:
                self._woken.wait(RENEWED_SECONDS)


def readers(store: OnlineStore, now: int, needed: Mapping[str, str] = MappingProxyType({})) -> dict[str, list[str]]:
    """Who reads versions of views, by the version's id.

    Args:
        store: the store, in which servers say so.
        now: the time, microseconds.
        needed: by the id of a version who reads it beside them.

    Raises:
        StoreError: the store can't be read.
    """
    found = {view: [who] for view, who in needed.items()}
    for _, notice in _notices(store):
        if notice.holds(now):
            found.setdefault(notice.view, []).append(notice.who)
    return {view: sorted(who) for view, who in found.items()}


def without_old_notices(store: OnlineStore, now: int) -> None:
    """Deletes notices that hold no more, of servers that were killed.

    Raises:
        StoreError: the store can't be read or written.
    """
    for key, notice in _notices(store):
        if not notice.holds(now):
            store.commit(Changes(drops=[key]))


def _notices(store: OnlineStore) -> list[tuple[bytes, Notice]]:
    return [(key, decode(value, Notice, "a notice of who reads a view")) for key, value in store.scan(keys.READERS)]

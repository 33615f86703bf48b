"""What a server answers with, loaded on a thread: at the start, and again on SIGHUP while it serves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
from collections.abc import Callable
from typing import Generic, TypeVar, final

from bedplate.errors import BedplateError
from bedplate.exposition import family

log = logging.getLogger("bedplate.serving")

Loaded = TypeVar("Loaded")


@final
class Again(Generic[Loaded]):
    """Loads again whenever SIGHUP comes; what can't be loaded leaves what is served.

    Signals that come while it loads make it load once more.

    Args:
        load: gives what is served from then on; runs on a thread. It raises where that is not to be served.
        say: told what became of each signal.

    Attributes:
        loaded: how often it has loaded.
        refused: how often it has not.
    """

    def __init__(self, load: Callable[[], Loaded], say: Callable[[str], None]) -> None:
        self._load, self._say = load, say
        self._wanted = asyncio.Event()
        self.loaded = self.refused = 0

    def listen(self) -> None:
        """Takes signals in from now on, on the running loop; also before anything is loaded."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._wanted.set)

    async def follow(self, switch: Callable[[Loaded], None]) -> None:
        """Loads on each signal, and switches to what was loaded; until it is cancelled.

        Args:
            switch: called on the loop's thread, between two requests.
        """
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                found = await in_thread(self._load)
            except BedplateError as error:
                self._refuse(str(error))
            except Exception as error:
                log.exception("loading again failed")
                self._refuse(f"{type(error).__name__}: {error}")
            else:
                switch(found)
                self.loaded += 1
                self._tell("loaded again")

    def lines(self) -> list[str]:
        """The metrics."""
        counts = [({"result": "loaded"}, self.loaded), ({"result": "refused"}, self.refused)]
        return family("bedplate_reloads_total", "counter", "Signals to load again.", counts)

    def _refuse(self, why: str) -> None:
        self.refused += 1
        self._tell(f"not loaded again, what was served before still is: {why}")

    def _tell(self, text: str) -> None:
        with contextlib.suppress(OSError):  # nobody reads it: that is no reason not to serve
            self._say(text)


def in_thread(load: Callable[[], Loaded]) -> asyncio.Future[Loaded]:
    """The result of `load`, run on a thread that doesn't keep the process alive."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Loaded] = loop.create_future()

    def settle(result: Loaded | None, error: BaseException | None) -> None:
        if future.done():
            return
        if result is None:
            # A future takes no StopIteration, and would wait for ever.
            raised = RuntimeError(f"loading ended in {error!r}") if isinstance(error, StopIteration) else error
            future.set_exception(raised or RuntimeError("nothing was loaded"))
        else:
            future.set_result(result)

    def work() -> None:
        result: Loaded | None = None
        failure: BaseException | None = None
        try:
            result = load()
        except BaseException as error:  # noqa: BLE001  (raised again where the result is awaited)
            failure = error
        with contextlib.suppress(RuntimeError):  # the server was stopped meanwhile, and its loop is closed
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=work, name="load", daemon=True).start()
    return future

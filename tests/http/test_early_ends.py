"""What ends a server before it is ready ends it in order: libraries abort where it does not."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from bedplate.errors import ConfigError
from bedplate.http.server import run_application
from bedplate.http.settings import Settings
from bedplate.serving.service_app import App


def test_a_port_of_another_protocol_that_is_taken_is_known_before_anything_is_loaded() -> None:
    """What loads is on a thread in code of a library, which would be there yet when the interpreter ends."""
    loads = threading.Event()

    class Taken:
        name, target = "other", "nowhere"

        async def start(self, turns: Any, door: Any, bodies: Any) -> None:
            loads.wait(0.2)
            raise ConfigError("can't listen here")

        async def drain(self) -> None:
            pass

    def load() -> Any:
        loads.set()
        return object()

    def ready(url: str, seconds: float) -> None:
        pytest.fail(f"ready on {url}")

    with pytest.raises(ConfigError, match="can't listen here"):
        run_application(App(), load, Settings(port=0), on_ready=ready, beside=[Taken()])
    assert not loads.is_set()

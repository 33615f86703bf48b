"""The port of gRPC with several workers: they share it with each other, and with nobody else."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from bedplate.cli.main import run
from bedplate.errors import ConfigError
from bedplate.http.bodies import Bodies
from bedplate.http.door import Door
from bedplate.http.metrics import Metrics
from bedplate.http.settings import Settings
from bedplate.http.turns import Turns
from bedplate.inference.repository import Repository
from bedplate.oip.grpc import GrpcServer
from bedplate.oip.methods import InferenceService
from bedplate.oip.port import hold_port

REFUSED = "can't listen here for gRPC"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return int(bound.getsockname()[1])


def grpc_server(host: str, port: int, *, is_shared: bool) -> GrpcServer:
    service, settings = InferenceService(Repository(), lambda: True), Settings(host=host, grace_seconds=0.0)
    return GrpcServer(service, Metrics(), settings, port=port, is_shared=is_shared)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "::1", "::"])
def test_a_port_that_is_held_is_for_those_that_share_it(host: str) -> None:
    port = free_port()
    held = hold_port(host, port)

    async def main() -> None:
        with pytest.raises(ConfigError, match=REFUSED):  # no worker listens yet
            hold_port(host, port)
        workers = [grpc_server(host, port, is_shared=True) for _ in range(2)]
        for worker in workers:
            await worker.start(Turns(), Door(), Bodies(10**6))
        with pytest.raises(ConfigError, match=REFUSED):
            hold_port(host, port)
        with pytest.raises(ConfigError, match=REFUSED):
            await grpc_server(host, port, is_shared=False).start(Turns(), Door(), Bodies(10**6))
        for _ in range(20):  # what is held takes none of the connections
            reader, writer = await asyncio.open_connection("::1" if ":" in host else "127.0.0.1", port)
            assert await asyncio.wait_for(reader.read(1), 20)
            writer.close()
        for worker in workers:
            await worker.drain()
        with pytest.raises(ConfigError, match=REFUSED):  # nor while they are started again
            hold_port(host, port)

    asyncio.run(main())
    for bound in held:
        bound.close()
    for bound in hold_port(host, port):
        bound.close()


def test_a_port_on_which_another_program_listens_is_not_shared_with_it() -> None:
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, option, 1)
            other.bind(("127.0.0.1", 0))
            other.listen()
            with pytest.raises(ConfigError, match=REFUSED):
                hold_port("localhost", other.getsockname()[1])


def test_a_host_that_is_not_here_is_said() -> None:
    for host in ("192.0.2.1", "no host"):
        with pytest.raises(ConfigError, match=REFUSED):
            hold_port(host, 8001)


def test_serve_with_workers_says_it_before_one_is_started(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    held = hold_port("127.0.0.1", port)
    (tmp_path / "bedplate.toml").write_text("")
    options = ["--project", str(tmp_path), "--port", "0", "--workers", "2", "--grpc-port", str(port)]
    assert run(["serve", *options]) == 2
    found = capsys.readouterr().err
    assert f"127.0.0.1:{port}" in found
    assert REFUSED in found
    for bound in held:
        bound.close()

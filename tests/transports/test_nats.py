"""Links over a real NATS server: the promises of a link, its server's death, and strangers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orvalho.contexts.identity import Signer
from orvalho.contexts.nkeys import user_nkey
from orvalho.transports.link import Transport
from orvalho.transports.nats import NatsTransport
from tests.conformance.link import LinkSuite
from tests.transports.nats_server import NatsServer

pytestmark = pytest.mark.anyio
NOBODY = user_nkey(Signer(bytes(32)).key)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


class TestNats(LinkSuite):
    @pytest.fixture(autouse=True)
    def _at(self, server: NatsServer) -> None:
        self.address = server.url
        self.nobody = f"{server.url}/{NOBODY}"

    def make(self) -> Transport:
        return NatsTransport()


class TestNatsInSmallParts(LinkSuite):
    """A server whose messages are smaller than our frames."""

    @pytest.fixture(autouse=True)
    def _at(self, tmp_path: Path) -> Iterator[None]:
        with NatsServer(tmp_path, "max_payload: 20000") as server:
            self.address = server.url
            self.nobody = f"{server.url}/{NOBODY}"
            yield

    def make(self) -> Transport:
        return NatsTransport()

"""Which transport serves an address."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from orvalho.errors import InvalidInput
from orvalho.transports import catalog as catalogs
from orvalho.transports.catalog import Catalog
from orvalho.transports.memory import MemoryNetwork


def test_a_scheme_has_one_transport() -> None:
    network = MemoryNetwork()
    catalog = Catalog({"memory": network})
    assert catalog.find("memory://a") is network
    assert catalog.find("ws://a:1") is catalog.find("ws://b:2")


def test_an_unknown_scheme_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        InvalidInput, match=r'"carrier-pigeon"; there are h2, .*memory, nats, nats\+tls, .*ws, wss'
    ):
        Catalog({"memory": MemoryNetwork()}).find("carrier-pigeon://roof")


def test_an_installed_package_may_offer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    offered = EntryPoint("mem", "orvalho.transports.memory:MemoryNetwork", "orvalho.transports")
    monkeypatch.setattr(
        catalogs, "entry_points", lambda group: [offered] if group == offered.group else []
    )
    assert isinstance(Catalog().find("mem://x"), MemoryNetwork)


def test_the_websocket_library_is_loaded_on_first_use() -> None:
    program = (
        "import sys; from orvalho.transports.catalog import Catalog; c = Catalog();"
        "assert 'websockets' not in sys.modules; c.find('ws://a:1');"
        "assert 'websockets' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)

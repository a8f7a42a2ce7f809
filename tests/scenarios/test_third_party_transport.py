"""A transport that somebody else wrote: an installed package, found by its entry point."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from anyio import to_thread

from orvalho.errors import Unavailable
from orvalho.transports.catalog import Catalog
from orvalho.transports.link import Transport
from tests.conformance.link import TcpLinkSuite
from tests.scenarios.devices import Device
from tests.scenarios.test_two_links import does, holds, running

EXAMPLE = Path(__file__).parents[2] / "examples/transport"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What an installer leaves behind: the module and its dist-info, on the path."""
    site = tmp_path / "site"
    meta = site / "orvalho_tcp-0.1.0.dist-info"
    meta.mkdir(parents=True)
    shutil.copy(EXAMPLE / "orvalho_tcp.py", site)
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: orvalho-tcp\nVersion: 0.1.0\n")
    (meta / "entry_points.txt").write_text(
        "[orvalho.transports]\ntcp = orvalho_tcp:TcpTransport\nbad = orvalho_tcp:Missing\n"
        "ws = orvalho_tcp:TcpTransport\n"
    )
    monkeypatch.syspath_prepend(str(site))
    yield site
    sys.modules.pop("orvalho_tcp", None)


class TestExample(TcpLinkSuite):
    """The example keeps every promise that our own transports keep."""

    address = "tcp://127.0.0.1:0"
    nobody = "tcp://127.0.0.1:9"
    max_strangers = 64

    def make(self) -> Transport:
        spec = importlib.util.spec_from_file_location("example", EXAMPLE / "orvalho_tcp.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["example"] = module
        spec.loader.exec_module(module)
        made: Transport = module.TcpTransport()
        return made


@pytest.mark.usefixtures("installed")
def test_it_is_offered_beside_ours_and_takes_none_of_ours_over() -> None:
    modules = {offer.scheme: offer.module for offer in Catalog().offers()}
    assert modules["tcp"] == "orvalho_tcp"
    assert modules["ws"] == "orvalho.transports.websocket"


@pytest.mark.usefixtures("installed")
def test_one_that_cannot_be_loaded_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Unavailable, match='the transport "bad" of orvalho_tcp cannot be loaded'):
        Catalog().find("bad://x:1")
    assert "transport.failed" in caplog.text


@pytest.mark.anyio
@pytest.mark.usefixtures("installed")
async def test_two_daemons_talk_over_it(tmp_path: Path) -> None:
    os.umask(0o077)
    laptop, phone = Device("laptop", tmp_path / "laptop"), Device("phone2", tmp_path / "phone2")
    async with AsyncExitStack() as stack:
        for device in (laptop, phone):
            await to_thread.run_sync(device.init)
            await stack.enter_async_context(running(device, Catalog(), "tcp://127.0.0.1:0"))
        await does(phone, "ctx", "new", "peer")
        ticket = (await does(phone, "peer", "invite")).strip().splitlines()[-1].strip()
        await does(laptop, "peer", "add", ticket)

        async def is_linked() -> bool:
            return bool(json.loads(await does(laptop, "transports", "--json"))["links"])

        await holds(is_linked)
        said = await does(laptop, "script", "send", "peer@phone2", "-e", "6 * 7")
        assert json.loads(said) == 42
        shown = json.loads(await does(laptop, "transports", "--json"))
        (tcp,) = (each for each in shown["transports"] if each["scheme"] == "tcp")
        assert tcp["module"] == "orvalho_tcp"
        assert tcp["install"] is None
        assert tcp["listening"][0].startswith("tcp://127.0.0.1:")
        # Each may have dialled the other at the same moment; one of the two links is used.
        links = [(link["peer"], link["transport"]) for link in shown["links"]]
        assert tcp["links"] == len(links) in (1, 2)
        assert set(links) == {("phone2", "tcp")}
        assert sum(link["used"] for link in shown["links"]) == 1
        assert "direct 127.0.0.1:" in await does(laptop, "transports")

"""Two whole daemons with two links between them, one of which is lost while a script works."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread

from orvalho.daemon import config as configuration
from orvalho.daemon.home import find_home
from orvalho.daemon.wiring import open_daemon
from orvalho.transports.catalog import Catalog
from orvalho.transports.memory import MemoryNetwork
from tests.scenarios.devices import Device

pytestmark = pytest.mark.anyio

# Each turn appends one line to a file of the caller, and says one: what is done twice, or not at
# all, is seen in the file; what is heard twice, in the output.
SCRIPT = """
// ==orvalho==
// needs = ["fs.read caller:/work/**", "fs.write caller:/work/**"]
// ==/orvalho==
export default async function () {
  for (let n = 0; n < 60; n++) {
    const text = n ? await caller.fs.readText("/work/log") : "";
    await caller.fs.writeText("/work/log", text + n + "\\n");
    await caller.fs.writeText("/work/turn-" + n, "x");
    console.log("line " + n);
  }
  return "done";
}
"""


@asynccontextmanager
async def running(device: Device, catalog: Catalog, *listen: str) -> AsyncIterator[None]:
    """The device's daemon, in this process."""
    home = find_home(device.environ, str(device.home))
    loaded = configuration.load(home.config, device.environ, {"listen": list(listen)})
    async with open_daemon(home, loaded, device.environ, catalog=catalog):
        yield


async def types(device: Device, *words: str) -> Any:
    return await to_thread.run_sync(lambda: device.types(*words))


async def does(device: Device, *words: str) -> str:
    printed = await types(device, *words)
    assert printed.status == 0, printed
    return str(printed.out)


async def holds(condition: Any) -> None:
    with anyio.fail_after(30):
        while not await condition():
            await anyio.sleep(0.05)


async def test_a_script_does_not_notice_that_a_link_is_lost(tmp_path: Path) -> None:
    os.umask(0o077)
    network = MemoryNetwork()
    catalog = Catalog({"memory": network})
    laptop, phone = Device("laptop", tmp_path / "laptop"), Device("phone2", tmp_path / "phone2")
    async with AsyncExitStack() as stack:
        for device in (laptop, phone):
            await to_thread.run_sync(device.init)
            await stack.enter_async_context(
                running(device, catalog, f"memory://{device.name}", "ws://127.0.0.1:0")
            )
        await does(phone, "ctx", "new", "peer")
        ticket = (await does(phone, "peer", "invite")).strip().splitlines()[-1].strip()
        await does(laptop, "peer", "add", ticket)

        async def has_two_links() -> bool:
            links = json.loads(await does(laptop, "transports", "--json"))["links"]
            return {link["transport"] for link in links} == {"memory", "ws"}

        await holds(has_two_links)
        work = laptop.tree("laptop") if laptop.tree("laptop").exists() else laptop.tree("peer")
        print(work, list(work.parent.iterdir()))

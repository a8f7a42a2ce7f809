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

# Each turn appends to a file of the caller and says a line: what is done twice, or not at all, is
# seen in the file, what is heard twice in the output.
SCRIPT = """\
// /// orvalho
// needs = ["caller.fs.read:/work/**", "caller.fs.write:/work/**"]
// timeout = "60s"
// ///
export default async ({ caller }) => {
  let text = "";
  for (let n = 0; n < 150; n++) {
    await caller.fs.write("/work/log", text + n + "\\n");
    text = await caller.fs.readText("/work/log");
    console.log("line " + n);
  }
  return text.split("\\n").length;
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


async def holds(condition: Any, printed: list[Any] | None = None) -> None:
    with anyio.move_on_after(30):
        while not await condition() and not printed:
            await anyio.sleep(0.01)
        return
    raise AssertionError(f"never: {condition.__name__}")


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
        mine = json.loads(await does(laptop, "ctx", "ls", "--json"))["contexts"][0]["name"]
        log = laptop.tree(mine) / "work/log"
        log.parent.mkdir()
        script = tmp_path / "job.js"
        script.write_text(SCRIPT)
        printed: list[Any] = []

        async def send() -> None:
            words = ("script", "send", "peer@phone2", str(script), "--expose", "/work:rw")
            printed.append(await types(laptop, *words))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            for turn in (b"10\n", b"60\n", b"100\n"):

                async def has_come(turn: bytes = turn) -> bool:
                    return log.exists() and turn in log.read_bytes()

                await holds(has_come, printed)
                network.cut_all()
        assert printed[0].status == 0, printed[0]
        assert json.loads(printed[0].out) == 151
        assert log.read_text().split() == [str(n) for n in range(150)]
        said = [line for line in printed[0].err.splitlines() if "line " in line]
        assert [line.rpartition("line ")[2] for line in said] == [str(n) for n in range(150)]

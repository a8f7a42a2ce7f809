"""What a run of the promises can reach: real trees on disk, a real key-value store, and a gate with
three rules in front of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from orvalho.contexts.files import ContextFiles, Mount
from orvalho.contexts.filesystem import Quota, VirtualPath
from orvalho.contexts.kv import MIGRATIONS, KeyValue, KvLimits
from orvalho.contexts.mounts.disk import RootFS
from orvalho.contexts.namespace import Namespace
from orvalho.errors import Denied
from orvalho.runtime.bridge import HostCall
from orvalho.runtime.web.contexts import file_calls, key_value_calls
from orvalho.store import open_store

RULE = "policy/peer.csv:7"
# What a call of `target.kv.get` with one of these keys does, beside what the store has.
FOREVER, HELD = "forever", "held"


class Gate:
    """See `runtime.web.contexts.Gate`. Everything is allowed but what begins with `/secret` (by a
    rule) and the key `secret`; of the caller, only what was exposed."""

    def __init__(self, exposed: str | None = None) -> None:
        self._exposed = exposed
        self.effects = 0
        self.read_bytes = 0
        self.written_bytes = 0

    def decide(self, action: str, object_: str) -> None:
        if object_.lstrip("/").startswith("secret"):
            raise Denied(f"{action} on {object_} is refused", rule=RULE)
        if self._exposed is not None and not object_.startswith(self._exposed):
            raise Denied(f"{object_} is not exposed to this run")
        if self._exposed is not None and action != "fs.read":
            raise Denied(f"{object_} is exposed for reading alone")

    async def begin_effect(self) -> None:
        self.effects += 1

    def count(self, *, read_bytes: int = 0, written_bytes: int = 0) -> None:
        self.read_bytes += read_bytes
        self.written_bytes += written_bytes


class World:
    """`ops` is the table of a run. `target` and `caller` are the directories of their trees."""

    def __init__(self, target: Path, caller: Path, values: KeyValue) -> None:
        self.target, self.caller = target, caller
        self.gate, self.callers_gate = Gate(), Gate(exposed="/open")
        self.calls: list[str] = []
        # Let go by a test, for a guest that asks for the key `held`.
        self.release = anyio.Event()
        targets = ContextFiles("target", namespace("target", target), self.gate.decide)
        callers = ContextFiles("caller", namespace("caller", caller), self.callers_gate.decide)
        calls = file_calls("target", targets, self.gate)
        calls |= file_calls("caller", callers, self.callers_gate)
        calls |= key_value_calls("target", values, self.gate)
        self.ops = {name: self._told(name, call) for name, call in calls.items()}

    def _told(self, name: str, call: HostCall) -> HostCall:
        async def told(argument: str) -> str:
            self.calls.append(name)
            if name == "target.kv.get" and FOREVER in argument:
                await anyio.sleep_forever()
            if name == "target.kv.get" and HELD in argument:
                await self.release.wait()
            return await call(argument)

        return told


def namespace(name: str, root: Path) -> Namespace[Mount]:
    quota = Quota(f"context {name}", limit_bytes=1 << 24, limit_files=1000)
    return Namespace({VirtualPath("/"): Mount(name, lambda: RootFS(root), quota)})


@asynccontextmanager
async def open_world(directory: Path) -> AsyncIterator[World]:
    """Trees with something in them, and an empty store, under `directory`."""
    target, caller = directory / "target", directory / "caller"
    for root in (target, caller):
        for folder in ("notes", "secret", "open"):
            (root / folder).mkdir(parents=True)
            (root / folder / "a.txt").write_text("é€", encoding="utf-8")
    (target / "raw").write_bytes(b"\x00\xff")
    (target / "notes" / "out").symlink_to("/etc/passwd")
    async with open_store(directory / "orvalho.db", [MIGRATIONS]) as store:
        limits = KvLimits(value_bytes=100_000, total_bytes=1_000_000, items=100)
        yield World(target, caller, KeyValue(store, "peer", limits))

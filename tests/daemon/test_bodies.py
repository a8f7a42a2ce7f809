"""Sources that were left out: found under each key that their sender had, or asked for."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from orvalho.contexts.identity import Key, key_text
from orvalho.contexts.names import new_run_id
from orvalho.daemon.bodies import Bodies
from orvalho.errors import NotFound, Unavailable, Untrusted
from orvalho.scripts import runs, sources
from orvalho.scripts.messages import RunScript, SourcePart, encode
from orvalho.scripts.modules import MAX_MODULES_BYTES, digest_of
from orvalho.scripts.runs import Run
from orvalho.scripts.signing import Call
from orvalho.store import Store, open_store
from tests.scripts.scene import Scene, make_scene

pytestmark = pytest.mark.anyio

OLD, NEW = Key(b"o" * 32), Key(b"n" * 32)
MIGRATIONS = (runs.MIGRATIONS, sources.MIGRATIONS)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene()


class Node:
    """Answers for one key, and is not there for any other."""

    def __init__(self, key: Key, content: bytes = b"") -> None:
        self.key = key
        self.content = content
        self.asked: list[Key] = []

    async def ask(self, to: Key, kind: str, body: bytes, timeout_s: float) -> bytes:
        self.asked.append(to)
        if to != self.key:
            raise Unavailable("it is not there")
        if not self.content:
            raise NotFound("no such source")
        return encode(
            SourcePart(size_bytes=len(self.content), is_bytes=False, content=self.content)
        )


def bodies(store: Store, node: Node) -> Bodies:
    trust = SimpleNamespace(
        heir=lambda key: NEW if key == OLD else key,
        by_key=lambda key: "peer" if key == NEW else None,
    )
    house: Any = SimpleNamespace(store=store, node=node, trust=trust)
    return Bodies(house)


def left_out(scene: Scene, **digests: str) -> tuple[RunScript, Call]:
    """A message without its modules, of which the digests are these."""
    signed = scene.sign()
    modules = {f"{name}.js": digest for name, digest in digests.items()}
    call = msgspec.structs.replace(signed.call, modules=modules)
    message = RunScript(
        envelope=signed.envelope, source=str(scene.script.source), params=b"null", held=modules
    )
    return message, call


@pytest.mark.parametrize("under", [OLD, NEW])
async def test_a_source_is_found_under_each_key_of_its_sender(
    tmp_path: Path, scene: Scene, under: Key
) -> None:
    text = "export const a = 1"
    run = Run(
        id=new_run_id(1e9, bytes(10)),
        direction="received",
        caller="gil@laptop",
        target="peer@phone2",
        peer_key=key_text(under),
        filename="a.js",
        digest=digest_of("1"),
        needs=(),
        created_at=0.0,
        expires_at=1.0,
    )
    async with open_store(tmp_path / "x.db", MIGRATIONS) as store:

        def fill(connection: Any) -> None:
            runs.stage_new(connection, run, envelope=b"", source="1", params=b"null")
            sources.stage_modules(connection, run.id, {"a.js": text})

        await store.transact("fill", fill)
        message, call = left_out(scene, a=digest_of(text))
        node = Node(NEW)
        filled = await bodies(store, node).fill(message, OLD, call, time.time() + 60)
        assert (filled.modules, filled.held, node.asked) == ({"a.js": text}, {}, [])


async def test_a_lost_source_is_asked_of_the_new_key(tmp_path: Path, scene: Scene) -> None:
    text = "export const a = 1"
    async with open_store(tmp_path / "x.db", MIGRATIONS) as store:
        message, call = left_out(scene, a=digest_of(text))
        node = Node(NEW, text.encode())
        filled = await bodies(store, node).fill(message, OLD, call, time.time() + 60)
        assert (filled.modules, node.asked) == ({"a.js": text}, [NEW])


async def test_what_all_its_modules_take_together_is_bounded(tmp_path: Path, scene: Scene) -> None:
    half = b"x" * (MAX_MODULES_BYTES // 2 + 1)
    digest = digest_of(half)
    async with open_store(tmp_path / "x.db", MIGRATIONS) as store:
        message, call = left_out(scene, a=digest, b=digest)
        with pytest.raises(Untrusted, match="does not have"):
            await bodies(store, Node(NEW, half)).fill(message, NEW, call, time.time() + 60)
        many = {f"m{number}": digest for number in range(300)}
        message, call = left_out(scene, **many)
        with pytest.raises(Untrusted, match="at most 256 modules"):
            await bodies(store, Node(NEW)).fill(message, NEW, call, time.time() + 60)


async def test_nothing_is_waited_for_beyond_the_calls_time(tmp_path: Path, scene: Scene) -> None:
    async with open_store(tmp_path / "x.db", MIGRATIONS) as store:
        message, call = left_out(scene, a="0" * 64)
        with pytest.raises(Untrusted, match="expired while a source"):
            await bodies(store, Node(Key(b"x" * 32))).fill(message, NEW, call, time.time() - 1)

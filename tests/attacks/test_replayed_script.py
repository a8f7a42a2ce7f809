"""A paired node that plays foul: it speaks the road's own language with its own keys."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import anyio
import msgspec
import pytest

from orvalho.contexts.identity import Identity, Key, certify, key_text
from orvalho.contexts.names import new_run_id
from orvalho.contexts.trust import MIGRATIONS as TRUST
from orvalho.contexts.trust import TrustBook, open_trust_book
from orvalho.errors import NotFound
from orvalho.peers import node as peers
from orvalho.peers.node import Node
from orvalho.peers.node_config import NodeConfig
from orvalho.peers.opening import open_node
from orvalho.scripts.manifest import read_manifest
from orvalho.scripts.messages import RunScript, ScriptEnded, decode, encode
from orvalho.scripts.script import make_script
from orvalho.scripts.signing import Caller, SignedScript, Target, sign_script
from orvalho.store import open_store
from tests.scenarios.devices import Device, two_devices

COUNT = """\
// /// orvalho
// needs = ["target.kv.read:count", "target.kv.write:count"]
// ///
const count = ((await target.kv.get("count")) ?? 0) + 1;
await target.kv.put("count", count);
count
"""


class Book:
    def __init__(self, book: TrustBook) -> None:
        self._book = book

    def peers(self) -> list[Key]:
        return [peer.node_key for peer in self._book.peers()]

    def addresses(self, key: Key) -> Sequence[str]:
        peer = self._book.by_key(key)
        return peer.addresses if peer else ()

    def name(self, key: Key) -> str | None:
        return None


class Foul:
    """The laptop's keys in other hands than its daemon's."""

    def __init__(self, node: Node, identity: Identity, phone: Key) -> None:
        self.node = node
        self.identity = identity
        self.phone = phone
        self._answers: dict[bytes, ScriptEnded] = {}
        self.asked = 0
        self.lines: list[bytes] = []
        node.handle("script.ended", self._ended)
        node.hear("script.output", lambda sender, body: self.lines.append(body))
        node.answer("script.source", self._source)

    async def _source(self, sender: Key, body: bytes) -> bytes:
        self.asked += 1
        raise NotFound("nothing")

    async def _ended(self, envelope, delivery) -> None:
        self._answers[envelope.reply_to] = decode(envelope.body, ScriptEnded)

    def sign(self, source: str = COUNT, **changes: object) -> SignedScript:
        context = self.identity.context("gil")
        now = time.time()
        me = self.identity.node
        script = make_script("count.js", source)
        arguments: dict[str, object] = {
            "signer": context,
            "caller": Caller(
                node="laptop",
                node_key=key_text(me.key),
                context="gil",
                context_key=key_text(context.key),
                certificate=certify(me, "context", "gil", context.key, now),
            ),
            "target": Target(node_key=key_text(self.phone), context="peer"),
            "params": b"null",
            "run": new_run_id(now, bytes(10)),
            "now": now,
        }
        return sign_script(script, read_manifest(script), **arguments | changes)  # type: ignore[arg-type]

    async def send(
        self, signed: SignedScript, source: str = COUNT, **changes: object
    ) -> ScriptEnded:
        message = RunScript(envelope=signed.envelope, source=source, params=signed.params)
        body = encode(msgspec.structs.replace(message, **changes))
        id_ = await self.node.post(self.phone, "script.run", body, expires_at=time.time() + 3600)
        with anyio.fail_after(20):
            while id_ not in self._answers:
                await anyio.sleep(0.02)
        return self._answers[id_]


async def play(laptop: Device, plot) -> None:
    identity = Identity.load(laptop.home / "state/keys")

    async def nothing(*_: object) -> None:
        return None

    migrations = (TRUST, *peers.MIGRATIONS)
    async with open_store(laptop.home / "state/orvalho.db", migrations) as store:
        book = await open_trust_book(store)
        phone = book.by_name("phone2").node_key
        config = NodeConfig(
            name="laptop",
            signer=identity.node,
            noise_static=identity.noise_static(),
            owner_key=identity.owner.key,
            certificate=certify(identity.owner, "node", "laptop", identity.node.key, time.time()),
            listen=(),
            advertise=lambda addresses: addresses,
            store=store,
            blobs=laptop.home / "state/blobs",
            book=Book(book),
            check_certificate=lambda blob, owner: ("", Key(b"")),
            on_greeting=nothing,
            on_paired=nothing,
            on_undelivered=lambda connection, mail: None,
        )
        async with open_node(config) as node:
            await plot(Foul(node, identity, phone))


@pytest.mark.anyio
async def test_replayed_altered_and_retargeted_scripts_do_nothing(tmp_path: Path) -> None:
    with two_devices(tmp_path) as (laptop, phone):
        phone.allow(
            "p, laptop, peer, kv.read, count, allow", "p, laptop, peer, kv.write, count, allow"
        )
        laptop.stop()

        async def plot(foul: Foul) -> None:
            signed = foul.sign()
            first = await foul.send(signed)
            assert (first.outcome, first.result) == ("done", b"1")

            for what, attempt, source in (
                ("once before", signed, COUNT),
                ("not the one that was signed", foul.sign(), COUNT + " "),
                (
                    "another node",
                    foul.sign(target=Target(node_key=key_text(Key(b"x" * 32)), context="peer")),
                    COUNT,
                ),
                ("expired", foul.sign(now=time.time() - 86_400, life_s=60), COUNT),
                ("from the future", foul.sign(now=time.time() + 86_400), COUNT),
                ("another key", foul.sign(signer=foul.identity.context("eve")), COUNT),
            ):
                answer = await foul.send(attempt, source)
                assert answer.outcome == "refused", what
                assert answer.error is not None
                assert answer.error.code == "untrusted", answer.error
                assert what in answer.error.message, answer.error

            again = await foul.send(foul.sign())
            assert again.result == b"2", "nothing of all that counted"

        await play(laptop, plot)
        refused = [
            entry
            for line in phone.does("audit", "--json").splitlines()
            if (entry := json.loads(line)).get("allowed") is False
        ]
        assert len(refused) >= 6, "each is in the audit log"


@pytest.mark.anyio
async def test_a_replay_is_not_computed_once_more(tmp_path: Path) -> None:
    with two_devices(tmp_path) as (laptop, phone):
        phone.allow("p, laptop, peer, script.run, *, allow")
        laptop.stop()
        source = 'console.log("computed"); 1'

        async def plot(foul: Foul) -> None:
            signed = foul.sign(source)
            assert (await foul.send(signed, source)).outcome == "done"
            told = len(foul.lines)
            for _ in range(3):
                answer = await foul.send(signed, source)
                assert answer.error is not None
                assert "once before" in answer.error.message
            other = foul.sign(source, run=new_run_id(time.time(), b"x" * 10))
            assert (await foul.send(other, source)).outcome == "done"
            assert told == 1
            assert len(foul.lines) == 2, "lines come in order: the replays wrote none"

        await play(laptop, plot)


@pytest.mark.anyio
async def test_no_source_is_fetched_but_for_a_good_call_that_names_it(tmp_path: Path) -> None:
    with two_devices(tmp_path) as (laptop, _phone):
        laptop.stop()
        held = {f"{number}.js": f"{number:064x}" for number in range(60)}

        async def plot(foul: Foul) -> None:
            signed = foul.sign()
            for what, changes in (
                ("envelope", {"envelope": b"garbage", "held": held}),
                ("none of the call's", {"held": held}),
                ("none of the call's", {"held": {"": "0" * 64}}),
                ("expired", {"envelope": foul.sign(now=1.0, life_s=60).envelope, "held": held}),
            ):
                answer = await foul.send(signed, **changes)
                assert answer.error is not None
                assert what in answer.error.message, answer.error
                assert foul.asked == 0, what
            own = {"": make_script("count.js", COUNT).digest}
            answer = await foul.send(signed, "", held=own)
            assert answer.error is not None
            assert "does not have" in answer.error.message
            assert foul.asked == 1

        await play(laptop, plot)

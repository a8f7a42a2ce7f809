"""A third node keeps sealed mail for one that is off: it arrives once, and the keeper reads
nothing of it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from orvalho.contexts.identity import Key, Signer
from orvalho.errors import Denied, InvalidInput, LimitExceeded, OrvalhoError
from orvalho.peers import envelope as envelopes
from orvalho.peers.depot import TAKEN, Collect, Item, Keep, Places, Taken, Verdicts
from orvalho.peers.envelope import INLINE_BYTES, EnvelopeId
from orvalho.peers.keeping import DepotTerms
from orvalho.peers.parcel import encrypt_body, parcel_id, wrap
from orvalho.peers.sending import Outcome
from orvalho.peers.tally import Quota
from orvalho.transports.catalog import Catalog
from orvalho.transports.memory import Faults, MemoryNetwork
from tests.peers.world import Book, Person, until

pytestmark = pytest.mark.anyio

OPEN = DepotTerms(keeps_for=lambda _: True, kept_by=lambda _: True, after_s=0.05)
LIMIT_S = 30.0


class World:
    """Laptop, server and phone on one memory network. The laptop and the phone meet only if
    somebody says so: each knows no address of the other."""

    def __init__(self, directory: Path) -> None:
        self.network = MemoryNetwork()
        self.catalog = Catalog({"memory": self.network})
        self.laptop = Person("laptop", directory)
        self.server = Person("server", directory)
        self.phone = Person("phone", directory)
        for person in (self.laptop, self.phone):
            person.knows(self.server, "memory://server")
            self.server.knows(person)
        self.laptop.knows(self.phone)
        self.phone.knows(self.laptop)

    @asynccontextmanager
    async def awake(self, *people: Person, **options: Any) -> AsyncIterator[None]:
        settings: dict[str, Any] = {"depot": OPEN, **options}
        async with AsyncExitStack() as stack:
            for person in people:
                await stack.enter_async_context(
                    person.awake(f"memory://{person.name}", catalog=self.catalog, **settings)
                )
                person.node.handle("note", person.keep)
            yield

    async def deposited(self, count: int = 1) -> None:
        """Wait until so much mail of the laptop's lies at the server, and nothing is under way."""
        await eventually(
            self.laptop.node.depots.depositor.with_whom, self.phone.key, {self.server.key: count}
        )


async def eventually(call: Any, argument: Any, expected: Any) -> None:
    seen: list[Any] = []

    async def look() -> None:
        seen.append(await call(argument))

    deadline = time.monotonic() + LIMIT_S
    while not seen or seen[-1] != expected:
        assert time.monotonic() < deadline, seen[-1:]
        await look()


async def lies_at(person: Person) -> int:
    return sum(pile.count for pile in await person.node.depots.keeper.piles())


@pytest.mark.parametrize("size_bytes", [0, 100, INLINE_BYTES, INLINE_BYTES + 1, 3_000_000])
async def test_mail_reaches_a_node_that_never_meets_its_sender(
    tmp_path: Path, size_bytes: int
) -> None:
    world = World(tmp_path)
    laptop, server, phone = world.laptop, world.server, world.phone
    body = os.urandom(size_bytes)
    # given a phone that is off: its mail is left with the server, and then the laptop goes
    async with world.awake(server):
        async with world.awake(laptop):
            id_ = await laptop.post(phone, body)
            await world.deposited()
            assert await laptop.node.queued(phone.key) == 1
            assert await laptop.node.depots.depositor.keeper_of(id_) == server.key
        assert await lies_at(server) == 1
        # when the phone wakes
        async with world.awake(phone):
            await until(lambda: phone.handled, LIMIT_S)
            # The word that it was taken goes to the server too, for the laptop.
            await until(lambda: server.node.statistics().get("depot.kept") == 2, LIMIT_S)
            await eventually(lies_at, server, 1)
            await eventually(phone.node.queued, laptop.key, 0)
        # then it has the mail once, and the laptop learns of it when it returns, the phone gone
        assert phone.handled == [body]
        async with world.awake(laptop):
            assert await laptop.node.delivered(id_) is Outcome.DELIVERED
            await eventually(laptop.node.queued, phone.key, 0)
            await eventually(lies_at, server, 0)
            assert await laptop.node.depots.depositor.with_whom(phone.key) == {}
    assert laptop.undelivered == []
    left = [p for who in (laptop, server, phone) for p in (who.directory / "blobs").rglob("*-*")]
    assert left == []


# ---- a keeper that is not honest: the test speaks in its name -------------------------------


def letter(sender: Person, to: Person, body: bytes, *, lives_s: float = 60.0) -> bytes:
    """A sealed envelope."""
    now = time.time()
    return envelopes.seal(
        sender.signer,
        id=envelopes.new_id(now, os.urandom(10)),
        kind="note",
        recipient=to.key,
        body=body,
        sent_at=now,
        expires_at=now + lives_s,
    )


def item(world: World, sealed: bytes, place: int = 1) -> Item:
    parcel = wrap(sealed, recipient=world.phone.key, keeper=world.server.key, expires_at=0.0)
    return Item(place=place, content=parcel.content)


async def offer(world: World, *items: Item) -> tuple[int, ...]:
    """The server hands these to the phone; what it may forget."""
    answer = await world.server.node.ask(
        world.phone.key, "depot.collect", msgspec.msgpack.encode(Collect(items=items)), LIMIT_S
    )
    return msgspec.msgpack.decode(answer, type=Places).places


@asynccontextmanager
async def facing(directory: Path) -> AsyncIterator[World]:
    """The server and the phone are linked, the laptop is off."""
    world = World(directory)
    async with world.awake(world.server, world.phone):
        await until(lambda: world.server.node.is_online(world.phone.key), LIMIT_S)
        yield world


def refused(person: Person) -> int:
    counters = person.node.statistics()
    return sum(n for name, n in counters.items() if name.startswith("parcels.refused"))


async def test_a_repeated_parcel_is_handled_once(tmp_path: Path) -> None:
    async with facing(tmp_path) as world:
        sealed = letter(world.laptop, world.phone, b"once")
        for _ in range(3):
            assert set(await offer(world, item(world, sealed, 1), item(world, sealed, 2))) == {1, 2}
        await until(lambda: world.phone.handled)
        assert world.phone.handled == [b"once"]
        assert world.phone.node.statistics()["envelopes.repeated"] == 5


async def test_reordered_parcels_all_arrive_once(tmp_path: Path) -> None:
    async with facing(tmp_path) as world:
        bodies = [b"%d" % number for number in range(50)]
        items = [
            item(world, letter(world.laptop, world.phone, body), place)
            for place, body in enumerate(bodies)
        ]
        assert len(await offer(world, *reversed(items))) == 50
        await until(lambda: len(world.phone.handled) == 50, LIMIT_S)
        assert sorted(world.phone.handled) == sorted(bodies)


async def test_altered_parcels_are_refused_and_not_offered_for_ever(tmp_path: Path) -> None:
    async with facing(tmp_path) as world:
        sealed = letter(world.laptop, world.phone, b"altered")
        content = item(world, sealed).content
        broken = [
            content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
            for at in range(0, len(content), 7)
        ]
        # Changed inside and sealed again: anybody can seal, but not sign.
        resealed = [
            item(world, sealed[:at] + b"?" + sealed[at + 1 :]).content for at in (0, 70, 120)
        ]
        contents = [*broken, *resealed, content[:-1], content + b"x", b"", os.urandom(200)]
        items = [Item(place=n, content=each) for n, each in enumerate(contents)]
        assert len(await offer(world, *items)) == len(items)
        assert refused(world.phone) == len(items)
        assert world.phone.handled == []


async def test_mail_of_strangers_and_for_others_is_refused(tmp_path: Path) -> None:
    async with facing(tmp_path) as world:
        stranger = Person("stranger", tmp_path)
        items = (
            item(world, letter(stranger, world.phone, b"hello"), 1),
            item(world, letter(world.laptop, world.server, b"not for you"), 2),
            item(world, letter(world.laptop, world.phone, b"too old", lives_s=-1000.0), 3),
        )
        assert set(await offer(world, *items)) == {1, 2, 3}
        assert refused(world.phone) == 3
        assert world.phone.handled == []


async def test_the_trust_book_is_asked_on_the_event_loop_alone(tmp_path: Path) -> None:
    world = World(tmp_path)
    asked: set[int] = set()

    class Watched(Book):
        def peers(self) -> set[Key]:
            asked.add(threading.get_ident())
            return super().peers()

    for person in (world.laptop, world.server, world.phone):
        person.book = Watched(person.book.known, person.book.names)
    async with world.awake(world.server):
        async with world.awake(world.laptop):
            await world.laptop.post(world.phone, b"x")
            await world.deposited()
        async with world.awake(world.phone):
            await until(lambda: world.phone.handled, LIMIT_S)
    assert asked == {threading.get_ident()}


async def test_a_sender_that_is_dropped_while_its_body_is_fetched_is_refused(
    tmp_path: Path,
) -> None:
    async with facing(tmp_path) as world:
        body = os.urandom(INLINE_BYTES + 101)
        sealed = letter(world.laptop, world.phone, body)
        encrypted = encrypt_body(sealed, world.server.key, body)
        serve = _serve(encrypted)

        async def part(sender: Any, asked: bytes) -> bytes:
            world.phone.book.known.pop(world.laptop.key, None)
            return await serve(sender, asked)

        world.server.node.answer("depot.kept", part)
        blob = envelopes.refer(encrypted)
        made = Item(
            place=1,
            content=item(world, sealed).content,
            body_sha256=blob.sha256,
            body_bytes=blob.size_bytes,
        )
        assert await offer(world, made) == (1,)
        assert refused(world.phone) == 1
        assert world.phone.handled == []


async def test_an_altered_body_is_refused(tmp_path: Path) -> None:
    async with facing(tmp_path) as world:
        world.server.node.answer("depot.kept", _serve(bytes(INLINE_BYTES + 117)))
        body = os.urandom(INLINE_BYTES + 101)
        sealed = letter(world.laptop, world.phone, body)
        encrypted = encrypt_body(sealed, world.server.key, body)
        for sha256, size in (
            (envelopes.refer(encrypted).sha256, len(encrypted)),  # announced, not served
            (envelopes.refer(bytes(len(encrypted))).sha256, len(encrypted)),  # served, not ours
            (b"", 3),
        ):
            made = Item(
                place=1, content=item(world, sealed).content, body_sha256=sha256, body_bytes=size
            )
            assert await offer(world, made) == (1,)
        assert refused(world.phone) == 3
        assert world.phone.handled == []


def _serve(content: bytes) -> Any:
    async def part(_: Any, body: bytes) -> bytes:
        _, offset = msgspec.msgpack.decode(body)
        return content[offset : offset + (1 << 18)]

    return part


async def test_the_word_that_mail_was_taken_counts_only_from_its_recipient(tmp_path: Path) -> None:
    world = World(tmp_path)
    laptop, server, phone = world.laptop, world.server, world.phone
    async with world.awake(server, laptop):
        id_ = await laptop.post(phone, b"still here")
        await world.deposited()
        # The server says so in its own name, and nobody else's can it sign.
        body = msgspec.msgpack.encode(Taken(ids=(id_,), rejected=((id_, "no"),)))
        await server.node.post(laptop.key, TAKEN, body, expires_at=time.time() + 60)
        await eventually(server.node.queued, laptop.key, 0)
        assert await laptop.node.queued(phone.key) == 1
        async with world.awake(phone):
            await until(lambda: phone.handled, LIMIT_S)
    assert phone.handled == [b"still here"]


async def test_what_a_keeper_drops_still_comes_directly(tmp_path: Path) -> None:
    world = World(tmp_path)
    laptop, server, phone = world.laptop, world.server, world.phone
    async with world.awake(server, laptop):
        id_ = await laptop.post(phone, b"dropped there")
        await world.deposited()
        assert await server.node.depots.keeper.drop_pile(laptop.key, phone.key) == 1
        laptop.knows(phone, "memory://phone")
        async with world.awake(phone):
            laptop.node.refresh()
            assert await laptop.node.delivered(id_) is Outcome.DELIVERED
            await until(lambda: phone.handled, LIMIT_S)
    assert phone.handled == [b"dropped there"]


async def test_mail_that_came_directly_is_withdrawn_from_the_keeper(tmp_path: Path) -> None:
    world = World(tmp_path)
    laptop, server, phone = world.laptop, world.server, world.phone
    phone.book.known.pop(server.key)  # the phone never asks the server
    laptop.knows(phone, "memory://phone")
    async with world.awake(server, laptop):
        id_ = await laptop.post(phone, b"both ways")
        await world.deposited()
        async with world.awake(phone):
            laptop.node.refresh()
            assert await laptop.node.delivered(id_) is Outcome.DELIVERED
            await until(lambda: phone.handled, LIMIT_S)
        await eventually(lies_at, server, 0)
    assert phone.handled == [b"both ways"]


async def test_withdrawn_mail_leaves_the_keeper_too(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.awake(world.server, world.laptop):
        id_ = await world.laptop.post(world.phone, b"never mind")
        await world.deposited()
        assert await world.laptop.node.withdraw(id_)
        await eventually(lies_at, world.server, 0)


async def test_expired_mail_is_given_up_everywhere_and_told(tmp_path: Path) -> None:
    world = World(tmp_path)
    later_s = [0.0]
    async with world.awake(world.server, world.laptop, clock=lambda: time.time() + later_s[0]):
        id_ = await world.laptop.post(world.phone, b"too late")
        await world.deposited()
        later_s[0] = 61.0
        assert await world.laptop.node.delivered(id_) is Outcome.EXPIRED
        assert [each.id for each in world.laptop.undelivered] == [id_]
        await eventually(lies_at, world.server, 0)
        await eventually(world.laptop.node.depots.depositor.with_whom, world.phone.key, {})


@pytest.mark.parametrize(
    ("quota", "limit"),
    [(Quota(count=2, bytes=1 << 30), "depot-count"), (Quota(count=9, bytes=1000), "depot-bytes")],
)
async def test_a_full_depot_says_so_and_the_outbox_keeps_the_rest(
    tmp_path: Path, quota: Quota, limit: str
) -> None:
    world = World(tmp_path)
    laptop, server, phone = world.laptop, world.server, world.phone
    terms = DepotTerms(
        keeps_for=lambda _: True, kept_by=lambda _: True, quota=lambda: quota, after_s=0.05
    )
    async with world.awake(server, laptop, depot=terms):
        for number in range(3):
            await laptop.post(phone, bytes([number]) * 200)
        await world.deposited(2)
        await until(lambda: laptop.node.depots.depositor.refusal(phone.key), LIMIT_S)
        assert limit in (laptop.node.depots.depositor.refusal(phone.key) or "")
        assert await laptop.node.queued(phone.key) == 3
        laptop.knows(phone, "memory://phone")
        async with world.awake(phone):
            laptop.node.refresh()
            await until(lambda: len(phone.handled) == 3, LIMIT_S)
    assert sorted(body[0] for body in phone.handled) == [0, 1, 2]


async def test_a_full_disk_at_the_keeper_costs_nothing_but_the_deposit(tmp_path: Path) -> None:
    world = World(tmp_path)
    laptop, server, phone = world.laptop, world.server, world.phone
    async with world.awake(server, laptop):
        await until(lambda: laptop.node.is_online(server.key), LIMIT_S)
        await server.store.transact("full", lambda c: c.execute("PRAGMA max_page_count=1"))
        for _ in range(20):
            await laptop.post(phone, os.urandom(60_000))
        await until(lambda: laptop.node.depots.depositor.refusal(phone.key), LIMIT_S)
        refusal = laptop.node.depots.depositor.refusal(phone.key) or ""
        assert "the database could not be written" in refusal
        assert await laptop.node.queued(phone.key) == 20


async def test_a_keeper_keeps_for_whom_it_likes(tmp_path: Path) -> None:
    world = World(tmp_path)
    laptop, server, phone = world.laptop, world.server, world.phone
    shut = DepotTerms(kept_by=lambda _: True, after_s=0.05)
    async with world.awake(server, laptop, depot=shut):
        await until(lambda: laptop.node.is_online(server.key), LIMIT_S)
        with pytest.raises(Denied):
            await laptop.node.ask(
                server.key, "depot.keep", msgspec.msgpack.encode(Keep(parcels=())), LIMIT_S
            )
        await laptop.post(phone, b"stays here")
        await until(lambda: laptop.node.depots.depositor.refusal(phone.key), LIMIT_S)
        assert await laptop.node.depots.depositor.with_whom(phone.key) == {}


async def test_a_keeper_looks_at_the_outside_of_a_parcel(tmp_path: Path) -> None:
    world = World(tmp_path)
    laptop, server, phone = world.laptop, world.server, world.phone
    async with world.awake(server, laptop):
        await until(lambda: laptop.node.is_online(server.key), LIMIT_S)
        good = wrap(
            letter(laptop, phone, b"x"),
            recipient=phone.key,
            keeper=server.key,
            expires_at=time.time() + 60,
        )
        change = msgspec.structs.replace
        flawed = (
            change(good, recipient=Signer(bytes(32)).key),
            change(good, recipient=b""),
            change(good, recipient=server.key),
            change(good, id=b"short"),
            change(good, content=b""),
            change(good, content=bytes(200_000)),
            change(good, expires_at=time.time() - 1),
            change(good, expires_at=float("nan")),
            change(good, expires_at=float("inf")),
            change(good, body_bytes=100),
            change(good, body_bytes=-1),
            change(good, body_bytes=1 << 40, body_sha256=bytes(32)),
            change(good, body_bytes=100_000, body_sha256=bytes(32)),  # announced, not offered
        )
        body = msgspec.msgpack.encode(Keep(parcels=(good, good, *flawed)))
        answer = await laptop.node.ask(server.key, "depot.keep", body, LIMIT_S)
        refusals = msgspec.msgpack.decode(answer, type=Verdicts).refusals
        assert refusals[:2] == ("", "")
        assert all(refusals[2:]), refusals
        assert await lies_at(server) == 1


async def test_a_batch_is_bounded(tmp_path: Path) -> None:
    async with facing(tmp_path) as world:
        with pytest.raises(LimitExceeded, match="depot-batch"):
            await offer(world, *[Item(place=n, content=b"") for n in range(1025)])


async def test_malformed_messages_harm_nobody(tmp_path: Path) -> None:
    async with facing(tmp_path) as world:
        server, phone = world.server, world.phone
        kinds = ("depot.keep", "depot.withdraw", "depot.kept", "depot.offered", "depot.collect")
        answerers = [phone.node._dispatch._answerers[kind] for kind in kinds]
        for number in range(10_000):
            try:
                await answerers[number % 5](server.key, os.urandom(number % 50))
            except OrvalhoError as error:
                assert isinstance(error, InvalidInput)
        assert await phone.node.depots.keeper.piles() == []
        assert phone.handled == []


async def test_what_a_peer_left_goes_with_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    laptop, server, phone = world.laptop, world.server, world.phone
    async with world.awake(server, laptop):
        await laptop.post(phone, b"x")
        await world.deposited()
        server.book.known.pop(laptop.key)
        await server.node.forget(laptop.key)
        assert await lies_at(server) == 0
        # And the depositor may turn to another keeper, once this one is none.
        laptop.book.known.pop(server.key)
        await laptop.node.forget(server.key)
        assert await laptop.node.depots.depositor.with_whom(phone.key) == {}
        assert await laptop.node.queued(phone.key) == 1


async def test_a_full_mailbox_leaves_mail_with_the_keeper(tmp_path: Path) -> None:
    world = World(tmp_path)
    laptop, server, phone = world.laptop, world.server, world.phone
    async with world.awake(server, laptop):
        await laptop.post(phone, b"x")
        await world.deposited()

    async def never(*_: object) -> None:
        await anyio.sleep_forever()

    async with world.awake(server), world.awake(phone, quota=Quota(count=0)):
        # A handler that is done at once needs no room.
        phone.node.handle("note", never)
        await until(lambda: phone.node.statistics().get("envelopes.postponed"), LIMIT_S)
    async with world.awake(server), world.awake(phone):
        await until(lambda: phone.handled, LIMIT_S)
    assert phone.handled == [b"x"]


async def test_mail_that_nobody_handles_is_rejected_to_its_sender(tmp_path: Path) -> None:
    world = World(tmp_path)
    laptop, server, phone = world.laptop, world.server, world.phone
    async with world.awake(server):
        async with world.awake(laptop):
            id_ = await laptop.node.post(phone.key, "riddle", b"?", expires_at=time.time() + 60)
            await world.deposited()
        async with world.awake(phone):
            await until(lambda: server.node.statistics().get("depot.kept") == 2, LIMIT_S)
            await eventually(lies_at, server, 1)
        async with world.awake(laptop):
            assert await laptop.node.delivered(id_) is Outcome.REJECTED
            assert "riddle" in laptop.undelivered[0].reason


async def test_mail_is_kept_and_collected_over_a_network_full_of_faults(tmp_path: Path) -> None:
    world = World(tmp_path)
    laptop, server, phone = world.laptop, world.server, world.phone
    world.network.faults = Faults(delay_s=0.002, drop=0.01, repeat=0.01, reorder=0.01, cut=0.01)
    bodies = {b"%d" % number for number in range(40)} | {os.urandom(200_000)}
    async with world.awake(server):
        async with world.awake(laptop):
            ids = [await laptop.post(phone, body, lifetime_s=600.0) for body in bodies]
            await world.deposited(len(bodies))
        async with world.awake(phone):
            await until(lambda: len(phone.handled) >= len(bodies), 60.0)
            async with world.awake(laptop):
                for id_ in ids:
                    with anyio.fail_after(60.0):
                        assert await laptop.node.delivered(id_) is Outcome.DELIVERED
    assert len(phone.handled) == len(bodies)
    assert set(phone.handled) == bodies


async def test_the_keeper_holds_no_plaintext_and_no_name_of_an_envelope(tmp_path: Path) -> None:
    world = World(tmp_path)
    laptop, server, phone = world.laptop, world.server, world.phone
    marker = os.urandom(16)
    ids: list[EnvelopeId] = []
    async with world.awake(server, laptop):
        for size_bytes in (0, 50_000, 500_000):
            ids.append(await laptop.post(phone, bytes(size_bytes) + marker * 4))
        await world.deposited(3)
        files = [path for path in server.directory.rglob("*") if path.is_file()]
        assert sum(path.name.startswith("kept-") for path in files) == 1
        everything = b"".join(path.read_bytes() for path in files)
        assert phone.key in everything  # it knows for whom
        for secret in (marker, b"note", *ids, *(id_.hex().encode() for id_ in ids)):
            assert secret not in everything


def test_two_keepers_hold_different_ids_of_one_envelope(tmp_path: Path) -> None:
    a, b = Person("a", tmp_path), Person("b", tmp_path)
    sealed = letter(a, b, b"x")
    assert parcel_id(sealed, a.key) != parcel_id(sealed, b.key)
    assert parcel_id(sealed, a.key) == parcel_id(sealed, a.key)

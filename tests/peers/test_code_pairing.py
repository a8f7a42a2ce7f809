"""Pairing by code between real nodes, and what somebody in the middle or on the side can do."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from orvalho.contexts.identity import certify
from orvalho.errors import Conflict, Unavailable, Untrusted
from orvalho.peers import codes
from orvalho.peers.code_pairing import Arrived, Ended, Tried
from orvalho.peers.codes import Code
from orvalho.peers.links import Links
from orvalho.peers.pake import Pake, Side
from orvalho.peers.parley import hear, say
from orvalho.peers.session import Mode, Session
from orvalho.transports.catalog import Catalog
from orvalho.transports.link import Link
from tests.peers.test_seeker import free_port
from tests.peers.world import QUICK, Person, until

pytestmark = pytest.mark.anyio
LISTEN = "ws://127.0.0.1:0"
SHOW: Any = {"lifetime_s": 60.0, "is_guest": False}


def off_by_one(code: Code) -> Code:
    """Another code of the same number."""
    return Code(code.nameplate, (*code.words[:2], "zoo" if code.words[2] != "zoo" else "zone"))


async def test_two_nodes_pair_by_code_alone(tmp_path: Path) -> None:
    inviter, joiner, port = Person("inviter", tmp_path), Person("joiner", tmp_path), free_port()
    async with (
        inviter.awake(LISTEN, pairing_port=port) as host,
        joiner.awake(LISTEN, pairing_port=port) as guest,
    ):
        guest.set_greeting(b"my contexts")
        async with host.show_code(lifetime_s=60.0, is_guest=True) as shown:
            paired = await guest.join(shown.code)
            event = await shown.events.receive()
        assert (paired.node_key, paired.name, paired.addresses) == (
            inviter.key, "inviter", host.addresses,
        )  # fmt: skip
        (other,) = inviter.paired
        assert event == Arrived(other)
        assert (other.node_key, other.greeting, other.is_guest, other.by_code) == (
            joiner.key, b"my contexts", True, True,
        )  # fmt: skip
        joiner.knows(inviter, *paired.addresses)
        guest.refresh()
        await until(lambda: guest.is_online(inviter.key) and host.is_online(joiner.key))


async def test_a_code_is_refused_with_the_reason(tmp_path: Path) -> None:
    inviter, joiner = Person("inviter", tmp_path), Person("joiner", tmp_path)
    late = Person("late", tmp_path)
    async with (
        inviter.awake(LISTEN, pairing_port=0) as host,
        joiner.awake() as guest,
        late.awake() as other,
    ):
        at = host.addresses
        async with host.show_code(**SHOW) as shown:
            used = shown.code
            await guest.join(used, at)
            for again in (guest, other):
                with pytest.raises(Untrusted, match="used already") as told:
                    await again.join(used, at)
                assert told.value.exit_status == 6
        async with host.show_code(**SHOW) as shown:
            withdrawn = shown.code
        with pytest.raises(Untrusted, match="withdrawn by its owner"):
            await other.join(withdrawn, at)
        async with host.show_code(lifetime_s=-1.0, is_guest=False) as shown:
            with pytest.raises(Untrusted, match="has expired"):
                await other.join(shown.code, at)
        unknown = next(n for n in range(100, 999) if n not in (used.nameplate, withdrawn.nameplate))
        with pytest.raises(Untrusted, match=r"no such code|has expired"):
            await other.join(Code(unknown, used.words), at)
    assert [each.name for each in inviter.paired] == ["joiner"]


async def test_other_nodes_at_some_of_the_addresses_do_no_harm(tmp_path: Path) -> None:
    inviter, joiner = Person("inviter", tmp_path), Person("joiner", tmp_path)
    neighbour = Person("neighbour", tmp_path)
    async with (
        inviter.awake(LISTEN, pairing_port=0) as host,
        joiner.awake(LISTEN, pairing_port=0) as guest,
        neighbour.awake(LISTEN, pairing_port=0) as other,
        host.show_code(**SHOW) as shown,
        other.show_code(**SHOW) as another,
    ):
        if another.code.nameplate == shown.code.nameplate:
            return  # one in 900
        # An address that every machine has leads to the joiner itself, or to its neighbour.
        at = (*guest.addresses, *other.addresses, "ws://127.0.0.1:1", *host.addresses)
        assert (await guest.join(shown.code, at)).node_key == inviter.key
        assert other.statistics().get("codes.wrong") is None
        # A wrong code is tried once at an inviter, however many addresses it has.
        with pytest.raises(Untrusted, match="the code is wrong"):
            await guest.join(off_by_one(another.code), other.addresses * 3)
        assert other.statistics()["codes.wrong"] == 1


async def test_a_node_that_shows_no_code_lets_no_stranger_in(tmp_path: Path) -> None:
    inviter, joiner = Person("inviter", tmp_path), Person("joiner", tmp_path)
    port = free_port()
    async with (
        inviter.awake(LISTEN, pairing_port=port) as host,
        joiner.awake(pairing_port=port) as guest,
    ):
        code = Code(417, ("violin", "orbit", "lemon"))
        with pytest.raises(Untrusted, match="expects nobody"):
            await guest.join(code, host.addresses)
        assert host.statistics()["handshakes.refused.not-inviting"] == 1


async def test_the_ticket_beside_a_code_will_do_and_uses_it_up(tmp_path: Path) -> None:
    inviter, joiner = Person("inviter", tmp_path), Person("joiner", tmp_path)
    late = Person("late", tmp_path)
    async with (
        inviter.awake(LISTEN, pairing_port=0) as host,
        joiner.awake() as guest,
        late.awake() as other,
    ):
        async with host.show_code(**SHOW) as shown:
            assert (await guest.redeem(shown.ticket)).node_key == inviter.key
            assert await shown.events.receive() == Arrived(inviter.paired[0])
            with pytest.raises(Untrusted, match="used already"):
                await other.join(shown.code, host.addresses)
        async with host.show_code(**SHOW) as shown:
            await guest.join(shown.code, host.addresses)
            with pytest.raises(Untrusted, match="no such ticket"):
                await other.redeem(shown.ticket)


async def test_three_wrong_tries_by_three_keys_end_a_code(tmp_path: Path) -> None:
    inviter, joiner = Person("inviter", tmp_path), Person("joiner", tmp_path)
    thieves = [Person(f"thief-{n}", tmp_path) for n in range(3)]
    async with (
        inviter.awake(LISTEN, pairing_port=0) as host,
        joiner.awake() as guest,
        host.show_code(**SHOW) as shown,
    ):
        wrong = off_by_one(shown.code)
        for thief, word in zip(thieves, ("wrong$", "wrong$", "after 3 wrong tries"), strict=True):
            async with thief.awake() as node:
                with pytest.raises(Untrusted, match=word) as told:
                    await node.join(wrong, host.addresses)
                assert told.value.exit_status == 6
        with pytest.raises(Untrusted, match="withdrawn after 3 wrong tries"):
            await guest.join(shown.code, host.addresses)
        with pytest.raises(Untrusted, match="no such ticket"):
            await guest.redeem(shown.ticket)
        events = [shown.events.receive_nowait() for _ in range(3)]
        assert events[:2] == [Tried(2), Tried(1)]
        assert isinstance(events[2], Ended)
        assert "3 wrong tries" in events[2].error.message
    assert inviter.paired == []


async def test_wrong_tries_at_the_same_time_are_counted_one_by_one(tmp_path: Path) -> None:
    inviter = Person("inviter", tmp_path)
    thieves = [Person(f"thief-{n}", tmp_path) for n in range(8)]
    told: list[str] = []

    async def guess(thief: Person, code: Code, at: tuple[str, ...]) -> None:
        async with thief.awake() as node:
            try:
                await node.join(code, at)
            except Untrusted as error:
                told.append(error.message)

    async with (
        inviter.awake(LISTEN, pairing_port=0) as host,
        host.show_code(**SHOW) as shown,
    ):
        async with anyio.create_task_group() as tasks:
            for thief in thieves:
                tasks.start_soon(guess, thief, off_by_one(shown.code), host.addresses)
        assert sorted(Counter(told).values()) == [2, 6]
        assert Counter(told)["the code is wrong"] == 2


async def test_tries_are_counted_across_restarts(tmp_path: Path) -> None:
    inviter, thief = Person("inviter", tmp_path), Person("thief", tmp_path)
    code: Code | None = None
    async with thief.awake() as node:
        for word in ("wrong$", "wrong$", "after 3 wrong tries", "after 3 wrong tries"):
            async with inviter.awake(LISTEN, pairing_port=0) as host:
                if code is None:
                    code = await given_out(inviter)
                # What was shown before the power went is remembered by a node that starts.
                await host.load()
                with pytest.raises(Untrusted, match=word):
                    await node.join(off_by_one(code), host.addresses)
        async with inviter.awake(LISTEN, pairing_port=0) as host:
            with pytest.raises(Untrusted, match="after 3 wrong tries"):
                await node.join(code, host.addresses)


async def given_out(inviter: Person) -> Code:
    """A code as a daemon leaves it that loses its power: open, with nobody who shows it."""
    import time

    show = partial(
        codes.show,
        token_hash=bytes(32),
        is_guest=False,
        expires_at=time.time() + 60,
        now=time.time(),
        below=lambda limit: 5 % limit,
    )
    return await inviter.store.transact("test", show)


async def test_a_wrong_certificate_is_refused_and_uses_nothing_up(tmp_path: Path) -> None:
    inviter, joiner = Person("inviter", tmp_path), Person("joiner", tmp_path)
    wrong = certify(joiner.owner, "node", "joiner", inviter.key, 0.0)
    async with inviter.awake(LISTEN, pairing_port=0) as host, host.show_code(**SHOW) as shown:
        async with joiner.awake(certificate=wrong) as guest:
            with pytest.raises(Untrusted, match="not of the node that shows it"):
                await guest.join(shown.code, host.addresses)
        async with joiner.awake() as guest:
            assert (await guest.join(shown.code, host.addresses)).node_key == inviter.key


async def test_what_the_inviters_side_raises_reaches_the_joiner(tmp_path: Path) -> None:
    inviter, joiner = Person("inviter", tmp_path), Person("joiner", tmp_path)

    async def taken(_: object) -> bool:
        raise Conflict("a peer of that name exists already", hint="rename it")

    async with (
        inviter.awake(LISTEN, on_paired=taken, pairing_port=0) as host,
        joiner.awake() as guest,
        host.show_code(**SHOW) as shown,
    ):
        with pytest.raises(Conflict, match="exists already") as caught:
            await guest.join(shown.code, host.addresses)
        assert caught.value.hint == "rename it"
        assert isinstance(await shown.events.receive(), Ended)


# ---- attacks ----------------------------------------------------------------------------------

Serve = Callable[[Link, Session], Awaitable[None]]


@asynccontextmanager
async def mallory(directory: Path, serve: Serve) -> AsyncIterator[tuple[Links, str, Person]]:
    """Somebody who speaks the protocol up to the code, and then does as she likes."""
    person = Person("mallory", directory)

    def ignore(*_: object) -> None:
        return None

    links = Links(
        signer=person.signer,
        noise_static=os.urandom(32),
        catalog=Catalog(),
        book=person.book,
        timings=QUICK,
        counters=Counter(),
        strangers=lambda _: Mode.PAIRING,
        on_pairing=serve,
        on_up=ignore,
        on_down=ignore,
        on_frame=ignore,
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(links.run)
        async with links.listen(LISTEN) as listener:
            yield links, listener.address, person
        tasks.cancel_scope.cancel()


async def test_who_passes_messages_on_between_two_sessions_gets_nothing(tmp_path: Path) -> None:
    inviter, joiner = Person("inviter", tmp_path), Person("joiner", tmp_path)
    passed: list[bytes] = []
    async with (
        inviter.awake(LISTEN, pairing_port=0) as host,
        joiner.awake() as guest,
        host.show_code(**SHOW) as shown,
    ):

        async def relay(link: Link, session: Session) -> None:
            there, session_there = await links.open_pairing(host.addresses, None)
            try:
                for _ in range(2):
                    passed.append(await hear(link, session))
                    await say(there, session_there, passed[-1])
                    passed.append(await hear(there, session_there))
                    await say(link, session, passed[-1])
            finally:
                await there.aclose()

        async with mallory(tmp_path, relay) as (links, address, _):
            # The joiner has the right code, and yet: the sessions are not the same.
            with pytest.raises(Untrusted, match="the code is wrong"):
                await guest.join(shown.code, [address])
        assert len(passed) == 4
        assert await shown.events.receive() == Tried(2)
        # Neither side's introduction could be read on the way.
        assert not any(b"joiner" in each or b"inviter" in each for each in passed)
        assert (await guest.join(shown.code, host.addresses)).node_key == inviter.key
    assert [each.name for each in inviter.paired] == ["joiner"]


async def test_who_guesses_on_both_sides_has_one_guess_each(tmp_path: Path) -> None:
    inviter, joiner = Person("inviter", tmp_path), Person("joiner", tmp_path)
    asked: list[bytes] = []
    async with (
        inviter.awake(LISTEN, pairing_port=0) as host,
        joiner.awake() as guest,
        host.show_code(**SHOW) as shown,
    ):

        async def pretend(link: Link, session: Session) -> None:
            opening = await hear(link, session)
            guess = off_by_one(shown.code)
            pake = Pake(
                Side.INVITER,
                guess.secret,
                joiner=session.peer,
                inviter=person.key,
                binding=session.binding,
                entropy=os.urandom,
            )
            element = msgspec.msgpack.decode(opening.removeprefix(b"orvalho/code/1\n"))[1]
            keys = pake.finish(element)
            await say(link, session, msgspec.msgpack.encode([pake.message]))
            proof = msgspec.msgpack.decode(await hear(link, session))
            assert not keys.is_confirmed(proof[1], proof[2])
            asked.append(proof[1])
            # She says the code was right all the same.
            sealed = keys.seal(b"\x90")
            answer = [b"", keys.confirm(sealed), sealed]
            await say(link, session, msgspec.msgpack.encode(answer))

        async with mallory(tmp_path, pretend) as (_, address, person):
            with pytest.raises(Untrusted, match="does not know the code"):
                await guest.join(shown.code, [address])
        assert len(asked) == 1
        assert joiner.paired == []


async def test_a_joiner_proves_itself_to_three_who_answer_at_most(tmp_path: Path) -> None:
    joiner = Person("joiner", tmp_path)
    proofs = 0

    async def pretend(link: Link, session: Session) -> None:
        nonlocal proofs
        opening = await hear(link, session)
        element = msgspec.msgpack.decode(opening.removeprefix(b"orvalho/code/1\n"))[1]
        pake = Pake(
            Side.INVITER, b"?", joiner=session.peer, inviter=session.peer, binding=bytes(32),
            entropy=os.urandom,
        )  # fmt: skip
        pake.finish(element)
        await say(link, session, msgspec.msgpack.encode([pake.message]))
        await hear(link, session)
        proofs += 1

    port = free_port()
    async with mallory(tmp_path, pretend) as (_, address, _), anyio.create_task_group() as tasks:
        for n in range(8):
            tasks.start_soon(_claim, port, f"{address}/?{n}")
        async with joiner.awake(pairing_port=port) as guest:
            with pytest.raises((Untrusted, Unavailable)):
                await guest.join(Code(417, ("violin", "orbit", "lemon")))
        tasks.cancel_scope.cancel()
    assert proofs == 3


async def _claim(port: int, address: str) -> None:
    from orvalho.peers.seeker import answer_seekers

    async with answer_seekers(port, lambda _: (address,)):
        await anyio.sleep_forever()


async def test_messages_of_an_earlier_exchange_are_worth_nothing(tmp_path: Path) -> None:
    inviter, joiner = Person("inviter", tmp_path), Person("joiner", tmp_path)
    said: list[bytes] = []
    async with (
        inviter.awake(LISTEN, pairing_port=0) as host,
        joiner.awake() as guest,
        host.show_code(**SHOW) as shown,
    ):

        async def record(link: Link, session: Session) -> None:
            said.append(await hear(link, session))
            pake = Pake(
                Side.INVITER, shown.code.secret, joiner=session.peer, inviter=person.key,
                binding=session.binding, entropy=os.urandom,
            )  # fmt: skip
            await say(link, session, msgspec.msgpack.encode([pake.message]))
            said.append(await hear(link, session))

        # Even one who once held the right code: what was said then proves nothing now.
        async with mallory(tmp_path, record) as (links, address, person):
            with pytest.raises(Unavailable):
                await guest.join(shown.code, [address])
            assert len(said) == 2
            link, session = await links.open_pairing(host.addresses, None)
            try:
                await say(link, session, said[0])
                await hear(link, session)
                await say(link, session, said[1])
                answer = msgspec.msgpack.decode(await hear(link, session))
            finally:
                await link.aclose()
        assert answer[4] == "the code is wrong"
        assert await shown.events.receive() == Tried(2)
    assert inviter.paired == []


async def test_hostile_exchanges_cost_an_inviter_nothing_but_time(tmp_path: Path) -> None:
    inviter, joiner = Person("inviter", tmp_path), Person("joiner", tmp_path)

    async def nobody(_link: Link, _session: Session) -> None:
        return None

    async with (
        inviter.awake(LISTEN, pairing_port=0) as host,
        joiner.awake() as guest,
        host.show_code(**SHOW) as shown,
        mallory(tmp_path, nobody) as (links, _, _),
    ):
        plate = shown.code.nameplate
        for n in range(100):
            element = (b"A" + os.urandom(32), os.urandom(n), b"A" + bytes(32))[n % 3]
            body = msgspec.msgpack.encode([plate, element])
            opening = (body, body[:-1], b"\xc1", b"", msgspec.msgpack.encode(["x", 3]))[n % 5]
            link, session = await links.open_pairing(host.addresses, None)
            try:
                await say(link, session, b"orvalho/code/1\n" + opening)
                answer = msgspec.msgpack.decode(await hear(link, session))
                # A refusal, or a point that was one by chance: left standing there.
                assert len(answer) == 6
            finally:
                await link.aclose()
        # None of these was a try: nothing was learnt from them.
        assert (await guest.join(shown.code, host.addresses)).node_key == inviter.key
        assert isinstance(await shown.events.receive(), Arrived)

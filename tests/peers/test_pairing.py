"""Tickets: redeemed once, by whom they are given to; every other use is refused by name."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from sqlite_utils import Database

from orvalho.contexts.identity import Key, certify
from orvalho.errors import Conflict, InvalidInput, Unavailable, Untrusted
from orvalho.peers import pairing
from orvalho.peers.pairing import Introduction, Redemption, Ticket, format_ticket, parse_ticket
from tests.peers.world import Person, until

TICKET = Ticket(
    node_key=bytes(32),
    introduction=Introduction(
        name="phone", owner_key=bytes(32), certificate=b"c" * 200, addresses=("ws://10.0.0.2:4455",)
    ),
    token=bytes(range(16)),
    expires_at=2e9,
    is_guest=True,
)
ANN, BEN = Key(b"a" * 32), Key(b"b" * 32)


# ---- the text


def test_a_ticket_survives_being_written_and_wrapped() -> None:
    text = format_ticket(TICKET)
    assert text.startswith("orvalho1:")
    assert parse_ticket(text) == TICKET
    assert parse_ticket(f"  {text[:40]}\n   {text[40:]}\n") == TICKET


@settings(max_examples=300)
@given(at=st.integers(9, len(format_ticket(TICKET)) - 1), letter=st.sampled_from("Aa0_-z"))
def test_a_mistyped_ticket_is_named_as_such(at: int, letter: str) -> None:
    text = format_ticket(TICKET)
    if text[at] != letter:
        changed = text[:at] + letter + text[at + 1 :]
        # The last letter has bits that say nothing; any other change is noticed.
        if at < len(text) - 1:
            with pytest.raises(InvalidInput, match="mistyped or incomplete") as caught:
                parse_ticket(changed)
            assert caught.value.where is not None
    with pytest.raises(InvalidInput, match="mistyped or incomplete"):
        parse_ticket(text[:at])


@pytest.mark.parametrize(
    "text", ["", "orvalho:", "hello", "orvalho2:abc", "orvalho1:" + "A" * 5000]
)
def test_what_is_no_ticket_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_ticket(text)


# ---- the rows


@pytest.fixture
def connection() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    pairing.MIGRATIONS.apply(Database(connection))
    return connection


def give_out(connection: sqlite3.Connection, token: bytes, expires_at: float = 100.0) -> None:
    pairing.invite(connection, token=token, is_guest=True, expires_at=expires_at, now=0.0)


def use(
    connection: sqlite3.Connection, token: bytes, by: Key = ANN, now: float = 1.0
) -> Redemption:
    return pairing.redeem(connection, token=token, by=by, now=now)[0]


def test_a_token_is_used_once_but_its_user_may_ask_again(connection: sqlite3.Connection) -> None:
    give_out(connection, b"t")
    assert pairing.redeem(connection, token=b"t", by=ANN, now=1.0) == (Redemption.GOOD, True)
    assert use(connection, b"t", by=ANN) is Redemption.GOOD
    assert use(connection, b"t", by=BEN) is Redemption.USED
    assert use(connection, b"t", by=ANN, now=100.0) is Redemption.EXPIRED
    assert not pairing.withdraw(connection, b"t")


def test_a_token_expires_and_can_be_withdrawn(connection: sqlite3.Connection) -> None:
    give_out(connection, b"t")
    assert use(connection, b"t", now=100.0) is Redemption.EXPIRED
    assert pairing.withdraw(connection, b"t")
    assert use(connection, b"t") is Redemption.WRONG


def test_three_wrong_tries_end_every_open_invitation(connection: sqlite3.Connection) -> None:
    for token in (b"one", b"two"):
        give_out(connection, token)
    assert use(connection, b"one") is Redemption.GOOD
    for _ in range(3):
        assert use(connection, b"guess", by=BEN) is Redemption.WRONG
    assert use(connection, b"two") is Redemption.LOCKED
    assert use(connection, b"one") is Redemption.GOOD
    give_out(connection, b"fresh")
    assert use(connection, b"fresh") is Redemption.GOOD


def test_the_database_holds_no_token(connection: sqlite3.Connection) -> None:
    give_out(connection, b"a secret token!!")
    assert b"a secret" not in connection.serialize()


def test_each_refusal_has_its_own_words() -> None:
    bad = [each for each in Redemption if each is not Redemption.GOOD]
    assert len({pairing.refusal(each).message for each in bad}) == len(bad)


# ---- two nodes


async def meet(tmp_path: Path) -> tuple[Person, Person]:
    return Person("inviter", tmp_path), Person("joiner", tmp_path)


@pytest.mark.anyio
async def test_a_redeemed_ticket_makes_both_know_each_other(tmp_path: Path) -> None:
    inviter, joiner = await meet(tmp_path)
    async with (
        inviter.awake("ws://127.0.0.1:0") as host,
        joiner.awake("ws://127.0.0.1:0") as guest,
    ):
        guest.set_greeting(b"my contexts")
        text = format_ticket(await host.invite(lifetime_s=60, is_guest=False))
        paired = await guest.redeem(parse_ticket(text))
        assert (paired.node_key, paired.name, paired.addresses) == (
            inviter.key, "inviter", host.addresses,
        )  # fmt: skip
        assert (paired.owner_key, paired.is_guest) == (inviter.owner.key, False)
        (other,) = inviter.paired
        assert (other.node_key, other.name, other.greeting, other.is_guest) == (
            joiner.key, "joiner", b"my contexts", False,
        )  # fmt: skip
        joiner.knows(inviter, *paired.addresses)
        guest.refresh()
        await until(lambda: guest.is_online(inviter.key) and host.is_online(joiner.key))
        # The answer may have been lost: the same node may ask once more.
        assert (await guest.redeem(parse_ticket(text))).node_key == inviter.key
        assert host.statistics()["pairing.good"] == 2


@pytest.mark.anyio
async def test_an_address_that_leads_elsewhere_does_no_harm(tmp_path: Path) -> None:
    inviter, joiner = await meet(tmp_path)
    async with (
        inviter.awake("ws://127.0.0.1:0") as host,
        joiner.awake("ws://127.0.0.1:0") as guest,
    ):
        ticket = await host.invite(lifetime_s=60, is_guest=False)
        addresses = (*guest.addresses, *host.addresses)
        elsewhere = replace(ticket, introduction=replace(ticket.introduction, addresses=addresses))
        assert (await guest.redeem(elsewhere)).node_key == inviter.key


@pytest.mark.anyio
async def test_a_ticket_is_refused_with_the_reason(tmp_path: Path) -> None:
    inviter, joiner = await meet(tmp_path)
    thief = Person("thief", tmp_path)
    async with (
        inviter.awake("ws://127.0.0.1:0") as host,
        joiner.awake() as guest,
        thief.awake() as other,
    ):
        ticket = await host.invite(lifetime_s=60, is_guest=True)
        assert (await guest.redeem(ticket)).is_guest
        with pytest.raises(Untrusted, match="used already") as caught:
            await other.redeem(ticket)
        assert (caught.value.peer, caught.value.exit_status) == ("inviter", 6)
        withdrawn = await host.invite(lifetime_s=60, is_guest=True)
        assert await host.uninvite(withdrawn)
        with pytest.raises(Untrusted, match="no such ticket"):
            await other.redeem(withdrawn)
        expired = await host.invite(lifetime_s=-1, is_guest=True)
        with pytest.raises(Untrusted, match="has expired"):
            await other.redeem(expired)
        slow_clock = Person("slow", tmp_path)
        async with slow_clock.awake(clock=lambda: time.time() - 100) as late:
            with pytest.raises(Untrusted, match="has expired") as caught:
                await late.redeem(expired)
            assert caught.value.peer == "inviter"
    assert [each.name for each in inviter.paired] == ["joiner"]


@pytest.mark.anyio
async def test_a_node_that_invites_nobody_lets_no_stranger_in(tmp_path: Path) -> None:
    inviter, joiner = await meet(tmp_path)
    async with inviter.awake("ws://127.0.0.1:0") as host, joiner.awake() as guest:
        ticket = await host.invite(lifetime_s=60, is_guest=False)
    async with inviter.awake("ws://127.0.0.1:0") as host, joiner.awake() as guest:
        with pytest.raises(Unavailable):
            await guest.redeem(ticket)
    stranger = Person("stranger", tmp_path)
    async with stranger.awake("ws://127.0.0.1:0") as host, joiner.awake() as guest:
        forged = Ticket(
            node_key=stranger.key,
            introduction=Introduction(
                name="stranger",
                owner_key=stranger.owner.key,
                certificate=certify(stranger.owner, "node", "stranger", stranger.key, 0.0),
                addresses=host.addresses,
            ),
            token=bytes(16),
            expires_at=time.time() + 60,
            is_guest=False,
        )
        with pytest.raises(Untrusted, match="expects nobody"):
            await guest.redeem(forged)
        assert host.statistics()["handshakes.refused.not-inviting"] == 1


@pytest.mark.anyio
async def test_a_certificate_of_another_is_refused_on_both_sides(tmp_path: Path) -> None:
    inviter, joiner = await meet(tmp_path)
    wrong = certify(joiner.owner, "node", "joiner", inviter.key, 0.0)
    async with (
        inviter.awake("ws://127.0.0.1:0") as host,
        joiner.awake(certificate=wrong) as guest,
    ):
        ticket = await host.invite(lifetime_s=60, is_guest=False)
        with pytest.raises(Untrusted, match="not of the node that shows it"):
            await guest.redeem(ticket)
        # A wrong certificate has not used the ticket up.
        assert host.statistics().get("pairing.good") is None
    assert inviter.paired == []


@pytest.mark.anyio
async def test_what_the_inviters_side_raises_reaches_the_joiner(tmp_path: Path) -> None:
    inviter, joiner = await meet(tmp_path)

    async def taken(_: object) -> bool:
        raise Conflict("a peer of that name exists already", hint="rename it")

    async with (
        inviter.awake("ws://127.0.0.1:0", on_paired=taken) as host,
        joiner.awake() as guest,
    ):
        ticket = await host.invite(lifetime_s=60, is_guest=False)
        with pytest.raises(Conflict, match="exists already") as caught:
            await guest.redeem(ticket)
        assert (caught.value.hint, caught.value.peer) == ("rename it", "inviter")

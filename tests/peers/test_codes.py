"""Codes as text and as rows: good once, three tries, then over for a reason that is told."""

from __future__ import annotations

import sqlite3
from itertools import count

import pytest
from sqlite_utils import Database

from orvalho.errors import InvalidInput, LimitExceeded
from orvalho.peers import codes, pairing
from orvalho.peers.codes import Code, Standing, parse_code

CODE = Code(417, ("violin", "orbit", "lemon"))


# ---- the text


@pytest.mark.parametrize(
    "text",
    [
        "417-violin-orbit-lemon",
        "417 violin orbit lemon",
        " 417-Violin-ORBIT-lemon\n",
        "417-viol-orbi-lemo",
        "417 - violin - orbit - lemon",
    ],
)
def test_a_code_is_read_as_people_type_it(text: str) -> None:
    assert parse_code(text) == CODE
    assert str(CODE) == "417-violin-orbit-lemon"


@pytest.mark.parametrize(
    "text",
    ["", "violin-orbit-lemon", "417-violin-orbit", "417-violin-orbit-lemon-tree",
     "41-violin-orbit-lemon", "4170-violin-orbit-lemon", "017-violin-orbit-lemon"],
)  # fmt: skip
def test_what_is_no_code_is_told_the_form_of_one(text: str) -> None:
    with pytest.raises(InvalidInput, match="a number and three words"):
        parse_code(text)


def test_a_mistyped_word_is_named_with_the_nearest_one() -> None:
    with pytest.raises(InvalidInput, match=r"'lemmon' is none of .* did you mean .lemon") as told:
        parse_code("417-violin-orbit-lemmon")
    assert told.value.where == "'417-violin-orbit-lemmon'"


# ---- the rows


@pytest.fixture
def connection() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    pairing.MIGRATIONS.apply(Database(connection))
    codes.MIGRATIONS.apply(Database(connection))
    return connection


def show(connection: sqlite3.Connection, token: bytes = b"t", now: float = 0.0) -> Code:
    numbers = count(len(token))
    pairing.invite(connection, token=token, is_guest=True, expires_at=now + 100.0, now=now)
    return codes.show(
        connection,
        token_hash=pairing.token_hash(token),
        is_guest=True,
        expires_at=now + 100.0,
        now=now,
        below=lambda limit: next(numbers) * 7919 % limit,
    )


def judge(
    connection: sqlite3.Connection, code: Code, *, is_right: bool, now: float = 1.0
) -> codes.Judgement:
    return codes.judge(
        connection, nameplate=code.nameplate, secret=code.secret, is_right=is_right, now=now
    )


def standing(connection: sqlite3.Connection, code: Code, now: float = 1.0) -> Standing:
    return codes.look(connection, code.nameplate, now)[0]


def test_a_code_is_good_once_and_takes_its_ticket_along(connection: sqlite3.Connection) -> None:
    code = show(connection)
    assert codes.look(connection, code.nameplate, 1.0) == (Standing.OPEN, code.secret)
    judgement = judge(connection, code, is_right=True)
    assert (judgement.standing, judgement.is_guest) == (Standing.GOOD, True)
    assert judge(connection, code, is_right=True).standing is Standing.USED
    assert codes.look(connection, code.nameplate, 1.0) == (Standing.USED, b"")
    redemption, _ = pairing.redeem(connection, token=b"t", by=pairing.Key(bytes(32)), now=1.0)
    assert redemption is pairing.Redemption.WRONG


def test_a_used_ticket_takes_its_code_along(connection: sqlite3.Connection) -> None:
    code = show(connection)
    assert codes.ticket_used(connection, pairing.token_hash(b"t")) == code.nameplate
    assert standing(connection, code) is Standing.USED
    assert codes.ticket_used(connection, pairing.token_hash(b"another")) is None


def test_three_wrong_tries_end_a_code_for_the_right_one_too(connection: sqlite3.Connection) -> None:
    code, other = show(connection), show(connection, b"other")
    assert [judge(connection, code, is_right=False) for _ in range(3)] == [
        codes.Judgement(Standing.WRONG, left=2),
        codes.Judgement(Standing.WRONG, left=1),
        codes.Judgement(Standing.LOCKED),
    ]
    assert judge(connection, code, is_right=True).standing is Standing.LOCKED
    assert standing(connection, other) is Standing.OPEN


def test_a_code_expires_and_can_be_withdrawn(connection: sqlite3.Connection) -> None:
    code, other = show(connection), show(connection, b"other")
    assert standing(connection, code, now=100.0) is Standing.EXPIRED
    assert judge(connection, code, is_right=True, now=100.0).standing is Standing.EXPIRED
    assert codes.withdraw(connection, other.nameplate, 1.0)
    assert not codes.withdraw(connection, other.nameplate, 1.0)
    assert judge(connection, other, is_right=True).standing is Standing.WITHDRAWN


def test_a_try_against_an_earlier_code_of_the_number_counts_for_nothing(
    connection: sqlite3.Connection,
) -> None:
    code = show(connection)
    earlier = Code(code.nameplate, ("zoo", "zoo", "zoo"))
    assert judge(connection, earlier, is_right=True).standing is Standing.UNKNOWN
    assert codes.look(connection, code.nameplate, 1.0) == (Standing.OPEN, code.secret)


def test_the_secret_of_a_code_that_is_over_is_erased(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA secure_delete=1")
    used, expired = show(connection), show(connection, b"later")
    judge(connection, used, is_right=True)
    codes.expire(connection, now=100.0)
    left = connection.execute("SELECT secret FROM pairing_code").fetchall()
    assert left == [(None,), (None,)]
    assert "-".join(expired.words).encode() not in connection.serialize()


def test_numbers_are_not_given_twice_and_run_out_in_words(connection: sqlite3.Connection) -> None:
    shown = {show(connection, b"%d" % n).nameplate for n in range(900)}
    assert shown == set(range(100, 1000))
    with pytest.raises(LimitExceeded, match="pairing-codes"):
        show(connection, b"one more")
    assert show(connection, b"next day", now=100.0 + codes.REMEMBERED_S + 1)


def test_each_refusal_has_its_own_words() -> None:
    bad = [each for each in Standing if each not in (Standing.GOOD, Standing.OPEN)]
    told = [codes.refusal(each) for each in bad]
    assert len({error.message for error in told}) == len(bad)
    assert {error.exit_status for error in told} == {6}

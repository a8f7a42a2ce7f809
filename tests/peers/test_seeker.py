"""Who shows this number? Asked and answered by multicast, on this machine's own interfaces."""

from __future__ import annotations

import random
import socket

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orvalho.peers import seeker
from orvalho.peers.seeker import GROUP_IPV4, answer_seekers, seek

HASH, NONCE = b"h" * 16, b"n" * 16
HERE = ("ws://127.0.0.1:4455", "ws://10.0.0.2:4455")

pytestmark = pytest.mark.anyio


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_query_and_an_answer_are_read_as_written() -> None:
    assert seeker.read_query(seeker.write_query(HASH, NONCE)) == (HASH, NONCE)
    assert seeker.read_answer(seeker.write_answer(NONCE, HERE), NONCE) == HERE


def test_an_answer_to_another_question_is_none() -> None:
    assert seeker.read_answer(seeker.write_answer(b"m" * 16, HERE), NONCE) is None


def test_no_answer_is_longer_than_the_question() -> None:
    many = [f"ws://host-{n}.{'x' * 100}:4455" for n in range(100)]
    question, answer = seeker.write_query(HASH, NONCE), seeker.write_answer(NONCE, many)
    assert len(answer) <= len(question)
    assert seeker.read_answer(answer, NONCE) == tuple(many[: len(answer) // 120])


@given(st.binary(max_size=1200))
def test_any_bytes_are_read_or_refused(datagram: bytes) -> None:
    seeker.read_query(datagram)
    assert seeker.read_answer(datagram, NONCE) is None
    seeker.read_answer(b"orvalho/here/1\n" + NONCE + datagram, NONCE)


async def test_two_who_answer_are_both_found_and_others_are_silent() -> None:
    port = free_port()
    first, second = ("ws://127.0.0.1:1001",), ("ws://127.0.0.1:1002",)
    async with (
        answer_seekers(port, {HASH: first}.get),
        answer_seekers(port, {HASH: second, b"x" * 16: first}.get),
    ):
        assert sorted(await seek(HASH, port, 10.0)) == [first, second]
        assert await seek(b"x" * 16, port, 10.0) == [first]
        assert await seek(b"y" * 16, port, 0.2) == []


async def test_nobody_answers_when_nobody_listens() -> None:
    assert await seek(HASH, free_port(), 0.2) == []


async def test_ten_thousand_malformed_datagrams_do_not_silence_an_inviter() -> None:
    port, chance = free_port(), random.Random(4457)
    good = seeker.write_query(HASH, NONCE)
    async with answer_seekers(port, {HASH: HERE}.get):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hostile:
            option = socket.inet_aton("127.0.0.1")
            hostile.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, option)
            for n in range(10_000):
                noise = chance.randbytes(chance.randrange(1100))
                cut = good[: chance.randrange(len(good))]
                hostile.sendto((noise, cut, good[:31] + noise)[n % 3], (GROUP_IPV4, port))
                if n % 100 == 0:
                    await anyio.lowlevel.checkpoint()
        assert await seek(HASH, port, 20.0) == [HERE]

"""A paired node that plays foul with files: names that climb, parts that lie, more than there is
room for; over the real road, against a real daemon."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from types import SimpleNamespace

import anyio
import msgspec
import pytest

from orvalho.contexts.identity import certify
from orvalho.daemon.file_words import (
    FINISH,
    OFFER,
    PART,
    PART_BYTES,
    WINDOW,
    Finish,
    Offer,
    Part,
    Placed,
    Taken,
    Wanted,
)
from orvalho.daemon.greeting import greet
from orvalho.daemon.handlers.ping import PING
from orvalho.daemon.wire import decode, encode
from orvalho.errors import (
    Conflict,
    Denied,
    InvalidInput,
    LimitExceeded,
    NotFound,
    OrvalhoError,
    Untrusted,
)
from tests.attacks.test_replayed_script import Foul, play
from tests.scenarios.devices import Device, two_devices

ID = bytes(16)


def offer(**changes: object) -> bytes:
    usual = Offer(
        id=ID, caller="gil", context="peer", directory="/inbox", name="a", size_bytes=1000
    )
    return encode(msgspec.structs.replace(usual, **changes))


async def ask(foul: Foul, kind: str, body: bytes) -> bytes:
    return await foul.node.ask(foul.phone, kind, body, 20)


async def introduce(foul: Foul) -> None:
    """Linked, and the phone has heard that gil is a context of ours."""
    context = foul.identity.context("gil")
    blob = certify(foul.identity.node, "context", "gil", context.key, time.time())
    foul.node.set_greeting(greet([SimpleNamespace(certificate=blob)]))  # type: ignore[list-item]
    with anyio.fail_after(20):
        while True:
            try:
                await ask(foul, OFFER, offer(size_bytes=0))
            except (OrvalhoError, KeyError):
                await anyio.sleep(0.05)
            else:
                return


async def refuses(foul: Foul, kind: str, body: bytes, *errors: type[OrvalhoError]) -> None:
    with pytest.raises(errors):
        await ask(foul, kind, body)


def everything(phone: Device) -> set[str]:
    return {str(each) for each in phone.home.rglob("*") if "/incoming/" not in str(each)}


@pytest.mark.anyio
async def test_offers_that_climb_or_lie_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    with two_devices(tmp_path) as (laptop, phone):
        laptop.stop()

        async def plot(foul: Foul) -> None:
            await introduce(foul)
            before = everything(phone)
            for name in (
                "..",
                "../x",
                "a/b",
                "",
                ".",
                "x\\y",
                "a\0b",
                "\u202egpj.exe",
                "con",
                "a" * 300,
            ):
                await refuses(foul, OFFER, offer(name=name), Denied, InvalidInput)
            for directory in ("/../up", "..", "/inbox/../..", "/photos", "/"):
                await refuses(foul, OFFER, offer(directory=directory), Denied, InvalidInput)
            await refuses(foul, OFFER, offer(caller="owner"), Untrusted)
            await refuses(foul, OFFER, offer(context="nobody"), NotFound)
            await refuses(foul, OFFER, offer(id=b"short"), InvalidInput)
            await refuses(foul, OFFER, offer(size_bytes=-1), InvalidInput)
            await refuses(foul, OFFER, offer(size_bytes=1 << 62), LimitExceeded)
            assert everything(phone) == before

        await play(laptop, plot)


@pytest.mark.anyio
async def test_parts_that_lie_never_become_a_file(tmp_path: Path) -> None:
    with two_devices(tmp_path) as (laptop, phone):
        laptop.stop()
        inbox = phone.tree("peer") / "inbox"

        async def plot(foul: Foul) -> None:
            await introduce(foul)
            unknown = Part(id=b"x" * 16, offset=0, content=b"a")
            await refuses(foul, PART, encode(unknown), NotFound)
            await ask(foul, OFFER, offer())
            await refuses(foul, FINISH, encode(Finish(id=ID, sha256=bytes(32))), NotFound)
            for offset, size, error in (
                (0, 1001, LimitExceeded),
                (999, 2, LimitExceeded),
                (0, 0, Conflict),
                (-5, 3, Conflict),
            ):
                part = Part(id=ID, offset=offset, content=bytes(size))
                await refuses(foul, PART, encode(part), error)
            whole = os.urandom(1000)
            assert (
                decode(
                    await ask(foul, PART, encode(Part(id=ID, offset=0, content=whole))), Taken
                ).at
                == 1000
            )
            await refuses(foul, PART, encode(Part(id=ID, offset=0, content=b"again")), Conflict)
            await refuses(foul, FINISH, encode(Finish(id=ID, sha256=bytes(32))), Untrusted)
            assert not list(inbox.iterdir()) and not list((phone.home / "state/incoming").iterdir())

            # Out of order is well, up to a window; all of it held in memory is not.
            size = 4 * WINDOW * 1000
            await ask(foul, OFFER, offer(size_bytes=size))
            for number in range(1, 2 * WINDOW + 1):
                part = Part(id=ID, offset=1000 * number, content=whole)
                assert decode(await ask(foul, PART, encode(part)), Taken).at == 0
            far = Part(id=ID, offset=1000 * (2 * WINDOW + 1), content=whole)
            await refuses(foul, PART, encode(far), LimitExceeded)

            # And at last an honest one.
            again = Part(id=b"y" * 16, offset=0, content=whole)
            await ask(foul, OFFER, offer(id=again.id))
            await ask(foul, PART, encode(again))
            finish = Finish(id=again.id, sha256=hashlib.sha256(whole).digest())
            assert decode(await ask(foul, FINISH, encode(finish)), Placed).path == "/inbox/a"
            assert decode(await ask(foul, FINISH, encode(finish)), Placed).path == "/inbox/a"
            assert (inbox / "a").read_bytes() == whole

        await play(laptop, plot)


@pytest.mark.anyio
async def test_giving_up_one_transfer_after_the_other_does_not_fill_the_disk(
    tmp_path: Path,
) -> None:
    with two_devices(tmp_path) as (laptop, phone):
        phone.does("config", "set", "quota.context_bytes", "2MB")
        laptop.stop()

        async def plot(foul: Foul) -> None:
            await introduce(foul)
            refused = 0
            for number in range(60):
                id_ = number.to_bytes(16)
                try:
                    await ask(foul, OFFER, offer(id=id_, size_bytes=PART_BYTES, name=f"f{number}"))
                except LimitExceeded:
                    refused += 1
                    continue
                part = Part(id=id_, offset=0, content=bytes(PART_BYTES))
                await ask(foul, PART, encode(part))
            assert refused
            incoming = (phone.home / "state/incoming").iterdir()
            assert sum(each.stat().st_size for each in incoming) <= 2_000_000

        await play(laptop, plot)


@pytest.mark.anyio
async def test_ten_thousand_malformed_asks_change_nothing(tmp_path: Path) -> None:
    with two_devices(tmp_path) as (laptop, phone):
        laptop.stop()

        async def plot(foul: Foul) -> None:
            await introduce(foul)
            outcomes: set[str] = set()

            async def one(number: int) -> None:
                kind = (OFFER, PART, FINISH, PING)[number % 4]
                body = os.urandom(number % 200)
                try:
                    await ask(foul, kind, body)
                    outcomes.add("answered" if kind == PING else "taken")
                except OrvalhoError as error:
                    outcomes.add(error.code)

            for start in range(0, 10_000, 100):
                async with anyio.create_task_group() as tasks:
                    for number in range(start, start + 100):
                        tasks.start_soon(one, number)
            assert outcomes == {"answered", "invalid-input"}
            assert decode(await ask(foul, OFFER, offer()), Wanted).at == 0

        await play(laptop, plot)
        assert phone.types("status").status == 0

"""The trust book on a real store: names that clash, addresses that resolve, words that agree."""

from __future__ import annotations

from contextlib import asynccontextmanager

import anyio
import pytest

from orvalho.contexts.identity import Key, Signer
from orvalho.contexts.names import parse_address
from orvalho.contexts.trust import MIGRATIONS, ContextEntry, Peer, check_words, open_trust_book
from orvalho.errors import Conflict, InvalidInput, NotFound
from orvalho.store import open_store

pytestmark = pytest.mark.anyio


def key(number: int) -> Key:
    return Signer(bytes([number]) * 32).key


def peer(number: int = 1, name: str = "phone2", **changes) -> Peer:
    fields = {
        "node_key": key(number),
        "name": name,
        "owner_key": key(200),
        "relation": "own",
        "addresses": ("ws://192.0.2.1:4455",),
        "contexts": (ContextEntry(name="peer", key=key(100)),),
        "added_at": 1000.0,
        "introduced": "paired by code",
    }
    return Peer(**(fields | changes))


@asynccontextmanager
async def book_in(directory):
    async with open_store(directory / "orvalho.db", [MIGRATIONS]) as store:
        yield await open_trust_book(store)


async def test_what_was_added_is_there_after_a_restart(tmp_path):
    async with book_in(tmp_path) as book:
        assert await book.add(peer())
        book.seen(key(1), 2000.0)

    async with book_in(tmp_path) as book:
        (found,) = book.peers()
        assert found == peer(last_seen_at=2000.0)
        assert book.by_key(key(1)) is found
        assert book.by_key(key(2)) is None


async def test_adding_the_same_peer_again_changes_nothing(tmp_path):
    async with book_in(tmp_path) as book:
        assert await book.add(peer())
        assert not await book.add(peer())


async def test_a_second_node_of_the_same_name_needs_another_one(tmp_path):
    async with book_in(tmp_path) as book:
        await book.add(peer(1))

        with pytest.raises(Conflict) as clash:
            await book.add(peer(2))
        assert "orvalho peer rm phone2" in clash.value.hint

        await book.add(peer(2, name="phone3"))
        assert [each.name for each in book.peers()] == ["phone2", "phone3"]


async def test_of_two_that_take_a_name_at_once_one_gets_it(tmp_path):
    async with book_in(tmp_path) as book:
        clashes = []

        async def add(number: int) -> None:
            try:
                await book.add(peer(number))
            except Conflict as clash:
                clashes.append(clash)

        async with anyio.create_task_group() as tasks:
            for number in range(1, 6):
                tasks.start_soon(add, number)

        assert len(clashes) == 4
        (winner,) = book.peers()
    async with book_in(tmp_path) as book:
        assert book.peers() == (winner,)


async def test_the_same_node_can_be_renamed_and_its_old_name_is_free_again(tmp_path):
    async with book_in(tmp_path) as book:
        await book.add(peer(1))
        await book.add(peer(1, name="old-phone"))
        await book.add(peer(2))

        assert book.by_name("old-phone").node_key == key(1)
        assert book.by_name("phone2").node_key == key(2)


async def test_an_address_resolves_to_the_node_and_the_context(tmp_path):
    async with book_in(tmp_path) as book:
        await book.add(peer())

        assert book.resolve(parse_address("phone2")).context is None
        target = book.resolve(parse_address("peer@phone2"))
        assert (target.peer.node_key, target.context.key) == (key(1), key(100))


async def test_a_typo_in_an_address_is_answered_with_the_near_name(tmp_path):
    async with book_in(tmp_path) as book:
        await book.add(peer())

        with pytest.raises(NotFound) as node:
            book.resolve(parse_address("peer@fone2"))
        with pytest.raises(NotFound) as context:
            book.resolve(parse_address("pear@phone2"))

        assert node.value.hint == "did you mean phone2?"
        assert context.value.hint == "did you mean peer@phone2?"


async def test_a_removed_peer_is_a_stranger(tmp_path):
    async with book_in(tmp_path) as book:
        await book.add(peer())
        removed = await book.remove("phone2")

        assert removed.node_key == key(1)
        assert book.by_key(key(1)) is None
        with pytest.raises(NotFound):
            await book.remove("phone2")
        with pytest.raises(NotFound):
            await book.update_addresses(key(1), ["ws://192.0.2.2:1"])
        book.seen(key(1), 5.0)
    async with book_in(tmp_path) as book:
        assert book.peers() == ()


async def test_new_addresses_and_contexts_are_kept(tmp_path):
    entries = (ContextEntry(name="gil", key=key(7)), ContextEntry(name="work", key=key(8)))
    async with book_in(tmp_path) as book:
        await book.add(peer())
        twice = ["ws://192.0.2.9:1", "ws://192.0.2.8:1", "ws://192.0.2.9:1"]
        assert await book.update_addresses(key(1), twice)
        assert not await book.update_addresses(key(1), twice)
        assert await book.update_contexts(key(1), entries)

    async with book_in(tmp_path) as book:
        assert book.by_name("phone2").addresses == ("ws://192.0.2.9:1", "ws://192.0.2.8:1")
        assert book.by_name("phone2").contexts == entries


async def test_a_peer_seen_while_its_addresses_change_keeps_both(tmp_path):
    async with book_in(tmp_path) as book:
        await book.add(peer())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(book.update_addresses, key(1), ["ws://192.0.2.9:1"])
            await anyio.lowlevel.checkpoint()
            book.seen(key(1), 3000.0)

        assert book.by_name("phone2").addresses == ("ws://192.0.2.9:1",)
        assert book.by_name("phone2").last_seen_at == 3000.0


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "Not A Label"},
        {"name": "all"},
        {"relation": "friend"},
        {"addresses": tuple(f"ws://192.0.2.1:{n}" for n in range(33))},
        {"contexts": (ContextEntry(name="../x", key=bytes(32)),)},
    ],
)
async def test_a_malformed_peer_is_not_written_down(tmp_path, changes):
    async with book_in(tmp_path) as book:
        with pytest.raises(InvalidInput):
            await book.add(peer(**changes))
        assert book.peers() == ()


async def test_the_words_are_the_same_on_both_sides_and_others_for_other_keys():
    words = check_words(key(1), key(2))

    assert words == check_words(key(2), key(1))
    assert words != check_words(key(1), key(3))
    assert len(words) == 4
    assert all(word.isalpha() for word in words)

"""Another device's tree: what it says is checked, whoever it is."""

from __future__ import annotations

import os
import random

import msgspec
import pytest

from orvalho.contexts.filesystem import VirtualPath
from orvalho.contexts.fs_shim import fs_errors
from orvalho.contexts.mounts import tree_words as words
from orvalho.contexts.mounts.remote import RemoteTree
from orvalho.errors import Denied, LimitExceeded, OrvalhoError, Unavailable, Untrusted

encode = msgspec.msgpack.encode


def lying(answers) -> RemoteTree:
    """A tree on a device that answers each kind of question with what stands here."""

    def ask(question: words.Question) -> bytes:
        answer = answers[type(question)]
        return answer(question) if callable(answer) else encode(answer)

    return RemoteTree(ask, VirtualPath("/shared"), "peer@phone2")


def entry(name: str, size_bytes: int = 1, **rest) -> words.Entry:
    return words.Entry(
        name=name, **({"is_directory": False, "size_bytes": size_bytes, "modified_at": 1.0} | rest)
    )


FILE = words.Seen(entry=entry("a", 10))
FOLDER = words.Seen(entry=entry("d", 0, is_directory=True))


@pytest.mark.parametrize(
    "name",
    ["../x", "..", ".", "", "a/b", "/etc/passwd", "a\\..\\b", "x\0y", "x\u202ey", "con", "a" * 300],
)
def test_a_name_that_is_none_ends_the_listing(name):
    tree = lying({words.ListBelow: words.Listed(entries=(entry(name),), is_all=True)})
    with pytest.raises(Untrusted):
        tree.listdir("/")


@pytest.mark.parametrize("names", [("b", "a"), ("a", "a")])
def test_names_out_of_order_or_twice_end_it(names):
    entries = tuple(entry(name) for name in names)
    tree = lying({words.ListBelow: words.Listed(entries=entries, is_all=True)})
    with pytest.raises(Untrusted):
        tree.listdir("/")


def test_a_listing_without_an_end_is_ended():
    def more(question: words.ListBelow) -> bytes:
        start = int(question.after or 0)
        names = [f"{number:09d}" for number in range(start + 1, start + 5001)]
        return encode(words.Listed(entries=tuple(map(entry, names)), is_all=False))

    with pytest.raises(Untrusted, match="without an end"):
        lying({words.ListBelow: more}).listdir("/")
    empty = words.Listed(entries=(), is_all=False)
    with pytest.raises(Untrusted, match="without an end"):
        lying({words.ListBelow: empty}).listdir("/")


@pytest.mark.parametrize("size", [-1, 1 << 60])
def test_a_size_that_cannot_be_ends_it(size):
    tree = lying({words.Look: words.Seen(entry=entry("a", size))})
    with pytest.raises(Untrusted):
        tree.getsize("a")


@pytest.mark.parametrize("given", [b"", b"short", b"far longer than was asked for"])
def test_another_number_of_bytes_than_was_said_ends_it(given):
    part = words.Content(content=given, size_bytes=10, modified_at=1.0)
    tree = lying({words.Look: FILE, words.ReadPart: part})
    for call in (lambda: tree.readbytes("a"), lambda: tree.read_at_most("a", 10)):
        with pytest.raises(Untrusted):
            call()


def test_a_file_that_changes_between_two_parts_is_not_mixed():
    size = 3 * words.PART_BYTES

    def part(question: words.ReadPart) -> bytes:
        content = b"x" * question.count
        changed = 1.0 + (question.offset > 0)
        return encode(words.Content(content=content, size_bytes=size, modified_at=changed))

    tree = lying({words.Look: words.Seen(entry=entry("a", size)), words.ReadPart: part})
    with pytest.raises(OSError, match="has changed"):
        tree.readbytes("a")


def test_what_it_is_asked_has_one_spelling():
    asked = []

    def look(question: words.Look) -> bytes:
        asked.append(question.path)
        return encode(words.Seen(entry=None))

    tree = lying({words.Look: look})
    for path in ("a", "/a", "a//", "./a", "b/../a"):
        assert not tree.exists(path)
    assert set(asked) == {"/shared/a"}
    for path in ("../a", "b/../../a", "..\\a"):
        with pytest.raises((fs_errors.FSError, fs_errors.IllegalBackReference)):
            tree.getinfo(path)
    assert set(asked) == {"/shared/a"}


@pytest.mark.parametrize("kind", [Denied, Unavailable])
def test_its_refusal_comes_through(kind):
    def refuse(_question: words.Question) -> bytes:
        raise kind("because")

    tree = lying({words.Look: refuse, words.ListBelow: refuse})
    for call in (lambda: tree.getinfo("a"), lambda: tree.listdir("/"), lambda: tree.exists("a")):
        with pytest.raises(kind, match="because"):
            call()


def test_a_file_that_is_too_large_is_refused_before_it_is_sent():
    def never(_question: words.Question) -> bytes:
        raise AssertionError("it was sent")

    tree = lying({words.Look: words.Seen(entry=None), words.WritePart: never})
    with pytest.raises(LimitExceeded, match="write_bytes"):
        tree.writebytes("a", bytes(words.MOST_WRITTEN_BYTES + 1))


def test_ten_thousand_answers_of_no_sense_are_refused():
    rng = random.Random(5)
    good = [
        encode(FILE),
        encode(FOLDER),
        encode(words.Listed(entries=(entry("a"), entry("b")), is_all=True)),
        encode(words.Content(content=b"0123456789", size_bytes=10, modified_at=1.0)),
    ]

    def broken(_question: words.Question) -> bytes:
        answer = bytearray(rng.choice(good))
        for _ in range(rng.randrange(4)):
            answer[rng.randrange(len(answer))] = rng.randrange(256)
        return (
            bytes(answer[: rng.randrange(len(answer) + 1)]) if rng.random() < 0.3 else bytes(answer)
        )

    kinds = (words.Look, words.ListBelow, words.ReadPart, words.WritePart)
    tree = lying(dict.fromkeys(kinds, broken))
    outcomes = set()
    for _ in range(10_000):
        calls = (tree.listdir, tree.readbytes, lambda path: list(tree.scandir(path, ["details"])))
        try:
            found = rng.choice(calls)("d")
            outcomes.add(type(found).__name__)
        except (OrvalhoError, fs_errors.FSError, OSError) as error:
            outcomes.add(type(error).__name__)
    assert {"Untrusted", "list", "bytes"} <= outcomes


def test_it_writes_in_parts_that_fit_a_message():
    sent = []

    def take(question: words.WritePart) -> bytes:
        sent.append(question)
        return encode(words.Done())

    content = os.urandom(2 * words.PART_BYTES + 5)
    lying({words.Look: words.Seen(entry=None), words.WritePart: take}).writebytes("a", content)
    assert b"".join(each.content for each in sent) == content
    assert {each.size_bytes for each in sent} == {len(content)}
    assert [each.offset for each in sent] == [0, words.PART_BYTES, 2 * words.PART_BYTES]

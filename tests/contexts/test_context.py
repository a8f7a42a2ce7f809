"""The registry of contexts: made once, found again, idle ones for next to nothing."""

from __future__ import annotations

import gc
import os
import stat
from pathlib import Path

import pytest

from orvalho.contexts.context import Contexts, StorageLimits, StorageUse
from orvalho.contexts.identity import Identity, check_certificate
from orvalho.errors import Denied, InvalidInput, LimitExceeded, NotFound, Unavailable

pytestmark = pytest.mark.anyio

LIMITS = StorageLimits(disk_bytes=1000, disk_files=10)
PAGE_KB = os.sysconf("SC_PAGE_SIZE") // 1024


def allow(action, path):
    pass


@pytest.fixture
def identity(tmp_path):
    return Identity.create(tmp_path / "keys")


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "data" / "contexts"


@pytest.fixture
def contexts(directory, identity):
    made = Contexts(directory, identity, LIMITS, now=1000.0)
    yield made
    made.close()


async def test_a_context_has_a_private_directory_and_a_certified_key(contexts, directory, identity):
    context, is_new = await contexts.create("gil", now=2000.0)

    assert is_new
    assert stat.S_IMODE((directory / "gil").stat().st_mode) == 0o700
    certificate = check_certificate(context.certificate, identity.node.key, "context")
    assert (certificate.name, certificate.key) == ("gil", context.key)
    assert certificate.issued_at == 2000.0


async def test_making_a_context_again_changes_nothing(contexts):
    first, _ = await contexts.create("gil", now=1.0)
    await first.files(allow).write("/f", b"kept")

    again, is_new = await contexts.create("gil", now=2.0)

    assert not is_new
    assert again is first
    assert await again.files(allow).read("/f", 10) == b"kept"


async def test_contexts_are_found_again_with_the_same_keys(contexts, directory, identity):
    made, _ = await contexts.create("gil", now=1.0)
    await contexts.create("peer", now=1.0)
    (directory / "Not A Label").mkdir()
    (directory / "a-file").write_bytes(b"")
    (directory / "a-link").symlink_to("/etc")

    found = Contexts(directory, identity, LIMITS, now=3.0)

    assert [context.name for context in found.list()] == ["gil", "peer"]
    assert found.get("gil").key == made.key


@pytest.mark.parametrize("name", ["", "..", "../x", "Gil", "all", "a/b", "gil@phone"])
async def test_a_name_that_is_no_label_makes_nothing(contexts, directory, name):
    with pytest.raises(InvalidInput):
        await contexts.create(name, now=1.0)

    assert not directory.exists()


async def test_a_directory_that_lies_there_is_taken_over_and_a_link_is_not(
    contexts, directory, tmp_path
):
    (directory / "gil").mkdir(parents=True)
    (directory / "gil" / "f").write_bytes(b"mine")
    (directory / "link").symlink_to(tmp_path)
    (directory / "file").write_bytes(b"")

    context, _ = await contexts.create("gil", now=1.0)
    assert await context.files(allow).read("/f", 10) == b"mine"
    for name in ("link", "file"):
        with pytest.raises(InvalidInput, match="no directory"):
            await contexts.create(name, now=1.0)


async def test_an_unknown_context_is_answered_with_the_near_name(contexts):
    await contexts.create("peer", now=1.0)

    with pytest.raises(NotFound) as absence:
        contexts.get("pear")

    assert absence.value.hint == "did you mean peer?"


async def test_the_owner_sees_a_directory_a_context(contexts):
    assert await contexts.files(allow).list("/") == []
    for name in ("peer", "gil"):
        context, _ = await contexts.create(name, now=1.0)
        await context.files(allow).write("/f", name.encode())
    owner = contexts.files(allow)

    assert [(entry.name, entry.kind) for entry in await owner.list("/")] == [
        ("gil", "directory"),
        ("peer", "directory"),
    ]
    assert await owner.read("/gil/f", 10) == b"gil"
    await owner.write("/peer/new", b"from the owner")
    assert await contexts.get("peer").files(allow).exists("/new")
    with pytest.raises(InvalidInput):
        await owner.remove("/gil", recursive=True)
    with pytest.raises(NotFound):
        await owner.read("/nobody/f", 10)


async def test_the_check_of_the_owner_sees_the_whole_path(contexts):
    await contexts.create("gil", now=1.0)
    asked = []
    owner = contexts.files(lambda action, path: asked.append((action, path)))

    await owner.mkdir("/gil/a/b")
    await owner.remove("/gil/a", recursive=True)

    assert asked == [
        ("fs.write", "/gil/a/b"),
        ("fs.write", "/gil/a"),
        ("fs.remove", "/gil/a"),
        ("fs.remove", "/gil/a/b"),
    ]


async def test_a_context_cannot_reach_another(contexts):
    await contexts.create("gil", now=1.0)
    peer, _ = await contexts.create("peer", now=1.0)

    with pytest.raises(Denied):
        await peer.files(allow).read("/../gil/f", 10)
    with pytest.raises(NotFound):
        await peer.files(allow).read("/gil/f", 10)


async def test_use_is_measured_at_the_first_look_and_kept_from_then_on(
    contexts, directory, identity
):
    (directory / "gil" / "d").mkdir(parents=True)
    (directory / "gil" / "d" / "f").write_bytes(b"x" * 100)
    (directory / "gil" / "d" / ".~0123456789abcdef").write_bytes(b"a draft that a crash left")
    context = Contexts(directory, identity, LIMITS, now=1.0).get("gil")

    assert await context.usage() == StorageUse(100, 2, LIMITS)
    assert not (directory / "gil" / "d" / ".~0123456789abcdef").exists()
    await context.files(allow).write("/g", b"x" * 50)
    assert await context.usage() == StorageUse(150, 3, LIMITS)
    with pytest.raises(LimitExceeded, match="storage_bytes: context gil"):
        await context.files(allow).write("/h", b"x" * 851)
    context.close()


async def test_a_context_whose_directory_is_gone_is_unavailable(contexts, directory):
    context, _ = await contexts.create("gil", now=1.0)
    (directory / "gil").rmdir()

    with pytest.raises(Unavailable):
        await context.usage()


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def resident_kb() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_KB


async def test_a_thousand_contexts_cost_kilobytes_each_and_no_descriptor(contexts):
    await contexts.create("warm-up", now=1.0)
    gc.collect()
    before_kb, descriptors = resident_kb(), open_descriptors()

    for number in range(1000):
        await contexts.create(f"c{number}", now=1.0)

    assert (resident_kb() - before_kb) / 1000 < 50
    assert open_descriptors() == descriptors

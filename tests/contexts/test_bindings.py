"""What is bound to what, and what is refused before it is written: files and values."""

from __future__ import annotations

import json
import os

import anyio
import pytest

from orvalho.contexts import documents, kv
from orvalho.contexts.bindings import MAX_DOCUMENT_BYTES, Bindings, read_bindings
from orvalho.contexts.context import Contexts, StorageLimits
from orvalho.contexts.filesystem import VirtualPath
from orvalho.contexts.identity import Identity
from orvalho.contexts.kv import KeyValue, KvLimits
from orvalho.contexts.schemas import Schemas
from orvalho.errors import InvalidInput, LimitExceeded, NotFound
from orvalho.store import open_store

pytestmark = pytest.mark.anyio

CONTACT = b'{"type": "object", "properties": {"email": {"format": "email"}}, "required": ["email"]}'
BOUND = b'[contact]\nfiles = "contacts/*.json"\nkv = "contacts"\n'
GOOD = b'{"email": "ana@example.org"}'
LIMITS = KvLimits(value_bytes=4 << 20, total_bytes=64 << 20, items=1000)


def bindings(toml: str, **schemas: bytes) -> Bindings:
    files = {"bindings.toml": toml.encode()}
    files |= {f"{name}.json": raw for name, raw in schemas.items()}
    return read_bindings(files.get)


@pytest.fixture
async def context(tmp_path):
    identity = Identity.create(tmp_path / "keys")
    contexts = Contexts(
        tmp_path / "contexts", identity, StorageLimits(64 << 20, 1000), now=1_800_000_000.0
    )
    made, _ = await contexts.create("alice", now=1_800_000_000.0)
    yield made
    contexts.close()


def anything(_action, _path):
    """All is allowed."""


@pytest.fixture
def files(context):
    return context.files(anything)


@pytest.fixture
def tree(tmp_path):
    return tmp_path / "contexts/alice"


async def bind(files, *, toml=BOUND, contact=CONTACT):
    for folder in ("/schema", "/contacts", "/other"):
        await files.mkdir(folder)
    await files.write("/schema/contact.json", contact)
    await files.write("/schema/bindings.toml", toml)


# ---- files -----------------------------------------------------------------------------------


async def test_a_write_that_does_not_fit_changes_nothing(files, tree):
    await bind(files)
    await files.write("/contacts/ana.json", GOOD)
    with pytest.raises(InvalidInput, match=r'contacts/ana.json does not fit: /email: "x" is not'):
        await files.write("/contacts/ana.json", b'{"email": "x"}')
    with pytest.raises(InvalidInput, match=r"contacts/new.json:1:11: this is no JSON"):
        await files.write("/contacts/new.json", b'{"email": }')
    assert (tree / "contacts/ana.json").read_bytes() == GOOD
    assert sorted(each.name for each in (tree / "contacts").iterdir()) == ["ana.json"]
    await files.write("/contacts/readme.txt", b"{")
    await files.write("/other/ana.json", b"{")


async def test_what_does_not_fit_is_not_moved_to_where_it_is_bound(files, tree):
    await bind(files)
    await files.write("/other/bad.json", b"{}")
    await files.write("/other/good.json", GOOD)
    with pytest.raises(InvalidInput, match=r"contacts/bad.json does not fit"):
        await files.move("/other/bad.json", "/contacts/bad.json")
    await files.move("/other/good.json", "/contacts/good.json")

    await files.remove("/contacts", recursive=True)
    with pytest.raises(InvalidInput, match=r"contacts/bad.json does not fit"):
        await files.move("/other", "/contacts")
    assert (tree / "other/bad.json").exists()
    assert not (tree / "contacts").exists()
    await files.remove("/other/bad.json")
    await files.move("/other", "/contacts")


async def test_a_file_from_elsewhere_is_held_against_the_schema_under_each_name(files, tmp_path):
    await bind(files)
    await files.write("/contacts/a.json", GOOD)
    source = tmp_path / "arrived"
    source.write_bytes(b"{}")
    with pytest.raises(InvalidInput, match=r"contacts/a \(2\).json does not fit"):
        await files.adopt("/contacts/a.json", source, b"", reuses=False)
    assert source.exists()
    source.write_bytes(GOOD)
    assert await files.adopt("/contacts/a.json", source, b"", reuses=False) == (
        "/contacts/a (2).json",
        True,
    )


async def test_a_large_document_is_refused_without_being_read(files, tmp_path):
    await bind(files)
    large = b'"' + b"x" * (10 << 20) + b'"'
    with pytest.raises(LimitExceeded, match="document_bytes"):
        await files.write("/contacts/a.json", large)
    source = tmp_path / "arrived"
    with source.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(LimitExceeded, match="document_bytes"):
        await files.adopt("/contacts/a.json", source, b"", reuses=False)


async def test_capitals_are_no_way_around_a_schema(files):
    await bind(files)
    await files.mkdir("/Contacts")
    with pytest.raises(InvalidInput, match="does not fit"):
        await files.write("/Contacts/A.JSON", b"{}")


# ---- what is broken closes -------------------------------------------------------------------


@pytest.mark.parametrize("broken", [b"{", b'{"type": "strin"}', b'{"$ref": "http://127.0.0.1:1/"}'])
async def test_nothing_is_written_where_a_broken_schema_is_bound(context, files, broken):
    await bind(files, contact=broken)
    with pytest.raises(
        InvalidInput, match=r"contacts/a.json is bound to schema/contact.json, which is broken"
    ):
        await files.write("/contacts/a.json", GOOD)
    await files.write("/other/a.json", b"{")
    assert (await context.schemas.current()).problems[0].startswith("schema/contact.json")
    await files.write("/schema/contact.json", CONTACT)
    await files.write("/contacts/a.json", GOOD)


async def test_a_schema_that_is_gone_is_a_broken_one(files):
    await bind(files)
    await files.remove("/schema/contact.json")
    with pytest.raises(InvalidInput, match="is not there"):
        await files.write("/contacts/a.json", GOOD)
    await files.write("/schema/contact.json", b" " * (300 << 10))
    with pytest.raises(InvalidInput, match="larger than"):
        await files.write("/contacts/a.json", GOOD)


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("[contact", "schema/bindings.toml:1: "),
        (
            "\n\n[contact]\nfile = 'a/*.json'",
            "schema/bindings.toml:3: [contact] has files and kv, and no 'file'",
        ),
        ("[a]\nkv = 'x'\n[b]\nkv = 'x'", "schema/bindings.toml:3: [a] and [b] are bound to one"),
        ("contact = 3", "[contact] is a table"),
        ("[contact]\nfiles = 3", "a glob or a list"),
        ("[contact]\nfiles = [3]", "a glob or a list"),
        ("[contact]\nfiles = '../x'", "is no glob"),
        ("[contact]\nfiles = 'a//b'", "write it as"),
        ("[contact]\nfiles = 'a/'", "write it as"),
        ("[contact]\nfiles = 'a/**b'", "** stands alone"),
        ("[contact]\nfiles = 'schema/*.json'", "nothing in /schema"),
        ("[contact]\nfiles = 'Schema/x'", "nothing in /schema"),
        ("[contact]\nkv = 'a/b'", "a collection's name"),
        ("[contact]\nkv = 3", "name of a collection"),
        ("[contact]", "bound to nothing"),
        ("['../x']\nkv = 'x'", "a schema's name"),
        ("".join(f"[s{n}]\nkv = 'k{n}'\n" for n in range(65)), "at most 64"),
        ("a" + ".a" * 5000 + " = 1", "schema/bindings.toml"),
        ("x = " + "[" * 50_000, "schema/bindings.toml"),
    ],
)
async def test_bindings_that_cannot_be_read_close_all_but_the_schemas(toml, said):
    found = bindings(toml)
    assert found.closed is not None
    assert said in found.closed
    with pytest.raises(InvalidInput, match="nothing is written"):
        found.check_file(VirtualPath("/any"), 0, bytes)
    with pytest.raises(InvalidInput, match="nothing is written"):
        found.check_value("any", "1")
    found.check_file(VirtualPath("/schema/bindings.toml"), 0, bytes)


async def test_a_schema_folder_that_cannot_be_read_closes(context, files, tree, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tree / "schema").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidInput, match="nothing is written"):
        await files.write("/a", b"")
    (tree / "schema").unlink()
    (tree / "schema").write_text("a file")
    context.schemas.changed(VirtualPath("/schema"))
    with pytest.raises(InvalidInput, match="nothing is written"):
        await files.write("/a", b"")
    (tree / "schema").unlink()
    context.schemas.changed(VirtualPath("/schema"))
    await files.write("/a", b"")


# ---- globs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("glob", "fits", "not_"),
    [
        (
            "contacts/*.json",
            ["/contacts/a.json", "/contacts/.json"],
            ["/contacts/a/b.json", "/a.json", "/contacts/ajson"],
        ),
        ("**/*.json", ["/a.json", "/a/b/c.json"], ["/a.jso", "/json"]),
        ("a/**", ["/a/b", "/a/b/c", "/a"], ["/b/a"]),
        ("a/**/z", ["/a/z", "/a/b/z", "/a/b/c/z"], ["/a/zz", "/z"]),
        ("a/x*y*z", ["/a/xyz", "/a/x1y2z", "/a/xyyzz"], ["/a/xzy", "/a/xz", "/a/x/yz"]),
        ("a*a", ["/aa", "/aba"], ["/a"]),
        ("[a].json", ["/[a].json"], ["/a.json"]),
    ],
)
def test_globs(glob, fits, not_):
    found = bindings(f"[x]\nfiles = '{glob}'", x=b"true")
    assert not found.problems
    assert [place for place in (*fits, *not_) if found.of_file(VirtualPath(place))] == fits


def test_a_glob_of_many_stars_is_matched_in_time():
    stars = "*a" * 100
    deep = "/".join(["**", "a"] * 100)
    found = bindings(f"[x]\nfiles = ['{stars}', '{deep}']", x=b"true")
    assert not found.problems
    for place in ("/" + "a" * 254 + "b", "/" + "a/" * 255 + "b", "/" + "a" * 90):
        assert not found.of_file(VirtualPath(place))


# ---- values ----------------------------------------------------------------------------------


async def test_values_are_held_against_the_schema_of_their_collection(context, files, tmp_path):
    await bind(files)
    async with open_store(tmp_path / "o.db", [kv.MIGRATIONS, documents.MIGRATIONS]) as store:
        values = KeyValue(store, "alice", LIMITS, context.schemas.current)
        await values.put("contacts/ana", '{ "email" : "ana@example.org" }')
        assert await values.get("contacts/ana") == '{"email":"ana@example.org"}'
        for bad in (
            "{}",
            "3",
            "null",
            "{",
            '{"email":"a@b.c","email":"a@b.c"}',
            '"\\ud800"',
            "\ud800",
        ):
            with pytest.raises(InvalidInput):
                await values.put("contacts/ana", bad)
        with pytest.raises(LimitExceeded, match="document_bytes"):
            await values.put("contacts/ana", json.dumps("x" * MAX_DOCUMENT_BYTES))
        assert await values.get("contacts/ana") == '{"email":"ana@example.org"}'
        await values.put("contacts", "3")
        await values.put("contactsx/a", "3")
        # Large enough to be held against it in a thread.
        large = json.dumps({"email": "a@b.org", "x": "y" * 100_000})
        await values.put("contacts/large", large)
        with pytest.raises(InvalidInput):
            await values.put("contacts/large", large.replace("a@b.org", "nobody"))


# ---- fresh -----------------------------------------------------------------------------------


async def test_what_the_owner_changes_by_hand_is_seen(files, tree):
    await bind(files)
    await files.write("/contacts/a.json", GOOD)
    (tree / "schema/contact.json").write_bytes(b"false")
    with anyio.fail_after(30):
        while True:
            try:
                await files.write("/contacts/a.json", GOOD)
            except InvalidInput:
                break
            await anyio.sleep(0.1)


async def test_two_changes_within_one_tick_of_the_clock_are_both_seen(context, files, tree):
    clock = [0.0]
    schemas = Schemas(context.root, lambda: clock[0])
    await bind(files)
    file = tree / "schema/contact.json"
    for text in (b"true ", b"false", b"true ", b"false"):
        status = file.stat()
        with file.open("r+b") as opened:
            opened.write(text)
            opened.truncate()

        os.utime(file, ns=(status.st_mtime_ns, status.st_mtime_ns))
        clock[0] += 2.0
        found = await schemas.current()
        fits = not found.mistakes(found.all[0], "a", b"1")
        assert fits == (text == b"true ")


async def test_nobody_gets_through_while_the_schemas_are_being_read(context, files):
    await bind(files)

    class Slow:
        async def read(self, call):
            await anyio.sleep(0.2)
            return await context.root.read(call)

    schemas = Schemas(Slow())
    found = []

    async def ask():
        found.append(await schemas.current())

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(ask)
            await anyio.sleep(0.01)
    assert [len(each.all) for each in found] == [1] * 5


async def test_a_change_while_they_are_read_is_not_missed(context, files):
    await bind(files)
    gate = anyio.Event()

    class Gated:
        async def read(self, call):
            found = await context.root.read(call)
            await gate.wait()
            return found

    schemas = Schemas(Gated())
    found = []

    async def ask():
        found.append(await schemas.current())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await anyio.sleep(0.1)
        await files.write("/schema/bindings.toml", BOUND + b'[more]\nkv = "more"\n')
        schemas.changed(VirtualPath("/schema/bindings.toml"))
        gate.set()
    assert len(found[0].all) == 2


async def test_a_context_without_schemas_takes_anything(context, files):
    await files.write("/a.json", b"{")
    assert await context.schemas.current() == Bindings()
    with pytest.raises(NotFound):
        await files.read("/schema/bindings.toml", 10)

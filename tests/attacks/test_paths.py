"""Hostile paths against a context on disk: nothing outside is read, changed or listed."""

from __future__ import annotations

import itertools
import os
import random
import socket
import stat
import threading
import unicodedata
from contextlib import contextmanager
from pathlib import Path

import pytest

from orvalho.contexts.files import ContextFiles, Mount
from orvalho.contexts.filesystem import Quota, VirtualPath
from orvalho.contexts.fs_shim import fs_errors
from orvalho.contexts.mounts.beneath import open_by_kernel, open_by_walk
from orvalho.contexts.mounts.disk import RootFS
from orvalho.contexts.namespace import Namespace
from orvalho.errors import Denied, InvalidInput, OrvalhoError

OPENERS = [pytest.param(open_by_kernel, id="kernel"), pytest.param(open_by_walk, id="walk")]
SECRET = b"SECRET of the outside"

# What is planted in the tree (see `plant`), each leading out or being no plain file.
FILE_LINKS = ["to-file", "to-file-absolute", "to-passwd", "sub/to-file", "hard", "sub/hard"]
DIRECTORY_LINKS = [
    "to-directory",
    "to-directory-absolute",
    "to-sub-inside",
    "to-parent",
    "to-grandparent",
    "to-root",
    "to-proc-self-fd",
    "sub/to-directory",
    "sub/deep/to-parent",
]
OTHERS = ["loop", "loop-a", "loop-b", "dangling", "to-itself-inside", "fifo", "sub/fifo", "socket"]
TAILS = ["", "/", "/.", "/secret.txt", "/inner.txt", "/new.txt", "/outside/secret.txt", "/0"]

CLIMBS = ["..", "../..", "../outside", "sub/../..", "sub/deep/../../..", "./..", ".//..", "..//"]
CLIMBING = [
    f"{head}{climb}{tail}"
    for head in ("", "/", "//", "/sub/")
    for climb in CLIMBS
    for tail in ("", "/secret.txt", "/outside/secret.txt")
]
SEPARATORS = [
    "..\\outside\\secret.txt",
    "sub\\..\\..\\outside",
    "\\\\server\\share",
    "C:\\Windows",
    "a\\b",
    "..\\",
    "\uff0e\uff0e\uff0foutside",
    "\uff0e\uff0e",
    "\u2025",
    "\u2025/outside/secret.txt",
    "sub/\uff0e\uff0e/x",
    "a\uff0fb",
    "a\uff3cb",
    "a\ufe68b",
    "\u2100",
    "\u2024\u2024",
]
NULS = ["\0", "in.txt\0", "in.txt\0.png", "\0/../outside", "sub/\0", "../\0"]
CONTROLS = [f"a{chr(code)}b" for code in (1, 7, 8, 9, 10, 13, 27, 31, 127, 128, 133, 155, 159)]
INVISIBLE = [
    f"in{chr(code)}.txt"
    for code in (
        *(0x61C, 0x200B, 0x200C, 0x200D, 0x200E, 0x200F, 0x2028, 0x2029),
        *(0x202A, 0x202B, 0x202C, 0x202D, 0x202E, 0x2060, 0x2066, 0x2067, 0x2069, 0xFEFF, 0xE0041),
    )
]
TWINS = [
    unicodedata.normalize("NFD", "caf\u00e9.txt"),
    unicodedata.normalize("NFD", "\u1e69.txt"),
    "\u212bngstr\u00f6m",
    "\u2126.txt",
    "e\u0301/in.txt",
]
SURROGATES = ["\ud800", "a\udcffb", "sub/\udc80", "\udfff/in.txt"]
LONG = [
    "a" * 256,
    "\u00e9" * 128,
    "\U0001f600" * 64,
    "sub/" + "b" * 300,
    "a/" * 513,
    "/" * 1025,
    "a" * 100_000,
]
DEVICES = [
    *("con", "CON", "prn", "aux", "nul", "NUL", "com1", "COM9", "lpt1", "lpt9", "com\u00b9"),
    *("con.txt", "nul.tar.gz", "aux .txt", "sub/con", "con/in.txt", "conin$", "CONOUT$", "clock$"),
]
UNPORTABLE = ["in.txt:stream", "a:b", "a*", "a?", 'a"b', "a<b", "a>b", "a|b", "in.txt::$DATA"]
DOTTED = ["in.txt.", "in.txt ", "sub./in.txt", "sub /in.txt", "...", "a. ", ".. /x", "..."]
DRAFTS = [".~0123456789abcdef", "sub/.~0123456789abcdef", ".~0123456789abcdef/x"]
PLANTED = [f"/{link}{tail}" for link in (*FILE_LINKS, *DIRECTORY_LINKS, *OTHERS) for tail in TAILS]

REFUSED = {
    "climbing": CLIMBING,
    "separators": SEPARATORS,
    "nul": NULS,
    "controls": CONTROLS,
    "invisible": INVISIBLE,
    "unicode twins": TWINS,
    "surrogates": SURROGATES,
    "long": LONG,
    "devices": DEVICES,
    "unportable": UNPORTABLE,
    "dotted": DOTTED,
    "drafts": DRAFTS,
}
# Absolute names of the host are names like any others here: they mean the tree's own.
HARMLESS = [
    *("/etc/passwd", "//etc/passwd", "/proc/self/fd/0", "/dev/null", "~", "~/.ssh/id_ed25519"),
    *("$HOME", "${HOME}/x", "%2e%2e/outside", "..%2foutside", "file:", "IN.TXT", "In.txt", "SUB"),
    *("/SUB/in.txt", "%00", "in.txt%00.png", "-rf", "--help", "`id`", "$(id)", "a;b", "a&b"),
]
CORPUS = [
    *((family, path) for family, paths in REFUSED.items() for path in paths),
    *(("planted", path) for path in PLANTED),
    *(("harmless", path) for path in HARMLESS),
]


def plant(base: Path) -> Path:
    """A tree with every trap in it, and beside it an outside that must not be touched."""
    outside, tree = base / "outside", base / "tree"
    (outside / "directory").mkdir(parents=True)
    (tree / "sub" / "deep").mkdir(parents=True)
    (outside / "secret.txt").write_bytes(SECRET)
    (outside / "directory" / "inner.txt").write_bytes(SECRET)
    for inside in ("in.txt", "sub/in.txt"):
        (tree / inside).write_bytes(b"inside")
    links = {
        "to-file": "../outside/secret.txt",
        "to-file-absolute": outside / "secret.txt",
        "to-passwd": "/etc/passwd",
        "sub/to-file": "../../outside/secret.txt",
        "to-directory": "../outside/directory",
        "to-directory-absolute": outside / "directory",
        "to-parent": "..",
        "to-grandparent": "../..",
        "to-root": "/",
        "to-proc-self-fd": "/proc/self/fd",
        "sub/to-directory": "../../outside/directory",
        "sub/deep/to-parent": "../../..",
        "loop": "loop",
        "loop-a": "loop-b",
        "loop-b": "loop-a",
        "dangling": "../outside/new.txt",
        "to-itself-inside": "in.txt",
        "to-sub-inside": "sub",
    }
    for name, target in links.items():
        (tree / name).symlink_to(target)
    for name in ("hard", "sub/hard"):
        (tree / name).hardlink_to(outside / "secret.txt")
    for name in ("fifo", "sub/fifo"):
        os.mkfifo(tree / name)
    with socket.socket(socket.AF_UNIX) as plug, _working_directory(tree):
        plug.bind("socket")
    return tree


@contextmanager
def _working_directory(path: Path):
    # The path of a Unix socket is too short for pytest's directories.
    before = Path.cwd()
    os.chdir(path)
    try:
        yield
    finally:
        os.chdir(before)


def snapshot(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything below: kind and mode, number of names, content."""
    found = {}
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found[str(path.relative_to(directory))] = (status.st_mode, status.st_nlink, content)
    return found


def files_of(tree: Path, opener) -> ContextFiles:
    quota = Quota("context gil", limit_bytes=1 << 20, limit_files=1000)
    mount = Mount("gil", lambda: RootFS(tree, opener), quota)
    return ContextFiles("gil", Namespace({VirtualPath("/"): mount}), lambda action, path: None)


async def attempt(files: ContextFiles, path: str):
    """Every operation on the path; (operation, outcome or error) of each."""
    operations = {
        "read": lambda: files.read(path, 1 << 20),
        "list": lambda: files.list(path),
        "stat": lambda: files.stat(path),
        "exists": lambda: files.exists(path),
        "write": lambda: files.write(path, b"overwritten"),
        "mkdir": lambda: files.mkdir(path),
        "move from": lambda: files.move(path, "/taken"),
        "move to": lambda: files.move("/sub/in.txt", path),
        "remove": lambda: files.remove(path),
        "remove all": lambda: files.remove(path, recursive=True),
    }
    for name, operation in operations.items():
        try:
            yield name, await operation()
        except OrvalhoError as error:
            yield name, error


def test_the_corpus_is_large_and_of_distinct_paths():
    assert len({path for _, path in CORPUS}) >= 200


@pytest.mark.anyio
@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize(
    ("family", "path"), [pytest.param(f, p, id=f"{f}-{n}") for n, (f, p) in enumerate(CORPUS)]
)
async def test_no_operation_on_a_hostile_path_touches_the_outside(tmp_path, opener, family, path):
    tree = plant(tmp_path)
    before = snapshot(tmp_path / "outside")
    outcomes = {}

    async for operation, outcome in attempt(files_of(tree, opener), path):
        outcomes[operation] = outcome

    assert snapshot(tmp_path / "outside") == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["outside", "tree"]
    assert SECRET not in outcomes.values()
    for outcome in outcomes.values():
        told = repr(getattr(outcome, "args", outcome))
        assert "SECRET" not in told
        assert "inner.txt" not in told or "inner.txt" in path
    if family in REFUSED:
        kinds = {type(outcome) for outcome in outcomes.values()}
        assert kinds <= {Denied, InvalidInput}, outcomes
        for outcome in outcomes.values():
            assert outcome.where is None or outcome.where.isascii() or family == "drafts"


@pytest.mark.anyio
@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("name", [*FILE_LINKS, *DIRECTORY_LINKS, *OTHERS])
async def test_what_is_planted_is_denied_and_not_listed(tmp_path, opener, name):
    tree = plant(tmp_path)
    files = files_of(tree, opener)
    parent, _, last = f"/{name}".rpartition("/")

    listed = [entry.name for entry in await files.list(parent or "/")]
    outcomes = {operation: outcome async for operation, outcome in attempt(files, f"/{name}")}

    assert last not in listed
    assert "in.txt" in listed or parent == "/sub/deep"
    for operation in ("read", "stat", "exists", "write", "move from", "remove"):
        assert isinstance(outcomes[operation], Denied), (operation, outcomes[operation])
    assert (tree / name).lstat(), "the trap itself stays as the owner made it"


@pytest.mark.anyio
@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize(
    "path",
    ["/to-sub-inside/in.txt", "/to-directory/inner.txt", "/sub/deep/to-parent/tree/in.txt"],
)
async def test_a_file_behind_a_link_is_denied_even_if_it_lies_inside(tmp_path, opener, path):
    # A second path to a file would sidestep the rule that names the first.
    files = files_of(plant(tmp_path), opener)

    async for operation, outcome in attempt(files, path):
        assert isinstance(outcome, Denied), (operation, outcome)


@pytest.mark.anyio
@pytest.mark.parametrize("opener", OPENERS)
async def test_removing_the_whole_tree_stops_at_links_and_leaves_the_outside(tmp_path, opener):
    tree = plant(tmp_path)
    before = snapshot(tmp_path / "outside")
    files = files_of(tree, opener)

    with pytest.raises(OrvalhoError):
        await files.remove("/sub", recursive=True)

    assert snapshot(tmp_path / "outside") == before
    assert (tree / "sub" / "to-directory").is_symlink()


@pytest.mark.anyio
async def test_a_character_device_is_neither_opened_nor_listed(tmp_path):
    tree = plant(tmp_path)
    try:
        os.mknod(tree / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("making a device node takes root")
    files = files_of(tree, open_by_kernel)

    with pytest.raises(Denied):
        await files.read("/null", 100)
    with pytest.raises(Denied):
        await files.write("/null", b"x")

    assert "null" not in [entry.name for entry in await files.list("/")]


def test_a_root_that_is_a_link_is_no_root(tmp_path):
    plant(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "outside")

    with pytest.raises(NotADirectoryError):
        RootFS(tmp_path / "link")


# Races. A thread keeps swapping what a name stands for, between one of ours and a trap; whoever
# checks a path and then opens it loses sooner or later.


def _swap_directory(tree: Path, outside: Path) -> None:
    (tree / "spot").rename(tree / "spare")
    (tree / "spot").symlink_to(outside / "directory")
    (tree / "spot").unlink()
    (tree / "spare").rename(tree / "spot")


def _swap_file_by_symlink(tree: Path, outside: Path) -> None:
    (tree / "trap").symlink_to(outside / "directory" / "inner.txt")
    (tree / "trap").rename(tree / "spot" / "inner.txt")
    (tree / "fresh").write_bytes(b"inside")
    (tree / "fresh").rename(tree / "spot" / "inner.txt")


@contextmanager
def swapping(swap, tree: Path, outside: Path):
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            swap(tree, outside)
            # Of varying length, or two threads can run in step and never meet.
            stop.wait(random.random() * 2e-4)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize(
    "swap", [_swap_directory, _swap_file_by_symlink], ids=["directory", "file"]
)
def test_swapping_a_name_while_it_is_used_lets_nothing_out(tmp_path, opener, swap):
    outside, tree = tmp_path / "outside", tmp_path / "tree"
    (outside / "directory").mkdir(parents=True)
    (outside / "directory" / "inner.txt").write_bytes(SECRET)
    (outside / "directory" / "only-outside").write_bytes(b"")
    (tree / "spot").mkdir(parents=True)
    (tree / "spot" / "inner.txt").write_bytes(b"inside")
    root = RootFS(tree, opener)
    seen = set()

    with swapping(swap, tree, outside):
        for turn in itertools.count():
            try:
                seen.add(root.read_at_most("/spot/inner.txt", 100))
                assert "only-outside" not in root.listdir("/spot")
                root.writebytes(f"/spot/new-{turn % 5}", b"ours")
                root.remove(f"/spot/new-{turn % 5}")
                with root.openbin("/spot/inner.txt", "r+b") as file:
                    file.write(b"inside")
            except (fs_errors.FSError, OSError) as error:
                seen.add(type(error).__name__)
            if turn > 1500 and len(seen) > 1 and b"inside" in seen:
                break
            assert turn < 100_000, "the race was never met"

    root.close()
    assert SECRET not in seen
    assert sorted(each.name for each in (outside / "directory").iterdir()) == [
        "inner.txt",
        "only-outside",
    ]
    assert (outside / "directory" / "inner.txt").read_bytes() == SECRET

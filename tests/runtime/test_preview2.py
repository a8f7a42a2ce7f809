"""The functions behind preview 2 and our own world: files over a run's calls, and that what
`wit/host.wit` says is what there is."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest

from orvalho.runtime.engine import Answer, Start
from orvalho.runtime.engines.blocking import Thrown
from orvalho.runtime.engines.wasm.guest import Guest
from orvalho.runtime.engines.wasm.host_world import HOST_WORLD
from orvalho.runtime.engines.wasm.preview2 import PREVIEW2, Caller, Refusal
from orvalho.runtime.engines.wasm.preview2_files import PREVIEW2_FILES
from orvalho.runtime.engines.wasm.values import Handle
from orvalho.runtime.job import Jobs
from tests.runtime import wat
from tests.runtime.play import play

WIT = Path(__file__).parents[2] / "wit" / "host.wit"
READ, WRITE = frozenset({"read"}), frozenset({"write"})
NEW = frozenset({"create"})


class Tree:
    """A host whose calls are of a few files."""

    def __init__(self) -> None:
        self.files = {"/a.txt": b"content", "/ro/b.txt": b"b"}
        self.asked: list[str] = []

    def call(self, op: str, argument: bytes) -> Answer:
        path, *rest = json.loads(argument)
        self.asked.append(f"{op} {path}")
        name = op.rpartition(".")[2]
        if op.startswith("caller.") or (name == "write" and path.startswith("/ro")):
            return self._error("Denied", "not for you")
        if name == "list":
            return self._value([self._stat(each) for each in self.files])
        if name == "write":
            self.files[path] = base64.b64decode(rest[0]["$bytes"])
            return self._value(None)
        if path not in self.files:
            return self._error("NotFound", "nothing there")
        if name == "stat":
            return self._value(self._stat(path))
        if name == "remove":
            del self.files[path]
            return self._value(None)
        return self._value({"$bytes": base64.b64encode(self.files[path]).decode()})

    def _stat(self, path: str) -> Any:
        return {"name": path[1:], "type": "file", "size": len(self.files[path]), "modified": 1500}

    def _value(self, value: Any) -> Answer:
        return Answer(1, False, json.dumps(value).encode())

    def _error(self, name: str, message: str) -> Answer:
        return Answer(1, True, json.dumps({"name": name, "message": message}).encode())

    def look_in(self) -> None: ...
    def sleep(self, after_ms: float) -> None: ...
    def log(self, level: int, text: str) -> None: ...


class Program:
    """Calls what a component would."""

    def __init__(self) -> None:
        self.tree = Tree()
        start = Start("job.wasm", "", b"null", {}, {}, 0, 0, 0)
        self.caller = Caller(Guest(self.tree, start, None))
        pairs = self.does("get-directories")
        self.root, self.callers = (handle for handle, _ in pairs)
        assert [name for _, name in pairs] == ["/", "/caller"]

    def does(self, name: str, *arguments: Any) -> Any:
        for offers in (PREVIEW2_FILES, PREVIEW2):
            for functions in offers.values():
                for full, function in functions.items():
                    if full.rpartition("]")[2] == name:
                        return function(self.caller, *arguments)
        raise AssertionError(name)

    def opens(self, path: str, how: frozenset[str], flags: frozenset[str]) -> Handle:
        found = self.does("descriptor.open-at", self.root, frozenset(), path, how, flags)
        assert isinstance(found, Handle)
        return found


@pytest.fixture
def program() -> Program:
    return Program()


def test_a_file_is_read_from_a_place_on(program: Program) -> None:
    file = program.opens("a.txt", frozenset(), READ)
    stream = program.does("descriptor.read-via-stream", file, 3)
    assert program.does("input-stream.blocking-read", stream, 2) == b"te"
    assert program.does("input-stream.read", stream, 100) == b"nt"
    with pytest.raises(Refusal) as end:
        program.does("input-stream.read", stream, 1)
    assert end.value.value == ("closed", None)
    assert program.does("descriptor.read", file, 4, 5) == [b"nt", True]


def test_what_is_written_is_kept_when_the_last_of_it_is_dropped(program: Program) -> None:
    file = program.opens("new.txt", NEW, WRITE)
    stream = program.does("descriptor.write-via-stream", file, 0)
    program.does("output-stream.blocking-write-and-flush", stream, b"one")
    program.does("output-stream.write", stream, b" two")
    program.caller.drop(file.rep)
    assert program.tree.files["/new.txt"] == b"", "a stream of it is still held"
    program.caller.drop(stream.rep)
    assert program.tree.files["/new.txt"] == b"one two"
    again = program.opens("new.txt", frozenset(), WRITE)
    more = program.does("descriptor.append-via-stream", again)
    program.does("output-stream.write", more, b" three")
    program.caller.drop(more.rep)
    program.caller.drop(again.rep)
    assert program.tree.files["/new.txt"] == b"one two three"


@pytest.mark.parametrize(
    ("path", "how", "flags", "code"),
    [
        ("none.txt", frozenset(), READ, "no-entry"),
        ("ro/c.txt", NEW, WRITE, "access"),
        ("../a.txt", frozenset(), READ, "not-permitted"),
        ("/etc/passwd", frozenset(), READ, "not-permitted"),
        ("x/../../a.txt", frozenset(), READ, "not-permitted"),
        ("a.txt", NEW | {"exclusive"}, WRITE, "exist"),
        ("a.txt", frozenset({"directory"}), READ, "not-directory"),
        (".", frozenset(), WRITE, "is-directory"),
    ],
)
def test_what_may_not_be_is_told_by_its_code(
    program: Program, path: str, how: frozenset[str], flags: frozenset[str], code: str
) -> None:
    with pytest.raises(Refusal) as refused:
        program.opens(path, how, flags)
    assert refused.value.value == code
    assert "/etc/passwd" not in str(program.tree.asked)


def test_what_was_opened_to_be_read_is_not_written(program: Program) -> None:
    file = program.opens("a.txt", frozenset(), READ)
    for name, arguments in (("write-via-stream", (0,)), ("write", (b"x", 0))):
        with pytest.raises(Refusal) as refused:
            program.does(f"descriptor.{name}", file, *arguments)
        assert refused.value.value == "bad-descriptor"
    assert program.does("descriptor.get-flags", file) == {"read"}


def test_a_write_that_cannot_be_kept_ends_the_run(program: Program) -> None:
    """A drop has no answer that the program could read."""
    file = program.opens("ro/b.txt", frozenset(), WRITE)
    stream = program.does("descriptor.write-via-stream", file, 0)
    program.does("output-stream.write", stream, b"x")
    program.caller.drop(stream.rep)
    with pytest.raises(Thrown, match="not for you"):
        program.caller.drop(file.rep)


def test_the_callers_folder_is_the_callers_word(program: Program) -> None:
    with pytest.raises(Refusal) as refused:
        program.does("descriptor.stat-at", program.callers, frozenset(), "a.txt")
    assert refused.value.value == "access"
    assert program.tree.asked[-1] == "caller.fs.stat /a.txt"


def test_a_folder_is_listed_and_a_file_removed(program: Program) -> None:
    entries = program.does("descriptor.read-directory", program.root)
    names = []
    while (entry := program.does("directory-entry-stream.read-directory-entry", entries))[1]:
        names.append(entry[1]["name"])
    assert names == ["a.txt", "ro/b.txt"]
    program.does("descriptor.unlink-file-at", program.root, "a.txt")
    assert "/a.txt" not in program.tree.files
    stat = program.does("descriptor.stat", program.root)
    assert stat["type"] == "directory"


def test_links_and_times_are_not_here(program: Program) -> None:
    for name in ("symlink-at", "link-at", "readlink-at", "set-times", "set-times-at"):
        with pytest.raises(Refusal) as refused:
            program.does(f"descriptor.{name}", program.root)
        assert refused.value.value == "unsupported"


def test_no_more_than_so_many_things_are_open(program: Program) -> None:
    with pytest.raises(Thrown, match="at most 4096"):
        for _ in range(5000):
            program.does("get-stdout")


def test_our_world_is_what_its_text_says() -> None:
    text = re.sub(r"///.*", "", WIT.read_text(encoding="utf-8"))
    for name, body in re.findall(r"^interface ([\w-]+) \{\n(.*?)^\}", text, re.MULTILINE | re.S):
        functions = re.findall(r"^  %?([\w-]+): func\(", body, re.MULTILINE)
        assert set(functions) == set(HOST_WORLD[f"orvalho:host/{name}"]), name
    assert len(re.findall(r"^interface", text, re.MULTILINE)) == len(HOST_WORLD)


@pytest.mark.anyio
async def test_a_reactor_is_prepared_before_it_is_called(jobs: Jobs) -> None:
    source = wat.module(
        '(global $n (mut i32) (i32.const 0)) (func (export "_initialize") (global.set $n'
        ' (i32.const 7))) (func (export "run") (result i32) (global.get $n))'
    )
    ended, _ = await play(jobs, source, filename="job.wasm")
    assert (ended.outcome, ended.result) == ("done", b"7")

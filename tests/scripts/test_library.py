"""What a node publishes, as files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orvalho.errors import InvalidInput, NotFound, Unavailable
from orvalho.scripts.library import MAX_DOC_CHARACTERS, Libraries
from orvalho.scripts.reference import Reference, read_reference, write_reference
from orvalho.scripts.script import MAX_MODULE_BYTES

EXAMPLES = Path(__file__).parents[2] / "examples"
ADD = (EXAMPLES / "add.wasm").read_bytes()


@pytest.fixture
def libraries(tmp_path: Path) -> Libraries:
    return Libraries(tmp_path / "libraries")


def put(
    libraries: Libraries, content: bytes = ADD, filename: str = "add.wasm", **parts: str
) -> bool:
    named = {"name": "add", "doc": None, "needs": None} | parts
    return libraries.publish(filename, content, **named)  # type: ignore[arg-type]


def test_what_is_published_is_found(libraries: Libraries) -> None:
    assert libraries.list() == ()
    assert put(libraries, doc="sums", needs='timeout = "3s"')
    found = libraries.find("add")
    assert (found.content, found.kind, found.doc) == (ADD, "library", "sums")
    assert found.header == 'timeout = "3s"'
    assert found.exports == ("add(i32, i32) -> i32", "mean(f64, f64) -> f64")
    assert not put(libraries), "these bytes are published"
    assert libraries.find("add").doc == "sums", "and what is said of them stays"
    assert libraries.find("add").header == "", "but the file beside them has gone"


def test_a_name_has_one_library(libraries: Libraries) -> None:
    put(libraries)
    assert libraries.differs("add", ADD) is None
    assert libraries.differs("add", b"x") == libraries.find("add").sha256
    assert put(libraries, b"export const a = 1\n", "add.js")
    assert [each.filename for each in libraries.list()] == ["add.js"]
    assert libraries.remove("add")
    assert not libraries.remove("add")
    with pytest.raises(NotFound):
        libraries.find("add")


def test_a_changed_file_is_read_again(libraries: Libraries, tmp_path: Path) -> None:
    put(libraries)
    first = libraries.find("add")
    assert libraries.find("add") is first, "it is not read twice"
    (tmp_path / "libraries" / "add.wasm").write_bytes(ADD + b"\0\2\1x")
    assert libraries.find("add").sha256 != first.sha256


@pytest.mark.parametrize("needs", ['timeout = "9s"', "#" * (64 << 10), None])
def test_what_was_not_published_whole_is_no_library(
    libraries: Libraries, tmp_path: Path, needs: str | None
) -> None:
    put(libraries, needs='timeout = "3s"')
    file = tmp_path / "libraries" / "add.wasm"
    beside = file.with_name("add.wasm.toml")
    old = beside.read_bytes()
    other = ADD + b"\0\2\1x"
    put(libraries, other, **({} if needs is None else {"needs": needs}))
    assert libraries.find("add").needs == needs
    # As a crash leaves it: the one is new, the other is not.
    if needs is None:
        beside.write_bytes(old)
    else:
        file.write_bytes(ADD)
    with pytest.raises(InvalidInput, match="not published whole") as caught:
        libraries.find("add")
    assert caught.value.hint == "orvalho lib publish FILE --as add"
    assert libraries.list() == ()
    assert libraries.differs("add", ADD) is None, "it is published again without more ado"
    assert put(libraries)
    assert libraries.find("add").header == ""


def test_needs_written_by_hand_go_with_what_they_lie_beside(
    libraries: Libraries, tmp_path: Path
) -> None:
    put(libraries)
    (tmp_path / "libraries" / "add.wasm.toml").write_text('timeout = "2s"')
    assert libraries.find("add").header == 'timeout = "2s"'


def test_what_is_no_plain_file_is_not_published(libraries: Libraries, tmp_path: Path) -> None:
    put(libraries)
    directory = tmp_path / "libraries"
    (directory / "link.js").symlink_to("/etc/passwd")
    os.mkfifo(directory / "pipe.js")
    (directory / "UPPER.js").write_text("1")
    (directory / ".hidden.js").write_text("1")
    (directory / "large.wasm").write_bytes(b"\0" * (MAX_MODULE_BYTES + 1))
    (directory / "doc.js").write_text("export async function* thumb() {}\nexport class A {}\n")
    (directory / "doc.js.doc").symlink_to("/etc/passwd")
    assert [(each.name, each.doc) for each in libraries.list()] == [("add", ""), ("doc", "")]
    assert libraries.find("doc").exports == ("thumb", "A")
    for name in ("link", "pipe", "../libraries/add", "add.wasm", "", "a\0b"):
        with pytest.raises(NotFound):
            libraries.find(name)


@pytest.mark.parametrize(
    ("content", "filename", "parts", "why"),
    [
        (ADD[:20], "add.wasm", {}, "malformed"),
        (b"\xff", "add.js", {}, "Unicode"),
        (b"1", "add.py", {}, "a library ends in"),
        (b"1", "add.wasm", {}, "no WebAssembly"),
        (b"1", "add.js", {"name": "Add"}, "a-z"),
        (b"1", "add.js", {"name": "../add"}, "a-z"),
        (b"1", "add.js", {"doc": "a\nb"}, "one line"),
        (b"1", "add.js", {"doc": "a" * (MAX_DOC_CHARACTERS + 1)}, "one line"),
        (b"1", "add.js", {"needs": ""}, "only WebAssembly"),
        (ADD, "add.wasm", {"needs": 'need = ["x"]'}, "add.wasm.toml has a mistake"),
        (b" " * (2 << 20), "add.star", {}, "more than"),
    ],
)
def test_what_cannot_be_published(
    libraries: Libraries, content: bytes, filename: str, parts: dict[str, str], why: str
) -> None:
    with pytest.raises(InvalidInput, match=why):
        put(libraries, content, filename, **parts)
    assert libraries.list() == ()


def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "libraries").write_text("a file")
    with pytest.raises(Unavailable, match="cannot be written"):
        put(Libraries(tmp_path / "libraries"))


def test_no_draft_is_left_or_seen(libraries: Libraries, tmp_path: Path) -> None:
    put(libraries, doc="x")
    names = sorted(each.name for each in (tmp_path / "libraries").iterdir())
    assert names == ["add.wasm", "add.wasm.doc"]


def test_a_reference_names_a_library_and_nothing_else() -> None:
    reference = Reference(library="add", sha256="0" * 64, header="a")
    assert read_reference(write_reference(reference)) == reference
    for text in (
        "", "[]", "{}", '{"library": "add", "sha256": "0"}', "[" * 100_000,
        '{"library": "../add", "sha256": "%s"}' % ("0" * 64),
        '{"library": "*", "sha256": "%s"}' % ("0" * 64),
    ):  # fmt: skip
        with pytest.raises(InvalidInput):
            read_reference(text)

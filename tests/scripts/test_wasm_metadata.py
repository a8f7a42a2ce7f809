"""What a binary says of itself: modules and components, true and hostile ones."""

from __future__ import annotations

import random
import resource
import time
from pathlib import Path

import msgspec
import pytest

from orvalho.errors import InvalidInput
from orvalho.scripts.wasm.interfaces import read_component
from orvalho.scripts.wasm.metadata import Metadata, read_metadata
from tests.runtime import wat

EXAMPLES = Path(__file__).parents[2] / "examples"
MODULE = b"\0asm\1\0\0\0"
COMPONENT = b"\0asm\x0d\0\1\0"
TYPED = """(component
  (type $host (instance
    (type $l (enum "low" "high"))
    (export "level" (type $level (eq $l)))
    (export "store" (type $store (sub resource)))
    (export "[method]store.get" (func (param "self" (borrow $store)) (result (option string))))
    (export "open" (func (param "at" $level) (result (result (own $store) (error string)))))))
  (import "docs:host/keep@0.1.0" (instance (type $host)))
  (core module $m
    (memory (export "memory") 1)
    (func (export "add") (param i32 i32) (result i32)
      (i32.add (local.get 0) (local.get 1)))
    (func (export "swap") (param i32 i32) (result i32) (i32.const 0)))
  (core instance $i (instantiate $m))
  (func $add (param "a" s32) (param "b" s32) (result s32)
    (canon lift (core func $i "add")))
  (export "add" (func $add))
  (type $p (record (field "x" s32) (field "y" s32)))
  (export $point "point" (type $p))
  (func $swap (param "p" $point) (result (tuple s32 s32))
    (canon lift (core func $i "swap") (memory (core memory $i "memory"))))
  (component $inner
    (import "f" (func $f (param "a" s32) (param "b" s32) (result s32)))
    (export "add" (func $f)))
  (instance $made (instantiate $inner (with "f" (func $add))))
  (export "docs:adder/add@0.1.0" (instance $made))
)"""


def section(number: int, content: bytes) -> bytes:
    return bytes([number]) + leb(len(content)) + content


def leb(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def named(name: str, content: bytes) -> bytes:
    return section(0, leb(len(name)) + name.encode() + content)


def text(value: str) -> bytes:
    return leb(len(value)) + value.encode()


def test_a_library_is_described() -> None:
    found = read_metadata((EXAMPLES / "add.wasm").read_bytes())
    assert (found.kind, found.is_program, found.size_bytes) == ("library", False, 73)
    assert [(each.name, each.type) for each in found.exports] == [
        ("add", "(i32, i32) -> i32"), ("mean", "(f64, f64) -> f64"),
    ]  # fmt: skip
    assert [each.type for each in found.function("add").parameters] == ["i32", "i32"]
    assert found.signer == "unsigned"
    with pytest.raises(InvalidInput, match="no function 'sub'") as raised:
        found.function("sub")
    assert raised.value.hint == "it exports add, mean"


def test_a_program_is_described() -> None:
    found = read_metadata((EXAMPLES / "cat.wasm").read_bytes())
    assert (found.kind, found.is_program) == ("command", True)
    assert found.wasi == ("wasi_snapshot_preview1",)
    assert found.memories[0].minimum_bytes == 131_072
    old = read_metadata(wat.assemble('(module (import "wasi_unstable" "fd_close" (func)))'))
    assert old.wasi == ("wasi_unstable",)
    assert read_metadata(wat.assemble('(module (func (export "_initialize")))')).kind == "reactor"


def test_tables_memories_and_start_are_told() -> None:
    found = read_metadata(
        wat.assemble(
            '(module (import "a" "t" (table 1 funcref)) (table 2 3 externref)'
            "(memory 1 4) (func $s) (start $s))"
        )
    )
    assert (found.tables, found.has_start) == (2, True)
    assert (found.memories[0].minimum_bytes, found.memories[0].maximum_bytes) == (65_536, 262_144)


def test_custom_sections_are_told() -> None:
    raw = MODULE + named("producers", b"\1" + text("language") + b"\1" + text("C") + text("17"))
    raw += named("target_features", b"\1+" + text("simd128"))
    raw += named("name", section(0, text("nice")))
    raw += named("orvalho", b'timeout = "3s"\n') + named("signature", b"x" * 9)
    found = read_metadata(raw)
    assert found.producers == {"language": ("C 17",)}
    assert (found.features, found.name) == (("+simd128",), "nice")
    assert found.header == 'timeout = "3s"\n'
    assert "not checked" in found.signer
    assert (found.sections[-1].name, found.sections[-1].size_bytes) == ("signature", 9)


def test_what_tools_wrote_wrongly_is_noted_and_not_held_against_it() -> None:
    found = read_metadata(MODULE + named("producers", b"\xff\xff\xff\xff\x0f"))
    assert found.notes == ('the section "producers" is malformed',)


def test_a_component_has_its_types_as_wit() -> None:
    found = read_metadata(wat.assemble(TYPED))
    assert found.kind == "component"
    assert [(each.path, [p.type for p in each.parameters]) for each in found.functions] == [
        ("add", ["s32", "s32"]), ("docs:adder/add@0.1.0#add", ["s32", "s32"]),
    ]  # fmt: skip
    assert found.function("docs:adder/add@0.1.0#add").results == ("s32",)
    assert found.function("add").interface == "", "the exact name goes before the short one"
    assert found.wit.splitlines() == [
        "world root {",
        "  import docs:host/keep@0.1.0: interface {",
        "    enum level {low, high}",
        "    resource store;",
        "    [method]store.get: func(self: borrow<store>) -> option<string>;",
        "    open: func(at: level) -> result<store, string>;",
        "  }",
        "  export add: func(a: s32, b: s32) -> s32;",
        "  // export point: type",
        "  export docs:adder/add@0.1.0: interface {",
        "    add: func(a: s32, b: s32) -> s32;",
        "  }",
        "}",
    ]


def test_forms_that_are_not_known_leave_the_rest() -> None:
    found = read_metadata(COMPONENT + section(7, b"\1\x20"))
    assert found.notes == ("its types are not told: a type of form 0x20",)
    assert found.kind == "component"


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "no WebAssembly binary"),
        (b"(module)", "text"),
        (b"\0asm\2\0\0\0", "version"),
        (b"\x7fELF", "no WebAssembly binary"),
        (MODULE + b"\0\x64\7orvalho", "section 0 says that it has 100 bytes"),
        (MODULE + b"\1\xff\xff\xff\xff\xff\0", "too long"),
        (MODULE + b"\1\xff\xff\xff\xff\x7f", "too large"),
        (MODULE + section(1, b"\xff\xff\xff\xff\x0f"), "4294967295 things"),
        (MODULE + section(2, b"\1\xff\xff\xff\xff\x0f"), "a name says"),
        (MODULE + section(7, b"\1\1a\x09\0"), "no kind 9"),
        (MODULE + section(7, b"\1\2\xff\xff\0\0"), "not UTF-8"),
        (MODULE + section(5, b"\1\x55\0"), "form 85"),
        (MODULE + b"\0\1\0" * 20_000, "more than 10000 sections"),
        (MODULE + named("orvalho", b"\xff"), "not UTF-8"),
        (MODULE + named("orvalho", b" " * 70_000), "more than 65536"),
        (COMPONENT + section(10, b"\1\0\1a\1\x09"), "no type 9"),
        (COMPONENT + section(6, b"\1\3\2\x09\0"), "leads outside"),
    ],
)
def test_a_lie_is_told_as_one(raw: bytes, why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        read_metadata(raw)


def test_nesting_has_an_end() -> None:
    raw = COMPONENT
    for _ in range(60):
        raw = COMPONENT + section(4, raw)
    with pytest.raises(InvalidInput, match="nested too deeply"):
        read_metadata(raw)
    # A type of an instance in a type of an instance, and so on.
    deep = b"\x42\0"
    for _ in range(60):
        deep = b"\x42\1\1" + deep
    with pytest.raises(InvalidInput, match="nested too deeply"):
        read_metadata(COMPONENT + section(7, b"\1" + deep))


@pytest.mark.parametrize("depth", [30, 500])
def test_types_that_double_are_not_spelled_out(depth: int) -> None:
    types = [b"\x72\1\1a\x7d"]
    for at in range(depth):
        twice = s33(at), s33(at)
        types.append(b"\x6f\2" + b"".join(twice) if at % 2 else b"\x6a\1" + b"\1".join(twice))
    types.append(b"\x40\1\1p" + s33(depth) + b"\1\0")
    raw = COMPONENT + section(7, leb(len(types)) + b"".join(types))
    raw += section(10, b"\1\0\1f\1" + leb(len(types) - 1))
    began = time.monotonic()
    found = read_metadata(raw)
    assert "f: func(p: " in found.wit
    assert len(found.wit) < 10_000
    assert time.monotonic() - began < 20


def s33(value: int) -> bytes:
    """A signed number that is not negative."""
    return leb(value) if value < 64 else bytes([value & 0x7F | 0x80]) + s33(value >> 7)


def told(raw: bytes) -> Metadata | None:
    try:
        found = read_metadata(raw)
    except InvalidInput:
        return None
    # It can be told to others, and is small beside what it is about.
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(found), type=Metadata) == found
    return found


def originals() -> list[bytes]:
    texts = [
        TYPED,
        '(module (import "a" "f" (func (param i32 f64) (result i64))) (table 1 funcref)'
        '(memory (export "memory") 2) (func $s) (start $s)'
        '(func (export "add") (param i32 i32) (result i32) (local.get 0)))',
    ]
    custom = MODULE + named("producers", b"\1" + text("language") + b"\1" + text("C") + text("17"))
    custom += named("target_features", b"\1+" + text("simd128")) + named("orvalho", b"needs = []")
    built = [wat.assemble(each) for each in texts]
    return [*built, custom, (EXAMPLES / "cat.wasm").read_bytes()]


def test_cut_at_every_byte() -> None:
    for raw in originals():
        assert told(raw) is not None
        for size in range(len(raw)):
            told(raw[:size])


def test_twenty_thousand_mutations_raise_nothing_else() -> None:
    chance = random.Random(7)
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    whole = broken = 0
    sources = originals()
    slowest_s = 0.0
    for number in range(20_000):
        raw = bytearray(sources[number % len(sources)])
        for _ in range(chance.randrange(1, 6)):
            at = chance.randrange(8, len(raw))
            match chance.randrange(5):
                case 0:
                    raw[at] = chance.randrange(256)
                case 1:
                    raw[at : at + 1] = b"\xff\xff\xff\xff\x0f"
                case 2:
                    del raw[at : at + chance.randrange(1, 9)]
                case 3:
                    raw[at:at] = raw[8 : 8 + chance.randrange(1, 40)]
                case 4:
                    raw[at] ^= 1 << chance.randrange(8)
            if len(raw) < 10:
                break
        began = time.process_time()
        if told(bytes(raw)) is None:
            broken += 1
        else:
            whole += 1
        slowest_s = max(slowest_s, time.process_time() - began)
    assert whole > 1000, "some changes are harmless"
    assert broken > 1000, "and many are not"
    assert slowest_s < 2
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
    assert grown_kb < 200 << 10


def test_a_large_type_that_many_exports_have_is_read_once() -> None:
    wide = b"\x60" + leb(900_000) + b"\x7f" * 900_000 + b"\0"
    raw = MODULE + section(1, b"\1" + wide) + section(3, b"\1\0")
    raw += section(7, leb(2_000) + b"".join(text(f"f{n}") + b"\0\0" for n in range(2_000)))
    began = time.process_time()
    found = told(raw)
    assert found is not None
    assert found.exports[0].type == "", "no compiler takes it"
    assert len(found.exports) == 2_000
    assert time.process_time() - began < 20


def test_what_is_repeated_beyond_reason_is_told_but_cannot_be_called() -> None:
    members = b"".join(b"\4\0" + text(f"m{n}") + b"\1\0" for n in range(20_000))
    instance = b"\x42" + leb(20_001) + b"\1\x40\0\1\0" + members
    imported = b"".join(b"\0" + text(f"i{n}") + b"\5\0" for n in range(20_000))
    repeated = section(7, b"\1" + instance) + section(10, leb(20_000) + imported)
    # A type by another name, by another name, and so on.
    chain = b"".join(b"\4\0" + text(f"t{n}") + b"\3\0" + leb(n) for n in range(40_000))
    chained = section(7, b"\1\x42" + leb(40_001) + b"\1\x7d" + chain)
    chained += section(10, b"\1\0\1a\5\0")
    began = time.process_time()
    assert told(COMPONENT + repeated) is not None
    with pytest.raises(InvalidInput, match="more functions or types"):
        read_component(COMPONENT + repeated)
    assert told(COMPONENT + chained) is not None
    assert [each.name for each in read_component(COMPONENT + chained).imports] == ["a"]
    assert time.process_time() - began < 30


def test_large_and_hostile_is_still_read_in_bounds() -> None:
    began = time.process_time()
    empty_types = b"\x60\0\0" * 90_000
    assert told(MODULE + section(1, leb(90_000) + empty_types)) is not None
    many = section(7, leb(120_000) + b"\x7d" * 120_000) * 3
    found = told(COMPONENT + many)
    assert found is not None
    assert found.notes == ("its types are not told: it has too many parts",)
    enum = b"\x6d" + leb(900_000) + b"\0" * 900_000
    assert told(COMPONENT + section(7, b"\1" + enum)) is not None
    # One large instance, given again and again.
    members = b"".join(b"\4\0" + text(f"m{n}") + b"\3\1" for n in range(20_000))
    instance = b"\x42" + leb(20_000) + members
    raw = COMPONENT + section(7, b"\1" + instance)
    raw += section(
        10, leb(20_000) + b"".join(b"\0" + text(f"i{n}") + b"\5\0" for n in range(20_000))
    )
    found = told(raw)
    assert found is not None
    assert len(found.wit) < 300_000
    assert time.process_time() - began < 60

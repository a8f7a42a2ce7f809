"""Reading modules without compiling them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from orvalho.errors import InvalidInput
from orvalho.scripts.manifest import find_problems, read_manifest
from orvalho.scripts.script import Language, language_of, make_script
from orvalho.scripts.wasm.binaries import custom_section_of
from orvalho.scripts.wasm.module import check_call, read_module
from tests.runtime import wat

EMPTY = b"\0asm\1\0\0\0"


def with_section(name: str, content: bytes) -> bytes:
    raw = bytes([len(name)]) + name.encode() + content
    return EMPTY + bytes([0, len(raw)]) + raw


def test_imports_exports_and_memory_are_told() -> None:
    module = read_module(
        wat.assemble(
            '(module (import "a" "f" (func (param i32 f64) (result i64)))'
            '(import "a" "t" (table 1 funcref)) (import "a" "g" (global i32))'
            '(memory (export "memory") 2) (func $s) (start $s)'
            '(func (export "add") (param i32 i32) (result i32) (local.get 0)))'
        )
    )
    assert list(map(str, module.imports)) == [
        "function a.f (i32, f64) -> i64", "table a.t", "global a.g",
    ]  # fmt: skip
    assert list(map(str, module.exports)) == ["memory memory", "function add (i32, i32) -> i32"]
    assert [each.minimum_bytes for each in module.memories] == [131_072]
    assert (module.has_start, module.is_command) == (True, False)
    assert read_module(wat.command("")).is_command


def test_references_to_types_do_not_shift_what_follows() -> None:
    module = read_module(
        wat.assemble(
            "(module (type $t (func (param (ref null extern) (ref extern)) (result i32)))"
            '(func (export "f") (type $t) (i32.const 1)))'
        )
    )
    assert str(module.export("f")) == "(externref, ?) -> i32"


@pytest.mark.parametrize(
    ("kind", "value", "passed"),
    [
        ("i32", -1, -1), ("i32", 0xFFFFFFFF, -1), ("i64", 1 << 63, -(1 << 63)), ("f64", 3, 3.0),
        ("f32", 1.5, 1.5), ("i64", 0, 0), ("f64", "inf", math.inf), ("f32", "-inf", -math.inf),
    ],
)  # fmt: skip
def test_arguments_that_fit(kind: str, value: Any, passed: Any) -> None:
    module = read_module(wat.assemble(f'(module (func (export "run") (param {kind})))'))
    assert check_call(module, {"args": [value]}) == ("run", (passed,))


@pytest.mark.parametrize(
    ("kind", "value", "got"),
    [
        ("i32", "1", "text"), ("i32", None, "nothing"), ("i32", True, "true or false"),
        ("i32", [1], "a list"), ("f64", {}, "an object"), ("i64", 1.0, "a fraction"),
        ("i32", -(1 << 31) - 1, "a number beyond 32 bits"), ("externref", 1, "no JSON value"),
        ("f64", "NaN", "text"), ("i32", "nan", "text"),
    ],
)  # fmt: skip
def test_arguments_that_do_not(kind: str, value: Any, got: str) -> None:
    module = read_module(wat.assemble(f'(module (func (export "run") (param {kind})))'))
    with pytest.raises(InvalidInput, match="argument 1: expected") as raised:
        check_call(module, {"args": [value]})
    assert got in raised.value.message


def test_a_fraction_may_be_no_number() -> None:
    module = read_module(wat.assemble('(module (func (export "run") (param f64)))'))
    _, (passed,) = check_call(module, {"args": ["nan"]})
    assert math.isnan(passed)


def test_a_language_is_never_guessed() -> None:
    assert language_of("a.wasm", EMPTY) is Language.WASM
    assert language_of("a", EMPTY) is Language.WASM, "the first bytes tell"
    assert language_of("a.wasm", b"\0asm\x0d\0\1\0") is Language.WASM, "a component"
    assert language_of("a.star", b"1") is Language.STARLARK
    for name, raw, why in [
        ("a.wasm", b"(module)", "WebAssembly text"),
        ("a.wat", b"  ;; hi\n(module)", "WebAssembly text"),
        ("a.wasm", b"\0as", "no WebAssembly module of version 1"),
        ("a.wasm", b"\0asm\2\0\0\0", "no WebAssembly module of version 1"),
        ("a.js", b"\0asm\x0d\0\1\0", "bytes of a WebAssembly module"),
        ("a.js", EMPTY, "bytes of a WebAssembly module"),
        ("a.py", b"1", "other languages"),
        ("a", b"(module)", "other languages"),
    ]:
        with pytest.raises(InvalidInput, match=why):
            language_of(name, raw)


def test_a_digest_is_over_the_bytes_as_they_are() -> None:
    assert make_script("a.wasm", EMPTY).module == EMPTY
    assert make_script("a.star", b"1").digest == make_script("a.star", "1").digest
    with pytest.raises(InvalidInput, match="not Unicode"):
        make_script("a.star", b"\xff")


def test_needs_come_from_a_section_or_from_the_file_beside() -> None:
    script = make_script("a.wasm", with_section("orvalho", b'needs = ["target.kv.read:a"]\n'))
    assert [str(need) for need in read_manifest(script).needs] == ["target.kv.read:a"]
    beside = 'needs = ["target.kv.read:b"]\ntimeout = "3s"\n'
    assert [str(need) for need in read_manifest(script, beside).needs] == ["target.kv.read:b"]
    assert read_manifest(script, beside).limits.wall_s == 3.0
    assert find_problems(script, "\nneed = 1") == ('2: unknown key "need", did you mean "needs"?',)
    with pytest.raises(InvalidInput, match="1 mistake") as raised:
        read_manifest(script, "\nneed = 1")
    assert raised.value.where == "a.wasm.toml:2"
    with pytest.raises(InvalidInput, match="not a file beside it"):
        read_manifest(make_script("a.js", "1"), beside)
    with pytest.raises(InvalidInput, match="not UTF-8"):
        read_manifest(make_script("a.wasm", with_section("orvalho", b"\xff")))


def test_starlark_has_the_header_with_its_own_mark() -> None:
    text = '# /// orvalho\n# needs = ["target.kv.read:a"]\n#\n# ///\n'
    manifest = read_manifest(make_script("a.star", text))
    assert [str(need) for need in manifest.needs] == ["target.kv.read:a"]
    assert read_manifest(make_script("a.star", text.replace("# ", "// "))).needs == ()
    (problem,) = find_problems(make_script("a.star", "# /// orvalho\n# needs = []\nx = 1"))
    assert problem == '1: this header never ends: its last line is "# ///"'


def test_a_section_that_lies_about_its_size() -> None:
    raw = EMPTY + bytes([0, 100, 7]) + b"orvalho"
    with pytest.raises(InvalidInput, match="section 0 says that it has 100 bytes"):
        custom_section_of(raw, "orvalho")

# ruff: noqa: E501 -- a table reads best with a case a line
"""TypeScript: types go, everything else stays where it is and means the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orvalho.runtime.engines.v8.typescript import strip_types
from orvalho.runtime.job import Jobs
from tests.runtime.play import value_of

# What is written, and the value of its last expression.
CORPUS = [
    ("const a: number = 1; a", 1),
    ("let a!: string; a = 'x'; a", "x"),
    ("const f = (a: number, b?: string): string => `${a}${b}`; f(1)", "1undefined"),
    ("function f(a: number): number { return a } f(2)", 2),
    ("function f(a: string): string; function f(a: number): number;\nfunction f(a: any) { return a } f(3)", 3),
    ("interface A { a: number }\nconst a: A = { a: 4 }; a.a", 4),
    ("type A<T> = { [K in keyof T]?: T[K] } | null;\n5", 5),
    ("let a = 1\ninterface B {}\n(a)", 1),
    ("let a = 1\ntype B = string\n;[a][0]", 1),
    ("const a = { b: 1 } as const; a.b", 1),
    ("const a = ({ b: 2 } satisfies { b: number }); a.b", 2),
    ("const a: number | null = 3; a!", 3),
    ("const a: { b?: number } = { b: 4 }; a!.b!", 4),
    ("let a = 1 as any\n(a)", 1),
    ("const id = <T,>(a: T): T => a; id<number>(6)", 6),
    ("function id<T extends object>(a: T) { return a } id({ b: 1 }).b", 1),
    ("const f = async <\n  T,\n>(a: T): Promise<\n  T\n> => a; await f(7)", 7),
    ("class A { x: number = 8 } new A().x", 8),
    ("class A { private readonly x = 9; get y(): number { return this.x } } new A().y", 9),
    ("class A { x?: number\n ['y'] = 1 } new A().y", 1),
    ("class A { x: number\n *g() { yield 1 } } [...new A().g()][0]", 1),
    ("class A { a = 1\n private *g() { yield 2 } s() { return [...this.g()] } } new A().s()[0]", 2),
    ("class A { declare x: number; y = 3 } Object.keys(new A())[0]", "y"),
    ("abstract class A { abstract f(): number; g() { return this.f() } }\nclass B extends A { f() { return 4 } } new B().g()", 4),
    ("class A<T> { constructor(public_: T) { this.v = public_ } v: T } new A<number>(5).v", 5),
    ("interface I {} class A implements I { f(): void {} } typeof new A().f", "function"),
    ("class A { f(a: number): void; f(a?: any) { return a } } new A().f(6)", 6),
    ("class A { static x: number = 7; static f(): number { return A.x } } A.f()", 7),
    ("class B { f() { return 1 } } class A extends B { override f(): number { return 8 } } new A().f()", 8),
    ("class A { [key: string]: any; x = 9 } new A().x", 9),
    ("class A { #p: number = 1; q(): number { return this.#p } } new A().q()", 1),
    ("class A { x!: number; f?(): void } new A().x ?? 2", 2),
    ("function f(this: { a: number }, b: number) { return this.a + b } f.call({ a: 1 }, 2)", 3),
    ("function isS(a: unknown): a is string { return typeof a === 'string' } isS('')", True),
    ("function must(a: unknown): asserts a { if (!a) throw 1 } must(1); 4", 4),
    ("declare const x: number; declare function g(): void; declare enum E { A }\n5", 5),
    ("declare global { interface Window {} }\n6", 6),
    ("let a: typeof globalThis; 7", 7),
    ("const a = <number>8; a", 8),
    ("const m = new Map<string, number>([['a', 9]]); m.get('a')", 9),
    ("for (const a of [1, 2] as number[]) { var k: number = a } k", 2),
    ("try { throw 1 } catch (e: unknown) { var k = e as number } k", 1),
    ("const f = (a: number = 2, ...b: number[]): number => a + b.length; f()", 2),
    ("const { a, b }: { a: number; b: number } = { a: 1, b: 2 }; a + b", 3),
    ("const [a]: [number] = [4]; a", 4),
    ("const a: (b: number) => string = (b) => `${b}`; a(5)", "5"),
    ("const a: new () => object = class {}; typeof new a()", "object"),
    ("type F = typeof import('./x.js'); 6", 6),
    ("const s: 'é😀' = 'é😀'; s.length", 3),
    ("const a = 1 < 2, b = 3 > 2; a && b", True),
    ("const a = { type: 1, interface: 2, as: 3, declare: 4 }; a.type + a.as", 4),
    ("let type = 5; type = 6; type", 6),
    ("const as = 1, satisfies = 2; as + satisfies", 3),
    ("const a = [1, 2].map((x): number => x * 2); a[1]", 4),
    ("const f = (a: number): ((b: number) => number) => (b) => a + b; f(1)(2)", 3),
    ("const o = { f(a: number): number { return a }, get g(): number { return 2 } }; o.f(1) + o.g", 3),
    ("const a = (1 as number) + (2 as any as number); a", 3),
    ("label: for (const x of [1]) { break label }\n4", 4),
    ("const o: Record<string, Array<Map<string, number>>> = {}; Object.keys(o).length", 0),
    ("let a: string | undefined; a ??= 'b'; a as string", "b"),
    ("enum_: { } 5", 5),
]  # fmt: skip


@pytest.mark.anyio
@pytest.mark.parametrize(("source", "expected"), CORPUS)
async def test_a_typed_source_means_what_it_says(jobs: Jobs, source: str, expected: object) -> None:
    assert await value_of(jobs, source, filename="job.ts") == expected


@pytest.mark.parametrize(("source", "_value"), CORPUS)
def test_no_line_and_no_column_moves(source: str, _value: object) -> None:
    stripped, problems = strip_types(source.encode())
    assert problems == ()
    assert len(stripped) == len(source.encode())
    before, after = source.split("\n"), stripped.decode().split("\n")
    units = [len(line.encode("utf-16-le")) for line in before]
    assert [len(line.encode("utf-16-le")) for line in after] == units


@pytest.mark.parametrize(
    ("source", "line", "column", "instead"),
    [
        ("\n  enum A { B }", 2, 3, "as const"),
        ("const enum A { B }", 1, 1, "as const"),
        ("enum Size { S, M = 5 }", 1, 1, "const Size = { S: 0, M: 5 } as const"),
        ("enum E { A, B, C, D }", 1, 1, "const E = { A: 0, B: 1, C: 2, ... } as const"),
        ("enum E { /* a */ }", 1, 1, "const E = {} as const"),
        ("namespace A { export const b = 1 }", 1, 1, "a module of its own"),
        ("class A { constructor(private a: number) {} }", 1, 23, "declare the field"),
        ("import a = require('a')", 1, 8, "import a from"),
        ("export = 4", 1, 1, "export default"),
        ("import a = b.c", 1, 1, "const a = b"),
        ("@d class A {}", 1, 1, "call the function"),
    ],
)
def test_what_becomes_code_is_refused_with_what_to_write(
    source: str, line: int, column: int, instead: str
) -> None:
    _, (problem, *_) = strip_types(source.encode())
    assert (problem.line, problem.column) == (line, column)
    assert instead in problem.message


PLAIN = [
    "const a = 1;", "let b = [a, 2];", "function f(x, y = 1) { return x < y }", "f(a)\n",
    "class A extends B { x = 1; static y; #z; m() {} get g() { return 1 } *h() {} }",
    "for (const k of b) { if (k > 1) break }", "`t${a}`;", "/re[/]g/.test('x');", "a ? b : c;",
    "({ a, b: 1, ...c });", "x => x;", "async () => await 1;", "try {} catch {}", "// c\n",
    "import { a as z } from './a.js';", "export const q = 1;", "export default f;", "a?.b ?? c;",
]  # fmt: skip


@given(st.lists(st.sampled_from(PLAIN), max_size=8))
def test_plain_javascript_is_left_as_it_is(parts: list[str]) -> None:
    source = "\n".join(parts).encode()
    assert strip_types(source) == (source, ())


@given(st.text(max_size=80))
def test_whatever_the_text_is_it_keeps_its_length(source: str) -> None:
    raw = source.encode("utf-8", "replace")
    assert len(strip_types(raw)[0]) == len(raw)

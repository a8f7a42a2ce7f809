"""What every engine promises about a run, as a table: what goes in, and what must come of it.

A Promise is told either by the calls it makes, which each Column writes down in its language, or by
the name of a program that each Column has.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from tests.conformance.world import RULE

TEXT: Final = 'é€😀\u2028"\\\n\t\x7f/'
KINDS: Final = {
    "null": None, "yes": True, "no": False, "zero": 0, "less": -7, "large": 2**53 - 1,
    "fraction": 1.5, "text": "x", "list": [1, [2, []]], "map": {"": {"a": []}},
}  # fmt: skip


def nested(depth: int) -> Any:
    found: Any = 1
    for _ in range(depth):
        found = [found]
    return found


@dataclass(frozen=True)
class Promise:
    """`calls`: operations with their arguments, of which the last one's value is the result.
    `caught`: one call whose error the program catches; the result is the error's name. `program`:
    the name of a program in each Column.

    `ends` is the beginning of how it ends: outcome, limit, name of the error, message."""

    name: str
    program: str = ""
    calls: tuple[tuple[Any, ...], ...] = ()
    caught: tuple[Any, ...] = ()
    params: Any = None
    result: Any = ...
    ends: str = "done"
    lines: tuple[tuple[str, str], ...] | None = None
    limits: dict[str, float] = field(default_factory=dict)
    # Places of the error, from the innermost out, as the beginnings of lines of its stack.
    stack: bool = False


def echo(name: str, params: Any) -> Promise:
    return Promise(name, program="echo", params=params, result=params)


def bytes_of(text: str) -> dict[str, str]:
    return {"$bytes": text}


WALL: Final = {"wall_s": 0.5}

PROMISES: Final = (
    # ---- what comes in
    echo("params of every kind", KINDS),
    echo("params of any characters", {TEXT: TEXT}),
    echo("params of a megabyte", {"text": "x" * 1_000_000}),
    echo("params a hundred deep", nested(100)),
    echo("an empty map", {}),
    echo("an empty list", []),
    echo("no params are null", None),
    Promise("caller and target are named", "names", result=["gil", "peer"]),
    # ---- what goes out
    Promise("nothing is no result", "nothing", result=None),
    Promise("text", "text", result="é"),
    Promise("a fraction", "fraction", result=1.5),
    Promise("bytes", "bytes", result=b"\x01\x02\xff"),
    Promise("no bytes", "no_bytes", result=b""),
    Promise("a large result", "large", result="x" * 200_000),
    Promise("a result that is nested too deeply", "too_deep", ends="failed RangeError"),
    Promise("a result that is no JSON", "no_json", ends="failed"),
    # ---- its lines
    Promise("a line", "line", result=None, lines=(("log", "hello"),)),
    Promise("lines have levels", "levels", result=None, lines=(
        ("debug", "a"), ("log", "b"), ("info", "c"), ("warn", "d"), ("error", "e"))),
    Promise("a line of any characters", "odd_line", result=None, lines=(("log", "é€😀"),)),
    Promise("an empty line", "empty_line", result=None, lines=(("log", ""),)),
    Promise("a hundred lines in their order", "many_lines", result=None,
            lines=tuple(("log", str(n)) for n in range(100, 200))),
    # ---- the target's files
    Promise("a file is written and read", calls=(
        ("target.fs.write", "/notes/b.txt", "olá"), ("target.fs.readText", "/notes/b.txt")),
        result="olá"),
    Promise("bytes are written and read", calls=(
        ("target.fs.write", "/b", bytes_of("AP8=")), ("target.fs.read", "/b")), result=b"\0\xff"),
    Promise("a folder is listed", calls=(("target.fs.list", "/open"),),
            result=[{"name": "a.txt", "type": "file", "size": 5}]),
    Promise("a file is described", calls=(("target.fs.stat", "/raw"),),
            result={"name": "raw", "type": "file", "size": 2}),
    Promise("a file is there", calls=(("target.fs.exists", "/raw"),), result=True),
    Promise("a file is not there", calls=(("target.fs.exists", "/none"),), result=False),
    Promise("a folder is made", calls=(
        ("target.fs.mkdir", "/new"), ("target.fs.stat", "/new")),
        result={"name": "new", "type": "directory", "size": ...}),
    Promise("a file is removed", calls=(
        ("target.fs.remove", "/raw"), ("target.fs.exists", "/raw")), result=False),
    Promise("a folder is removed with what is in it", calls=(
        ("target.fs.remove", "/open", {"recursive": True}), ("target.fs.exists", "/open/a.txt")),
        result=False),
    Promise("a file is moved", calls=(
        ("target.fs.move", "/raw", "/notes/raw"), ("target.fs.exists", "/notes/raw")),
        result=True),
    Promise("a file that is not there is NotFound", caught=("target.fs.readText", "/none"),
            result="NotFound"),
    Promise("a folder is no file", caught=("target.fs.read", "/notes"), result="InvalidInput"),
    Promise("bytes are no text", caught=("target.fs.readText", "/raw"), result="InvalidInput"),
    Promise("a full folder is not removed", caught=("target.fs.remove", "/notes"),
            result="Conflict"),
    Promise("a path does not lead out", caught=("target.fs.read", "/../../etc/passwd"),
            result="Denied"),
    Promise("a link does not lead out", caught=("target.fs.read", "/notes/out"), result="Denied"),
    Promise("a number is no path", caught=("target.fs.read", 7), result="InvalidInput"),
    Promise("a file that a rule refuses", caught=("target.fs.read", "/secret/a.txt"),
            result="Denied"),
    Promise("a refusal tells its rule", "rule", result=RULE),
    Promise("a refusal ends what lets it through", calls=(("target.fs.read", "/secret/a.txt"),),
            ends="failed Denied fs.read on /secret/a.txt is refused"),
    # ---- its values
    Promise("a value is put and got", calls=(
        ("target.kv.put", "a", {"deep": [1, None, "é"]}), ("target.kv.get", "a")),
        result={"deep": [1, None, "é"]}),
    Promise("a value that is not there is null", calls=(("target.kv.get", "none"),), result=None),
    Promise("a value is deleted", calls=(
        ("target.kv.put", "a", 1), ("target.kv.delete", "a")), result=True),
    Promise("nothing is deleted", calls=(("target.kv.delete", "a"),), result=False),
    Promise("keys are listed", calls=(
        ("target.kv.put", "b/2", 1), ("target.kv.put", "b/1", 1), ("target.kv.put", "c", 1),
        ("target.kv.list", "b/")), result=["b/1", "b/2"]),
    Promise("a value that a rule refuses", caught=("target.kv.get", "secret"), result="Denied"),
    Promise("no key is InvalidInput", caught=("target.kv.get", ""), result="InvalidInput"),
    # ---- the caller's files
    Promise("what the caller exposed is read", calls=(("caller.fs.readText", "/open/a.txt"),),
            result="é€"),
    Promise("what it did not expose is not", caught=("caller.fs.readText", "/notes/a.txt"),
            result="Denied"),
    Promise("what it exposed is not written", caught=("caller.fs.write", "/open/b", "x"),
            result="Denied"),
    # ---- its errors
    Promise("thrown", "throws", ends="failed Error wrong"),
    Promise("thrown, with its place", "throws", ends="failed Error wrong", stack=True),
    Promise("thrown inside, with its places", "throws_inside", ends="failed", stack=True),
    Promise("not its language", "no_syntax", ends="failed"),
    Promise("not its language, with its place", "no_syntax", ends="failed", stack=True),
    # ---- its limits
    Promise("wall: it waits for nothing", "waits", ends="limited wall", limits=WALL),
    Promise("wall: it sleeps", "sleeps", ends="limited wall", limits=WALL),
    Promise("wall: inside a call", "calls_forever", ends="limited wall", limits=WALL),
    Promise("cpu", "loops", ends="limited cpu", limits={"cpu_s": 0.3}),
    Promise("memory", "eats", ends="limited memory"),
    Promise("output: lines", "floods", ends="limited output", limits={"output_bytes": 1000}),
    Promise("output: a result", "large", ends="limited output", limits={"output_bytes": 1000}),
    Promise("host calls", "calls_often", ends="limited host_calls", limits={"host_calls": 10}),
    # ---- and goes on
    Promise("it sleeps and goes on", "naps", result=7),
    Promise("calls after each other", "calls_five_times", result=5),
)  # fmt: skip

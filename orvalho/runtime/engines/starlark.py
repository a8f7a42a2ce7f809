"""Starlark, by starlark-rust: deterministic, without clock, chance, files or endless recursion.

Its interpreter has no limit of memory, does not stop inside one operation on large numbers, and
overflows its stack on deeply nested text. So each guest has a process of its own (`catalog.Kind`),
which the kernel ends when the engine does not come to a stop itself.
"""

from __future__ import annotations

import json
import re
import resource
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import starlark

from orvalho.runtime.engine import Function, Modules, Outline, Problem, Start
from orvalho.runtime.engines.blocking import (
    TOO_DEEP,
    BlockingIsolate,
    OutOfMemory,
    Stopped,
    Thrown,
)
from orvalho.runtime.engines.starlark_links import Linked, link, requests

_CALLS_DEEP: Final = 200
# The parser descends once for each of these and overflows its stack at some thousands. What else
# nests (`not not ...`) ends the process.
_BRACKETS_DEEP: Final = 200
# The interpreter asks every thousand instructions, some microseconds.
_LOOK_AT_MEMORY: Final = 64
_RSS_UNIT_BYTES: Final = 1 if sys.platform == "darwin" else 1024

_EXTENSIONS: Final = ("StructType", "Json", "Map", "Filter", "Partial")
_PRELUDE: Final = """
def _fs(side):
  def op(name):
    return lambda *args: _call(side + ".fs." + name, *args)
  return struct(read=op("read"), readText=op("readText"), write=op("write"), list=op("list"),
    stat=op("stat"), exists=op("exists"), mkdir=op("mkdir"), remove=op("remove"), move=op("move"))

def _kv(side):
  def op(name):
    return lambda *args: _call(side + ".kv." + name, *args)
  return struct(get=op("get"), put=op("put"), delete=op("delete"), list=op("list"))

def _docs(side):
  def op(collection, name):
    return lambda *args: _call(side + ".docs." + name, collection, *args)
  return lambda collection: struct(get=op(collection, "get"), put=op(collection, "put"),
    delete=op(collection, "delete"), list=op(collection, "list"), query=op(collection, "query"))

def _node(side):
  def op(name):
    return lambda *args: _call(side + ".node." + name, *args)
  return struct(facts=op("facts"), call=op("call"), send=op("send"))

def _rights(side):
  return struct(drop=lambda *args: _call(side + ".rights.drop", *args),
    list=lambda: _call(side + ".rights.list"))

def _attempted(found):
  if "value" in found:
    return struct(ok=True, value=found["value"], error=None)
  return struct(ok=False, value=None, error=struct(**found["error"]))

job = struct(
  params=_given["params"],
  caller=struct(id=_given["caller"]["id"], name=_given["caller"]["name"], fs=_fs("caller")),
  target=struct(id=_given["target"]["id"], name=_given["target"]["name"], fs=_fs("target"),
    kv=_kv("target"), docs=_docs("target"), node=_node("target"),
    rights=_rights("target")),
  attempt=lambda op, *args: _attempted(_attempt(op, *args)),
  sleep=_sleep, log=_log, debug=_debug, info=_info, warn=_warn, error=_error)
print = _log
"""
_FUNCTION: Final = re.compile(
    r"^(def (?P<name>[A-Za-z]\w*)\s*\([^)]{0,500}\))[^:\n]{0,200}:[ \t]*\n"
    r'(?:[ \t]*"""(?P<doc>[^"]{0,2000})""")?',
    re.MULTILINE,
)
_HAS_MAIN: Final = re.compile(r"^(?:def main\s*\(|main\s*=)", re.MULTILINE)
_PLACE: Final = re.compile(r"^ *--> (.*):(\d+):(\d+)$", re.MULTILINE)
_FRAME: Final = re.compile(r"^  \* (.*):(\d+), in (.*)$", re.MULTILINE)
_ERROR: Final = re.compile(r"^error: ((?:.|\n)*?)(?=\n *--> |\Z)", re.MULTILINE)


class StarlarkEngine:
    """See `engine.Engine`."""

    def __init__(self) -> None:
        # What the interpreter sets up once is there before any guest's process is forked.
        starlark.eval(starlark.Module(), _dialect_parse("orvalho:first", "1"), _globals())

    def prepare(self, filename: str, source: str) -> None:
        """It is parsed where it runs."""

    def prepare_all(
        self, filename: str, source: str, modules: Modules, is_over: Callable[[], bool]
    ) -> None:
        """They too are parsed where they run."""

    def open_isolate(self) -> StarlarkIsolate:
        return StarlarkIsolate()

    def check(self, filename: str, source: str) -> tuple[Problem, ...]:
        return self.check_all(filename, source, Modules())

    def check_all(self, filename: str, source: str, modules: Modules) -> tuple[Problem, ...]:
        return tuple(link(filename, source, modules, _parse).problems)

    def outline(self, filename: str, source: str) -> Outline:
        try:
            program = _parse(filename, source)
        except Thrown as thrown:
            place = re.search(r":(\d+):(\d+)", thrown.stack)
            line, column = (int(place[1]), int(place[2])) if place else (1, 1)
            return Outline(problems=(Problem(line, column, thrown.message),))
        return Outline(tuple(requests(source, program)), tuple(_functions(source)))


class StarlarkIsolate(BlockingIsolate):
    """See `engine.Isolate`."""

    def run(self, start: Start) -> bytes:
        self._looks = 0
        self._first_bytes = _peak_bytes()
        self._memory_bytes = start.memory_bytes
        self._cause: BaseException | None = None
        links = link(start.filename, start.source, start.modules, _parse)
        if links.problems:
            raise _unlinked(links.problems[0], start.filename)
        *libraries, script = links.order
        module = self._module(start)
        try:
            known: dict[str, starlark.FrozenModule] = {}
            for library in libraries:
                known[library.path] = self._frozen(library, known)
            result = self._eval(module, script.program, _loader(script, known))
            if _HAS_MAIN.search(start.source):
                result = self._eval(module, _dialect_parse("orvalho:call", "main(job)"))
        except starlark.StarlarkError as error:
            if self._cause is not None:
                cause, self._cause = self._cause, None
                if isinstance(cause, Thrown):
                    raise Thrown(cause.name, cause.message, _stack(str(error))) from error
                raise cause from None
            raise _thrown(str(error), "Error") from error
        except BaseException as error:
            # A panic of the interpreter's, which is no Exception: what it asks for in one piece is
            # not to be had.
            if type(error).__name__ != "PanicException":
                raise
            raise OutOfMemory from None
        return _result(result)

    # ---- the guest's world -------------------------------------------------------------------

    def _module(self, start: Start) -> starlark.Module:
        module = starlark.Module()
        module["_given"] = {
            "params": _loads(start.params),
            "caller": dict(start.caller),
            "target": dict(start.target),
        }
        module.add_callable("_call", self._guarded(self._call))
        module.add_callable("_attempt", self._guarded(self._attempt))
        module.add_callable("_sleep", self._guarded(self._sleep))
        for level, name in enumerate(("_debug", "_log", "_info", "_warn", "_error")):
            module.add_callable(name, self._guarded(self._logger(level)))
        self._eval(module, _dialect_parse("orvalho:prelude", _PRELUDE))
        return module

    def _frozen(
        self, library: Linked, known: Mapping[str, starlark.FrozenModule]
    ) -> starlark.FrozenModule:
        """A file that others load: it sees no job, only what it is handed."""
        module = starlark.Module()
        module.add_callable("print", self._guarded(self._logger(1)))
        self._eval(module, library.program, _loader(library, known))
        return module.freeze()

    def _eval(
        self, module: starlark.Module, program: Any, loader: starlark.FileLoader | None = None
    ) -> Any:
        options = starlark.EvalOptions(
            check_cancelled=self._is_cancelled, max_callstack_size=_CALLS_DEEP
        )
        return starlark.eval_with(options, module, program, _globals(), loader).value

    def _is_cancelled(self) -> bool:
        self._looks += 1
        try:
            self.look_in()
            if (
                self._looks % _LOOK_AT_MEMORY == 0
                and _peak_bytes() - self._first_bytes > self._memory_bytes
            ):
                raise OutOfMemory
        except (Stopped, OutOfMemory) as cause:
            self._cause = cause
            return True
        return False

    def _guarded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The interpreter makes an error of its own of what is raised here: the cause is kept."""

        def guarded(*arguments: Any) -> Any:
            try:
                return function(*arguments)
            except BaseException as error:  # noqa: BLE001 -- goes on where the interpreter ends
                self._cause = error
                raise RuntimeError(str(error)) from None

        return guarded

    def _ask(self, op: Any, arguments: tuple[Any, ...]) -> tuple[bool, Any]:
        answer = self.call(str(op), _json(arguments).encode())
        return answer.is_error, json.loads(answer.value)

    def _call(self, op: Any, *arguments: Any) -> Any:
        is_error, value = self._ask(op, arguments)
        if is_error:
            raise Thrown(str(value.get("name", "Error")), str(value.get("message", "")))
        return value

    def _attempt(self, op: Any, *arguments: Any) -> Any:
        is_error, value = self._ask(op, arguments)
        return {"error": value} if is_error else {"value": value}

    def _sleep(self, after_ms: Any) -> None:
        self.sleep(float(after_ms))

    def _logger(self, level: int) -> Callable[..., None]:
        def log(*arguments: Any) -> None:
            self.log(level, " ".join(map(_shown, arguments)))

        return log


def _globals() -> starlark.Globals:
    return starlark.Globals.extended_by(
        [getattr(starlark.LibraryExtension, name) for name in _EXTENSIONS]
    )


def _parse(filename: str, source: str) -> starlark.AstModule:
    """Raises:
    Thrown: a SyntaxError with its place.
    """
    _refuse_depth(filename, source)
    try:
        return _dialect_parse(filename, source)
    except starlark.StarlarkError as error:
        raise _thrown(str(error), "SyntaxError") from error


def _dialect_parse(filename: str, source: str) -> starlark.AstModule:
    dialect = starlark.Dialect.extended()
    dialect.enable_load_reexport = False
    dialect.enable_f_strings = True
    dialect.enable_top_level_stmt = True
    return starlark.parse(filename, source, dialect)


def _loader(linked: Linked, known: Mapping[str, starlark.FrozenModule]) -> starlark.FileLoader:
    return starlark.FileLoader(lambda specifier: known[linked.targets[specifier]])


def _unlinked(problem: Problem, filename: str) -> Thrown:
    where = f"    at {problem.file or filename}:{problem.line}:{problem.column}"
    return Thrown("SyntaxError", problem.message, where)


def _functions(source: str) -> Iterator[Function]:
    """What may be loaded of it: functions at the left margin whose names do not begin with `_`."""
    for found in _FUNCTION.finditer(source):
        line = source.count("\n", 0, found.start()) + 1
        signature = " ".join(found[1].split())
        doc = " ".join((found["doc"] or "").split())
        yield Function(found["name"], line, signature, doc)


def _refuse_depth(filename: str, source: str) -> None:
    """Brackets in texts and comments count too: they would have to be many to be in the way."""
    depth = 0
    for number, line in enumerate(source.splitlines(), 1):
        for column, character in enumerate(line, 1):
            if character in "([{":
                depth += 1
            elif character in ")]}":
                depth = max(depth - 1, 0)
            if depth > _BRACKETS_DEEP:
                where = f"    at {filename}:{number}:{column}"
                raise Thrown("SyntaxError", "this is nested too deeply", where)


def _thrown(text: str, name: str) -> Thrown:
    """An error in the interpreter's words: a traceback from the outermost call in, the message, the
    place with the line itself."""
    found = _ERROR.search(text)
    message = (found[1] if found else text).strip()
    message = message.removeprefix("Parse error: ").removeprefix("fail: ")
    if message.startswith("Maximum depth"):
        return Thrown("RangeError", TOO_DEEP, _stack(text))
    return Thrown(name, message.partition(", expected one of")[0], _stack(text))


def _stack(text: str) -> str:
    lines = []
    frames = _FRAME.findall(text)
    place = _PLACE.search(text)
    if place:
        # The innermost call, where that is what failed; else its function is not told.
        is_call = bool(frames) and frames[-1][:2] == (place[1], place[2])
        name = frames.pop()[2] if is_call else "<module>"
        lines.append((name, f"{place[1]}:{place[2]}:{place[3]}"))
    lines += [(name, f"{file}:{line}:1") for file, line, name in reversed(frames)]
    own = [(name, where) for name, where in lines if not where.startswith("orvalho:")]
    return "\n".join(
        f"    at {where}" if name == "<module>" else f"    at {name} ({where})"
        for name, where in own[:20]
    )


def _result(value: Any) -> bytes:
    if value is None:
        return b"U"
    if isinstance(value, dict) and list(value) == ["$bytes"]:
        return b"B" + str(value["$bytes"]).encode()
    return b"R" + _json(value).encode("utf-8", "replace")


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    """Raises:
    Thrown: JSON cannot say it.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except RecursionError:
        raise Thrown("RangeError", TOO_DEEP) from None
    except (TypeError, ValueError) as error:
        raise Thrown("TypeError", f"this cannot be written as JSON: {error}") from None


def _loads(params: bytes) -> Any:
    try:
        return json.loads(params)
    except ValueError as error:
        raise Thrown("SyntaxError", f"the parameters are no JSON: {error}") from error
    except RecursionError:
        raise Thrown("RangeError", TOO_DEEP) from None


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT_BYTES

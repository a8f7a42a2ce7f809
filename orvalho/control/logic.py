"""The part of the local API that is about the code that scripts are made of: their own modules, and
the libraries that a context offers."""

from __future__ import annotations

import msgspec

from orvalho.control.message import Message, tag


class ScriptCheck(Message, frozen=True, kw_only=True, tag=tag):
    """Read a script without running it. -> ScriptChecked

    A WebAssembly module stands in `module`, and `source` is empty then; `needs` is the text of the
    file that says what it needs, if there is one. `modules` are the files that it imports, path ->
    text. `target`: one of our contexts; what that has switched off is a problem, too.
    """

    filename: str
    source: str
    module: bytes = b""
    needs: str | None = None
    modules: dict[str, str] = msgspec.field(default_factory=dict)
    target: str | None = None


class ScriptChecked(Message, frozen=True, kw_only=True, tag=tag):
    """`problems`: each with `line:column` in front. Empty when the script can be sent. `imports`
    and `exports` are a WebAssembly module's, with the types of functions; `modules` are the
    script's other files, path -> digest, `libraries` what it imports of the target."""

    filename: str
    language: str
    digest: str
    size_bytes: int
    needs: tuple[str, ...]
    wants: tuple[str, ...]
    limits: dict[str, int]
    problems: tuple[str, ...]
    imports: tuple[str, ...] = ()
    exports: tuple[str, ...] = ()
    modules: dict[str, str] = msgspec.field(default_factory=dict)
    libraries: tuple[str, ...] = ()


class ScriptImports(Message, frozen=True, kw_only=True, tag=tag):
    """What sources import. `sources`: path -> text, each path from the folder that all of them
    lie in. -> ScriptImportsReply"""

    sources: dict[str, str]


class ImportPlace(Message, frozen=True, kw_only=True):
    """`specifier` as it stands in `file`; `path` is the file that it means, None when that is
    known on the target only."""

    file: str
    line: int
    column: int
    specifier: str
    path: str | None


class ScriptImportsReply(Message, frozen=True, kw_only=True, tag=tag):
    """`problems`: what cannot be imported, each `file:line:column: why`."""

    imports: tuple[ImportPlace, ...]
    problems: tuple[str, ...]


class LogicShow(Message, frozen=True, kw_only=True, tag=tag):
    """The libraries that scripts in a context can import; with `name`, what that one stands for.
    -> LogicReply"""

    context: str | None = None
    name: str | None = None


class LogicFunction(Message, frozen=True, kw_only=True):
    """`signature` as its author wrote it, `doc` its doc comment."""

    name: str
    line: int
    signature: str
    doc: str


class LogicFile(Message, frozen=True, kw_only=True):
    """A file that could stand for `name`. `origin`: context or shared; `wins`: whether it does;
    `why` in words; `problems` keep it from being run."""

    name: str
    path: str
    file: str
    origin: str
    digest: str
    wins: bool
    why: str
    functions: tuple[LogicFunction, ...]
    problems: tuple[str, ...]


class LogicReply(Message, frozen=True, kw_only=True, tag=tag):
    context: str
    files: tuple[LogicFile, ...]

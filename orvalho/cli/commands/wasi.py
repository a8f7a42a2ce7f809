"""`orvalho wasi`: WebAssembly, in files and in libraries: looked at, fetched, called, run."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from orvalho.cli.arguments import read_script, read_text
from orvalho.cli.commands.lib import fetch, show_one
from orvalho.cli.output import size
from orvalho.cli.replies import plain
from orvalho.cli.runs import (
    cancel,
    end_error,
    follow,
    parted,
    show_end,
    show_held,
    show_queued,
    tell_away,
    write_atomically,
)
from orvalho.cli.session import Session
from orvalho.cli.tree import Noun, Verb
from orvalho.cli.wasm_text import show_metadata
from orvalho.control.client import DaemonGone
from orvalho.control.libraries import LibraryCall, WasmFiles
from orvalho.control.messages import Reply, RunEnded, RunHeld, RunOutput, RunQueued
from orvalho.control.offline import ask_offline
from orvalho.errors import InvalidInput, Unavailable

_QUEUED_STATUS: Final = 7
_EXIT: Final = re.compile(r"the program ended with exit status (\d+)")
# Negative numbers are arguments, not options.
_ARGUMENTS: Final = {
    "help_option_names": ["-h", "--help"],
    "ignore_unknown_options": True,
}


@click.group(
    "wasi",
    cls=Noun,
    examples=(
        "orvalho wasi ls .",
        "orvalho wasi info add.wasm",
        "orvalho wasi call add@phone2 add 2 3",
        "orvalho wasi run cat@phone2 -- /notes/a.txt",
    ),
)
def command() -> None:
    """WebAssembly: what a binary is, here or on a peer, and running it where it lies."""


@command.command(
    "info",
    cls=Verb,
    examples=(
        "orvalho wasi info add.wasm",
        "orvalho wasi info add@phone2",
        "orvalho wasi info add.wasm --json",
    ),
)
@click.argument("binary", metavar="FILE|LIBRARY")
@click.option("--as", "context", metavar="CONTEXT", help="Which of our contexts asks.")
@click.pass_obj
def info(session: Session, binary: str, context: str | None) -> None:
    """What a binary says of itself: its kind, imports and exports with types, memories, sections,
    who made it; a component's world as WIT. Of a file nothing is compiled, and no daemon needed."""
    if not _is_file(binary):
        show_one(session, binary, context)
        return
    (found,) = _look(session, binary, is_directory=False).files
    if found.metadata is None:
        raise InvalidInput(f"{binary}: {found.problem}", where=binary)
    if session.screen.as_json:
        session.screen.document(plain(WasmFiles(files=(found,))))
    else:
        show_metadata(session, binary, found.metadata, found.needs)


@command.command(
    "ls",
    cls=Verb,
    examples=("orvalho wasi ls", "orvalho wasi ls ./build", "orvalho wasi ls ./build --json"),
)
@click.argument("directory", metavar="[DIR]", default=".")
@click.pass_obj
def ls(session: Session, directory: str) -> None:
    """The WebAssembly binaries in a directory: kind, size, digest, imports, exports, signer."""
    found = _look(session, directory, is_directory=True)
    if session.screen.as_json:
        session.screen.document(plain(found))
        return
    rows: list[tuple[object, ...]] = []
    for each in found.files:
        told = each.metadata
        name = Path(each.file).name
        if told is None:
            rows.append((name, "broken", None, None, None, None, each.problem))
            continue
        exports = ", ".join(one.name for one in told.exports[:4])
        exports += ", ..." if len(told.exports) > 4 else ""
        wasi = ", ".join(told.wasi) or len(told.imports)
        digest = told.sha256[:12]
        rows.append((name, told.kind, size(told.size_bytes), digest, wasi, exports, told.signer))
    session.screen.table(("name", "kind", "size", "digest", "imports", "exports", "signer"), rows)


@command.command(
    "get",
    cls=Verb,
    examples=(
        "orvalho wasi get add@phone2",
        "orvalho wasi get add@phone2 -o lib/add.wasm",
        "orvalho wasi get add@phone2 --json",
    ),
)
@click.argument("name", metavar="LIBRARY")
@click.option("-o", "--output", metavar="FILE", help="Write it there, whatever stands there.")
@click.option("--as", "context", metavar="CONTEXT", help="Which of our contexts asks.")
@click.pass_obj
def get(session: Session, name: str, output: str | None, context: str | None) -> None:
    """Fetch a library, as `orvalho lib get` does."""
    fetch(session, name, output, context)


@command.command(
    "call",
    cls=Verb,
    context_settings=_ARGUMENTS,
    examples=(
        "orvalho wasi call add@phone2 add 2 3",
        "orvalho wasi call ./add.wasm mean 1.5 -2",
        "orvalho wasi call add@phone2 add 2 3 --json",
    ),
)
@click.argument("binary", metavar="FILE|LIBRARY")
@click.argument("function", metavar="FUNCTION")
@click.argument("arguments", metavar="[ARGUMENT]...", nargs=-1)
@click.option("--ctx", "target", metavar="CONTEXT", help="In which context it runs there.")
@click.option("--as", "context", metavar="CONTEXT", help="Which of our contexts calls.")
@click.option("--wait", is_flag=True, help="Wait for the result, however long the node is away.")
@click.pass_obj
def call(
    session: Session,
    *,
    binary: str,
    function: str,
    arguments: tuple[str, ...],
    target: str | None,
    context: str | None,
    wait: bool,
) -> int:
    """Call a function of a library where it is published, or of a FILE on this node. ARGUMENTs are
    checked against its declared types before anything is sent; lists and records are JSON."""
    request = _request(
        binary, function=function, arguments=arguments, target=target, context=context, wait=wait
    )
    with session.connect() as client:
        away = partial(tell_away, session, waits=request.wait)
        last = follow(session, client.stream(request), binary, away)
    if isinstance(last, RunEnded):
        show_end(session, last, None)
        return 0
    return _queued(session, last)


@command.command(
    "run",
    cls=Verb,
    examples=(
        "orvalho wasi run cat@phone2 -- /notes/a.txt",
        "orvalho wasi run ./cat.wasm --stdin notes.txt -- -n",
        "orvalho wasi run cat@phone2 --json -- /notes/a.txt",
    ),
)
@click.argument("binary", metavar="FILE|LIBRARY")
@click.argument("arguments", metavar="[-- ARGUMENT...]", nargs=-1)
@click.option("--env", "pairs", metavar="K=V", multiple=True, help="A variable of its environment.")
@click.option("--stdin", metavar="FILE", help="What it reads (- for our own standard input).")
@click.option("--ctx", "target", metavar="CONTEXT", help="In which context it runs there.")
@click.option("--as", "context", metavar="CONTEXT", help="Which of our contexts runs it.")
@click.option("--wait", is_flag=True, help="Wait for the end, however long the node is away.")
@click.option("-o", "--output", metavar="FILE", help="Write what it printed to FILE, as it is.")
@click.pass_obj
def run(
    session: Session,
    *,
    binary: str,
    arguments: tuple[str, ...],
    pairs: tuple[str, ...],
    stdin: str | None,
    target: str | None,
    context: str | None,
    wait: bool,
    output: str | None,
) -> int:
    """Run a program of WASI where it is published, or a FILE on this node. What it prints comes
    line by line as it does, its errors on standard error. Exit status 1: it failed."""
    request = _request(
        binary,
        arguments=arguments,
        env=dict(map(_pair, pairs)),
        stdin=None if stdin is None else read_text(stdin),
        target=target,
        context=context,
        wait=wait,
    )
    with session.connect() as client:
        lines: list[str] = []
        kept = None if output is None else lines
        last = _follow_program(session, client.stream(request), kept, waits=request.wait)
    if not isinstance(last, RunEnded):
        return _queued(session, last)
    error = end_error(last)
    if session.screen.as_json:
        shown = plain(last) | {"exit_status": _exit_status(last)}
        # A program is run, and not planned.
        del shown["plan"]
        session.screen.document(shown)
    if output is not None:
        _save(session, last, lines, Path(output))
    if error is not None:
        raise error
    return 0


# ---- what is meant ----------------------------------------------------------------------------


def _is_file(text: str) -> bool:
    """A library's name has neither; a file without them is written `./name`."""
    return "/" in text or ("." in text and "@" not in text)


def _look(session: Session, path: str, *, is_directory: bool) -> WasmFiles:
    found = Path(path)
    if not found.exists():
        raise InvalidInput(f"{path} cannot be read: there is no such file.", where=path)
    if found.is_dir() != is_directory:
        hint = f"orvalho wasi {'info' if is_directory else 'ls'} {path}"
        what = "no directory" if is_directory else "a directory"
        raise InvalidInput(f"{path} is {what}.", where=path, hint=hint)
    place = str(found.absolute())
    return ask_offline(session.environ, session.place, "wasm", WasmFiles, place)


def _request(binary: str, **parts: Any) -> LibraryCall:
    if not _is_file(binary):
        return LibraryCall(library=binary, **parts)
    _, module, needs = read_script(binary)
    if not module:
        raise InvalidInput(f"{binary} is no WebAssembly.", where=binary)
    return LibraryCall(library=Path(binary).name, module=module, needs=needs, **parts)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InvalidInput(f'"{text}" is no variable.', hint="--env NAME=value")
    return key, value


# ---- how it ends ------------------------------------------------------------------------------


def _follow_program(
    session: Session, replies: Iterable[Reply], kept: list[str] | None, *, waits: bool
) -> RunEnded | RunQueued | RunHeld | None:
    """Its lines, each to the stream it was written to; those of standard output to `kept`, where
    there is one. Ctrl-C cancels the run."""
    started: str | None = None
    last: RunEnded | RunQueued | RunHeld | None = None
    screen = session.screen
    try:
        for reply in replies:
            if isinstance(reply, RunOutput):
                if kept is not None and reply.level == "log":
                    kept.append(reply.text)
                elif not screen.as_json:
                    show = screen.line_now if reply.level == "log" else screen.error_line
                    show(reply.text)
            elif isinstance(reply, RunQueued):
                started, last = reply.run, reply
                tell_away(session, reply, waits=waits)
            elif isinstance(reply, (RunEnded, RunHeld)):
                last = reply
    except KeyboardInterrupt:
        if started is not None:
            cancel(session, started)
        raise
    except DaemonGone as error:
        raise parted(error, started) from error
    return last


def _exit_status(ended: RunEnded) -> int | None:
    """The program's own; None when it did not come to its end."""
    if ended.outcome == "done":
        return 0
    found = _EXIT.search(ended.error.message) if ended.error else None
    return int(found[1]) if found else None


def _save(session: Session, ended: RunEnded, lines: list[str], file: Path) -> None:
    """What it printed, to the byte; of a program that failed there are the lines that came."""
    content = ended.result_bytes
    if ended.outcome != "done":
        content = "".join(f"{line}\n" for line in lines).encode()
    elif content is None:
        text = plain(ended)["result"]
        content = text.encode() if isinstance(text, str) else b""
    try:
        write_atomically(file, content)
    except OSError as error:
        raise InvalidInput(f"{file} cannot be written: {error.strerror}.") from error
    session.screen.notice(f"{size(len(content))} in {file}")


def _queued(session: Session, last: RunQueued | RunHeld | None) -> int:
    if isinstance(last, RunHeld):
        return show_held(session, last)
    if last is None:
        raise Unavailable("the daemon did not say what became of the run.")
    if session.screen.as_json:
        session.screen.document(plain(last))
    show_queued(session, last)
    return _QUEUED_STATUS

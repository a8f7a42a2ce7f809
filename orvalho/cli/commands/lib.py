"""`orvalho lib`: publish libraries, and fetch those of others."""

from __future__ import annotations

from pathlib import Path

import click

from orvalho.cli.arguments import read_text
from orvalho.cli.output import size
from orvalho.cli.replies import plain
from orvalho.cli.runs import write_atomically
from orvalho.cli.session import Session
from orvalho.cli.tree import Noun, Verb
from orvalho.cli.wasm_text import show_library
from orvalho.control.libraries import (
    LibraryContent,
    LibraryGet,
    LibraryPublish,
    LibraryPublished,
    LibraryRemove,
    LibraryShow,
    LibraryShown,
)
from orvalho.control.messages import Note
from orvalho.errors import Conflict, InvalidInput


@click.group(
    "lib",
    cls=Noun,
    examples=(
        "orvalho lib publish add.wasm --doc 'small sums'",
        "orvalho libs phone2",
        "orvalho lib get add@phone2",
    ),
)
def command() -> None:
    """Libraries: published here, for other devices to list, fetch and call."""


@command.command(
    "publish",
    cls=Verb,
    examples=(
        "orvalho lib publish add.wasm",
        "orvalho lib publish build/thumb.js --as images --doc 'thumbnails'",
        "orvalho lib publish add.wasm --replace",
    ),
)
@click.argument("file", metavar="FILE")
@click.option("--as", "name", metavar="NAME", help="Its name, if not that of the file.")
@click.option("--doc", metavar="TEXT", help="One line about it.")
@click.option("--replace", is_flag=True, help="Also when something else has that name.")
@click.pass_obj
def publish(
    session: Session, *, file: str, name: str | None, doc: str | None, replace: bool
) -> None:
    """Publish FILE: WebAssembly, JavaScript, TypeScript or Starlark. What a module needs stands in
    it, or in FILE.toml. Says so when these bytes are published already."""
    beside = Path(f"{file}.toml")
    request = LibraryPublish(
        filename=Path(file).name,
        content=_read(file),
        name=name or Path(file).stem,
        doc=doc,
        needs=read_text(str(beside)) if beside.exists() else None,
        replace=replace,
    )
    with session.connect() as client:
        reply = client.ask(request, LibraryPublished)
    if session.screen.as_json:
        session.screen.document(plain(reply))
    elif not session.screen.quiet:
        library = reply.library
        verb = "published" if reply.changed else "already published"
        session.screen.line(
            f"{library.name}: {verb}, {library.kind}, {size(library.size_bytes)},"
            f" sha256:{library.sha256}"
        )


def _read(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise InvalidInput(f"{file} cannot be read: {error.strerror}.", where=file) from error


@command.command(
    "rm",
    cls=Verb,
    examples=("orvalho lib rm add", "orvalho lib rm add --json", "orvalho lib rm images"),
)
@click.argument("name", metavar="LIBRARY")
@click.pass_obj
def rm(session: Session, name: str) -> None:
    """Publish LIBRARY no longer."""
    with session.connect() as client:
        session.tell(client.ask(LibraryRemove(name=name), Note))


@command.command(
    "show",
    cls=Verb,
    examples=(
        "orvalho lib show add",
        "orvalho lib show add@phone2",
        "orvalho lib show add@phone2 --json",
    ),
)
@click.argument("name", metavar="LIBRARY")
@click.option("--as", "context", metavar="CONTEXT", help="Which of our contexts asks.")
@click.pass_obj
def show(session: Session, name: str, context: str | None) -> None:
    """One library, NAME or NAME@NODE: its digest, what it needs, its functions with their types."""
    show_one(session, name, context)


def show_one(session: Session, name: str, context: str | None) -> None:
    """The same for `wasi info`."""
    with session.connect() as client:
        reply = client.ask(LibraryShow(library=name, context=context), LibraryShown)
    if session.screen.as_json:
        session.screen.document(plain(reply))
    else:
        show_library(session, reply)


@command.command(
    "get",
    cls=Verb,
    examples=(
        "orvalho lib get add@phone2",
        "orvalho lib get add@phone2 -o lib/add.wasm",
        "orvalho lib get add@phone2 --json",
    ),
)
@click.argument("name", metavar="LIBRARY")
@click.option("-o", "--output", metavar="FILE", help="Write it there, whatever stands there.")
@click.option("--as", "context", metavar="CONTEXT", help="Which of our contexts asks.")
@click.pass_obj
def get(session: Session, name: str, output: str | None, context: str | None) -> None:
    """Fetch NAME@NODE into a file of its name here. Its digest is compared."""
    fetch(session, name, output, context)


def fetch(session: Session, name: str, output: str | None, context: str | None) -> None:
    """The same for `wasi get`."""
    with session.connect() as client:
        reply = client.ask(LibraryGet(library=name, context=context), LibraryContent)
    library = reply.library
    file = Path(output or library.filename)
    try:
        known = file.read_bytes() if file.is_file() else None
        if known is not None and known != reply.content and output is None:
            raise Conflict(
                f"{file} is here already, with other bytes.",
                where=str(file),
                hint=f"orvalho lib get {name} -o FILE",
            )
        if known != reply.content:
            write_atomically(file, reply.content)
        if reply.needs is not None:
            write_atomically(Path(f"{file}.toml"), reply.needs.encode())
    except OSError as error:
        raise InvalidInput(f"{file} cannot be written: {error.strerror}.") from error
    changed = known != reply.content
    if session.screen.as_json:
        session.screen.document(
            {
                "node": reply.node,
                "file": str(file),
                "sha256": library.sha256,
                "size_bytes": library.size_bytes,
                "changed": changed,
            }
        )
    elif not session.screen.quiet:
        verb = "" if changed else ", was here already"
        session.screen.line(f"{file}  {size(library.size_bytes)}  sha256:{library.sha256}{verb}")

"""`orvalho examples`: programs to start from, in each language; listed, built, copied out."""

from __future__ import annotations

from pathlib import Path

import click

from orvalho.cli import examples
from orvalho.cli.session import Session
from orvalho.cli.tree import Noun, Verb
from orvalho.cli.written import show_written
from orvalho.errors import InvalidInput, Unavailable


@click.group(
    "examples",
    cls=Noun,
    examples=(
        "orvalho examples ls",
        "orvalho examples extract orvalho-examples",
        "orvalho examples build ram --out built",
    ),
)
def command() -> None:
    """Programs to start from, in each language. What is built from them is kept beside them, so
    that no toolchain is needed to try one."""


@command.command(
    "ls",
    cls=Verb,
    examples=("orvalho examples ls", "orvalho examples ls -v", "orvalho examples ls --json"),
)
@click.pass_obj
def ls(session: Session) -> None:
    """Every example, and what it does. -v adds where it lies and how it is built."""
    top, found = examples.directory(), examples.examples()
    if session.screen.as_json:
        shown = [
            {
                "name": each.name,
                "language": each.language,
                "says": each.says,
                "source": str(top / each.language / each.source),
                "file": str(top / each.language / each.file),
                "command": list(each.command),
                "kept": each.keeps,
            }
            for each in found
        ]
        session.screen.document({"examples": shown})
        return
    headers: tuple[str, ...] = ("example", "language", "what it does")
    rows: list[tuple[object, ...]] = [(each.name, each.language, each.says) for each in found]
    if session.screen.verbose:
        headers += ("file", "built with")
        rows = [
            (*row, top / each.language / each.file, " ".join(each.command) or None)
            for row, each in zip(rows, found, strict=True)
        ]
    session.screen.table(headers, rows)


@command.command(
    "build",
    cls=Verb,
    examples=(
        "orvalho examples build",
        "orvalho examples build ram --out built",
        "orvalho examples build ram --json",
    ),
)
@click.argument("name", metavar="[NAME]", required=False)
@click.option(
    "--out",
    "to",
    default="examples",
    metavar="DIR",
    help="Where to, in a folder a language (examples).",
)
@click.pass_obj
def build(session: Session, name: str | None, to: str) -> int:
    """Build one example, or each whose toolchain is installed: WebAssembly from its source."""
    chosen = [examples.find(name)] if name else [each for each in examples.examples() if each.tool]
    if name and not chosen[0].tool:
        raise InvalidInput(f"{name} is sent as it is written: there is nothing to build")
    rows: list[dict[str, object]] = []
    status = 0
    for each in chosen:
        row: dict[str, object] = {"name": each.name, "file": None, "as_kept": None, "error": None}
        session.screen.progress(f"{each.name} with {each.tool}")
        try:
            built = examples.build(each, Path(to))
            row |= {"file": str(built.file), "as_kept": built.is_as_kept}
        except Unavailable as error:
            if name:
                raise
            row["error"] = error.message
            help_ = f": {error.hint}" if error.hint else ""
            session.screen.notice(f"left out: {error.message}{help_}")
        rows.append(row)
    if not any(row["file"] for row in rows):
        status = Unavailable.exit_status
    if session.screen.as_json:
        session.screen.document({"built": rows})
    else:
        told = {True: "as kept", False: "differs from what is kept", None: ""}
        for row in rows:
            if row["file"]:
                session.screen.line(f"{row['file']}  {told[row['as_kept']]}".rstrip())  # type: ignore[index]
    return status


@command.command(
    "extract",
    cls=Verb,
    examples=(
        "orvalho examples extract orvalho-examples",
        "orvalho examples extract .",
        "orvalho examples extract orvalho-examples --json",
    ),
)
@click.argument("folder", metavar="DIR")
@click.pass_obj
def extract(session: Session, folder: str) -> None:
    """Copy every example, its source and what was built from it, to DIR. A file that is there
    already is left as it is."""
    done = list(examples.extract(Path(folder)))
    show_written(session, done)

"""A WebAssembly binary, a library, for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orvalho.cli.output import moment, size
from orvalho.cli.session import Session
from orvalho.control.libraries import LibraryShown, LibraryState, WasmExternal, WasmMetadata


def show_metadata(
    session: Session, name: str, found: WasmMetadata, needs: str | None = None
) -> None:
    """Everything that a binary says of itself; but what it needs says `needs`, where it is given:
    the file beside it."""
    screen = session.screen
    kind = f"{found.kind}, a program" if found.kind == "component" and found.is_program else None
    screen.line(f"{name}  {kind or found.kind}  {size(found.size_bytes)}")
    screen.lines(f"  {label:<8} {value}" for label, value in _pairs(found, needs))
    screen.lines(f"  {line}" for line in found.wit.splitlines())


def _pairs(found: WasmMetadata, needs: str | None) -> Iterator[tuple[str, str]]:
    yield "digest", f"sha256:{found.sha256}"
    if found.name:
        yield "name", found.name
    for version in found.wasi:
        yield "wasi", version
    yield "signer", found.signer
    for field, values in found.producers.items():
        yield "made by", f"{field}: {', '.join(values)}"
    if found.features:
        yield "features", " ".join(found.features)
    for memory in found.memories:
        most = "" if memory.maximum_bytes is None else f", at most {size(memory.maximum_bytes)}"
        yield "memory", size(memory.minimum_bytes) + most + (", shared" * memory.is_shared)
    if found.tables:
        yield "tables", str(found.tables)
    if found.has_start:
        yield "start", "runs code when it is instantiated"
    for line in (found.header if needs is None else needs).splitlines():
        yield "needs", line
    for section in found.sections:
        yield "section", f"{section.name}, {size(section.size_bytes)}"
    for each in found.imports:
        yield "import", _external(each)
    for each in found.exports:
        yield "export", _external(each)
    for note in found.notes:
        yield "note", note


def _external(found: WasmExternal) -> str:
    name = f"{found.module}.{found.name}" if found.module else found.name
    return f"{found.kind} {name}" + (f" {found.type}" if found.type else "")


def show_library(session: Session, shown: LibraryShown) -> None:
    """A published library: what its publisher says, then what it says itself."""
    library = shown.library
    name = f"{library.name}@{shown.node}"
    if shown.metadata is not None:
        show_metadata(session, name, shown.metadata, shown.needs)
    else:
        session.screen.line(f"{name}  {library.kind}  {size(library.size_bytes)}")
        session.screen.line(f"  digest   sha256:{library.sha256}")
        session.screen.lines(f"  export   {each}" for each in library.exports)
    if library.doc:
        session.screen.line(f"  doc      {library.doc}")
    session.screen.line(f"  since    {moment(library.published_at)}")


def library_rows(libraries: Sequence[LibraryState]) -> list[tuple[str, ...]]:
    """Rows of a table under LIBRARY_HEADERS."""
    return [
        (
            each.name,
            each.kind,
            size(each.size_bytes),
            each.sha256[:12],
            ", ".join(each.exports[:4]) + (", ..." if len(each.exports) > 4 else "") or "-",
            each.doc or "-",
        )
        for each in libraries
    ]


LIBRARY_HEADERS = ("name", "kind", "size", "digest", "exports", "doc")

"""A program and its answers on the command line: read, asked, shown. What `ask` and `top` share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orvalho.cli.answers import Row, read_row
from orvalho.cli.arguments import read_script
from orvalho.cli.modules import find_modules
from orvalho.cli.output import many
from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.control.asking import Ask, AskAnswer, AskPlaced
from orvalho.errors import Unavailable


@dataclass(frozen=True, slots=True)
class Asked:
    """Who was asked, and what each said, by name; the silent ones among them."""

    placed: AskPlaced
    rows: tuple[Row, ...]

    @property
    def answered(self) -> int:
        return sum(row.is_answer for row in self.rows)

    @property
    def status(self) -> int:
        """0 when at least one answered."""
        return 0 if self.answered else 1

    def document(self) -> dict[str, Any]:
        """What `--json` prints, whatever else the command adds."""
        return {
            "name": self.placed.name,
            "asked": len(self.rows),
            "answered": self.answered,
            "rows": [row.document() for row in self.rows],
            "left_out": [plain(choice) for choice in self.placed.left_out],
        }

    def summary(self) -> str:
        """`2 of 3 answered`."""
        return f"{self.answered} of {len(self.rows)} answered"


def read_program(session: Session, file: str) -> dict[str, Any]:
    """The fields of an Ask that say what is asked with: its name, its text or its module, the files
    it imports, and what the file beside a module says.

    Raises:
        InvalidInput: it, or what it imports, cannot be read.
    """
    source, module, needs = read_script(file)
    stdin = "stdin.wasm" if module else "stdin.js"
    filename = stdin if file == "-" else Path(file).name
    with session.connect() as client:
        graph = find_modules(client, None if file == "-" else file, filename, source)
    return {
        "filename": graph.filename,
        "source": source,
        "module": module,
        "needs": needs,
        "modules": graph.modules,
    }


def ask_each(
    session: Session, request: Ask, placed_now: Callable[[AskPlaced], None] | None = None
) -> Asked:
    """Ask, and wait for every answer; how many have come stands on a terminal meanwhile.

    Raises:
        OrvalhoError: nobody could be asked.
    """
    placed: AskPlaced | None = None
    rows: list[Row] = []
    try:
        with session.connect() as client:
            for reply in client.stream(request):
                if isinstance(reply, AskPlaced):
                    placed = reply
                    if placed_now is not None:
                        placed_now(placed)
                elif isinstance(reply, AskAnswer):
                    rows.append(read_row(reply))
                    _tell(session, rows, placed)
    finally:
        session.screen.meter("")
    if placed is None:
        raise Unavailable("the daemon did not say whom it asked.")
    return Asked(placed, tuple(sorted(rows, key=lambda row: row.answer.node)))


def _tell(session: Session, rows: list[Row], placed: AskPlaced | None) -> None:
    total = len(placed.choices) if placed else 0
    last = rows[-1].answer
    session.screen.meter(f"{len(rows)} of {many(total, 'node')}")
    if session.screen.verbose:
        session.screen.notice(f"{last.to}: {last.state} after {last.took_ms} ms")
